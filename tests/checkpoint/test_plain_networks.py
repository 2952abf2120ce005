"""Checkpoints of plain networks in models with frequency modules: what is converted, starts neutral or is refused."""
import pickle

import pytest
import torch
from torchvision.models import resnet18, resnet34, resnet50

from freqdino.checkpoint import StrictCheckpointer
from freqdino.errors import CheckpointError
from freqdino.frequency import FDAMVisionTransformer, FDConv, FrequencyScale
from freqdino.frequency.fdam.vision_transformer import resize_position_embedding
from helpers.caffe2 import caffe2_blobs
from helpers.small_detectors import BACKBONE as RESNET_FPN
from helpers.small_detectors import FASTER_RCNN
from helpers.small_models import RESNET18, BackboneModel, small_model

PLAIN = {**RESNET18, "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3"]}
FREQUENCY = {**PLAIN, "MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDAM.ENABLED": True}
SMALL_VIT = {"MODEL.BACKBONE.NAME": "build_fdam_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 32,
             "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2, "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3]}
FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
FPN = {**FASTER_RCNN, **RESNET_FPN}
ENCODER_FDAM = {"MODEL.SEM_SEG_HEAD.FDAM.ENABLED": True}


def load(path, options, **kwargs):
    model = BackboneModel(options) if "MODEL.BACKBONE.NAME" in options else small_model(options)
    StrictCheckpointer(model, **kwargs).load(str(path))
    return model


def modules_of(model, kind):
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


@pytest.fixture
def plain_resnet():
    return BackboneModel(PLAIN).backbone.state_dict()


