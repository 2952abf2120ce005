"""Mask DINO from a configuration: keys reach their place, and what cannot be built says why."""

import pytest
import torch
from detectron2.data import MetadataCatalog

from freqdino.errors import ConfigError
from freqdino.modeling.losses import focal_class_cost
from freqdino.modeling.post_processing import SigmoidScores, SoftmaxScores
from freqdino.registration.pixel_decoders import build_pixel_decoder
from helpers.small_mask_dino import BOXES_ONLY, SEMANTIC, mask_dino_config, mask_dino_model
from helpers.small_models import example, small_model

PREFIX = "MODEL.MaskDINO."


def test_options_reach_the_decoder():
    predictor = mask_dino_model({
        f"{PREFIX}DEC_LAYERS": 4, f"{PREFIX}NUM_OBJECT_QUERIES": 7, f"{PREFIX}HIDDEN_DIM": 32,
        f"{PREFIX}DIM_FEEDFORWARD": 48, f"{PREFIX}DN_NUM": 9, f"{PREFIX}DN_NOISE_SCALE": 0.5,
        f"{PREFIX}LEARN_TGT": True, f"{PREFIX}INITIALIZE_BOX_TYPE": "mask2box", f"{PREFIX}INITIAL_PRED": False,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 24}).sem_seg_head.predictor
    assert len(predictor.decoder.layers) == 4 and predictor.decoder.layers[0].linear1.out_features == 48
    assert predictor.query_feat.weight.shape == (7, 32)
    assert predictor.input_proj[2].weight.shape == (32, 64, 1, 1)
    assert predictor.mask_embed.layers[-1].out_features == 24
    assert predictor.class_embed.out_features == predictor.label_enc.num_embeddings == 3
    assert predictor.decoder.layers[0].cross_attn.num_heads == predictor.decoder.layers[0].self_attn.num_heads == 8
    assert (predictor.num_queries, predictor.num_denoising, predictor.noise_scale) == (7, 9, 0.5)
    assert predictor.box_initialisation == "mask2box" and not predictor.initial_prediction


def test_options_reach_the_pixel_decoder():
    model = mask_dino_model({
        "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": 5, "MODEL.SEM_SEG_HEAD.FEATURE_ORDER": "low2high",
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 2, "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD": 40})
    decoder = model.sem_seg_head.pixel_decoder
    assert len(decoder.input_proj) == 5 and decoder.order == "low2high"
    layers = decoder.transformer.encoder.layers
    assert len(layers) == 2 and layers[0].linear1.out_features == 40
    assert layers[0].self_attn.num_heads == 4 and layers[0].self_attn.num_levels == 5


def test_options_reach_the_criterion():
    weights = {"CLASS": 1.0, "MASK": 2.0, "DICE": 3.0, "BOX": 4.0, "GIOU": 6.0}
    criterion = mask_dino_model({
        **{f"{PREFIX}{key}_WEIGHT": value for key, value in weights.items()},
        **{f"{PREFIX}COST_{key}_WEIGHT": 10 * value for key, value in weights.items()},
        f"{PREFIX}NO_OBJECT_WEIGHT": 0.25, f"{PREFIX}TRAIN_NUM_POINTS": 33,
        f"{PREFIX}DEEP_SUPERVISION": False}).criterion
    assert criterion.weights == {"ce": 1, "mask": 2, "dice": 3, "bbox": 4, "giou": 6}
    assert criterion.matcher.weights == {"class": 10, "mask": 20, "dice": 30, "box": 40, "giou": 60}
    assert criterion.matcher.class_cost is focal_class_cost
    assert criterion.empty_weight.tolist() == [1, 1, 1, 0.25]
    assert criterion.matcher.num_points == criterion.points["num_points"] == 33
    assert criterion.class_loss == "focal" and not criterion.deep_supervision


def test_defaults_are_the_published_ones():
    model = mask_dino_model()
    assert model.criterion.weights == {"ce": 4, "mask": 5, "dice": 5, "bbox": 5, "giou": 2}
    assert model.criterion.matcher.weights == {"class": 4, "mask": 5, "dice": 5, "box": 5, "giou": 2}
    assert (model.box_frame, model.criterion.denoising, model.criterion.box_classes) == ("image", "seg", None)
    predictor = model.sem_seg_head.predictor
    assert predictor.two_stage and predictor.initial_prediction and not predictor.learn_content
    assert (predictor.box_initialisation, predictor.noise_scale) == ("no", 0.4)


@pytest.mark.parametrize(("options", "learns"), [
    ({}, True), (BOXES_ONLY, False), ({**BOXES_ONLY, f"{PREFIX}COST_DICE_WEIGHT": 1.0}, True),
    ({**BOXES_ONLY, f"{PREFIX}MASK_WEIGHT": 1.0}, True)])
