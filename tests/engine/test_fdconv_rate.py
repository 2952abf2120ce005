"""SOLVER.FDCONV_RATE: what a step of the optimiser does to the spatial weight, measured beside a plain layer's."""
import pytest
import torch
from torch import nn

from freqdino.config import load_config
from freqdino.engine.resuming import parameter_names, restore_optimizer
from freqdino.engine.solver import build_optimizer
from freqdino.errors import ConfigError
from freqdino.frequency import FDConv, FDLinear, FrequencyScale

RATE = 1e-3
EQUAL = ("SOLVER.FDCONV_RATE", "equal")
# Name -> the frequency layer, the plain one, the shape of an input, the published step over the plain one for AdamW:
# s·√2/√(RK), s = min(Ci, Co)//2.
LAYERS = {
    "3 x 3": (lambda: FDConv(64, 64, 3, padding=1), lambda: nn.Conv2d(64, 64, 3, padding=1), (2, 64, 6, 6), 0.2357),
    "3 x 3, two sets": (lambda: FDConv(64, 64, 3, padding=1, param_ratio=2), lambda: nn.Conv2d(64, 64, 3, padding=1),
                        (2, 64, 6, 6), 0.4714),
    "3 x 3, odd": (lambda: FDConv(17, 35, 3, padding=1), lambda: nn.Conv2d(17, 35, 3, padding=1), (2, 17, 6, 6),
                   8 * 2 ** 0.5 / (105 * 51) ** 0.5),
    "1 x 1": (lambda: FDConv(64, 256, 1), lambda: nn.Conv2d(64, 256, 1), (2, 64, 6, 6), 0.3536),
    "depthwise": (lambda: FDConv(64, 64, 3, padding=1, groups=64), lambda: nn.Conv2d(64, 64, 3, padding=1, groups=64),
                  (2, 64, 6, 6), 1.8856),
    "linear": (lambda: FDLinear(96, 288), lambda: nn.Linear(96, 288), (2, 10, 96), 0.4082),
}


def options(optimizer, *words, decay=0.0):
    return ["SOLVER.OPTIMIZER", optimizer, "SOLVER.BASE_LR", str(RATE), "SOLVER.WEIGHT_DECAY", str(decay),
            "SOLVER.MOMENTUM", "0.0", *words]


def spatial_weight(layer):
    return (layer.static_weight() if hasattr(layer, "static_weight") else layer.weight).detach().clone()


def change(layer, x, words):
    """What one step does to the spatial weight; without an input for a gradient of zeros, the decay alone."""
    optimizer = build_optimizer(load_config(opts=words), layer)
    if x is None:
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
    else:
        torch.manual_seed(1)
        y = layer(x)
        (y * torch.randn(y.shape)).sum().backward()
    before = spatial_weight(layer)
    optimizer.step()
    return spatial_weight(layer) - before


def changes(name, optimizer, *words):
    """The frequency layer's and the plain one's, of the same weight and the same gradient of it."""
    make, make_plain, shape, _ = LAYERS[name]
    torch.manual_seed(0)
    layer, plain, x = make().eval(), make_plain(), torch.randn(shape)
    layer.load_state_dict(plain.state_dict())
    return change(layer, x, options(optimizer, *words)), change(plain, x, options(optimizer))


def share(moved, plain):
    return (moved.norm() / plain.norm()).item()


@pytest.mark.parametrize("name", LAYERS)
def test_step_of_the_spatial_weight_with_adamw(name):
    published = LAYERS[name][3]
    assert share(*changes(name, "ADAMW")) == pytest.approx(published, rel=0.01)
    assert share(*changes(name, "ADAMW", *EQUAL)) == pytest.approx(1, rel=0.01)
    assert share(*changes(name, "ADAMW", "SOLVER.FDCONV_MULTIPLIER", "3.0")) == pytest.approx(3 * published, rel=0.01)
    assert share(*changes(name, "ADAMW", *EQUAL, "SOLVER.FDCONV_MULTIPLIER", "3.0")) == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "depthwise"])
def test_step_of_the_spatial_weight_with_sgd(name):
    """The square of AdamW's step (of two sets: half of it), and the direction of the plain layer's. The columns 0 and
    K/2 of the half spectrum move half as far: of 51 and more columns that is at most 1 %."""
    published = LAYERS[name][3] ** 2 / (2 if "two" in name else 1)
    assert share(*changes(name, "SGD")) == pytest.approx(published, rel=0.02)
    moved, plain = changes(name, "SGD", *EQUAL)
    assert share(moved, plain) == pytest.approx(1, rel=0.02)
    assert torch.cosine_similarity(moved.flatten(), plain.flatten(), 0) > 0.99


def test_norm_of_the_gradient_that_clipping_reads():
    torch.manual_seed(0)
    layer, plain, x = FDConv(64, 64, 3, padding=1).eval(), nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 6, 6)
    layer.load_state_dict(plain.state_dict())
    g = torch.randn(2, 64, 6, 6)
    for module in (layer, plain):
        (module(x) * g).sum().backward()
    assert share(layer.dft_weight.grad, plain.weight.grad) == pytest.approx(2 ** 0.5 / 6, rel=0.01)


