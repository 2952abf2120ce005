"""Effective rank and similarity by layer, similarity across the layers of a stack, feature maps with their spectra.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, sections F to H and figures 4, 5 and 9.

C: channels, H × W: map.
"""
from collections import defaultdict

from torch import Tensor

from freqdino.analysis.frequency import representation, responses
from freqdino.analysis.frequency.attention_maps import attention_maps, belongs_to_blocks
from freqdino.analysis.frequency.recording import recorded_calls
from freqdino.analysis.frequency.subjects.shared import Source, mean_over_images, plain
from freqdino.errors import NotThere

SIMILARITY_TOKENS = 2048    # of a larger map, as many at equal distances: all pairs of 100 000 are too many


def layer_maps(source: Source, record: dict) -> dict[str, dict[str, Tensor]]:
    """Group -> layer -> map (C, H, W): the transformer blocks' results and the maps of the backbone."""
    inside = belongs_to_blocks(source.model)
    with recorded_calls(source.model, lambda name, module: name == "backbone" or inside(name, module)) as calls:
        source.run(record)
    groups = defaultdict(dict)
    if "backbone" in calls:
        maps = calls["backbone"][0].output
        groups["backbone"] = {f"backbone.{name}": feature_map[0].cpu() for name, feature_map in maps.items()}
    for item in attention_maps(source.model, calls):
        groups[item.group][item.name] = item.features
    if not groups:
        raise NotThere(f"{source.name} has neither a backbone of several maps nor transformer blocks to analyse")
    return groups


def measure(source: Source) -> dict:
    """Effective rank and similarity by layer, similarity across the layers of a stack, and maps with their spectra."""
    ranks, similarities, across, first = defaultdict(list), defaultdict(list), defaultdict(list), None
    for record in source.records:
        groups = layer_maps(source, record)
        first = first or groups
        for group, maps in groups.items():
            tokens = [feature_map.flatten(1).mT for feature_map in maps.values()]
            some = [representation.evenly_spaced(each, SIMILARITY_TOKENS) for each in tokens]
            if len({feature_map.shape for feature_map in maps.values()}) == 1:
                across[group].append(representation.similarity_across(some))
                own = across[group][-1].diagonal().tolist()
            else:
                own = [representation.pairwise_similarity(each, each) for each in some]
            for name, each, similarity in zip(maps, tokens, own):
                ranks[name].append(representation.effective_rank(each))
                similarities[name].append(similarity)
    return {
        "layers": [{"name": name, "group": group, "size": list(feature_map.shape[1:]),
                    "effective_rank": mean_over_images(ranks[name]),
                    "similarity": mean_over_images(similarities[name]), "map": plain(feature_map.abs().mean(0)),
                    "spectrum": plain(responses.centred(responses.amplitude_spectrum(feature_map)))}
                   for group, maps in first.items() for name, feature_map in maps.items()],
        "across": [{"group": group, "layers": list(first[group]), "similarity": mean_over_images(matrices)}
                   for group, matrices in across.items()],
    }
