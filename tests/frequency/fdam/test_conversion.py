"""convert_to_fdam on the vision transformers of timm: what stays, what is new, what loads, trains and is refused."""
import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from freqdino.frequency import FDAMVisionTransformer, FrequencyScale, InversionGates, convert_to_fdam
from helpers.behaviour import replica
from helpers.modules import randomised
from helpers.small_timm_vits import SIZE, SMALL_VITS, small_vit

# Others: a bias by relative position, branches side by side or with norms at their ends, two attentions' difference.
OTHERS = {"beit_base_patch16_224": {"img_size": 80}, "test_vit_relpos": {"img_size": 80},
          "vit_small_patch16_18x2_224": {"img_size": 80}, "vit_relpos_base_patch16_rpn_224": {"img_size": 80},
          "vit_base_patch16_rpn_224": {"img_size": 80}, "vit_small_patch16_rope_mixed_224": {"img_size": 80},
          "vit_dwee_patch16_reg1_gap_256": {"img_size": 80}, "vit_base_patch16_xp_224": {"img_size": 80},
          "vit_dpwee_patch16_reg1_gap_256": {"img_size": 80}}
PARALLEL = ("vit_base_patch16_xp_224", "vit_dpwee_patch16_reg1_gap_256")        # one branch a block
NEW = ("invert.", "freq_scale.")


def network(name, **options):
    """Random weights, LayerScale and norms near one, so that all branches count."""
    torch.manual_seed(0)
    made = small_vit(name, **options) if name in SMALL_VITS else timm.create_model(
        name, **{**SIZE, **OTHERS[name], **options})
    for parameter_name, parameter in randomised(made).named_parameters():
        if "gamma" in parameter_name or "norm" in parameter_name and parameter_name.endswith("weight"):
            parameter.data += 1
    return made.eval()


def image_for(transformer, rows=5, columns=5):
    patch = transformer.patch_embed.patch_size[0]
    return torch.randn(2, 3, rows * patch, columns * patch)


def set_neutral(transformer):
    """Exactly: no gain and no filter at all."""
    for name, parameter in transformer.named_parameters():
        if name.endswith(("lf_gamma", "hf_gamma", "complex_weights")):
            parameter.data.zero_()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", [*SMALL_VITS, *OTHERS])
@torch.no_grad()
def test_the_function_stays(name, fused):
    transformer = network(name)
    for part in transformer.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused
    image, before = image_for(transformer), list(transformer.state_dict())
    expected = transformer.forward_features(image)
    names = convert_to_fdam(transformer)
    added = [key for key in transformer.state_dict() if key not in before]
    assert [key for key in transformer.state_dict() if key in before] == before
    assert all(any(part in key for part in NEW) for key in added)
    assert [name for name, part in transformer.named_modules() if isinstance(part, InversionGates)] == [
        f"{name}.invert" for name in names]
    scale = expected.abs().max()
    assert (transformer.forward_features(image) - expected).abs().max() <= 1e-4 * scale
    set_neutral(transformer)
    assert (transformer.forward_features(image) - expected).abs().max() <= 2e-6 * scale


def test_names_and_what_is_new():
    model = nn.ModuleDict({"encoder": network("small_dino_two"), "other": nn.Linear(2, 2)})
    assert convert_to_fdam(model) == [f"encoder.blocks.{index}.attn" for index in range(3)]
    block = model["encoder"].blocks[1]
    assert isinstance(block.attn, timm.layers.attention.Attention) and isinstance(block.mlp, timm.layers.Mlp)
    kinds = {name: type(part) for name, part in block.named_modules() if isinstance(part, (InversionGates,
                                                                                           FrequencyScale))}
    assert kinds == {"attn.invert": InversionGates, "attn.freq_scale": FrequencyScale,
                     "mlp.freq_scale": FrequencyScale}
    # As FDAM's published blocks: gates of every head, 16 groups of 4 filters of 14 × 8, routing of dim / 16.
    assert sum(p.numel() for p in block.attn.invert.parameters()) == 2 + 2 * (32 * 2 + 2) + 2 * 32
    assert sum(p.numel() for p in block.mlp.freq_scale.parameters()) == 4 * 2 * 14 * 8 + 2 * 32 + 2 * 16 * 4 + 2
    assert convert_to_fdam(model) == []
    assert sum(isinstance(part, InversionGates) for part in model.modules()) == 3


