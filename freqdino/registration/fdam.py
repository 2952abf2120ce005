"""MODEL.SEM_SEG_HEAD.FDAM.* -> attention inversion and frequency scaling in the deformable encoder.

Source: FDAM (ICCV 2025, arXiv 2507.12006), the rows of Mask DINO. No code was published for them; this is our reading:
the value at a token minus what its query attended to, gates from the query, scaling of each level's map.
"""
from collections.abc import Callable

from torch import nn

from ..config import ConfigError
from ..frequency import InversionGates, ResidualFrequencyScale


def encoder_modulation_maker(cfg, *, num_heads: int) -> Callable[[], dict[str, nn.Module]]:
    """What makes one encoder layer's modules: none where FDAM is off."""
    if not cfg.MODEL.SEM_SEG_HEAD.FDAM.ENABLED:
        return dict
    dim = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM

    def make() -> dict[str, nn.Module]:
        return {"invert": InversionGates(dim, num_heads), "freq_scale_1": ResidualFrequencyScale(dim),
                "freq_scale_2": ResidualFrequencyScale(dim)}

    return make


def check_encoder(cfg, decoder: nn.Module) -> None:
    """Raise ConfigError where FDAM is on but no layer of the pixel decoder has it."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.FDAM.ENABLED and not any(isinstance(module, InversionGates) for module in decoder.modules()):
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.FDAM.ENABLED is True, but the pixel decoder {head.PIXEL_DECODER_NAME} "
                          f"with TRANSFORMER_ENC_LAYERS {head.TRANSFORMER_ENC_LAYERS} has no attention to put it into; "
                          "MSDeformAttnPixelDecoder and MaskDINOEncoder with at least one layer have")
