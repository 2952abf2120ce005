"""What is done to whole models with every module of ours switched on: half precision, int8, replicas, copies, meta."""
import copy
import io
import pickle

import pytest
import torch
from torch import nn

from freqdino.layers.linear import Linear, swap_linear
from helpers.behaviour import replica
from helpers.small_mask_dino import mask_dino_model
from helpers.small_models import RESNET18, example, small_model

IN_BACKBONE = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4,
               "MODEL.BACKBONE.FDAM.ENABLED": True, "MODEL.SEM_SEG_HEAD.FDAM.ENABLED": True}
BACKBONES = {
    # Without a normalisation the maps of random weights reach 600, whose square float16 cannot hold.
    "ResNet": {**RESNET18, "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True},
    "Swin": {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 32, "MODEL.SWIN.DEPTHS": [1, 1, 1, 1],
             "MODEL.SWIN.NUM_HEADS": [1, 1, 2, 2], "MODEL.SWIN.WINDOW_SIZE": 4},
    "MiT": {"MODEL.BACKBONE.NAME": "build_mit_backbone", "MODEL.MIT.EMBED_DIMS": [32, 32, 80, 64],
            "MODEL.MIT.DEPTHS": [1, 1, 1, 1]},
    # The same holds for the gate's products behind a batch normalisation of no statistics.
    "MSCAN": {"MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.EMBED_DIMS": [32, 32, 48, 64],
              "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1], "MODEL.MSCAN.NORM": "LN"},
    "ViT": {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32,
            "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2, "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3]},
}
FAMILIES = {"Mask2Former": small_model, "Mask DINO": mask_dino_model}
every_model = pytest.mark.parametrize("family, backbone", [
    *[("Mask2Former", backbone) for backbone in BACKBONES], ("Mask DINO", "ResNet"), ("Mask DINO", "Swin")])
two_models = pytest.mark.parametrize("family, backbone", [("Mask2Former", "ResNet"), ("Mask DINO", "Swin")])


def build(family, backbone, device="cpu"):
    torch.manual_seed(0)
    return FAMILIES[family]({**IN_BACKBONE, **BACKBONES[backbone], "MODEL.DEVICE": device}).eval()


def scores(model):
    """Sorted instance scores of two images of unlike sizes, and the number of panoptic labels."""
    torch.manual_seed(1)
    with torch.no_grad():
        results = model([example(60, 90), example(64, 50)])
    assert all(result["panoptic_seg"][0].shape == result["instances"].image_size for result in results)
    return torch.cat([result["instances"].scores.float().sort().values for result in results])


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(family, backbone, dtype):
    model = build(family, backbone)
    expected = scores(model)
    model.to(dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.pixel_mean.dtype == torch.float32      # half precision would round it
    ours = scores(model)
    assert ours.isfinite().all() and (ours - expected).abs().mean() < 0.02


@two_models
@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation(family, backbone):
    model = build(family, backbone)
    expected = scores(model)
    swap_linear(model, Linear, nn.Linear)       # quantize_dynamic looks for the class
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert isinstance(quantized.sem_seg_head.predictor.class_embed, torch.ao.nn.quantized.dynamic.Linear)
    ours = scores(quantized)
    assert ours.isfinite().all() and (ours - expected).abs().mean() < 0.05


@two_models
def test_replicas_of_data_parallel(family, backbone):
    model = build(family, backbone)
    torch.testing.assert_close(scores(replica(model)), scores(model))


@two_models
def test_copies_and_memory_formats(family, backbone):
    model = build(family, backbone)
    expected = scores(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(scores(other), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family, backbone", [("Mask2Former", "MiT"), ("Mask2Former", "Swin"), ("Mask DINO", "ViT")])
def test_meta_construction(family, backbone):
    """Loaded by assignment and into fresh memory; forward passes on the meta device too, as counters make them."""
    source = build(family, backbone)
    for assign in (True, False):
        with torch.device("meta"):
            model = build(family, backbone, device="meta")
        with torch.no_grad():
            features = model.features(torch.zeros(1, 3, 64, 96, device="meta"))
            assert model.sem_seg_head(features)["pred_masks"].shape == (1, 6, 16, 24)
        assert model.pixel_mean.is_meta
        if not assign:
            model.to_empty(device="cpu")
        model.load_state_dict(source.state_dict(), assign=assign)
        torch.testing.assert_close(scores(model), scores(source))
        assert torch.equal(model.pixel_mean, source.pixel_mean) and "pixel_mean" not in model.state_dict()


class Raw(nn.Module):
    """Padded images in, raw predictions out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        outputs = self.model.sem_seg_head(self.model.features(images))
        return outputs["pred_logits"], outputs["pred_masks"]


@pytest.mark.filterwarnings("ignore")
def test_trace():
    """With gradients on, saved and loaded; the lengths of a traced shape are tensors."""
    model, images = Raw(build("Mask DINO", "MiT")), torch.randn(1, 3, 64, 96)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, images, check_trace=False), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(images), model(images), rtol=1e-3, atol=1e-4)
