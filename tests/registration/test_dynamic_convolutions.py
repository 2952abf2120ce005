"""MODEL.BACKBONE.DYNAMIC_CONV: what it builds in ResNets, what that costs, plain weights, and what is refused."""
import pytest
import torch
from detectron2.modeling import build_backbone as build_registered_backbone
from torchvision.models import resnet18

from freqdino.analysis.costs.frequency_costs import frequency_parameters
from freqdino.checkpoint import StrictCheckpointer
from freqdino.config import load_config
from freqdino.errors import ConfigError
from freqdino.frequency import FDConv, FrequencyScale
from freqdino.frequency.image_conv import ImageConv2d
from freqdino.frequency.rivals import CondConv, DYConv, KernelWarehouse, ODConv
from freqdino.registration.backbones import build_backbone
from helpers.modules import count
from helpers.paths import CONFIGS
from helpers.small_models import RESNET18, BackboneModel, small_config, small_model

NAME, NUM, ANNEAL = (f"MODEL.BACKBONE.DYNAMIC_CONV.{key}" for key in ("NAME", "NUM", "ANNEAL"))
CLASSES = {"condconv": CondConv, "dyconv": DYConv, "odconv": ODConv, "kernel_warehouse": KernelWarehouse}
LEAF = str(CONFIGS / "coco/instance/mask_rcnn_r50.yaml")
LEAVES = {"condconv": "condconv", "dyconv": "dyconv", "odconv": "odconv", "kernelwarehouse": "kernel_warehouse"}
# FDConv's table (CVPR 2025, arXiv 2503.18783), told from its column of parameters.
ADDED = {("condconv", 8): 89_981_000, ("dyconv", 4): 75_338_144, ("odconv", 1): 3_078_080, ("odconv", 4): 65_113_856,
         ("kernel_warehouse", 1): 2_495_278, ("kernel_warehouse", 4): 76_458_112, ("fdconv", 0): 3_647_120}
REPLACED = {"condconv": 9, "dyconv": 52, "odconv": 48, "kernel_warehouse": 50, "fdconv": 48}


def backbone_without_memory(*options):
    cfg = load_config(LEAF, ["MODEL.DEVICE", "cpu", *options])
    with torch.device("meta"):
        return build_registered_backbone(cfg)


@pytest.fixture(scope="module")
def plain_count():
    return count(backbone_without_memory())


@pytest.mark.parametrize(("name", "num"), ADDED)
def test_parameters_of_resnet50(name, num, plain_count):
    backbone = backbone_without_memory(NAME, name, NUM, num)
    assert count(backbone) - plain_count == ADDED[name, num]
    layers = [layer for layer in backbone.modules() if isinstance(layer, ImageConv2d)]
    assert len(layers) == REPLACED[name] and {type(layer) for layer in layers} == {CLASSES.get(name, FDConv)}


@pytest.mark.parametrize("leaf", LEAVES)
def test_what_a_leaf_adds(leaf):
    cfg = load_config(str(CONFIGS / f"coco/instance/mask_rcnn_r50_{leaf}.yaml"), ["MODEL.DEVICE", "cpu"])
    name = LEAVES[leaf]
    with torch.device("meta"):
        model = torch.nn.ModuleDict({"backbone": build_registered_backbone(cfg)})
    added = ADDED[name, cfg.MODEL.BACKBONE.DYNAMIC_CONV.NUM]
    assert frequency_parameters(model) == {CLASSES[name].__name__: added}


def test_warehouses_of_resnet50():
    backbone = backbone_without_memory(NAME, "kernel_warehouse").bottom_up
    assert {name: tuple(bank.cells.shape) for name, bank in backbone.warehouses.items()} == {
        "res2": (87, 64, 64), "res3": (104, 128, 128), "res4": (138, 256, 256), "res5": (47, 512, 512)}
    assert type(backbone.res2[0].conv1) is type(backbone.res2[0].shortcut) is not KernelWarehouse
    assert backbone.res3[0].conv1.warehouse is backbone.res3[0].shortcut.warehouse is backbone.warehouses["res2"]
    assert backbone.res3[0].conv2.warehouse is backbone.res3[1].conv1.warehouse is backbone.warehouses["res3"]


