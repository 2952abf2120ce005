"""timm's plain vision transformers as backbones: timm's maps at any size; patches, positions, parts, refusals."""
import copy
import math
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import nn
from torch.export import Dim

from freqdino.export.graph import pad_to_multiple
from freqdino.frequency import FDLinear, FrequencyScale, InversionGates
from freqdino.modeling.activation_checkpointing import Checkpointed, checkpoint_blocks
from freqdino.modeling.backbones.timm_backbone import add_fdam, add_fdconv
from freqdino.modeling.backbones.timm_vit import TimmViTBackbone
from helpers.exporting import IMAGES, export
from helpers.modules import randomised
from helpers.small_timm_vits import SMALL_VITS, small_timm_vit, small_vit

NAMES = ["res2", "res3", "res4", "res5"]
PATCH_14 = ["small_dino_two", "small_eva02", "small_eva02_fused"]
PATCH_16 = [name for name in SMALL_VITS if name not in PATCH_14]


def with_weights_of(backbone, source):
    """Random weights in both; a checkpoint's way, which leaves the classifier out."""
    state = randomised(source).state_dict()
    backbone.adapt_plain_state(state, "")
    backbone.load_state_dict({**backbone.state_dict(), **state})
    return backbone.eval()


@pytest.mark.parametrize("name", SMALL_VITS)
@torch.no_grad()
def test_names_and_sizes(name):
    backbone = small_timm_vit(name).eval()
    assert isinstance(backbone, TimmViTBackbone) and backbone.size_divisibility == 32
    assert backbone.output_shape() == {level: ShapeSpec(channels=32, stride=stride)
                                       for level, stride in zip(NAMES, (4, 8, 16, 32))}
    for height, width in ((97, 65), (64, 96), (1, 33), (50, 211)):
        maps = backbone(torch.randn(2, 3, height, width))
        assert list(maps) == NAMES
        for level, shape in backbone.output_shape().items():
            assert maps[level].shape == (2, 32, math.ceil(height / shape.stride), math.ceil(width / shape.stride))


def last_map(source, image):
    """timm's own tokens of the patches as a map."""
    grid = source.patch_embed.dynamic_feat_size(image.shape[-2:])
    tokens = source.forward_features(image)[:, source.num_prefix_tokens:]
    return tokens.transpose(1, 2).reshape(len(image), -1, *grid)


