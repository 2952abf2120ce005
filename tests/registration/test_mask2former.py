"""Mask2Former from a configuration: keys reach their place, and what cannot be built says why."""
import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_backbone

from freqdino.errors import ConfigError
from freqdino.modeling.backbones.swin import D2SwinTransformer
from freqdino.registration.pixel_decoders import TRANSFORMER_DECODER_REGISTRY
from helpers.small_models import RESNET18, example, small_config, small_model


def test_published_names():
    assert {"MaskFormer", "MaskDINO"} <= {name for name, _ in META_ARCH_REGISTRY}
    assert {"MaskFormerHead", "MSDeformAttnPixelDecoder", "MaskDINOHead", "MaskDINOEncoder"} <= {
        name for name, _ in SEM_SEG_HEADS_REGISTRY}
    assert {"MultiScaleMaskedTransformerDecoder", "MaskDINODecoder"} <= {
        name for name, _ in TRANSFORMER_DECODER_REGISTRY}
    assert "D2SwinTransformer" in BACKBONE_REGISTRY


def test_options_reach_the_parts():
    model = small_model({"MODEL.MASK_FORMER.DEC_LAYERS": 3, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 7,
                         "MODEL.MASK_FORMER.HIDDEN_DIM": 32, "MODEL.SEM_SEG_HEAD.MASK_DIM": 24,
                         "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 2, "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.25,
                         "MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0], "MODEL.PIXEL_STD": [4.0, 5.0, 6.0]})
    predictor, decoder = model.sem_seg_head.predictor, model.sem_seg_head.pixel_decoder
    assert predictor.query_feat.weight.shape == (7, 32)
    assert len(predictor.transformer_ffn_layers) == 2
    assert predictor.class_embed.out_features == 4
    assert predictor.input_proj[0].weight.shape == (32, 64, 1, 1)
    assert decoder.mask_features.out_channels == 24
    assert len(decoder.transformer.encoder.layers) == 2
    assert decoder.transformer.encoder.layers[0].linear1.out_features == 1024
    assert model.criterion.empty_weight.tolist() == [1, 1, 1, 0.25]
    assert model.pixel_mean.flatten().tolist() == [1, 2, 3] and model.pixel_std.flatten().tolist() == [4, 5, 6]


def test_loss_weights():
    model = small_model({"MODEL.MASK_FORMER.CLASS_WEIGHT": 1.0, "MODEL.MASK_FORMER.MASK_WEIGHT": 1.0,
                         "MODEL.MASK_FORMER.DICE_WEIGHT": 1.0}).train()
    heavy = small_model({"MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0, "MODEL.MASK_FORMER.MASK_WEIGHT": 2.0,
                         "MODEL.MASK_FORMER.DICE_WEIGHT": 2.0}).train()
    heavy.load_state_dict(model.state_dict())
    image = example(64, 64, [0, 1])
    losses = []
    for one in (model, heavy):
        torch.manual_seed(0)
        losses.append(one([image]))
    assert {name: 2 * loss.item() for name, loss in losses[0].items()} == pytest.approx(
        {name: loss.item() for name, loss in losses[1].items()}, rel=1e-5)


def test_no_deep_supervision():
    losses = small_model({"MODEL.MASK_FORMER.DEEP_SUPERVISION": False}).train()([example(64, 64, [0])])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}


def test_one_prediction():
    losses = small_model({"MODEL.MASK_FORMER.DEC_LAYERS": 1}).train()([example(64, 64, [0])])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}


@pytest.mark.parametrize(("options", "message"), [
    ({"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5"},
     "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is 'res5'.*Mask2Former needs multi_scale_pixel_decoder"),
    ({"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder"},
     "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME is 'BasePixelDecoder'; registered are .*'MSDeformAttnPixelDecoder'"),
    ({"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder"},
     "TRANSFORMER_DECODER_NAME is 'StandardTransformerDecoder'; registered are .*'MultiScaleMaskedTransformerDecoder'"),
    ({"MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res4", "res5"]},
     "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES .* MSDeformAttnPixelDecoder: the decoder reads 3 levels, got 2"),
    ({"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "p4", "p5"]},
     r"MODEL.SEM_SEG_HEAD.IN_FEATURES names \['p4', 'p5'\], but PatchBackbone gives \['res2', .*'res5'\]"),
    ({**RESNET18, "MODEL.RESNETS.OUT_FEATURES": ["res4", "res5"]},
     r"IN_FEATURES names \['res2', 'res3'\], but build_resnet_backbone gives \['res4', 'res5'\]"),
    ({"MODEL.MASK_FORMER.TEST.SEMANTIC_ON": False, "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
      "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False}, "SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are all False"),
    ({"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res4", "res5"]},
     r"SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES names \['res3'\], but the maps are "
     r"\['res2', 'res4', 'res5'\]"),
    ({"MODEL.MASK_FORMER.DEC_LAYERS": 0}, "MODEL.MASK_FORMER.DEC_LAYERS is 0; it must be at least 1"),
    ({"MODEL.MASK_FORMER.HIDDEN_DIM": 66, "MODEL.MASK_FORMER.NHEADS": 4},
     "MODEL.MASK_FORMER.NHEADS must divide the 66 channels, got 4"),
    ({"MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 0.5}, "MODEL.MASK_FORMER.OVERSAMPLE_RATIO must be at least 1, got 0.5"),
])
def test_what_cannot_be_built(options, message):
    with pytest.raises(ConfigError, match=message):
        small_model(options)


def test_swin_by_name():
    cfg = small_config({"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 12,
                        "MODEL.SWIN.DEPTHS": [1, 1, 1, 1], "MODEL.SWIN.NUM_HEADS": [1, 2, 3, 6],
                        "MODEL.SWIN.OUT_FEATURES": ["res3", "res5"]})
    backbone = build_backbone(cfg)
    assert isinstance(backbone, D2SwinTransformer)
    assert {name: shape.channels for name, shape in backbone.output_shape().items()} == {"res3": 24, "res5": 96}
