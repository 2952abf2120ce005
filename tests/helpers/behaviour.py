"""What a whole model does with a batch: a training step, an evaluation, results that are whole."""
import importlib
from unittest import mock

import torch


def train(model, *examples):
    """The losses, all finite single precision, after a backward pass that reached every parameter."""
    model.train()
    model.zero_grad()
    losses = model(examples)
    assert all(loss.isfinite() and loss.dim() == 0 and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    return losses


def evaluate(model, *examples):
    model.eval()
    with torch.no_grad():
        return model(examples)


def assert_result(result, height, width, num_classes=3):
    """All three results, of the size and finite."""
    assert result["sem_seg"].shape == (num_classes, height, width) and result["sem_seg"].isfinite().all()
    instances = result["instances"]
    assert instances.image_size == (height, width) and instances.pred_masks.shape[1:] == (height, width)
    assert instances.scores.isfinite().all() and instances.pred_boxes.tensor.isfinite().all()
    segments, info = result["panoptic_seg"]
    assert segments.shape == (height, width) and segments.dtype == torch.int32
    assert set(segments.unique().tolist()) - {0} == {segment["id"] for segment in info}


def replica(module):
    """What nn.DataParallel makes of a module for a GPU, here for the CPU: its parameters are plain attributes."""
    replicate = importlib.import_module("torch.nn.parallel.replicate")
    with (mock.patch.object(replicate, "_get_device_index", lambda device, *rest: 0),
          mock.patch.object(replicate, "_broadcast_coalesced_reshape",
                            lambda tensors, devices, detach=False: [[tensor * 1 for tensor in tensors]])):
        return replicate.replicate(module, [0])[0]
