"""torchvision's and timm's Swin transformers -> the names of the published Swin, which the backbone has."""

from freqdino.conversion.rules import RGB_INPUT, Family, Rule

COMPUTED = {r".*relative_position_index$": "computed by the model", r".*attn_mask$": "computed by the model"}


def stage(template: str, *, first: int = 0, step: int = 1):
    """A name of the stage that the group ``at`` counts from ``first`` in steps of ``step``."""
    return lambda match: f"layers.{(int(match['at']) - first) // step}.{match.expand(template)}"


TIMM = Family(
    title="timm's Swin",
    # Merging of patches ends a stage in the published code and begins the next one in timm's.
    markers=(r"layers\.0\.blocks\.0\.attn\.qkv\.", r"layers\.3\.downsample\."),
    rules=(
        Rule(r"layers\.(?P<at>[123])\.(?P<rest>downsample\..+)", stage(r"\g<rest>", first=1)),
        Rule(r"(patch_embed\..+|layers\.\d\.blocks\..+)", r"\1"),
    ),
    left={**COMPUTED, r"(norm|head)\.": "the classifier"},
    requirements=RGB_INPUT,
    hints={r"layers\.|patch_embed": "MODEL.SWIN.EMBED_DIM, DEPTHS, NUM_HEADS and WINDOW_SIZE"},
    whole_model=False,
)

TORCHVISION = Family(
    title="torchvision's Swin",
    markers=(r"features\.0\.0\.weight$", r"features\.1\.0\.attn\.qkv\.weight$", r"features\.2\.reduction\."),
    rules=(
        Rule(r"features\.0\.0\.(\w+)", r"patch_embed.proj.\1"),
        Rule(r"features\.0\.2\.(\w+)", r"patch_embed.norm.\1"),
        # features: patches, stage, merging, stage, merging, stage, merging, stage
        Rule(r"features\.(?P<at>[246])\.(?P<rest>(?:reduction|norm)\..+)",
             stage(r"downsample.\g<rest>", first=2, step=2)),
        Rule(r"features\.(?P<at>[1357])\.(?P<rest>\d+\.(?:norm1|norm2|attn)\..+)",
             stage(r"blocks.\g<rest>", first=1, step=2)),
        Rule(r"features\.(?P<at>[1357])\.(?P<block>\d+)\.mlp\.0\.(?P<rest>\w+)",
             stage(r"blocks.\g<block>.mlp.fc1.\g<rest>", first=1, step=2)),
        Rule(r"features\.(?P<at>[1357])\.(?P<block>\d+)\.mlp\.3\.(?P<rest>\w+)",
             stage(r"blocks.\g<block>.mlp.fc2.\g<rest>", first=1, step=2)),
    ),
    left=TIMM.left,
    requirements=RGB_INPUT,
    hints=TIMM.hints,
    whole_model=False,
)