@pytest.mark.parametrize(("name", "default"), [("condconv", 8), ("dyconv", 4), ("odconv", 1)])
def test_numbers_by_default(name, default):
    backbone = backbone_without_memory(NAME, name)
    assert {layer.num for layer in backbone.modules() if isinstance(layer, CLASSES[name])} == {default}
    assert {len(bank.cells) for bank in backbone_without_memory(NAME, "kernel_warehouse").bottom_up.warehouses.values()
            } == {87, 104, 138, 47}


@pytest.mark.parametrize("options", [
    {NAME: "fdconv"}, {NAME: "fdconv", "MODEL.BACKBONE.FDCONV.ENABLED": True},
    {NAME: "fdconv", "MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone"}])
def test_fdconv_is_another_name_of_its_switch(options):
    groups = {"MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
    switch = {"MODEL.BACKBONE.FDCONV.ENABLED": True}
    keys, others = (list(build_backbone(small_config({**RESNET18, **groups, **more})).state_dict())
                    for more in (switch, options))
    assert others == keys
    assert any("dft_weight" in key for key in keys)


@pytest.mark.parametrize("backbone", [
    {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 24, "MODEL.SWIN.DEPTHS": [1, 1, 1, 1],
     "MODEL.SWIN.NUM_HEADS": [1, 1, 2, 2]},
    {"MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.EMBED_DIMS": [32, 32, 48, 64],
     "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1]}])
def test_fdconv_by_its_name_in_other_backbones(backbone):
    options = {**backbone, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
    by_name, by_switch = (build_backbone(small_config({**options, **switch})) for switch in (
        {NAME: "fdconv"}, {"MODEL.BACKBONE.FDCONV.ENABLED": True}))
    assert list(by_name.state_dict()) == list(by_switch.state_dict())
    assert any("dft_weight" in key for key in by_name.state_dict())


@torch.no_grad()
@pytest.mark.parametrize(("name", "num"), [("condconv", 3), ("dyconv", 2), ("kernel_warehouse", 0),
                                           ("kernel_warehouse", 2), ("fdconv", 0)])
def test_plain_weights_keep_the_function(name, num, tmp_path):
    """From a file of torchvision's names; what the model then saves fits strictly."""
    torch.manual_seed(0)
    source = resnet18(weights=None)
    for key, tensor in source.state_dict().items():
        if ".running_" in key or "bn" in key and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    options = {**RESNET18, NAME: name, NUM: num, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
    model, plain = BackboneModel(options).eval(), BackboneModel(RESNET18).eval()
    for each in (model, plain):
        StrictCheckpointer(each).load(str(tmp_path / "resnet18.pth"))
    x = torch.rand(2, 3, 64, 70)
    for key, expected in plain.backbone(x).items():
        torch.testing.assert_close(model.backbone(x)[key], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    torch.save({"model": model.state_dict()}, tmp_path / "own.pth")
    other = BackboneModel(options).eval()
    StrictCheckpointer(other, whole_model=True).load(str(tmp_path / "own.pth"))
    assert torch.equal(other.backbone(x)["res5"], model.backbone(x)["res5"])


def test_odconv_takes_plain_weights_as_its_kernels(tmp_path):
    plain = BackboneModel(RESNET18).backbone.state_dict()
    torch.save(plain, tmp_path / "R-18.pth")
    model = BackboneModel({**RESNET18, NAME: "odconv", NUM: 2})
    StrictCheckpointer(model).load(str(tmp_path / "R-18.pth"))
    weight = plain["res3.0.conv1.weight"]
    assert torch.equal(model.backbone.res3[0].conv1.kernels, torch.cat([weight, weight]))


@pytest.mark.parametrize("name", CLASSES)
def test_one_image_trains(name):
    torch.manual_seed(0)
    model = small_model({**RESNET18, NAME: name, "MODEL.BACKBONE.FREEZE_AT": 2, ANNEAL: 0.0,
                         "MODEL.BACKBONE.FDAM.ENABLED": True}).train()
    resnet = model.backbone
    assert sum(isinstance(part, FrequencyScale) for part in resnet.modules()) == 8
    sum(map_.square().mean() for map_ in resnet(torch.randn(1, 3, 64, 64)).values()).backward()
    trainable = {key: parameter for key, parameter in resnet.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trainable.values())
    frozen = {key for key, _ in resnet.named_parameters()} - trainable.keys()
    assert "stem.conv1.weight" in frozen and not any("attention" in key for key in frozen)
    if name in ("dyconv", "odconv"):
        assert "res2.0.conv1.kernels" in frozen and "res3.0.conv1.kernels" in trainable
    if name == "kernel_warehouse":      # shared with convolutions that are not frozen
        assert "warehouses.res2.cells" in trainable


@pytest.mark.parametrize(("anneal", "expected"), [(0.1, (30, 30, 1)), (0.0, (1, 1, 0))])
def test_temperatures_of_a_new_model(anneal, expected):
    for name, temperature in zip(("dyconv", "odconv", "kernel_warehouse"), expected):
        state = build_backbone(small_config({**RESNET18, NAME: name, ANNEAL: anneal})).state_dict()
        assert {float(value) for key, value in state.items() if key.endswith("temperature")} == {temperature}


VIT = {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32}
FPN = {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"}


@pytest.mark.parametrize(("options", "message"), [
    ({**RESNET18, NAME: "dcd"}, f"{NAME} is 'dcd'; known are fdconv, condconv, dyconv, odconv, kernel_warehouse and"),
    ({**RESNET18, NAME: "odconv", "MODEL.BACKBONE.FDCONV.ENABLED": True},
     f"{NAME} is odconv, but MODEL.BACKBONE.FDCONV.ENABLED, or the name of the backbone, means fdconv"),
    ({**RESNET18, NAME: "odconv", "MODEL.BACKBONE.NAME": "build_fdconv_resnet_backbone"}, f"{NAME} is odconv, but"),
    *(({**options, NAME: "condconv"}, f"{NAME} is condconv, but the backbone {options['MODEL.BACKBONE.NAME']} has no "
       "place for it; set it to \"\", or MODEL.BACKBONE.NAME to one of build_resnet_backbone, ")
      for options in (VIT, *({"MODEL.BACKBONE.NAME": backbone} for backbone in (
          "D2SwinTransformer", "build_mit_backbone", "build_mscan_backbone", "build_timm_backbone", "PatchBackbone")))),
    ({"MODEL.BACKBONE.NAME": "PatchBackbone", NAME: "fdconv"}, f"{NAME} is fdconv, but the backbone PatchBackbone has"),
    ({**FPN, NAME: "dyconv"}, f"{NAME} is dyconv, but the backbone build_resnet_fpn_backbone has no place for it in "
     "the meta-architecture GeneralizedRCNN; set .*build_resnet_freqfusion_fpn_backbone$"),
    *(({**RESNET18, NAME: name, NUM: 1}, f"^{NUM} must be at least 2, got 1 .in res")
      for name in ("condconv", "dyconv")),
    ({**RESNET18, NAME: "odconv", NUM: -1}, f"{NUM} is -1; it must be at least 0"),
    ({**RESNET18, NAME: "kernel_warehouse", NUM: 0.5}, f"{NUM} is 0.5; expected a whole number"),
    ({**RESNET18, NAME: "fdconv", NUM: 4}, f"{NUM} is 4; fdconv does not take it, .* MODEL.BACKBONE.FDCONV.KERNEL_NUM"),
    ({**RESNET18, ANNEAL: 1.5}, f"{ANNEAL} is 1.5; it must be from 0 to 1"),
    ({**RESNET18, NAME: "odconv", "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, True]},
     rf"odconv .{NAME}\) cannot replace deformable convolutions; set MODEL.RESNETS.DEFORM_ON_PER_STAGE"),
])
def test_what_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        small_model(options)


def test_a_number_without_a_dynamic_convolution_has_no_effect(caplog):
    small_config({**RESNET18, NUM: 4, ANNEAL: 0.5})
    assert f"{NUM} (read with another {NAME} than fdconv" in caplog.text
    assert f"{ANNEAL} (read in training" in caplog.text
