"""FreqFusion on ground truth: similarity inside and across categories before and after each unit, and one unit's filters.

Source: FreqFusion, "Frequency-aware Feature Fusion for Dense Image Prediction" (TPAMI 2024, arXiv 2408.12879).
"""
from collections import defaultdict

import torch

from freqdino.frequency.freqfusion_sum import FreqFusionSum
from freqdino.modeling.pixel_decoder import upsample_and_add

from .. import freqfusion
from ..recording import recorded_calls
from ..summary import NotThere, chosen, mean_over_images, plain


def measure(source, *, layer: int | None = None, token: tuple[int, int] | None = None) -> dict:
    """Similarity inside and across categories before and after each unit, and one unit's filters (default: the last)."""
    units = [name for name, module in source.model.named_modules() if isinstance(module, FreqFusionSum)]
    if not units:
        raise NotThere(f"{source.name} has no FreqFusion; its configuration switches it on by "
                       "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED or MODEL.FPN.UPSAMPLER freqfusion")
    drawn = chosen(units, layer, -1, "units of FreqFusion")
    found, kernels, sizes = defaultdict(list), None, {}
    for record in source.records:
        labels = source.labels(record)
        with recorded_calls(source.model, lambda name, module: name in ("backbone", *units)) as calls:
            source.run(record)
        padded = tuple(calls["backbone"][0].args[0].shape[2:])
        for unit in units:
            module, (hr, lr), fused = calls[unit][0]
            size = tuple(hr.shape[2:])
            sizes.setdefault(unit, size)
            here = freqfusion.labels_on_map(labels, source.image_size(record), padded, size)
            stages = {"high resolution": hr, "low resolution, upsampled": upsample_and_add(torch.zeros_like(hr), lr),
                      "plain sum": upsample_and_add(hr, lr), "fused": fused}
            found[unit].append(torch.tensor([freqfusion.category_similarity(stage[0], here)
                                             for stage in stages.values()]))
            if unit == drawn and kernels is None:
                point = token or (size[0] // 2, size[1] // 2)
                low, high = freqfusion.fusion_kernels(module, hr, lr, point)
                kernels = {"unit": unit, "point": list(point), "low_pass": plain(low),
                           "high_pass": None if high is None else plain(high)}
    return {"units": [{"name": unit, "size": list(sizes[unit]), "stages": {
        stage: {"intra_category_similarity": intra, "similarity_margin": margin}
        for stage, (intra, margin) in zip(stages, mean_over_images(found[unit]))}} for unit in units],
            "kernels": kernels}