@pytest.mark.parametrize("name", PATCH_16)
@torch.no_grad()
def test_maps_are_timms_at_the_size_of_its_positions(name):
    source = small_vit(name).eval()
    backbone = with_weights_of(small_timm_vit(name), source)
    image = torch.randn(2, 3, 80, 80)
    maps = backbone(image)
    torch.testing.assert_close(maps["res4"], last_map(source, image), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps["res5"], F.max_pool2d(maps["res4"], 2, ceil_mode=True))
    up, norm, _, up_again = backbone.neck["res2"]
    fine = F.conv_transpose2d(maps["res4"], up.weight, up.bias, stride=2)
    normed = F.layer_norm(fine.permute(0, 2, 3, 1), (32,), norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
    finest = F.conv_transpose2d(F.gelu(normed), up_again.weight, up_again.bias, stride=2)
    torch.testing.assert_close(maps["res2"], finest, rtol=1e-4, atol=1e-5)
    once = backbone.neck["res3"]
    torch.testing.assert_close(maps["res3"], F.conv_transpose2d(maps["res4"], once.weight, once.bias, stride=2))


@pytest.mark.parametrize("name", PATCH_16)
@torch.no_grad()
def test_maps_are_timms_at_other_sizes(name):
    source = small_vit(name, dynamic_img_size=True).eval()
    backbone = with_weights_of(small_timm_vit(name), source)
    for height, width in ((64, 96), (176, 32), (16, 112)):
        image = torch.randn(1, 3, height, width)
        torch.testing.assert_close(backbone(image)["res4"], last_map(source, image), rtol=1e-5, atol=1e-6)
    image, padded = torch.randn(1, 3, 50, 33), torch.zeros(1, 3, 64, 48)
    padded[:, :, :50, :33] = image
    torch.testing.assert_close(backbone(image)["res4"], last_map(source, padded), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PATCH_14)
@torch.no_grad()
def test_patches_of_14_become_16(name, caplog):
    """As a network of timm's own with patches of 16 and the resampled kernel, whose grid of positions is the same."""
    source = small_vit(name, img_size=70).eval()
    own = small_vit(name, img_size=80, patch_size=16, dynamic_img_size=True).eval()
    with caplog.at_level("INFO"):
        backbone = small_timm_vit(name)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1 and f"timm's {name} has patches of 14 × 14 pixels: they are resampled to 16" in said[0]
        assert "grid of 5 × 5 positions stays" in said[0]
        with_weights_of(backbone, source)
    said = [record.getMessage() for record in caplog.records if "resampled" in record.getMessage()]
    assert said[1:] == ["The weights' patches of 14 × 14 pixels are resampled to 16 × 16 by timm's "
                        "resample_patch_embed"]
    state = source.state_dict()
    kernel = resample_patch_embed(state["patch_embed.proj.weight"], [16, 16])
    assert torch.equal(backbone.state_dict()["patch_embed.proj.weight"], kernel)
    assert torch.equal(backbone.state_dict()["pos_embed"], state["pos_embed"])
    own.load_state_dict({**state, "patch_embed.proj.weight": kernel})
    for height, width in ((80, 80), (64, 112)):
        image = torch.randn(1, 3, height, width)
        torch.testing.assert_close(backbone(image)["res4"], last_map(own, image), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_resampled_patch_sees_a_resized_image_as_the_old_one_did():
    """FlexiViT's property of enlarged patches: as many numbers in, the same tokens out."""
    source = randomised(small_vit("small_dino_two")).eval()
    backbone = with_weights_of(small_timm_vit("small_dino_two"), source)
    resized = torch.randn(1, 3, 14, 14)
    image = F.interpolate(resized, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    project = backbone.network.patch_embed.proj
    torch.testing.assert_close(project(image), source.patch_embed.proj(resized), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["small_augreg", "small_deit3", "small_distilled"])
def test_positions_of_another_grid_load_resized(name):
    backbone, other = small_timm_vit(name), randomised(small_vit(name, img_size=112))
    state = {f"backbone.{key}": value for key, value in other.state_dict().items()}
    backbone.adapt_plain_state(state, "backbone.")
    prefix = {"small_augreg": 1, "small_deit3": 0, "small_distilled": 2}[name]
    expected = resample_abs_pos_embed(other.pos_embed, [5, 5], [7, 7], num_prefix_tokens=prefix)
    assert torch.equal(state["backbone.pos_embed"], expected)
    assert not any("head" in key for key in state)


def test_positions_that_are_no_grid():
    backbone = small_timm_vit("small_augreg")
    with pytest.raises(ValueError, match="a.pos_embed: 28 positions are no square grid and 1 of class and register"):
        backbone.adapt_plain_state({"a.pos_embed": torch.zeros(1, 28, 32)}, "a.")


@pytest.mark.parametrize("name", SMALL_VITS)
def test_keys_are_timms_and_the_necks(name):
    backbone, source = small_timm_vit(name), small_vit(name)
    keys = set(backbone.state_dict())
    neck = {f"neck.{part}.{kind}" for part in ("res2.0", "res2.1", "res2.3", "res3") for kind in ("weight", "bias")}
    assert keys >= neck and keys - neck == {key for key in source.state_dict()
                                            if not key.startswith(("head", "fc_norm"))}
    model = nn.ModuleDict({"backbone": randomised(backbone)})
    other = nn.ModuleDict({"backbone": small_timm_vit(name)})
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())
    state = model.state_dict()
    del state["backbone.neck.res3.bias"], state["backbone.cls_token"]
    with pytest.raises(RuntimeError, match="(?s)Missing.*backbone.network.cls_token.*backbone.neck.res3.bias"):
        other.load_state_dict(state)


@pytest.mark.parametrize("name", SMALL_VITS)
@pytest.mark.parametrize("switches", [(), (add_fdam,), (add_fdconv, add_fdam)], ids=["plain", "FDAM", "both"])
def test_every_parameter_learns(name, switches):
    backbone = small_timm_vit(name, drop_path_rate=0.1)
    for switch in switches:
        switch(backbone, **({"kernel_num": 4} if switch is add_fdconv else {}))
    randomised(backbone).train()
    sum(x.square().mean() for x in backbone(torch.randn(4, 3, 65, 33)).values()).backward()
    assert [key for key, parameter in backbone.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", SMALL_VITS)
@torch.no_grad()
def test_frequency_modules_keep_the_function(name):
    backbone = randomised(small_timm_vit(name)).eval()
    image = torch.randn(2, 3, 40, 65)
    expected = backbone(image)
    add_fdconv(backbone, kernel_num=4)
    linear = {key for key, part in backbone.network.named_modules() if isinstance(part, FDLinear)}
    assert linear == {f"blocks.{index}.{layer}" for index in range(3) for layer in (
        ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"]
        if name == "small_eva02" else ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])}
    add_fdam(backbone)
    assert sum(isinstance(part, InversionGates) for part in backbone.modules()) == 3
    assert sum(isinstance(part, FrequencyScale) for part in backbone.modules()) == 6
    for level, feature_map in backbone.eval()(image).items():
        scale = expected[level].abs().max()
        torch.testing.assert_close(feature_map / scale, expected[level] / scale, rtol=1e-3, atol=1e-3)


def test_options():
    assert small_timm_vit(in_chans=5).eval()(torch.randn(1, 5, 32, 32))["res4"].shape == (1, 32, 2, 2)
    backbone = small_timm_vit("small_dino_three", drop_path_rate=0.2, activation_checkpointing=True)
    assert backbone.network.grad_checkpointing and backbone.training
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.network.blocks] == pytest.approx(
        [0.0, 0.1, 0.2])


@pytest.mark.parametrize("name", ["small_dino_two", "small_dino_three"])
def test_activation_checkpointing_keeps_gradients(name):
    image, gradients = torch.randn(1, 3, 48, 64), []
    for way in ("none", "the network's", "the solver's"):
        backbone = randomised(small_timm_vit(name, activation_checkpointing=way == "the network's"))
        add_fdam(backbone)
        if way == "the solver's":
            assert checkpoint_blocks(backbone) == 3
            assert all(isinstance(block, Checkpointed) for block in backbone.network.blocks)
        sum(x.square().mean() for x in backbone.train()(image).values()).backward()
        gradients.append({key: parameter.grad for key, parameter in backbone.named_parameters()})
    for key, gradient in gradients[0].items():
        for other in gradients[1:]:
            torch.testing.assert_close(other[key], gradient, msg=key)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@torch.no_grad()
def test_copies(copied):
    backbone = randomised(small_timm_vit("small_eva02")).eval()
    add_fdam(backbone)
    checkpoint_blocks(backbone)
    image = torch.randn(1, 3, 33, 64)
    expected, other = backbone(image), copied(backbone)
    randomised(backbone)
    assert all(torch.equal(feature_map, expected[level]) for level, feature_map in other(image).items())


@torch.no_grad()
def test_one_graph_serves_all_sizes_but_the_first():
    """Of the patch embedding, whose checks of an image that it does not pad would make a graph for each size."""
    embedding, graphs = small_timm_vit("small_dino_three").eval().network.patch_embed, []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(embedding, backend=backend)
    for height, width in ((48, 64), (80, 112), (64, 160), (96, 32)):
        image = torch.randn(1, 3, height, width)
        torch.testing.assert_close(compiled(image), embedding(image))
    assert len(graphs) == 2


class Padded(nn.Module):
    """A backbone of images of any size, padded as in the graph of a whole model."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return self.backbone(pad_to_multiple(images, self.backbone.size_divisibility)[0])


@pytest.mark.parametrize("name", ["small_dino_two", "small_dino_three"])
@torch.no_grad()
def test_a_program_of_torch_export_serves_all_sizes_and_numbers(name):
    network, sides = Padded(randomised(small_timm_vit(name)).eval()), ("rows", "columns")
    sizes = {dim: Dim(side, min=33, max=4096) for dim, side in zip((2, 3), sides)}
    program = export(network, (torch.randn(2, 3, 66, 101),), {0: IMAGES, **sizes}).module()
    for shape in ((1, 3, 64, 64), (3, 3, 70, 200), (1, 3, 129, 33)):
        images = torch.randn(shape)
        maps = program(images)
        for level, expected in network(images).items():
            torch.testing.assert_close(maps[level], expected, msg=level)


def test_layers_and_stages():
    backbone = small_timm_vit("small_dino_two")
    before, *blocks = backbone.layer_parts()
    learned = {"network.cls_token", "network.reg_token", "network.pos_embed", "network.patch_embed"}
    assert learned <= set(before) and "network.norm" not in before
    assert blocks == [["network.blocks.0"], ["network.blocks.1"], ["network.blocks.2"]]
    twelve = timm.create_model("vit_small_patch16_dinov3", depth=12, embed_dim=32, num_heads=2, dynamic_img_size=True)
    stages = TimmViTBackbone("twelve", twelve, image_channels=3).stage_parts()
    assert stages[1:] == [[f"network.blocks.{index}" for index in range(*ends)] + more for *ends, more in (
        (0, 3, []), (3, 6, []), (6, 9, []), (9, 12, ["network.norm"]))]


def test_patches_of_another_kind():
    with pytest.raises(ValueError, match="timm's vit_tiny_r_s16_p8_224 makes its patches by HybridEmbed; a plain "):
        small_timm_vit("vit_tiny_r_s16_p8_224")
    with pytest.raises(ValueError, match="has no network 'vit_small_patch14_dinov3'; the nearest are vit_small_patch1"):
        small_timm_vit("vit_small_patch14_dinov3")
