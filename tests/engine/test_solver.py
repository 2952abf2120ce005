"""Which parameter gets which learning rate and weight decay, gradient clipping against hand-worked norms, schedules."""
import pytest
import torch
from torch import nn

from freqdino.config import load_config
from freqdino.engine.solver import ParameterRule, build_lr_scheduler, build_optimizer, parameter_groups
from freqdino.errors import ConfigError
from freqdino.frequency import FDAMBlock, InversionGates, ResidualFrequencyScale
from freqdino.modeling.backbones.timm_backbone import add_fdam
from freqdino.modeling.backbones.vit import ViTBackbone
from helpers.small_timm_vits import small_timm_vit


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.ones(3))
        self.qkv = nn.Linear(2, 2)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.absolute_pos_embed = nn.Parameter(torch.ones(2))
        self.attn = Attention()
        self.norm = nn.LayerNorm(2)


class PixelDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.level_embed = nn.Parameter(torch.ones(3, 2))
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = nn.GroupNorm(1, 2)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.pixel_decoder = PixelDecoder()
        self.query = nn.Embedding(4, 2)
        self.shared = self.pixel_decoder.conv
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def settings(model, optimizer):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: (group["lr"], group["weight_decay"])
            for group in optimizer.param_groups for parameter in group["params"]}


def test_published_rules():
    model = Model()
    optimizer = build_optimizer(load_config(opts=["SOLVER.BASE_LR", "0.001", "SOLVER.WEIGHT_DECAY", "0.05"]), model)
    found = settings(model, optimizer)
    lr, backbone_lr = 0.001, pytest.approx(0.0001)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert found == {
        "backbone.absolute_pos_embed": (backbone_lr, 0.0),
        "backbone.attn.relative_position_bias_table": (backbone_lr, 0.0),
        "backbone.attn.qkv.weight": (backbone_lr, 0.05),
        "backbone.attn.qkv.bias": (backbone_lr, 0.05),
        "backbone.norm.weight": (backbone_lr, 0.0),
        "backbone.norm.bias": (backbone_lr, 0.0),
        "pixel_decoder.level_embed": (lr, 0.05),
        "pixel_decoder.conv.weight": (lr, 0.05),
        "pixel_decoder.conv.bias": (lr, 0.05),
        "pixel_decoder.norm.weight": (lr, 0.0),
        "pixel_decoder.norm.bias": (lr, 0.0),
        "query.weight": (lr, 0.0),
    }


def test_equal_settings_share_a_group_and_shared_parameters_count_once():
    optimizer = build_optimizer(load_config(opts=["SOLVER.WEIGHT_DECAY", "0.05"]), Model())
    assert len(optimizer.param_groups) == 4             # (backbone or not) x (decay or not)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 12


def test_solver_keys_reach_their_parameters():
    model = Model()
    found = settings(model, build_optimizer(load_config(opts=[
        "SOLVER.BASE_LR", "1.0", "SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.BACKBONE_MULTIPLIER", "0.25",
        "SOLVER.WEIGHT_DECAY_NORM", "0.1", "SOLVER.WEIGHT_DECAY_EMBED", "0.2", "SOLVER.BIAS_LR_FACTOR", "2.0",
        "SOLVER.WEIGHT_DECAY_BIAS", "0.3", "SOLVER.OPTIMIZER", "SGD"]), model))
    assert found["backbone.norm.weight"] == (0.25, 0.1)
    assert found["backbone.norm.bias"] == (0.5, 0.3)
    assert found["query.weight"] == (1.0, 0.2)
    assert found["pixel_decoder.conv.bias"] == (2.0, 0.3)
    assert found["pixel_decoder.conv.weight"] == (1.0, 0.5)


def test_further_rules_extend_the_list():
    model = Model()
    rules = [
        ParameterRule(matches=lambda module_name, name, module: module_name.startswith("backbone"), lr_factor=0.5),
        ParameterRule(matches=lambda module_name, name, module: module_name.endswith("attn"), lr_factor=0.5,
                      weight_decay=0.0),
    ]
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, rules=rules)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.5, 0.1), (0.25, 0.0), (1.0, 0.1)}
    assert groups[1]["params"] == [model.backbone.attn.relative_position_bias_table]


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="Linear has no parameter that requires a gradient"):
        build_optimizer(load_config(), nn.Linear(2, 2).requires_grad_(False))


