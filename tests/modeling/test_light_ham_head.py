"""SegNeXt's head: parameters, keys, the factorisation and the head against slow formulas, fixed and drawn bases."""
import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from freqdino.frequency.freqfusion.in_heads import FreqFusionConcat
from freqdino.modeling.light_ham_head import NMF, LightHamHead, factorised
from helpers.modules import count
from helpers.refusals import refuses
from helpers.small_semantic_heads import SHAPES, bilinear, conv_norm_relu, features, randomised, small_head

WIDE = (128, 320, 512)


def published_head(widths, channels, bases, **options):
    shapes = {f"res{i}": ShapeSpec(channels=width, stride=2 ** i) for i, width in enumerate(widths, 3)}
    with torch.device("meta"):
        return LightHamHead(input_shape=shapes, num_classes=150, channels=channels, common_stride=8, norm="GN",
                            bases=bases, train_steps=6, eval_steps=7, fixed_bases=True, dropout=0.1, ignore_value=255,
                            loss_weight=1.0, **options)


def concatenation(hr, lr):
    return FreqFusionConcat(hr, lr, compressed_channels=(hr + lr) // 4, feature_resample=True, hamming_window=False,
                            direction_feat="sim")


@pytest.mark.parametrize(("widths", "channels", "bases", "parameters"), [
    ((64, 160, 256), 256, 16, 359_830), (WIDE, 256, 16, 482_710), (WIDE, 512, 64, 1_358_486),
    (WIDE, 1024, 64, 4_289_686)], ids="TSBL")
def test_published_parameter_counts(widths, channels, bases, parameters):
    assert count(published_head(widths, channels, bases)) == parameters


def test_parameters_of_freqfusion():
    head = published_head((64, 160, 256), 256, 16, make_fusion=concatenation)
    assert [count(unit) for unit in head.freqfusions] == [116_146, 141_234]
    assert count(head) == 359_830 + 257_380


def test_keys():
    norm = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    expected = {f"{part}.{name}" for part in ("squeeze", "hamburger.ham_out", "align")
                for name in ("conv.weight", *norm)}
    expected |= {"hamburger.ham_in.conv.weight", "hamburger.ham_in.conv.bias", "conv_seg.weight", "conv_seg.bias"}
    assert set(small_head(LightHamHead).state_dict()) == expected


def slow_nmf(x, bases, steps):
    """x (D, N) and bases (D, R), element by element."""
    (size, pixels), rank = x.shape, bases.shape[1]

    def product(one, other):
        return torch.stack([torch.stack([(row * column).sum() for column in other.T]) for row in one])

    coefficients = product(x.T, bases).exp()
    coefficients = coefficients / coefficients.sum(dim=1, keepdim=True)

    def update(coefficients):
        above, below = product(x.T, bases), product(coefficients, product(bases.T, bases))
        return torch.stack([torch.stack([coefficients[n, r] * above[n, r] / (below[n, r] + 1e-6) for r in range(rank)])
                            for n in range(pixels)])

    for _ in range(steps):
        coefficients = update(coefficients)
        above, below = product(x, coefficients), product(bases, product(coefficients.T, coefficients))
        bases = torch.stack([torch.stack([bases[d, r] * above[d, r] / (below[d, r] + 1e-6) for r in range(rank)])
                             for d in range(size)])
    return product(bases, update(coefficients).T)


@pytest.mark.parametrize("steps", [1, 6])
def test_factorisation_against_a_slow_formula(steps):
    torch.manual_seed(0)
    x = torch.rand(2, 5, 7, dtype=torch.float64, requires_grad=True)
    bases = F.normalize(torch.rand(2, 5, 3, dtype=torch.float64), dim=1)
    actual = factorised(x, bases, steps)
    expected = torch.stack([slow_nmf(image, start, steps) for image, start in zip(x, bases)])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(actual)
    gradients = [torch.autograd.grad((result * weight).sum(), x)[0] for result in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)
    assert gradients[0].any()


