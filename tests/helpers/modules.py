"""Small things that tests do to any module."""
import torch


def randomised(module, std=0.1):
    """The module, every parameter a random number: none neutral or zero, which would hide most errors."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())