def step_with_gradients(clip_type, gradients, limit=1.0, **options):
    """Gradients after a step of SGD with learning rate 0 on one-dimensional parameters."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(len(g))) for g in gradients])
    opts = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.0", "SOLVER.CLIP_GRADIENTS.ENABLED", "True",
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip_type, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", str(limit)]
    for key, value in options.items():
        opts += [f"SOLVER.CLIP_GRADIENTS.{key}", str(value)]
    optimizer = build_optimizer(load_config(opts=opts), model)
    for parameter, gradient in zip(model, gradients):
        parameter.grad = torch.tensor(gradient)
    optimizer.step()
    return [parameter.grad.tolist() for parameter in model]


def test_clip_full_model_by_the_norm_of_all_gradients():
    # sqrt(3^2 + 4^2 + 12^2) = 13
    clipped = step_with_gradients("full_model", [[3.0, 4.0], [12.0]], limit=6.5)
    assert clipped == [pytest.approx([1.5, 2.0], rel=1e-5), pytest.approx([6.0], rel=1e-5)]
    assert step_with_gradients("full_model", [[3.0, 4.0], [12.0]], limit=14.0) == [[3.0, 4.0], [12.0]]


def test_clip_norm_of_each_parameter():
    clipped = step_with_gradients("norm", [[3.0, 4.0], [0.5]])
    assert clipped == [pytest.approx([0.6, 0.8], rel=1e-5), [0.5]]
    clipped = step_with_gradients("norm", [[3.0, 1.0]], NORM_TYPE=1.0)
    assert clipped == [pytest.approx([0.75, 0.25], rel=1e-5)]


def test_clip_value_of_each_element():
    assert step_with_gradients("value", [[3.0, -4.0], [0.5]]) == [[1.0, -1.0], [0.5]]


def test_bad_settings_name_the_key():
    model = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="SOLVER.OPTIMIZER is 'ADAM'; ADAMW or SGD"):
        build_optimizer(load_config(opts=["SOLVER.OPTIMIZER", "ADAM"]), model)
    clipping = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True"]
    with pytest.raises(ConfigError, match="CLIP_TYPE is 'all'; full_model, norm or value"):
        build_optimizer(load_config(opts=[*clipping, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"]), model)
    with pytest.raises(ConfigError, match="CLIP_VALUE is 0.0; it must be positive"):
        build_optimizer(load_config(opts=[*clipping, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0"]), model)
    with pytest.raises(ConfigError, match="LR_SCHEDULER_NAME is 'Poly'; possible: WarmupPolyLR"):
        cfg = load_config(opts=["SOLVER.LR_SCHEDULER_NAME", "Poly"])
        build_lr_scheduler(cfg, build_optimizer(cfg, model))


def learning_rates(opts, iterations):
    model = nn.ModuleDict({"backbone": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    cfg = load_config(opts=["SOLVER.BASE_LR", "1.0", "SOLVER.WARMUP_ITERS", "0", "SOLVER.WARMUP_FACTOR", "1.0", *opts])
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(iterations):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def test_poly_schedule():
    rates = learning_rates(["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", "4"], 4)
    for iteration, (backbone, head) in enumerate(rates):
        assert head == pytest.approx((1 - iteration / 4) ** 0.9)
        assert backbone == pytest.approx(0.1 * head)


def test_multi_step_schedule():
    rates = learning_rates(["SOLVER.MAX_ITER", "5", "SOLVER.STEPS", "(2, 4)", "SOLVER.GAMMA", "0.1"], 5)
    assert [head for _, head in rates] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_steps_of_one_length_have_a_rate_after_the_last():
    rates = learning_rates(["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "SOLVER.MAX_ITER", "4",
                            "SOLVER.NUM_DECAYS", "1", "SOLVER.GAMMA", "0.1"], 5)
    assert [head for _, head in rates] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.1])


class VisionTransformerModel(nn.Module):
    """A backbone of four blocks under the names of FDAM's, and an encoder layer with its modules."""

    def __init__(self):
        super().__init__()
        self.backbone = ViTBackbone(
            img_size=32, in_chans=3, embed_dim=32, depth=4, num_heads=2, init_values=1e-4, drop_path_rate=0.0,
            out_indices=(0, 1, 2, 3), neck_norm="LN", activation_checkpointing=False, block=FDAMBlock)
        self.encoder = nn.ModuleDict({"invert": InversionGates(32, 2), "freq_scale_1": ResidualFrequencyScale(32)})


FDAM_OPTIONS = ["SOLVER.BASE_LR", "1.0", "SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.BACKBONE_MULTIPLIER", "1.0",
                "MODEL.BACKBONE.NAME", "build_fdam_vit_backbone", "MODEL.VIT.DEPTH", "4"]


def fdam_settings(*options):
    model = VisionTransformerModel()
    return settings(model, build_optimizer(load_config(opts=[*FDAM_OPTIONS, *options]), model))


def test_scales_of_branches_and_position_embeddings_do_not_decay():
    found = fdam_settings()
    without = {name for name, (_, decay) in found.items() if decay == 0}
    gates = {"attn.lf_gamma", "attn.hf_gamma", "gamma_1", "gamma_2"}
    norms = {f"{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    assert without == {"backbone.pos_embed", "encoder.invert.lf_gamma", "encoder.invert.hf_gamma",
                       "backbone.neck.res2.1.weight", "backbone.neck.res2.1.bias",
                       *(f"backbone.blocks.{i}.{name}" for i in range(4) for name in gates | norms)}
    assert all(setting == (1.0, 0.5) for name, setting in found.items() if name not in without)