def test_a_matrix_of_few_bases_is_found_again():
    torch.manual_seed(0)
    x = torch.rand(1, 12, 2, dtype=torch.float64) @ torch.rand(1, 2, 40, dtype=torch.float64)
    bases = F.normalize(torch.rand(1, 12, 4, dtype=torch.float64), dim=1)
    errors = [(factorised(x, bases, steps) - x).norm().item() / x.norm().item() for steps in (1, 7, 500)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def nmf(**options):
    return NMF(6, **{"bases": 3, "train_steps": 2, "eval_steps": 4, "fixed_bases": True, **options})


POSITIVE = torch.rand(2, 6, 4, 5, generator=torch.Generator().manual_seed(1))


def test_steps_of_training_and_evaluation():
    module = nmf()
    start = module.bases.expand(2, -1, -1)
    torch.testing.assert_close(module.eval()(POSITIVE).flatten(2), factorised(POSITIVE.flatten(2), start, 4))
    torch.manual_seed(0)
    drawn = F.normalize(torch.rand(2, 6, 3), dim=1)
    torch.manual_seed(0)
    torch.testing.assert_close(module.train()(POSITIVE).flatten(2), factorised(POSITIVE.flatten(2), drawn, 2))


def test_fixed_bases():
    """The same in every call, module, copy and process, whatever the process' generator says; images share them."""
    torch.manual_seed(0)
    module = nmf().eval()
    expected = module(POSITIVE)
    torch.manual_seed(1)
    pickled = pickle.loads(pickle.dumps(module))
    for other in (module, nmf().eval(), copy.deepcopy(module), pickled, nmf().to("meta").to_empty(device="cpu").eval()):
        assert torch.equal(other(POSITIVE), expected)
    assert torch.equal(module(POSITIVE.flip(0)), expected.flip(0))
    assert module.state_dict() == {}
    torch.testing.assert_close(module.bases.norm(dim=0), torch.ones(3))
    assert module.bases[:2, 0].tolist() == pytest.approx(drawn_by_hand()[:2], rel=1e-6)


def drawn_by_hand():
    """The first base: the first column of 6 × 3 uniform numbers of seed 0, over its length."""
    column = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))[:, 0].tolist()
    length = sum(value * value for value in column) ** 0.5
    return [value / length for value in column]


def test_training_draws_anew_and_evaluation_as_published_too():
    assert not torch.equal(nmf().train()(POSITIVE), nmf().train()(POSITIVE))
    published = nmf(fixed_bases=False).eval()
    results = []
    for seed in (3, 4, 3):
        torch.manual_seed(seed)
        results.append(published(POSITIVE))
    assert torch.equal(results[0], results[2]) and not torch.equal(results[0], results[1])
    same = POSITIVE[:1].expand(2, -1, -1, -1)
    assert not torch.equal(*published(same))             # each image has bases of its own


def test_fixed_bases_leave_the_process_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    nmf().eval()(POSITIVE)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_under_autocast(dtype):
    module = nmf().eval()
    with torch.autocast("cpu", dtype):
        assert torch.equal(module(POSITIVE), nmf().eval()(POSITIVE))
        half = module(POSITIVE.to(dtype))
    assert half.dtype == dtype and torch.equal(half, module(POSITIVE.to(dtype).float()).to(dtype))


@torch.no_grad()
def test_meta_construction_then_loading():
    with torch.device("meta"):
        head = small_head(LightHamHead)
    source = randomised(small_head(LightHamHead))
    head.load_state_dict(source.state_dict(), assign=True)
    maps = features(2, 64, 64)
    torch.testing.assert_close(head.eval()(maps)[0], source.eval()(maps)[0])


def saved(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getvalue())


def test_fixed_bases_are_in_no_checkpoint():
    assert saved(small_head(LightHamHead)) == saved(small_head(LightHamHead, fixed_bases=False))


