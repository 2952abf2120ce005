"""FDAM's modulation on images: coefficients of attention inversion at each token, FreqScale's weights by frequency.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, figures 7 and 8.
"""
from collections import defaultdict

import torch

from freqdino.analysis.frequency import modulation, responses
from freqdino.analysis.frequency.attention_maps import attention_maps, belongs_to_blocks
from freqdino.analysis.frequency.recording import recorded_calls
from freqdino.analysis.frequency.subjects.shared import Source, mean_over_images, plain
from freqdino.errors import NotThere
from freqdino.frequency import FrequencyScale


def measure(source: Source) -> dict:
    """Coefficients of attention inversion at each token, and FreqScale's weights by frequency."""
    inside = belongs_to_blocks(source.model)

    def wanted(name, module):
        return inside(name, module) or isinstance(module, FrequencyScale)

    inversion, scales = defaultdict(list), defaultdict(list)
    first_maps, first_weights = {}, {}
    for record in source.records:
        with recorded_calls(source.model, wanted) as calls:
            source.run(record)
        for item in attention_maps(source.model, calls):
            if item.high is not None:
                first_maps.setdefault(item.name, item)
                inversion[item.name].append(torch.stack((item.low.mean(), item.high.mean())))
        for name, module in source.model.named_modules():
            if isinstance(module, FrequencyScale):
                for call, made in enumerate(calls[name]):
                    full = f"{name}, map {call}" if len(calls[name]) > 1 else name
                    weights = modulation.scale_weights(module, made.args[0])[0].mean(0).cpu()
                    first_weights.setdefault(full, weights)
                    scales[full].append(responses.radial_profile(weights))
    if not inversion and not scales:
        raise NotThere(f"{source.name} has no FDAM: neither attention inversion nor FreqScale; its configuration "
                       "switches them on by MODEL.BACKBONE.FDAM.ENABLED or MODEL.SEM_SEG_HEAD.FDAM.ENABLED")
    return {
        "frequencies": plain(responses.profile_frequencies()),
        "inversion": [{"name": name, "size": list(item.value.shape[1:]),
                       **dict(zip(("mean_low", "mean_high"), mean_over_images(inversion[name]))),
                       "low": plain(item.low.mean(0)), "high": plain(item.high.mean(0))}
                      for name, item in first_maps.items()],
        "scales": [{"name": name, "size": list(weights.shape), "profile": mean_over_images(scales[name]),
                    "weights": plain(responses.centred(weights))} for name, weights in first_weights.items()],
    }