def test_masks_are_learned_where_a_weight_reads_them(options, learns):
    model = mask_dino_model(options)
    assert model.learns_masks == model.post_processing.rescore_by_mask == learns


@pytest.mark.parametrize(("options", "expected"), [
    ({}, SigmoidScores(0.06)), ({f"{PREFIX}TEST.PANO_TEMPERATURE": 0.5}, SigmoidScores(0.5)),
    ({f"{PREFIX}TEST.PANO_TRANSFORM_EVAL": False}, SigmoidScores(None)), (SEMANTIC, SoftmaxScores())])
def test_scores(options, expected):
    assert mask_dino_model(options).post_processing.scores == expected


@pytest.mark.parametrize(("options", "kind", "class_logits"), [({}, "focal", 3), (SEMANTIC, "cross_entropy", 4)])
def test_class_loss(options, kind, class_logits):
    model = mask_dino_model(options)
    assert model.criterion.class_loss == kind
    assert model.sem_seg_head.predictor.class_embed.out_features == class_logits


def test_focus_on_boxes():
    assert mask_dino_model().post_processing.rescore_by_mask
    assert not mask_dino_model({f"{PREFIX}TEST.TEST_FOUCUS_ON_BOX": True}).post_processing.rescore_by_mask


def test_panoptic_box_loss_is_of_the_things_of_the_metadata():
    name = "mask_dino_registration"
    MetadataCatalog.get(name).set(
        thing_classes=["a", "b", "c"], stuff_classes=["a", "b", "c"], evaluator_type="coco_panoptic_seg",
        thing_dataset_id_to_contiguous_id={90: 2, 5: 0}, stuff_dataset_id_to_contiguous_id={91: 1})
    options = {"DATASETS.TRAIN": (name,), f"{PREFIX}PANO_BOX_LOSS": True}
    assert mask_dino_model(options).criterion.box_classes.tolist() == [0, 2]
    assert mask_dino_model({"DATASETS.TRAIN": (name,)}).criterion.box_classes is None


def names(options):
    return set(mask_dino_model(options).train()([example(64, 64, [0, 1])]))


def test_number_of_losses():
    # Two layers: 3 predictions and the proposals, 5 terms each, then 3 of denoising.
    assert len(names({})) == 4 * 5 + 3 * 5
    assert len(names({f"{PREFIX}DN": "standard"})) == 4 * 5 + 3 * 3
    assert len(names({f"{PREFIX}DN": "no"})) == 4 * 5
    assert len(names({f"{PREFIX}BOX_LOSS": False})) == 4 * 3 + 3 * 5
    assert len(names({f"{PREFIX}TWO_STAGE": False})) == 3 * 5 + 2 * 5
    assert len(names({f"{PREFIX}DEEP_SUPERVISION": False})) == 3 * 5
    assert len(names({f"{PREFIX}INITIAL_PRED": False})) == 3 * 5 + 2 * 5
    assert len(names({f"{PREFIX}DN_NUM": 0})) == 4 * 5 + 3 * 5


def test_weights_scale_the_losses():
    keys = ("CLASS", "MASK", "DICE", "BOX", "GIOU")
    light = mask_dino_model({f"{PREFIX}{key}_WEIGHT": 1.0 for key in keys}).train()
    heavy = mask_dino_model({f"{PREFIX}{key}_WEIGHT": 3.0 for key in keys}).train()
    heavy.load_state_dict(light.state_dict())
    image, losses = example(64, 64, [0, 1]), []
    for model in (light, heavy):
        torch.manual_seed(0)
        losses.append(model([image]))
    assert {name: 3 * loss.item() for name, loss in losses[0].items()} == pytest.approx(
        {name: loss.item() for name, loss in losses[1].items()}, rel=1e-4)


def test_a_published_family_default_of_four_levels():
    # TOTAL_NUM_FEATURE_LEVELS has the default 4: one extra level beyond res3 to res5.
    cfg = mask_dino_config({"MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": 4})
    model = mask_dino_model({"MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": 4})
    assert len(build_pixel_decoder(cfg, model.backbone.output_shape()).input_proj) == 4