@pytest.mark.parametrize("name", ["small_augreg", "small_dino_three"])
@torch.no_grad()
def test_a_mask_does_what_it_did(name):
    transformer = network(name)
    tokens = 25 + transformer.num_prefix_tokens
    allowed = (torch.rand(tokens, tokens) < 0.5).fill_diagonal_(True)
    image = image_for(transformer)
    masks = {"attn_mask": allowed}, {"attn_mask": torch.randn(tokens, tokens)}, {"is_causal": True}
    expected = [transformer.forward_features(image, **mask) for mask in masks]
    convert_to_fdam(transformer)
    set_neutral(transformer)
    for mask, before in zip(masks, expected):
        torch.testing.assert_close(transformer.forward_features(image, **mask), before, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vit_dpwee_patch16_reg1_gap_256", "vit_base_patch16_xp_224"])
@torch.no_grad()
def test_blocks_of_one_branch(name):
    transformer = network(name)
    image, state = image_for(transformer), copy.deepcopy(transformer.state_dict())
    assert convert_to_fdam(transformer) == [f"blocks.{index}" for index in range(3)]
    transformer.load_state_dict(state)
    assert {key.partition("blocks.0.")[2].partition(".")[0] for key in transformer.state_dict().keys() - state.keys()
            if "blocks.0" in key} == {"invert", "freq_scale"}
    randomised(transformer)
    expected = transformer.forward_features(image)
    assert torch.equal(pickle.loads(pickle.dumps(transformer)).forward_features(image), expected)


@pytest.mark.parametrize("name", SMALL_VITS)
def test_weights_of_a_plain_network_load_strictly_and_trained_ones_come_back(name):
    plain = network(name)
    transformer = small_vit(name)
    convert_to_fdam(transformer)
    new = {key: value.clone() for key, value in transformer.state_dict().items() if any(part in key for part in NEW)}
    transformer.load_state_dict(plain.state_dict())
    state = transformer.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in {**plain.state_dict(), **new}.items())
    other = small_vit(name)
    convert_to_fdam(other)
    other.load_state_dict(randomised(transformer).state_dict())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in transformer.state_dict().items())
    half = transformer.state_dict()
    del half["blocks.1.attn.invert.lf_gamma"], half["blocks.2.mlp.freq_scale.complex_weights"]
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*1.attn.invert.lf_gamma.*2.mlp.freq_scale.complex"):
        other.load_state_dict(half)
    with pytest.raises(RuntimeError, match="Unexpected key.*blocks.0.attn.invert.lf_gamma"):
        small_vit(name).load_state_dict(transformer.state_dict())


@pytest.mark.parametrize("name", [*SMALL_VITS, "vit_small_patch16_18x2_224", *PARALLEL])
def test_every_new_parameter_learns_from_the_start_in_a_frozen_network_too(name):
    # Wide, so that the routing, of a 16th of the channels, is not all cut off by its ReLU.
    transformer = network(name, embed_dim=160, num_heads=5).requires_grad_(False).train()
    names = convert_to_fdam(transformer)
    (transformer.forward_features(image_for(transformer)) + 1).square().mean().backward()
    learning = {key: parameter for key, parameter in transformer.named_parameters() if parameter.requires_grad}
    assert learning and all(any(part in key for part in NEW) for key in learning)
    # 8 of the gates and 5 of the scaling of each branch.
    assert len(learning) == len(names) * (8 + (1 if name in PARALLEL else 2) * 5)
    still = [key for key, parameter in learning.items() if not parameter.grad.abs().sum() > 0]
    assert still == [], "no gradient reached these"


@torch.no_grad()
def test_class_and_register_tokens_pass_by_the_scaling():
    """Of one block the result at a register changes by the gates alone."""
    transformer = network("small_dino_three", depth=1)
    convert_to_fdam(transformer)
    set_neutral(transformer)
    image = image_for(transformer)
    before = transformer.forward_features(image)
    for scale in (transformer.blocks[0].attn.freq_scale, transformer.blocks[0].mlp.freq_scale):
        scale.complex_weights.normal_()
        scale.reweight.fc2.weight.normal_()
    after = transformer.forward_features(image)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert ((after - before)[:, 5:].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("name", SMALL_VITS)
@torch.no_grad()
def test_images_of_any_size(name):
    transformer = network(name, dynamic_img_size=True)
    images = image_for(transformer, 3, 7), image_for(transformer, 8, 2), image_for(transformer, 7, 3)
    expected = [transformer.forward_features(image) for image in images]
    convert_to_fdam(transformer)
    set_neutral(transformer)
    for image, before in zip(images, expected):
        torch.testing.assert_close(transformer.forward_features(image), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["small_dino_two", "small_eva02"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), replica])