def test_factor_of_frequency_scaling():
    found = fdam_settings("SOLVER.FREQ_SCALE_MULTIPLIER", "2.0")
    faster = {name for name, (lr, _) in found.items() if lr == 2.0}
    assert faster == {name for name in found if ".freq_scale_" in name} and len(faster) == 9 * 5
    assert {lr for name, (lr, _) in found.items() if name not in faster} == {1.0}


def test_frequency_scaling_is_known_by_its_type():
    cfg = load_config(opts=["SOLVER.FREQ_SCALE_MULTIPLIER", "2.0", "SOLVER.BASE_LR", "1.0"])
    model = nn.ModuleDict({"branch": nn.Sequential(ResidualFrequencyScale(32)), "freq_scale": nn.Linear(3, 3)})
    slow, fast = sorted(build_optimizer(cfg, model).param_groups, key=lambda group: group["lr"])
    assert (slow["lr"], fast["lr"]) == (1.0, 2.0)
    assert set(slow["params"]) == set(model["freq_scale"].parameters())
    assert set(fast["params"]) == set(model["branch"].parameters())
    with pytest.raises(ConfigError, match="the model has no frequency scaling"):
        build_optimizer(cfg, model["freq_scale"])


def test_factor_of_frequency_scaling_that_nothing_reads():
    with pytest.raises(ConfigError, match="FREQ_SCALE_MULTIPLIER is 2.0, but the model has no frequency scaling"):
        build_optimizer(load_config(opts=["SOLVER.FREQ_SCALE_MULTIPLIER", "2.0"]), Model())


def test_each_lower_block_learns_more_slowly():
    found = fdam_settings("SOLVER.LAYER_DECAY", "0.5", "SOLVER.FREQ_SCALE_MULTIPLIER", "4.0",
                          "SOLVER.BACKBONE_MULTIPLIER", "0.1")
    for name, expected in {"backbone.pos_embed": 0.1 / 32, "backbone.patch_embed.proj.weight": 0.1 / 32,
                           "backbone.blocks.0.attn.qkv.weight": 0.1 / 16, "backbone.blocks.0.gamma_1": 0.1 / 16,
                           "backbone.blocks.3.mlp.fc1.bias": 0.1 / 2, "backbone.neck.res3.weight": 0.1,
                           "backbone.blocks.3.freq_scale_2.complex_weights": 0.2,
                           "encoder.freq_scale_1.reweight.fc1.weight": 4.0,
                           "encoder.invert.dy_freq.weight": 1.0}.items():
        assert found[name][0] == pytest.approx(expected), name


def test_layers_of_timms_transformer():
    """Three blocks: what is before them learns at 1/16, they at 1/8, 1/4 and 1/2; new parts with their block."""
    model = nn.ModuleDict({"backbone": small_timm_vit()})
    add_fdam(model["backbone"])
    options = ["SOLVER.BASE_LR", "1.0", "SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.BACKBONE_MULTIPLIER", "1.0",
               "SOLVER.LAYER_DECAY", "0.5", "MODEL.BACKBONE.NAME", "build_timm_backbone"]
    found = settings(model, build_optimizer(load_config(opts=options), model))
    before = {name: found[f"backbone.network.{name}"] for name in (
        "cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")}
    assert before == {"cls_token": (1 / 16, 0.0), "reg_token": (1 / 16, 0.0), "pos_embed": (1 / 16, 0.0),
                      "patch_embed.proj.weight": (1 / 16, 0.5), "patch_embed.proj.bias": (1 / 16, 0.5)}
    for index, rate in enumerate((1 / 8, 1 / 4, 1 / 2)):
        inside = {name: setting for name, setting in found.items() if f".blocks.{index}." in name}
        assert {lr for lr, _ in inside.values()} == {rate}
        without = {name.partition(f"blocks.{index}.")[2] for name, (_, decay) in inside.items() if decay == 0}
        assert without == {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma",
                           "attn.invert.lf_gamma", "attn.invert.hf_gamma"}
    assert found["backbone.network.norm.weight"] == (1.0, 0.0) and found["backbone.neck.res3.weight"] == (1.0, 0.5)


def test_layer_decay_that_nothing_reads():
    with pytest.raises(ConfigError, match="LAYER_DECAY is 0.9, but the backbone D2SwinTransformer has no layers"):
        build_optimizer(load_config(opts=["SOLVER.LAYER_DECAY", "0.9", "MODEL.BACKBONE.NAME", "D2SwinTransformer"]),
                        Model())
    with pytest.raises(ConfigError, match="SOLVER.LAYER_DECAY is 1.5; it must be above 0 and at most 1"):
        fdam_settings("SOLVER.LAYER_DECAY", "1.5")


def test_a_poly_schedule_is_resumed_with_another_length():
    def scheduler(max_iter):
        cfg = load_config(opts=["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", str(max_iter),
                                "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "1.0"])
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return build_lr_scheduler(cfg, optimizer)

    short, long = scheduler(4), scheduler(8)
    for _ in range(4):
        short.optimizer.step()
        short.step()
    long.load_state_dict(short.state_dict())
    long.optimizer.step()
    long.step()
    assert long.get_last_lr() == pytest.approx([(1 - 5 / 8) ** 0.9])
