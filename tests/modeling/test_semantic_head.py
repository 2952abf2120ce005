"""What the heads of SemanticSegmentor share: the call, the loss, labels that do not count, sizes, bad input."""
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqdino.modeling.light_ham_head import LightHamHead
from freqdino.modeling.segformer_head import SegFormerHead
from freqdino.modeling.semantic_head import conv_norm_relu, pixel_cross_entropy, upsample
from freqdino.modeling.upernet_head import UPerNetHead
from helpers.small_semantic_heads import SHAPES, bilinear, features, randomised, small_head

EACH = pytest.mark.parametrize("kind", [UPerNetHead, SegFormerHead, LightHamHead])
# Without those that start from other random numbers in training than in evaluation.
NOT_DRAWN = pytest.mark.parametrize("kind", [UPerNetHead, SegFormerHead])


def test_cross_entropy_by_hand():
    """Two pixels at stride 2 -> 2 x 4; the label map has 1 x 3 of them, one of which does not count."""
    logits = torch.tensor([[[[0.0, 4.0]], [[0.0, 0.0]]]])
    targets = torch.tensor([[[0, 255, 1]]])
    # Columns of the upsampled first class lie at -0.25 (clamped), 0.25, 0.75, 1.25 (clamped): 0, 1, 3, 4.
    expected = (math.log(2) + (math.log(math.exp(3) + 1))) / 2
    loss = pixel_cross_entropy(logits, targets, stride=2, ignore_value=255)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_nothing_is_zero_with_a_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 8, 8), 255), stride=4, ignore_value=255)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_gradient_of_the_loss():
    logits = torch.randn(1, 3, 2, 3, requires_grad=True)
    targets = torch.tensor([[[0, 1, 2, 255], [1, 1, 0, 2], [2, 0, 255, 1]]])

    def loss(logits):
        scores = bilinear(logits, 4, 6)[..., :3, :4].log_softmax(dim=1)
        counted = [(y, x) for y in range(3) for x in range(4) if targets[0, y, x] != 255]
        return -sum(scores[0, targets[0, y, x], y, x] for y, x in counted) / len(counted)

    expected, = torch.autograd.grad(loss(logits), logits)
    actual, = torch.autograd.grad(pixel_cross_entropy(logits, targets, stride=2, ignore_value=255), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_scores_are_upsampled_in_single():
    logits = torch.randn(1, 3, 2, 2).bfloat16()
    scores = upsample(logits, 4)
    assert scores.dtype == torch.float32 and scores.shape == (1, 3, 8, 8)
    torch.testing.assert_close(scores, bilinear(logits.float(), 8, 8))


@EACH
def test_training_gives_losses_and_evaluation_scores(kind):
    head = randomised(small_head(kind))
    maps, targets = features(2, 64, 96), torch.randint(0, 3, (2, 64, 96))
    nothing, losses = head.train()(maps, targets)
    assert nothing is None and all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    logits, nothing = head.eval()(maps, targets)
    assert logits.shape == (2, 3, 64, 96) and logits.dtype == torch.float32 and nothing == {}
    assert torch.equal(logits, head(maps)[0])


@NOT_DRAWN
def test_loss_is_that_of_the_scores_that_evaluation_gives(kind):
    """Without dropout, and with statistics that stand still, the two agree; on sizes that no stride divides too."""
    head = randomised(small_head(kind, norm="FrozenBN", dropout=0.0, loss_weight=3.0))
    maps, targets = features(2, 45, 70), torch.randint(0, 3, (2, 45, 70))
    targets[0, :10] = 255
    losses = head.train()(maps, targets)[1]
    logits = head.eval()(maps)[0]
    assert logits.shape == (2, 3, 48, 72)
    expected = 3 * F.cross_entropy(logits[..., :45, :70], targets, ignore_index=255)
    torch.testing.assert_close(losses["loss_sem_seg"], expected)


@NOT_DRAWN
@pytest.mark.parametrize("ignored", [255, -1, 0])
def test_labels_that_do_not_count(kind, ignored):
    """Neither their pixels' number nor what is predicted there changes loss or gradient."""
    head = randomised(small_head(kind, norm="", dropout=0.0, ignore_value=ignored)).train()
    maps = features(1, 64, 64)
    targets = torch.randint(1, 3, (1, 64, 64))
    half = targets.clone()
    half[..., 32:] = ignored
    losses = head(maps, half)[1]
    stride = head.common_stride
    logits = head.logits([maps[name] for name in SHAPES])
    expected = F.cross_entropy(bilinear(logits, 16 * stride, 16 * stride)[..., :32], targets[..., :32])
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    nothing = head(maps, torch.full_like(targets, ignored))[1]
    assert all(loss.item() == 0 for loss in nothing.values())


@EACH
@pytest.mark.parametrize("norm", ["BN", "GN", "SyncBN", ""])
def test_gradient_reaches_everything(kind, norm):
    options = {"channels": 32, **({"auxiliary_channels": 32} if kind is UPerNetHead else {})}
    head = small_head(kind, norm=norm, **options).train()
    maps = {name: value.requires_grad_() for name, value in features(2, 64, 64).items()}
    sum(head(maps, torch.randint(0, 3, (2, 64, 64)))[1].values()).backward()
    tensors = {**dict(head.named_parameters()), **maps}
    assert [name for name, tensor in tensors.items() if tensor.grad is None or not tensor.grad.any()] == []


@EACH
def test_gradcheck(kind):
    head = randomised(small_head(kind)).double().eval()
    maps = [value.double().requires_grad_() for value in features(1, 20, 36).values()]
    assert torch.autograd.gradcheck(lambda *maps: head.logits(maps), maps, fast_mode=True)


@EACH
def test_bfloat16_autocast(kind):
    head = randomised(small_head(kind, dropout=0.0)).eval()
    maps = features(1, 64, 64)
    expected = head(maps)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = head(maps)[0]
        losses = head.train()(features(2, 64, 64), torch.randint(0, 3, (2, 64, 64)))[1]
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@EACH
def test_no_images(kind):
    head = small_head(kind)
    assert head.eval()(features(0, 64, 64))[0].shape == (0, 3, 64, 64)
    losses = head.train()(features(0, 64, 64), torch.zeros(0, 64, 64, dtype=torch.int64))[1]
    assert all(loss.item() == 0 for loss in losses.values())


@EACH
def test_dropout_is_of_whole_channels_and_of_training(kind):
    head = randomised(small_head(kind, norm="FrozenBN", dropout=0.5))
    maps = list(features(1, 64, 64).values())
    assert torch.equal(head.eval().logits(maps), head.logits(maps))
    head.train()
    assert not torch.equal(head.logits(maps), head.logits(maps))
    dropped = head.dropout(torch.ones(1, 64, 4, 4)).flatten(2)
    assert {tuple(channel.unique().tolist()) for channel in dropped[0]} == {(0.0,), (2.0,)}


@pytest.mark.parametrize(("norm", "keys"), [("", ["conv.bias", "conv.weight"]),
                                            ("GN", ["bn.bias", "bn.weight", "conv.weight"])])
def test_convolution_has_a_bias_where_no_normalisation_follows(norm, keys):
    layer = conv_norm_relu(8, 32, kernel_size=3, norm=norm)
    assert sorted(name for name, _ in layer.named_parameters()) == keys
    assert layer(torch.randn(1, 8, 5, 7)).shape == (1, 32, 5, 7)


@EACH
def test_training_without_labels(kind):
    with pytest.raises(ValueError, match="training needs 'sem_seg'.*mask_former_semantic"):
        small_head(kind).train()(features(2, 64, 64))


@EACH
@pytest.mark.parametrize("label", [3, -1, 254])
def test_labels_that_are_no_class(kind, label):
    targets = torch.zeros(2, 64, 64, dtype=torch.int64)
    targets[1, 5, 7] = label
    message = f"num_classes is 3 and ignore_value 255, but a label map has the value {label}"
    with pytest.raises(ValueError, match=message):
        small_head(kind).train()(features(2, 64, 64), targets)


@EACH
def test_labels_beyond_the_maps(kind):
    with pytest.raises(ValueError, match="labels of 96x64 pixels, but maps of stride .* that cover 64x64"):
        small_head(kind).train()(features(2, 64, 64), torch.zeros(2, 96, 64, dtype=torch.int64))


@EACH
@pytest.mark.parametrize(("options", "message"), [
    ({"input_shape": {}}, r"input_shape must name maps from fine to coarse, got \[\] of strides \[\]"),
    ({"input_shape": dict(reversed(SHAPES.items()))}, r"fine to coarse, got \['res5', .*\] of strides \[32, .*\]"),
    ({"common_stride": 8}, "common_stride is 8, but the finest map, res2, has stride 4"),
    ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
    ({"channels": 0}, "channels must be at least 1, got 0"),
])
def test_what_cannot_be_built(kind, options, message):
    with pytest.raises(ValueError, match=message):
        small_head(kind, **options)


@EACH
def test_maps_of_one_size(kind):
    """A transformer without a neck gives four maps of one stride."""
    shapes = {f"block{i}": ShapeSpec(channels=8, stride=16) for i in range(4)}
    head = small_head(kind, input_shape=shapes, common_stride=16).eval()
    assert head({name: torch.randn(1, 8, 3, 5) for name in shapes})[0].shape == (1, 3, 48, 80)