@torch.no_grad()
def test_a_copy_shares_nothing(name, copied):
    transformer = network(name)
    convert_to_fdam(transformer)
    randomised(transformer)
    image = image_for(transformer)
    expected, other = transformer.forward_features(image), copied(transformer)
    for parameter in transformer.parameters():
        parameter.zero_()
    assert torch.equal(other.forward_features(image), expected)
    assert other.blocks[0].attn.token_grid is other.patch_embed.token_grid


def test_a_copy_has_a_grid_of_its_own():
    transformer = network("small_dino_two", dynamic_img_size=True)
    convert_to_fdam(transformer)
    other = copy.deepcopy(transformer)
    other(image_for(other, 2, 3))
    assert other.patch_embed.token_grid.size == (2, 3) and transformer.patch_embed.token_grid.size is None


@torch.no_grad()
def test_other_types_and_devices():
    transformer = network("small_dino_three").double()
    convert_to_fdam(transformer)
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.float64}
    assert not any(module.training for module in transformer.modules())
    image = image_for(transformer)
    expected = transformer(image.double())
    torch.testing.assert_close(transformer.float()(image).double(), expected, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(transformer(image).double(), expected, rtol=0.1, atol=0.05)
    with torch.device("meta"):
        empty = small_vit("small_dino_three")
        convert_to_fdam(empty)
        assert empty(torch.empty(2, 3, 80, 80)).shape == (2, 32)
    assert all(parameter.is_meta for parameter in empty.parameters())


@torch.no_grad()
def test_it_can_be_exported():
    transformer = network("small_dino_three")
    convert_to_fdam(transformer)
    image = image_for(transformer)
    exported = torch.export.export(transformer, (image,), strict=False).module()
    torch.testing.assert_close(exported(image), transformer(image))


class OwnAttention(timm.layers.attention.Attention):
    """May compute anything."""


@pytest.mark.parametrize("make, message", [
    (lambda: nn.Linear(2, 2), "module is a Linear without a vision transformer of timm: .* FDAMVisionTransformer"),
    (lambda: FDAMVisionTransformer(img_size=32, embed_dim=32, depth=1, num_heads=2, out_indices=(0,)),
     "module is a FDAMVisionTransformer without a vision transformer of timm"),
    (lambda: timm.create_model("test_resnet"), "module is a ResNet without a vision transformer of timm"),
    (lambda: timm.create_model("samvit_base_patch16", **{**SIZE, "img_size": 64}),
     "VisionTransformerSAM without a vision transformer of timm: .* num_prefix_tokens"),
    (lambda: timm.create_model("cait_xxs24_224", **SIZE), "Cait: blocks.0: TalkingHeadAttn cannot be inverted; what"),
    (lambda: small_vit("small_deit3", attn_layer=OwnAttention),
     "VisionTransformer: blocks.0: OwnAttention cannot be inverted; what can are timm's Attention, AttentionRope, "
     "EvaAttention, RelPosAttention, DiffAttention, ParallelScalingBlock, DiffParallelScalingBlock, and no subclasses"),
    (lambda: small_vit("small_deit3", embed_dim=24),
     "blocks.0.attn: dim must be a multiple of group, got group 16 and dim 24"),
    (lambda: small_vit("small_deit3", patch_drop_rate=0.1), "leaves out patches in training .patch_drop.*rate 0"),
    (lambda: small_vit("small_dino_three", patch_drop_rate=0.1), "leaves out patches in training .patch_drop.*rate 0"),
])
def test_what_cannot_be_converted_is_said_and_stays(make, message):
    module = make()
    classes = [type(part) for part in module.modules()]
    with pytest.raises(ValueError, match=message):
        convert_to_fdam(module)
    assert [type(part) for part in module.modules()] == classes


def test_wider_heads_than_tokens():
    transformer = small_vit("small_augreg")
    transformer.blocks[1].attn = timm.layers.attention.Attention(32, 2, attn_head_dim=24)
    with pytest.raises(ValueError, match="blocks.1.attn: its heads have 48 channels together and its tokens 32"):
        convert_to_fdam(transformer)


def test_no_module():
    with pytest.raises(TypeError, match="module must be a torch.nn.Module, got str"):
        convert_to_fdam("vit_small_patch16_dinov3")
