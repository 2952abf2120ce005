"""A layer of FDConv: the kernels of its groups of Fourier coefficients, and its frequency bands on images.

Source: Frequency Dynamic Convolution for Dense Image Prediction (FDConv, CVPR 2025, arXiv 2503.18783).
"""
import torch
import torch.nn.functional as F

from freqdino.analysis.frequency import groups_and_bands, responses
from freqdino.analysis.frequency.recording import recorded_calls
from freqdino.analysis.frequency.subjects.shared import Source, chosen, mean_over_images, plain
from freqdino.errors import NotThere
from freqdino.frequency.fdconv.band_modulation import FrequencyBandModulation
from freqdino.frequency.fdconv.dynamic_weight import DynamicWeight

DRAWN_GROUPS = 8            # of the groups of coefficients, whose spectra are kept as maps
DRAWN_SIDE = 96             # to which the spectra of large weight matrices are averaged


def measure(source: Source, *, layer: int | None = None) -> dict:
    """The group kernels of one layer (default: the first with band modulation, else the first), and its bands."""
    layers = {name: module for name, module in source.model.named_modules()
              if isinstance(module, DynamicWeight) and hasattr(module, "group_map")}
    if not layers:
        raise NotThere(f"{source.name} has no FDConv or FDLinear; its configuration switches them on by "
                       "MODEL.BACKBONE.FDCONV.ENABLED")
    names = list(layers)
    with_bands = [index for index, name in enumerate(names) if has_bands(layers[name])]
    name = chosen(names, layer, with_bands[0] if with_bands else 0, "layers of FDConv or FDLinear")
    matrices = groups_and_bands.group_matrices(layers[name]).cpu()
    similarity = groups_and_bands.similarity_matrix(matrices)
    spectra = torch.fft.fft2(matrices).abs()
    drawn = torch.linspace(0, len(spectra) - 1, min(DRAWN_GROUPS, len(spectra))).round().long()
    side = [min(size, DRAWN_SIDE) for size in spectra.shape[1:]]
    others = similarity - torch.diag(similarity.diagonal())
    return {
        "frequencies": plain(responses.profile_frequencies()), "layer": name, "layers": names,
        "groups": len(matrices), "matrix": list(matrices.shape[1:]),
        "similarity": plain(similarity), "largest_similarity": plain(float(others.abs().max())),
        "profiles": [plain(responses.radial_profile(spectrum)) for spectrum in spectra],
        "spectra": [{"group": int(group), "amplitude": plain(F.adaptive_avg_pool2d(
            responses.centred(spectra[group])[None], side)[0])} for group in drawn],
        "bands": image_bands(source, name, layers[name].FBM) if has_bands(layers[name]) else None,
    }


def has_bands(layer: DynamicWeight) -> bool:
    """FDLinear and convolutions of 1 × 1 pixels have none."""
    return getattr(layer, "FBM", None) is not None


def image_bands(source: Source, name: str, modulation: FrequencyBandModulation) -> dict:
    """Masks of a layer's bands and their weights on the first image; mean weights over all images."""
    weights = []
    for record in source.records:
        with recorded_calls(source.model, lambda other, module: other == f"{name}.FBM") as calls:
            source.run(record)
        weights.append(groups_and_bands.band_weights(modulation, calls[f"{name}.FBM"][0].args[0]).cpu())
    height, width = weights[0].shape[1:]
    return {"size": [height, width], "k_list": list(modulation.k_list),
            "mean_weights": mean_over_images([each.mean((1, 2)) for each in weights]),
            "masks": plain(responses.centred(groups_and_bands.band_masks(modulation.k_list, height, width))),
            "weights": plain(weights[0])}
