"""FreqFusion on ground truth: similarity inside and across categories before and after each unit; one unit's filters.

Source: FreqFusion, "Frequency-aware Feature Fusion for Dense Image Prediction" (TPAMI 2024, arXiv 2408.12879).
"""
from collections import defaultdict

import torch
from torch import Tensor

from freqdino.analysis.frequency import similarity_and_filters
from freqdino.analysis.frequency.recording import recorded_calls
from freqdino.analysis.frequency.sources import ConfiguredModel
from freqdino.analysis.frequency.subjects.shared import chosen, mean_over_images, plain
from freqdino.errors import NotThere
from freqdino.frequency.freqfusion.fusion import FreqFusion
from freqdino.modeling.pixel_decoder import upsample_and_add

MEASURES = ("intra_category_similarity", "similarity_margin")


def measure(source: ConfiguredModel, *, layer: int | None = None, token: tuple[int, int] | None = None) -> dict:
    """Similarity before and after every unit, means over the images, and the filters of one (default: the last)."""
    units = [name for name, module in source.model.named_modules() if isinstance(module, FreqFusion)]
    if not units:
        raise NotThere(f"{source.name} has no FreqFusion; its configuration switches it on by "
                       "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED or MODEL.FPN.UPSAMPLER freqfusion")
    drawn = chosen(units, layer, -1, "units of FreqFusion")
    similarities, sizes, kernels = defaultdict(list), {}, None
    for record in source.records:
        labels = source.labels(record)
        with recorded_calls(source.model, lambda name, module: name in ("backbone", *units)) as calls:
            source.run(record)
        padded = tuple(calls["backbone"][0].args[0].shape[2:])
        for unit in units:
            module, (hr, lr), fused = calls[unit][0]
            size = tuple(hr.shape[2:])
            sizes.setdefault(unit, size)
            here = similarity_and_filters.labels_on_map(labels, source.image_size(record), padded, size)
            for stage, feature_map in stages(hr, lr, fused).items():
                measured = similarity_and_filters.category_similarity(feature_map[0].cpu(), here)
                similarities[unit, stage].append(torch.tensor(measured))
            if unit == drawn and kernels is None:
                kernels = {"unit": unit, **filters(module, hr, lr, token or (size[0] // 2, size[1] // 2))}
    return {
        "units": [{"name": unit, "size": list(size), "stages": {
            stage: dict(zip(MEASURES, mean_over_images(measured)))
            for (name, stage), measured in similarities.items() if name == unit}} for unit, size in sizes.items()],
        "kernels": kernels,
    }


def stages(hr: Tensor, lr: Tensor, fused: Tensor) -> dict[str, Tensor]:
    """The maps before fusion, what plain upsampling and adding or concatenating makes of them, and what the unit does.
    """
    upsampled = upsample_and_add(lr.new_zeros(1, 1, *hr.shape[2:]), lr)
    plain_fusion = ({"plain sum": hr + upsampled} if fused.shape == hr.shape else
                    {"plain concatenation": torch.cat([hr, upsampled], dim=1)})
    return {"high resolution": hr, "low resolution, upsampled": upsampled, **plain_fusion, "fused": fused}


def filters(unit: FreqFusion, hr: Tensor, lr: Tensor, point: tuple[int, int]) -> dict:
    low, high = similarity_and_filters.fusion_kernels(unit, hr, lr, point)
    return {"point": list(point), "low_pass": plain(low), "high_pass": None if high is None else plain(high)}
