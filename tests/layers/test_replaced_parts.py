"""Shortcuts that read a part's weight call the part where it is more than its weight: hooks, adapters, weight_norm."""
import pytest
import torch
from torch import nn

from freqdino.frequency import FreqFusion
from freqdino.layers.linear import Linear
from freqdino.layers.mlp import MLP
from freqdino.layers.transformer import FeedForwardLayer, MultiheadAttention


class Doubled(nn.Module):
    """As an adapter wraps a layer, whose weight it still shows."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    @property
    def weight(self):
        return self.layer.weight

    @property
    def bias(self):
        return self.layer.bias

    def forward(self, x):
        return 2 * self.layer(x)


def attention():
    module = MultiheadAttention(8, 2)
    return module, lambda: module(*[torch.ones(1, 3, 8)] * 3)


def mlp():
    module = MLP(8, 8, 8, 2)
    return module, lambda: module(torch.ones(3, 8))


def feed_forward():
    module = FeedForwardLayer(8, 8)
    return module, lambda: module(torch.arange(24.0).view(3, 8))


def freqfusion():
    module = FreqFusion(8, 8, compressed_channels=8)
    maps = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)
    nn.init.normal_(module.content_encoder.weight)
    return module, lambda: torch.cat([each.flatten() for each in module(*maps)])


PLACES = {attention: "out_proj", mlp: "layers.0", feed_forward: "linear1", freqfusion: "content_encoder"}


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_wrapped_part_is_called(make, gradients):
    module, run = make()
    with torch.set_grad_enabled(gradients):
        before = run()
        parent, _, name = PLACES[make].rpartition(".")
        parent = module.get_submodule(parent)
        setattr(parent, name, Doubled(getattr(parent, name)))
        assert not torch.allclose(run(), before)


@pytest.mark.parametrize("make", PLACES)
def test_hooks_run(make):
    module, run = make()
    seen = []
    module.get_submodule(PLACES[make]).register_forward_hook(lambda *_: seen.append(1))
    run()
    assert seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", PLACES)
def test_weight_norm_is_trained(make):
    """Its weight is made anew by a hook before each call: a shortcut would read the one of the call before."""
    module, run = make()
    part = nn.utils.weight_norm(module.get_submodule(PLACES[make]))
    before = run()
    with torch.no_grad():
        part.weight_g.mul_(3)
    assert not torch.allclose(run(), before)


def test_the_shortcut_is_the_same():
    torch.manual_seed(0)
    module = MLP(8, 6, 4, 3)
    x = torch.randn(5, 8)
    expected = module(x)
    for layer in module.layers:
        assert type(layer) is Linear
        layer.register_forward_hook(lambda *_: None)
    assert torch.allclose(module(x), expected, atol=1e-6)
