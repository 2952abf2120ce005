"""Finished networks with CondConv, DY-Conv, ODConv and KernelWarehouse in the place of their convolutions."""
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from freqdino.errors import ArgumentError
from freqdino.frequency import FDConv, convert_to_fdconv
from freqdino.frequency.rivals import CondConv, DYConv, KernelWarehouse, ODConv
from freqdino.frequency.rivals.conversion import convert_to_kernel_warehouse, convert_to_mixtures
from freqdino.frequency.rivals.temperature import anneal

MIXTURES = CondConv, DYConv, ODConv


class NormedConv2d(nn.Conv2d):
    """In the manner of Detectron2's Conv2d."""

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x):
        x = super().forward(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = NormedConv2d(8, 12, 3, padding=1, bias=False, norm=nn.BatchNorm2d(12), activation=F.relu)
        self.two = nn.Conv2d(12, 8, 1, padding_mode="reflect")
        self.three = nn.Conv2d(8, 16, (1, 3), groups=2)

    def forward(self, x):
        return self.three(self.two(self.one(self.stem(x))))


def network():
    torch.manual_seed(0)
    net = Network()
    net(torch.randn(4, 3, 8, 8))        # running statistics other than the initial ones
    return net.eval()


def convert(net, kind, num=None):
    if kind is KernelWarehouse:
        return convert_to_kernel_warehouse(net, {"first": ["one", "two"], "second": ["three"]}, num=num or 1)
    return convert_to_mixtures(net, kind, num, where=["one", "t*"])


X = torch.randn(2, 3, 9, 10, generator=torch.Generator().manual_seed(1))
KINDS = [(CondConv, None), (DYConv, None), (ODConv, 3), (KernelWarehouse, None), (KernelWarehouse, 3)]
every_kind = pytest.mark.parametrize(("kind", "num"), KINDS)
same_function = pytest.mark.parametrize(("kind", "num"), [case for case in KINDS if case[0] is not ODConv])


@same_function
def test_the_network_keeps_its_function(kind, num):
    net = network()
    expected = net(X)
    assert convert(net, kind, num) == ["one", "two", "three"]
    assert [type(net.get_submodule(name)) for name in ("stem", "one", "two", "three")] == [nn.Conv2d, kind, kind, kind]
    torch.testing.assert_close(net(X), expected, rtol=1e-5, atol=1e-6)
    assert isinstance(net.one.norm, nn.BatchNorm2d) and net.one.activation is F.relu


@same_function
def test_plain_weights_load_after_conversion(kind, num):
    plain, net = network(), network()
    convert(net, kind, num)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    net.load_state_dict(network().state_dict())
    if kind is KernelWarehouse:     # whose attention has no part at τ = 1
        torch.testing.assert_close(net(X), plain(X), rtol=1e-5, atol=1e-6)
    else:
        assert all(torch.allclose(net.get_submodule(name).static_weight(), plain.get_submodule(name).weight, atol=1e-6)
                   for name in ("one", "two", "three"))


@same_function
def test_plain_weights_load_into_a_part(kind, num):
    """Of a network that holds the converted one."""
    whole, plain = nn.ModuleDict({"backbone": network()}), nn.ModuleDict({"backbone": network()})
    convert(whole["backbone"], kind, num)
    nn.init.zeros_(plain["backbone"].two.weight)
    whole.load_state_dict(plain.state_dict())
    torch.testing.assert_close(whole["backbone"](X), plain["backbone"](X), rtol=1e-5, atol=1e-6)
    state = {key: value for key, value in plain.state_dict().items() if "two.weight" not in key}
    with pytest.raises(RuntimeError, match="Missing key|Unexpected key"):
        whole.load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for backbone.two.weight"):
        whole.load_state_dict({**state, "backbone.two.weight": torch.zeros(12, 8, 1, 1)})


@every_kind
def test_own_state_loads_strictly_and_once(kind, num):
    net, other = network(), network()
    convert(net, kind, num)
    convert(other, kind, num)
    anneal(net, 0.7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(X), net(X))
    if kind is KernelWarehouse:
        assert [key for key in net.state_dict() if "cells" in key] == ["warehouses.first.cells",
                                                                       "warehouses.second.cells"]
        assert sum(parameter is net.warehouses["first"].cells for parameter in net.parameters()) == 1


@every_kind
@pytest.mark.parametrize("way", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_have_parts_of_their_own(kind, num, way):
    net = network()
    convert(net, kind, num)
    anneal(net, 0.5)
    duplicate = way(net)
    assert torch.equal(duplicate(X), net(X))
    before = net(X)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    assert torch.equal(net(X), before) and not duplicate(X).any()
    duplicate.load_state_dict(network().state_dict())       # the copy's hook is about the copy
    assert torch.equal(net(X), before) and duplicate(X).any()


@every_kind
def test_what_is_kept(kind, num):
    net = network().double()
    net.one.weight.requires_grad_(False)
    net.two.bias.requires_grad_(False)
    net.three.requires_grad_(False)
    net.three.train()
    seen = []
    handle = net.two.register_forward_hook(lambda *_: seen.append(1))
    convert(net, kind, num)
    net(X.double())
    handle.remove()
    net(X.double())
    assert seen == [1]
    assert net.three.training and not net.two.training
    assert all(tensor.dtype == torch.float64 for tensor in net.state_dict().values() if tensor.is_floating_point())
    assert not net.two.bias.requires_grad and not net.three.bias.requires_grad
    assert all(parameter.requires_grad for name in ("one", "two", "three")
               for parameter in net.get_submodule(name).attention.parameters())
    if kind is KernelWarehouse:     # "two" learns, and shares with the frozen "one"
        assert net.warehouses["first"].cells.requires_grad and not net.warehouses["second"].cells.requires_grad
    else:
        assert [layer.kernels.requires_grad for layer in (net.one, net.two, net.three)] == [False, True, False]


@every_kind
def test_a_convolution_that_is_used_twice_stays_one(kind, num):
    net = network()
    net.again = net.two
    expected = net(X)
    convert_to = (lambda: convert_to_kernel_warehouse(net, {"all": ["two", "again", "one"]}, num=num or 1)
                  ) if kind is KernelWarehouse else lambda: convert_to_mixtures(net, kind, num, ["two", "again"])
    assert set(convert_to()) >= {"two", "again"} and net.again is net.two
    if kind is not ODConv:
        torch.testing.assert_close(net(X), expected, rtol=1e-5, atol=1e-6)
    if kind is KernelWarehouse:
        net.load_state_dict(network().state_dict(), strict=False)


@every_kind
def test_on_the_meta_device(kind, num):
    with torch.device("meta"):
        net = Network()
    convert(net, kind, num)
    assert all(tensor.is_meta for tensor in net.state_dict().values())
    source = network()
    convert(source, kind, num)
    net.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(net.eval()(X), source(X))


@every_kind
@pytest.mark.filterwarnings("ignore")
def test_export_and_recomputation(kind, num):
    """Of any number of images; with activations that are computed again in the backward pass."""
    net = network()
    convert(net, kind, num)
    anneal(net, 0.5)
    program = torch.export.export(net, (X,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=8)},))
    torch.testing.assert_close(program.module()(torch.cat([X, X[:1]])), net(torch.cat([X, X[:1]])))
    net(X).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in net.named_parameters()}
    net.zero_grad(set_to_none=True)
    checkpoint(net, X, use_reentrant=False).square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_one_dynamic_convolution_is_no_other():
    for first, second in ((CondConv, ODConv), (KernelWarehouse, DYConv), (DYConv, KernelWarehouse)):
        net = network()
        convert(net, first)
        with pytest.raises(ValueError, match=f"one: a .*{first.__name__} is a dynamic convolution already"):
            convert(net, second)
        with pytest.raises(ValueError, match=f"one: a .*{first.__name__} is a dynamic convolution already"):
            convert_to_fdconv(net, where=["one"])
    net = nn.Sequential(nn.Conv2d(20, 20, 1))
    convert_to_fdconv(net, kernel_num=4)
    with pytest.raises(ValueError, match="0: a .*FDConv is a dynamic convolution already"):
        convert_to_mixtures(net, CondConv)
    assert isinstance(net[0], FDConv)


