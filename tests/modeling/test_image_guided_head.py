"""The image-guided head: filters written out by hand, sizes, gradients, and the whole model by its published names."""
import pytest
import torch
import torch.nn.functional as F

from freqdino.errors import ConfigError
from freqdino.modeling.image_guided_head import ImageGuidedHead, ImageGuidedStage, ImageGuidedUpsampler, ImageHighPass
from helpers.refusals import refuses
from helpers.small_models import example, small_model

GUIDED = {"MODEL.META_ARCHITECTURE": "MaskFormerFreqAware", "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHeadFreqAware",
          "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "FreqAwareMSDeformAttnPixelDecoder2"}


def randomised(module):
    for parameter in module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return module


def test_high_pass_starts_as_the_difference_to_the_mean():
    image = torch.randn(2, 3, 5, 7)
    mean = F.avg_pool2d(image, 3, stride=1, padding=1)      # zeros outside count
    assert torch.allclose(ImageHighPass()(image), image - mean, atol=1e-6)


def test_high_pass_removes_a_constant():
    flat = torch.full((1, 3, 6, 6), 3.0)
    assert torch.allclose(randomised(ImageHighPass())(flat)[..., 1:-1, 1:-1], torch.zeros(1, 3, 4, 4), atol=1e-5)


def test_stage_pixel_by_pixel():
    torch.manual_seed(0)
    stage, maps, image = randomised(ImageGuidedStage()), torch.randn(1, 2 + 4, 3, 2), torch.randn(1, 3, 12, 8)
    actual = stage(maps, image)
    large = maps.repeat_interleave(2, -2).repeat_interleave(2, -1)
    small_image = F.interpolate(image, size=(6, 4), mode="bilinear", align_corners=False)
    blur = stage.LPF.weight.flatten(1).softmax(1).view(3, 1, 3, 3)
    edges = small_image - F.conv2d(small_image, blur, padding=1, groups=3)
    edges = F.conv2d(edges, stage.extra_conv3.weight, stage.extra_conv3.bias, padding=1)
    encoder = stage.content_encoder
    filters = F.conv2d(torch.cat([large[:, 2:], edges], 1), encoder.weight, encoder.bias, padding=1).softmax(1)
    padded = F.pad(large, (1, 1, 1, 1))
    expected = torch.zeros(1, 6, 6, 4)
    for y in range(6):
        for x in range(4):
            for i in range(3):
                for j in range(3):
                    expected[0, :, y, x] += filters[0, 3 * i + j, y, x] * padded[0, :, y + i, x + j]
    assert torch.allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("image_size", [(20, 12), (17, 9)])
def test_masks_grow_with_every_stage(image_size):
    masks = ImageGuidedUpsampler(num_stages=2)(torch.randn(2, 5, 5, 3), torch.randn(2, 4, 5, 3),
                                               torch.randn(2, 3, *image_size))
    assert masks.shape == (2, 5, 20, 12)


def test_no_queries_and_no_images():
    upsampler = ImageGuidedUpsampler(num_stages=1)
    assert upsampler(torch.randn(1, 0, 2, 2), torch.randn(1, 4, 2, 2), torch.randn(1, 3, 4, 4)).shape == (1, 0, 4, 4)
    assert upsampler(torch.randn(0, 3, 2, 2), torch.randn(0, 4, 2, 2), torch.randn(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_gradients():
    torch.manual_seed(0)
    upsampler = randomised(ImageGuidedUpsampler(num_stages=1)).double()
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in
              ((1, 2, 2, 3), (1, 4, 2, 3), (1, 3, 4, 6))]
    assert torch.autograd.gradcheck(upsampler, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_float32(dtype):
    torch.manual_seed(0)
    upsampler = ImageGuidedUpsampler(num_stages=2)
    inputs = torch.randn(1, 3, 4, 4), torch.randn(1, 4, 4, 4), torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", dtype):
        actual = upsampler(*inputs)
    assert (actual.float() - upsampler(*inputs)).abs().max() < 0.05


def test_keys_of_the_model():
    state = small_model(GUIDED).state_dict()
    shapes = {key.removeprefix("sem_seg_head."): tuple(value.shape) for key, value in state.items()
              if "IGU" in key or "comp_conv" in key}
    stage = {"content_encoder.weight": (9, 5, 3, 3), "content_encoder.bias": (9,), "LPF.weight": (3, 1, 3, 3),
             "LPF.identity_kernel": (1, 1, 3, 3), "extra_conv3.weight": (1, 3, 3, 3), "extra_conv3.bias": (1,)}
    assert shapes == {"comp_conv.0.weight": (4, 16, 3, 3), "comp_conv.0.bias": (4,),
                      **{f"IGU.up.{i}.{key}": shape for i in range(2) for key, shape in stage.items()}}


def test_only_the_last_masks_have_stride_1():
    model = small_model(GUIDED).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        outputs = model.sem_seg_head(model.features(images))
    assert outputs["pred_masks"].shape == (1, 6, 64, 96)
    assert {tuple(auxiliary["pred_masks"].shape) for auxiliary in outputs["aux_outputs"]} == {(1, 6, 16, 24)}


def test_every_trainable_parameter_learns():
    torch.manual_seed(0)
    model = small_model(GUIDED).train()
    losses = model([example(64, 96, [0, 2]), example(70, 50, [1])])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"sem_seg_head.IGU.up.{i}.LPF.identity_kernel" for i in range(2)]
    for name, parameter in model.named_parameters():
        if "IGU" in name or "comp_conv" in name:
            assert name in frozen or parameter.grad.any(), name


def test_results_have_the_size_asked_for():
    model = small_model(GUIDED).eval()
    with torch.no_grad():
        results = model([example(61, 90), example(40, 33, height=80, width=66)])
    for result, size in zip(results, [(61, 90), (80, 66)], strict=True):
        assert result["sem_seg"].shape == (3, *size)
        assert result["instances"].image_size == size and result["panoptic_seg"][0].shape == size


def test_masks_of_stride_1_are_the_semantic_map_as_they_are():
    model = small_model({**GUIDED, "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
                         "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False}).eval()
    image = example(64, 96)
    with torch.no_grad():
        outputs = model.sem_seg_head(model.features(model._images([image]).tensor))
        result, = model([image])
    scores = outputs["pred_logits"][0].softmax(-1)[:, :-1]
    expected = torch.einsum("qk,qhw->khw", scores, outputs["pred_masks"][0].sigmoid())
    assert torch.allclose(result["sem_seg"], expected, atol=1e-5)


test_head_and_meta_architecture_go_together = refuses(small_model, [
    ({**GUIDED, "MODEL.META_ARCHITECTURE": "MaskFormer"},
     "NAME is MaskFormerHeadFreqAware; MODEL.META_ARCHITECTURE MaskFormer goes with MaskFormerHead"),
    ({**GUIDED, "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead"},
     "NAME is MaskFormerHead; MODEL.META_ARCHITECTURE MaskFormerFreqAware goes with MaskFormerHeadFreqAware"),
], error=ConfigError)


@pytest.mark.parametrize("stride", [1, 3, 6])
def test_stride_that_is_no_power_of_two(stride):
    with pytest.raises(ValueError, match=f"stride must be a power of two and at least 2, got {stride}"):
        ImageGuidedHead(pixel_decoder=torch.nn.Identity(), predictor=torch.nn.Identity(), mask_dim=8, stride=stride)