def test_step_of_a_depthwise_weight_with_sgd():
    """K = 3: the one mirrored column of the half spectrum stands for two of three, the other moves half as far. White
    gradients: √(2/3 + 1/3 · 1/4) of the step of the mirrored ones."""
    moved, plain = changes("depthwise", "SGD", *EQUAL)
    assert share(moved, plain) == pytest.approx(0.75 ** 0.5, rel=0.03)


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
@pytest.mark.parametrize("rate", ["published", "equal"])
def test_the_spatial_weight_decays_as_a_plain_one(optimizer, rate):
    torch.manual_seed(0)
    layer = FDConv(32, 64, 3)
    weight = spatial_weight(layer)
    moved = change(layer, None, options(optimizer, "SOLVER.FDCONV_RATE", rate, decay=10.0))
    assert torch.allclose(moved, -10 * RATE * weight, rtol=1e-3, atol=1e-6)


def test_step_of_frequency_scaling_follows_from_its_routing():
    """One group and one image: each frequency's response moves by Σ_f |routing_f| times the rate, either way."""
    torch.manual_seed(0)
    scale, x = FrequencyScale(16, group=1, num_filters=3, size=8), torch.randn(1, 16, 8, 8) + 2
    scale.reweight.requires_grad_(False)
    routing = scale.reweight(x.mean((2, 3))).tanh()[0]

    def response():
        return torch.einsum("f,fchw->chw", routing, scale.complex_weights).detach()

    before, optimizer = response(), build_optimizer(load_config(opts=options("ADAMW")), scale)
    y = scale(x)
    (y * torch.randn(y.shape)).sum().backward()
    optimizer.step()
    moved = (response() - before).abs() / RATE
    assert torch.allclose(moved, routing.abs().sum().expand_as(moved), rtol=0.01) and routing.abs().min() > 0


def test_rates_by_layer_and_what_they_leave_alone():
    torch.manual_seed(0)
    model = nn.Sequential(FDConv(32, 32, 3), FDConv(64, 64, 3), FDConv(64, 256, 1), FDConv(3, 64, 3), nn.Linear(8, 8))
    words = options("ADAMW", *EQUAL, "SOLVER.FDCONV_MULTIPLIER", "2.0", decay=0.5)
    optimizer = build_optimizer(load_config(opts=words), model)
    found = {name: (group["lr"] / RATE, group["weight_decay"]) for group in optimizer.param_groups
             for parameter in group["params"] for name, own in model.named_parameters() if own is parameter}
    step = 2 ** 0.5 / 6, 2 ** 0.5 / 4
    for layer, share_of_plain in ((0, step[0]), (1, step[0]), (2, step[1])):
        assert found[f"{layer}.dft_weight"] == pytest.approx((2 / share_of_plain, 0.5 * share_of_plain))
    others = {found[name] for name in found if "dft_weight" not in name and ".norm." not in name and ".bn." not in name}
    assert others == {(1.0, 0.5)} and "3.weight" in found


def test_frozen_and_unconverted_weights_keep_the_rate():
    kept = FDConv(32, 32, 3, convert_param=False)
    model = nn.Sequential(FDConv(32, 32, 3).requires_grad_(False), kept)
    optimizer = build_optimizer(load_config(opts=options("ADAMW", *EQUAL)), model)
    assert {group["lr"] for group in optimizer.param_groups} == {RATE}
    with pytest.raises(ConfigError, match="FDCONV_RATE is equal, but the model has neither FDConv nor FDLinear"):
        build_optimizer(load_config(opts=options("ADAMW", *EQUAL)), kept)


@pytest.mark.parametrize("words, message", [
    (EQUAL, "SOLVER.FDCONV_RATE is equal, but the model has neither FDConv nor FDLinear; set it to published, or"),
    (("SOLVER.FDCONV_MULTIPLIER", "2.0"), "SOLVER.FDCONV_MULTIPLIER is 2.0, but the model has neither FDConv nor"),
])
def test_rates_that_nothing_reads(words, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(load_config(opts=options("ADAMW", *words)), nn.Linear(2, 2))


@pytest.mark.parametrize("words, message", [
    (("SOLVER.FDCONV_RATE", "fast"), "SOLVER.FDCONV_RATE is 'fast'; known are published, equal"),
    (("SOLVER.FDCONV_MULTIPLIER", "-1.0"), "SOLVER.FDCONV_MULTIPLIER is -1.0; it must be at least 0"),
])
def test_values_that_are_none(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(opts=words)


def test_the_state_of_a_run_with_the_other_rate():
    """Groups are others, what was learnt about each parameter goes by its name."""
    torch.manual_seed(0)
    model = nn.Sequential(FDConv(32, 32, 3, padding=1), FDConv(32, 128, 1))
    old, new = (build_optimizer(load_config(opts=options("ADAMW", *words)), model) for words in ((), EQUAL))
    model(torch.randn(2, 32, 4, 4)).sum().backward()
    old.step()
    names, rates = parameter_names(model, new), [group["lr"] for group in new.param_groups]
    assert len(new.param_groups) > len(old.param_groups)
    anew = restore_optimizer(new, old.state_dict(), saved_names=parameter_names(model, old), names=names)
    assert not anew and [group["lr"] for group in new.param_groups] == rates
    for parameter in model.parameters():
        assert torch.equal(new.state[parameter]["exp_avg"], old.state[parameter]["exp_avg"])