@pytest.mark.parametrize("kind", MIXTURES)
def test_a_second_conversion_changes_nothing(kind):
    net = network()
    convert(net, kind)
    layers = list(net.children())
    assert convert(net, kind) == [] and list(net.children()) == layers


def test_what_makes_no_sense():
    with pytest.raises(ArgumentError, match="where has the pattern 'five', which matches none of the 4"):
        convert_to_mixtures(network(), CondConv, where=["five"])
    with pytest.raises(ArgumentError, match="one: num must be at least 2, got 1"):
        convert_to_mixtures(network(), CondConv, 1, where=["one"])
    with pytest.raises(ArgumentError, match="banks has two in second and in another one"):
        convert_to_kernel_warehouse(network(), {"first": ["one", "two"], "second": ["t*"]})
    with pytest.raises(ArgumentError, match="module has warehouses already"):
        net = network()
        convert(net, KernelWarehouse)
        convert_to_kernel_warehouse(net, {"first": ["stem"]})
    with pytest.raises(ArgumentError, match="module is an nn.Sequential, which has no place for warehouses"):
        convert_to_kernel_warehouse(nn.Sequential(nn.Conv2d(4, 4, 1)), {"first": ["0"]})
    with pytest.raises(ArgumentError, match="module is a convolution itself"):
        convert_to_mixtures(nn.Conv2d(4, 4, 1), CondConv)