@pytest.mark.parametrize(("options", "message"), [
    ({f"{PREFIX}DN": "yes"}, "MODEL.MaskDINO.DN must be one of no, standard, seg, got 'yes'"),
    ({f"{PREFIX}BOX_FRAME": "batch"}, "MODEL.MaskDINO.BOX_FRAME must be one of image, padded, None, got 'batch'"),
    ({f"{PREFIX}INITIALIZE_BOX_TYPE": "mask"},
     "MODEL.MaskDINO.INITIALIZE_BOX_TYPE must be one of no, bitmask, mask2box, got 'mask'"),
    ({**SEMANTIC, f"{PREFIX}TEST.PANOPTIC_ON": True}, "SEMANTIC_CE_LOSS trains a semantic model: .*PANOPTIC_ON False"),
    ({**SEMANTIC, f"{PREFIX}TEST.INSTANCE_ON": True}, "SEMANTIC_CE_LOSS trains a semantic model: .*INSTANCE_ON False"),
    ({**SEMANTIC, f"{PREFIX}TEST.SEMANTIC_ON": False}, "SEMANTIC_CE_LOSS trains a semantic model: .*SEMANTIC_ON True"),
    ({"MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead"},
     "MODEL.SEM_SEG_HEAD.NAME is MaskFormerHead; MODEL.META_ARCHITECTURE MaskDINO goes with MaskDINOHead"),
    ({f"{PREFIX}NUM_OBJECT_QUERIES": 0}, "MODEL.MaskDINO.NUM_OBJECT_QUERIES is 0; it must be at least 1"),
    ({f"{PREFIX}TRANSFORMER_DECODER_NAME": "DINO"},
     r"TRANSFORMER_DECODER_NAME is 'DINO'; registered are \[.*'MaskDINODecoder'"),
    ({f"{PREFIX}TEST.SEMANTIC_ON": False, f"{PREFIX}TEST.INSTANCE_ON": False, f"{PREFIX}TEST.PANOPTIC_ON": False},
     "SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON are all False"),
    ({"MODEL.SEM_SEG_HEAD.FEATURE_ORDER": "coarse2fine"},
     "MODEL.SEM_SEG_HEAD.FEATURE_ORDER must be one of high2low, low2high, got 'coarse2fine'"),
    ({"MODEL.SEM_SEG_HEAD.CONVS_DIM": 48}, "MODEL.SEM_SEG_HEAD.CONVS_DIM must be a multiple of 32, .* got 48"),
    ({"MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 8}, "MODEL.SEM_SEG_HEAD.COMMON_STRIDE is 8, but .* has stride 4"),
    ({f"{PREFIX}NHEADS": 7}, "^MODEL.MaskDINO.NHEADS must divide the 64 channels, got 7"),
    ({"MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": 2},
     "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS is 2, fewer than the 3 maps .*'res3', 'res4', 'res5'"),
    ({f"{PREFIX}TWO_STAGE": False, f"{PREFIX}INITIALIZE_BOX_TYPE": "bitmask"},
     "INITIALIZE_BOX_TYPE is 'bitmask', which needs two_stage"),
    ({f"{PREFIX}DEC_LAYERS": 0}, "MODEL.MaskDINO.DEC_LAYERS must be at least 1, got 0"),
    ({f"{PREFIX}DN_NUM": -1}, "MODEL.MaskDINO.DN_NUM must be at least 0"),
    ({f"{PREFIX}DN_NOISE_SCALE": 3.0}, "MODEL.MaskDINO.DN_NOISE_SCALE must be in 0..2, .* got 3.0"),
    ({f"{PREFIX}IMPORTANCE_SAMPLE_RATIO": 1.5}, "MODEL.MaskDINO.IMPORTANCE_SAMPLE_RATIO must be in 0..1, got 1.5"),
    ({f"{PREFIX}HIDDEN_DIM": 20}, "num_heads must divide the 20 channels, got 8"),
    ({f"{PREFIX}{key}_WEIGHT": 0.0 for key in ("CLASS", "MASK", "DICE", "BOX", "GIOU")},
     r"MODEL.MaskDINO.\*_WEIGHT leave no loss of the matched queries"),
    ({f"{PREFIX}COST_{key}_WEIGHT": 0.0 for key in ("CLASS", "MASK", "DICE", "BOX", "GIOU")},
     r"MODEL.MaskDINO.COST_\*_WEIGHT must not all be 0"),
    ({f"{PREFIX}TRAIN_NUM_POINTS": 0}, "MODEL.MaskDINO.TRAIN_NUM_POINTS must be at least 1, got 0"),
])
def test_what_cannot_be_built(options, message):
    with pytest.raises(ConfigError, match=message):
        mask_dino_model(options)


def test_head_of_mask_dino_in_a_mask2former():
    message = "MODEL.SEM_SEG_HEAD.NAME is MaskDINOHead; .* MaskFormer goes with MaskFormerHead"
    with pytest.raises(ConfigError, match=message):
        small_model({"MODEL.SEM_SEG_HEAD.NAME": "MaskDINOHead"})


def test_another_number_of_levels_than_the_pixel_decoder_gives():
    # Mask2Former's pixel decoder always gives as many levels as it reads maps.
    with pytest.raises(ConfigError, match="TOTAL_NUM_FEATURE_LEVELS and PIXEL_DECODER_NAME MSDeformAttnPixelDecoder: "
                                          "the decoder was made for num_levels 4, got 3 levels"):
        mask_dino_model({"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
                         "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS": 4})