@pytest.mark.parametrize("origin", ["torchvision", "Caffe2", "trained"])
def test_every_active_layer_is_filled_from_its_plain_weight(tmp_path, plain_resnet, origin, caplog):
    if origin == "Caffe2":
        contents = {**caffe2_blobs(plain_resnet), "fc1000_w": torch.zeros(10, 512).numpy()}
    else:
        prefix = "backbone." if origin == "trained" else ""
        contents = {"model": {prefix + name: tensor.numpy() for name, tensor in plain_resnet.items()},
                    "__author__": origin, "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(contents))
    with caplog.at_level("INFO"):
        model = load(tmp_path / "R-18.pkl", FREQUENCY)
    layers = modules_of(model.backbone, FDConv)
    assert len(layers) == 8
    for name, layer in layers.items():
        torch.testing.assert_close(layer.static_weight(), plain_resnet[f"{name}.weight"], rtol=1e-5, atol=1e-6)
        assert torch.equal(layer.norm.weight, plain_resnet[f"{name}.norm.weight"])
        assert all(head.weight.abs().max() < 1e-9 and not head.bias.any() for head in
                   (layer.KSM_Global.channel_fc, layer.KSM_Global.filter_fc, layer.KSM_Global.kernel_fc))
    assert torch.equal(model.backbone.stem.conv1.weight, plain_resnet["stem.conv1.weight"])
    assert any("tensors of frequency modules start neutral" in record.getMessage() for record in caplog.records)


@torch.no_grad()
@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("options", [RESNET18, {**RESNET18, **FDCONV}, {**FPN, **FDCONV}],
                         ids=["plain", "FDConv", "FDConv in a pyramid"])
def test_torchvisions_own_names_fill_the_backbone(tmp_path, options, wrapper):
    source = resnet18(weights=None).eval()
    for name, tensor in source.state_dict().items():
        if ".running_" in name or "bn" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    torch.save({"state_dict": {wrapper + name: tensor for name, tensor in source.state_dict().items()}},
               tmp_path / "resnet18.pth")
    model = small_model(options).eval()
    StrictCheckpointer(model).load(str(tmp_path / "resnet18.pth"))
    network = getattr(model.backbone, "bottom_up", model.backbone)
    x = torch.rand(1, 3, 75, 90)
    expected = source.maxpool(source.bn1(source.conv1(x)).relu())
    for stage, actual in zip((source.layer1, source.layer2, source.layer3, source.layer4), network(x).values()):
        expected = stage(expected)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_torchvisions_weights_where_the_stride_is_elsewhere(tmp_path, stride_in_1x1, caplog):
    torch.save(resnet50(weights=None, width_per_group=32).state_dict(), tmp_path / "resnet50.pth")
    model = small_model({**RESNET18, "MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
                         "MODEL.RESNETS.WIDTH_PER_GROUP": 32, "MODEL.RESNETS.STRIDE_IN_1X1": stride_in_1x1})
    StrictCheckpointer(model).load(str(tmp_path / "resnet50.pth"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["set MODEL.RESNETS.STRIDE_IN_1X1 False" in warning for warning in warnings] == [True] * stride_in_1x1


def test_torchvisions_names_of_a_deeper_network_do_not_fit(tmp_path):
    torch.save(resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    model = small_model(RESNET18)
    with pytest.raises(CheckpointError, match="not in the model: backbone.res2.2.conv1.weight, "):
        StrictCheckpointer(model).load(str(tmp_path / "resnet34.pth"))


def test_frequency_modules_of_a_checkpoint_are_kept(tmp_path):
    source = BackboneModel(FREQUENCY)
    with torch.no_grad():
        for parameter in source.backbone.parameters():
            parameter.normal_()
    torch.save({"model": source.backbone.state_dict()}, tmp_path / "R-18.pth")
    model = load(tmp_path / "R-18.pth", FREQUENCY)
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name


def test_half_a_modulation_is_not_made_up(tmp_path):
    state = BackboneModel(FREQUENCY).backbone.state_dict()
    del state["res2.0.conv1.KSM_Local.norm.bias"], state["res3.0.freq_scale.reweight.fc1.weight"]
    torch.save(state, tmp_path / "R-18.pth")
    with pytest.raises(CheckpointError, match="2 missing from the checkpoint: .*res2.0.conv1.KSM_Local.norm.bias, "):
        load(tmp_path / "R-18.pth", FREQUENCY)


def test_weights_of_another_shape(tmp_path, plain_resnet):
    plain_resnet["res2.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    torch.save(plain_resnet, tmp_path / "R-18.pth")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "R-18.pth", FREQUENCY)
    assert ("1 cannot be converted: size mismatch for backbone.res2.0.conv1.weight: copying a param with shape "
            "(64, 64, 1, 1) from checkpoint, the plain weight has shape (64, 64, 3, 3)") in str(caught.value)


def test_a_plain_layer_in_a_checkpoint_without_it_is_missing(tmp_path, plain_resnet):
    del plain_resnet["res2.0.conv1.weight"]
    torch.save(plain_resnet, tmp_path / "R-18.pth")
    with pytest.raises(CheckpointError, match="missing from the checkpoint: backbone.res2.0.conv1.dft_weight"):
        load(tmp_path / "R-18.pth", FREQUENCY)


def test_nothing_fits_where_only_neutral_additions_would(tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="nothing in it fits"):
        load(tmp_path / "other.pth", ENCODER_FDAM, partial=True)


def test_a_trained_plain_model_can_start_one_with_fdam_but_does_not_pass_for_it(tmp_path):
    plain = small_model()
    torch.save({"model": plain.state_dict()}, tmp_path / "plain.pth")
    model = load(tmp_path / "plain.pth", ENCODER_FDAM)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert all(scale.complex_weights.abs().max() <= 2e-5 for scale in modules_of(model, FrequencyScale).values())
    with pytest.raises(CheckpointError, match="missing from the checkpoint: .*freq_scale_1.complex_weights"):
        load(tmp_path / "plain.pth", ENCODER_FDAM, whole_model=True)


def timm_transformer(**options):
    timm = pytest.importorskip("timm.models.vision_transformer")
    model = timm.VisionTransformer(**{"img_size": 96, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 3,
                                      **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("options", [{}, {"no_embed_class": True, "init_values": 1e-4}], ids=["DeiT", "DeiT III"])
def test_timm_checkpoints_fill_the_transformer(tmp_path, options):
    source = timm_transformer(**options)
    state = source.state_dict()
    torch.save(state, tmp_path / "deit.pth")
    backbone = load(tmp_path / "deit.pth", SMALL_VIT).backbone
    for name, tensor in backbone.state_dict().items():
        if name in state and name != "pos_embed":
            assert torch.equal(tensor, state[name]), name
    patches = state["pos_embed"][:, state["pos_embed"].shape[1] - 36:]
    torch.testing.assert_close(backbone.pos_embed.data, resize_position_embedding(patches, (6, 6), (4, 4)))
    for block, timm_block in zip(backbone.blocks, source.blocks):
        layer_scale = timm_block.ls1.gamma if options else torch.ones(32)
        assert torch.equal(block.gamma_1, layer_scale)
        assert torch.equal(block.gamma_2, timm_block.ls2.gamma if options else torch.ones(32))
        assert torch.equal(block.attn.lf_gamma, torch.full((32,), 1e-5))


@torch.no_grad()
def test_a_plain_transformer_keeps_its_function(tmp_path):
    source = timm_transformer(img_size=64, class_token=False, global_pool="avg")
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    backbone = load(tmp_path / "vit.pth", SMALL_VIT).eval().backbone
    image = torch.randn(2, 3, 64, 64)
    tokens = source.patch_embed(image) + source.pos_embed
    for feature_map, block in zip(FDAMVisionTransformer.forward(backbone, image), source.blocks):
        tokens = block(tokens)
        torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), tokens, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_published_fdam_keys_fill_the_transformer(tmp_path, prefix):
    source = FDAMVisionTransformer(img_size=96, embed_dim=32, depth=4, num_heads=2, out_indices=(0, 1, 2, 3))
    state = source.state_dict()
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in state.items()}}, tmp_path / "fdam.pth")
    backbone = load(tmp_path / "fdam.pth", SMALL_VIT).backbone
    for name, tensor in state.items():
        expected = resize_position_embedding(tensor, (6, 6), (4, 4)) if name == "pos_embed" else tensor
        assert torch.equal(backbone.state_dict()[name], expected), name


def test_position_embedding_that_fits_no_grid(tmp_path):
    state = timm_transformer().state_dict() | {"pos_embed": torch.zeros(1, 24, 32)}
    torch.save(state, tmp_path / "deit.pth")
    with pytest.raises(CheckpointError, match="1 cannot be converted: backbone.pos_embed: 24 tokens are neither"):
        load(tmp_path / "deit.pth", SMALL_VIT)