@pytest.mark.parametrize("norm", ["BN", ""])
@pytest.mark.parametrize("names", [tuple(SHAPES), ("res2", "res4"), ("res2",)], ids=len)
@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
@torch.no_grad()
def test_maps_against_a_slow_formula(size, names, norm):
    """As published: resize, concatenate, squeeze, hamburger, align, classify."""
    head = randomised(small_head(LightHamHead, norm=norm, input_shape={name: SHAPES[name] for name in names})).eval()
    state, maps = head.state_dict(), features(2, *size)

    def layer(name, x):
        if norm:
            return conv_norm_relu(state, name, x)
        return F.conv2d(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"]).relu()

    target = maps["res2"].shape[-2:]
    squeezed = layer("squeeze", torch.cat([bilinear(maps[name], *target) for name in names], dim=1))
    inner = F.conv2d(squeezed, state["hamburger.ham_in.conv.weight"], state["hamburger.ham_in.conv.bias"]).relu()
    bases = head.hamburger.ham.bases
    factors = torch.stack([slow_nmf(image.flatten(1).double(), bases.double(), 3) for image in inner]).float()
    out = factors.view_as(inner)
    if norm:
        weight, shift, mean, variance = (state[f"hamburger.ham_out.bn.{key}"][:, None, None] for key in
                                         ("weight", "bias", "running_mean", "running_var"))
        out = (F.conv2d(out, state["hamburger.ham_out.conv.weight"]) - mean) / (variance + 1e-5).sqrt() * weight + shift
    else:
        out = F.conv2d(out, state["hamburger.ham_out.conv.weight"], state["hamburger.ham_out.conv.bias"])
    aligned = layer("align", (squeezed + out).relu())
    scores = F.conv2d(aligned, state["conv_seg.weight"], state["conv_seg.bias"])
    torch.testing.assert_close(head(maps)[0], bilinear(scores, 4 * target[0], 4 * target[1]), rtol=1e-3, atol=1e-3)


class Named(nn.Module):
    """Stands for a fusion: both maps in the finer one's size, and a note of what came in."""

    def __init__(self, calls, hr, lr):
        super().__init__()
        self.calls, self.widths = calls, (hr, lr)

    def forward(self, hr, lr):
        assert (hr.shape[1], lr.shape[1]) == self.widths
        self.calls.append((tuple(hr.shape[1:]), tuple(lr.shape[1:])))
        return torch.cat([hr, bilinear(lr, *hr.shape[2:])], dim=1)


def test_fusions_go_from_coarse_to_fine_and_widen():
    calls = []
    head = small_head(LightHamHead, make_fusion=lambda hr, lr: Named(calls, hr, lr)).eval()
    head(features(1, 64, 96))
    assert calls == [((16, 4, 6), (20, 2, 3)), ((12, 8, 12), (36, 4, 6)), ((8, 16, 24), (48, 8, 12))]


def test_freqfusion_in_the_head_learns_with_odd_sizes():
    shapes = {f"res{i}": ShapeSpec(channels=16, stride=2 ** i) for i in (3, 4, 5)}
    head = small_head(LightHamHead, input_shape=shapes, common_stride=8, channels=32, norm="GN",
                      make_fusion=lambda hr, lr: FreqFusionConcat(hr, lr, compressed_channels=16, feature_resample=True,
                                                                  hamming_window=False, direction_feat="sim"))
    maps = {name: torch.randn(2, 16, *size) for name, size in zip(shapes, ((17, 23), (9, 12), (5, 6)))}
    _, losses = head.train()(maps, torch.randint(0, 3, (2, 130, 181)))
    losses["loss_sem_seg"].backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()
            ] == []


test_bad_arguments = refuses(lambda options: small_head(LightHamHead, **options), [
    ({"bases": 0}, "bases must be at least 1, got 0"),
    ({"eval_steps": 0}, "eval_steps must be at least 1, got 0"),
    ({"make_fusion": concatenation, "input_shape": {"res2": SHAPES["res2"]}},
     r"input_shape must name two maps or more for FreqFusion, .* got \['res2'\] of strides \[4\]"),
    ({"make_fusion": concatenation, "input_shape": {name: SHAPES[name] for name in ("res2", "res4")}},
     r"each of twice the stride of the one before it, got \['res2', 'res4'\] of strides \[4, 16\]"),
])
