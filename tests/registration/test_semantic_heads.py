"""Semantic heads by configuration in Detectron2's SemanticSegmentor: training, evaluation, what cannot be built."""
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, SemanticSegmentor

from freqdino.errors import ConfigError
from freqdino.registration.upsamplers import FREQFUSION, UPSAMPLERS
from helpers.small_semantic_heads import BACKBONES, scene, semantic_segmentor
from helpers.training_step import without_zeros

HEADS = pytest.mark.parametrize("head", ["UPerNetHead", "SegFormerHead", "LightHamHead"])
NAME = "MODEL.SEM_SEG_HEAD.NAME"
UPSAMPLED = {NAME: "SegFormerHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32}


@pytest.fixture
def three_classes():
    """A registered data set's name; its metadata may be changed."""
    name = "three_classes_for_semantic_heads"
    MetadataCatalog.get(name).set(stuff_classes=["sky", "sea", "land"], evaluator_type="sem_seg", ignore_label=255)
    return name


def test_registry_names():
    assert {"UPerNetHead", "SegFormerHead", "LightHamHead"} <= {name for name, _ in SEM_SEG_HEADS_REGISTRY}


def test_options_reach_upernet():
    model = semantic_segmentor({NAME: "UPerNetHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 64,
                                "MODEL.SEM_SEG_HEAD.NORM": "GN",
                                "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 7,
                                "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 2.0})
    head = model.sem_seg_head
    assert type(model) is SemanticSegmentor
    assert head.conv_seg.weight.shape == (5, 64, 1, 1) and (head.ignore_value, head.loss_weight) == (7, 2.0)
    assert [pool[0].output_size for pool in head.psp_modules] == [1, 2, 3, 6]
    assert isinstance(head.bottleneck.bn, torch.nn.GroupNorm)
    assert head.auxiliary.convs[0].conv.out_channels == 256 and head.auxiliary_weight == 0.4
    assert head.auxiliary_stride == 16 and head.dropout.p == head.auxiliary.dropout.p == 0.1


def test_options_reach_segformers_head():
    head = semantic_segmentor({NAME: "SegFormerHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res3", "res5"],
                               "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 8, "MODEL.SEM_SEG_HEAD.NORM": "SyncBN"}).sem_seg_head
    assert head.in_features == ["res3", "res5"] and head.common_stride == 8 and head.dropout.p == 0.1
    assert head.fusion_conv.conv.weight.shape == (16, 32, 1, 1)
    assert isinstance(head.fusion_conv.bn, torch.nn.SyncBatchNorm)


@pytest.mark.parametrize("name", [name for name in (FREQFUSION, *UPSAMPLERS) if name != "bilinear"])
def test_a_training_step_with_every_upsampler_of_segformers_head(name):
    torch.manual_seed(0)
    model = semantic_segmentor({**UPSAMPLED, "MODEL.SEM_SEG_HEAD.UPSAMPLER": name}).train()
    without_zeros(model)
    steps = [type(step) for steps in model.sem_seg_head.upsamplers for step in steps]
    assert len(steps) == 6 and len(set(steps)) == 1
    model([scene(64, 96), scene(45, 70)])["loss_sem_seg"].backward()
    assert [key for key, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()] == []


def test_bilinear_is_the_head_without_upsamplers():
    assert semantic_segmentor({NAME: "SegFormerHead"}).sem_seg_head.upsamplers is None


@pytest.mark.parametrize(("options", "message"), [
    ({"MODEL.SEM_SEG_HEAD.UPSAMPLER": "bicubic"},
     f"MODEL.SEM_SEG_HEAD.UPSAMPLER is 'bicubic'; known are {', '.join((FREQFUSION, *UPSAMPLERS))}$"),
    ({"MODEL.SEM_SEG_HEAD.UPSAMPLER": "a2u", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 48},
     "^MODEL.SEM_SEG_HEAD.CONVS_DIM must be a multiple of 32, the groups of its normalisation, got 48"),
    ({"MODEL.SEM_SEG_HEAD.UPSAMPLER": "dysample_s", "MODEL.SEM_SEG_HEAD.CONVS_DIM": 20},
     "^MODEL.SEM_SEG_HEAD.CONVS_DIM must be a multiple of the 8 groups, got 20"),
    ({"MODEL.SEM_SEG_HEAD.UPSAMPLER": "nearest", "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res5"]},
     "^MODEL.SEM_SEG_HEAD.IN_FEATURES must name maps of which each has twice the stride"),
    ({"MODEL.SEM_SEG_HEAD.UPSAMPLER": "carafe", NAME: "UPerNetHead"},
     "^MODEL.SEM_SEG_HEAD.UPSAMPLER is carafe, but the head UPerNetHead does not read it; set it to bilinear, or "
     "MODEL.SEM_SEG_HEAD.NAME to SegFormerHead"),
])
def test_upsamplers_that_cannot_be_built(options, message):
    with pytest.raises(ConfigError, match=message):
        semantic_segmentor({**UPSAMPLED, **options})


@HEADS
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_training_step_reaches_every_parameter(head, backbone):
    model = semantic_segmentor({NAME: head, **BACKBONES[backbone]}).train()
    losses = model([scene(64, 96), scene(45, 70)])
    assert set(losses) == {"loss_sem_seg", *(["loss_sem_seg_aux"] if head == "UPerNetHead" else [])}
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())] == []


@HEADS
def test_training_lowers_the_loss(head):
    model = semantic_segmentor({NAME: head}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, history = [scene(64, 96), scene(64, 96)], []
    for _ in range(6):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0]


@HEADS
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_evaluation_gives_scores_at_the_size_that_is_asked_for(head, backbone):
    model = semantic_segmentor({NAME: head, **BACKBONES[backbone]}).eval()
    inputs = [{**scene(64, 96), "height": 128, "width": 192}, scene(45, 71)]
    results = [output["sem_seg"] for output in model(inputs)]
    assert [tuple(result.shape) for result in results] == [(3, 128, 192), (3, 45, 71)]
    assert all(result.isfinite().all() for result in results)
    without_labels = [{key: value for key, value in example.items() if key != "sem_seg"} for example in inputs]
    assert all(torch.equal(again["sem_seg"], result) for again, result in zip(model(without_labels), results))


@HEADS
def test_padding_is_not_learned(head):
    """A batch's smaller image is padded at the right and the bottom: those pixels are nobody's."""
    model = semantic_segmentor({NAME: head, "MODEL.SEM_SEG_HEAD.NORM": ""}).train()
    seen = []
    model.sem_seg_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    model([scene(64, 64), scene(32, 48)])
    assert (seen[0][1, 32:] == 255).all() and (seen[0][1, :, 48:] == 255).all()
    assert (seen[0][0, 2:] != 255).all() and (seen[0][1, 2:32, :48] != 255).all()


@HEADS
def test_a_data_set_that_fits(head, three_classes):
    semantic_segmentor({NAME: head, "DATASETS.TRAIN": [three_classes], "DATASETS.TEST": [three_classes]})


@HEADS
def test_class_count_of_the_data_set(head, three_classes):
    message = f"{three_classes} has 3 classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 4"
    with pytest.raises(ConfigError, match=message):
        semantic_segmentor({NAME: head, "DATASETS.TRAIN": [three_classes], "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4})


@HEADS
def test_ignore_label_of_the_data_set(head, three_classes):
    MetadataCatalog.remove(three_classes)
    MetadataCatalog.get(three_classes).set(stuff_classes=["sky", "sea", "land"], ignore_label=0)
    message = f"{three_classes} has ignore_label 0, but MODEL.SEM_SEG_HEAD.IGNORE_VALUE is 255; set .* 0"
    with pytest.raises(ConfigError, match=message):
        semantic_segmentor({NAME: head, "DATASETS.TRAIN": [three_classes]})


@HEADS
@pytest.mark.parametrize(("options", "message"), [
    ({"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2", "res5"]},
     r"MODEL.SEM_SEG_HEAD.IN_FEATURES names \['p2'\], but PatchBackbone gives \['res2', .*'res5'\]"),
    ({"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res5", "res2"], "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 32},
     r"MODEL.SEM_SEG_HEAD.IN_FEATURES must name maps from fine to coarse, got \['res5', 'res2'\]"),
    ({"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res3", "res5"]},
     "MODEL.SEM_SEG_HEAD.COMMON_STRIDE is 4, but the finest map, res3, has stride 8"),
    ({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 0}, "MODEL.SEM_SEG_HEAD.NUM_CLASSES must be at least 1, got 0"),
])
def test_what_cannot_be_built(head, options, message):
    with pytest.raises(ConfigError, match=message):
        semantic_segmentor({NAME: head, **options})
