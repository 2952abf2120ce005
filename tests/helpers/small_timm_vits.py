"""Small networks of the classes of timm's plain vision transformers, in timm's own list, and backbones of them.

Three blocks of 32 channels and two heads each; all else, tokens, norms, positions, patches, is that of the network that
a row of `SMALL_VITS` names.
"""
import timm
import torch
from timm.models import register_model

SIZE = {"embed_dim": 32, "depth": 3, "num_heads": 2}
# Name here, unlike any that a user may look for -> timm's, and the side of its images, of five patches each.
SMALL_VITS = {
    "small_augreg": ("vit_small_patch16_224", 80),                      # class token, whose position is learned too
    "small_deit3": ("deit3_small_patch16_224", 80),                     # LayerScale; positions of patches alone
    "small_distilled": ("deit_small_distilled_patch16_224", 80),        # two class tokens
    "small_dino_two": ("vit_small_patch14_reg4_dinov2", 70),            # patches of 14, four registers
    "small_dino_three": ("vit_small_patch16_dinov3", 80),               # rotary positions by halves, four registers
    "small_dino_three_bias": ("vit_small_patch16_dinov3_qkvb", 80),     # biases of queries and values
    "small_eva02": ("eva02_base_patch14_224", 70),                      # learned and rotary, three projections
    "small_eva02_fused": ("eva02_small_patch14_336", 70),               # one projection
}


def register_small(name, base, image, **changes):
    def make(pretrained=False, **options):
        return timm.create_model(base, **{**SIZE, "img_size": image, **changes, **options})

    make.__name__ = name
    register_model(make)


for _name, (_base, _image) in SMALL_VITS.items():
    register_small(_name, _base, _image)


def small_vit(name, **options):
    """timm's own network, without a backbone around it."""
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def small_timm_vit(name="small_dino_two", **options):
    # Here, because the frequency modules' tests do without Detectron2.
    from freqdino.modeling.backbones.timm_backbone import timm_backbone

    torch.manual_seed(0)
    return timm_backbone(name, **{"in_chans": 3, "drop_path_rate": 0.0, "activation_checkpointing": False, **options})
