"""Attention as a filter: global responses, their products over the layers of a stack, and the kernels at one token.

Source: FDAM (ICCV 2025, arXiv 2507.12006), supplement, sections A to C and figure 6.

C: channels, H × W: map.
"""
import logging
from collections import defaultdict

from freqdino.analysis.frequency import responses
from freqdino.analysis.frequency.attention_maps import (
    AttentionMap,
    attention_blocks,
    attention_maps,
    belongs_to_blocks,
    unread_backbones,
)
from freqdino.analysis.frequency.recording import recorded_calls
from freqdino.analysis.frequency.subjects.shared import Source, chosen, mean_over_images, plain
from freqdino.errors import NotThere

logger = logging.getLogger(__name__)


def record_attention(source: Source, record: dict) -> list[AttentionMap]:
    """Of one image. NotThere for a model without attention over maps."""
    if not attention_blocks(source.model):
        raise NotThere(f"{source.name} has no attention over a feature map that could be analysed: served are vision "
                       "transformers (ours and timm's VisionTransformer), Detectron2's and our Swin, MiT, and the "
                       "deformable encoder of the pixel decoders")
    with recorded_calls(source.model, belongs_to_blocks(source.model)) as calls:
        source.run(record)
    return attention_maps(source.model, calls)


def measure(source: Source, *, layer: int | None = None, token: tuple[int, int] | None = None) -> dict:
    """Global responses, their products over the layers of a stack, and the kernels at one token."""
    for name in unread_backbones(source.model):
        logger.warning("%s: the attention of %s is not among the results; a vision transformer of timm is served by "
                       "itself alone", source.name, name)
    profiles, plain_stacks, inverted_stacks, first = defaultdict(list), defaultdict(list), defaultdict(list), None
    for record in source.records:
        maps = record_attention(source, record)
        attended, output = defaultdict(list), defaultdict(list)
        for item in maps:
            attended[item.group].append(responses.global_response(item.value, item.attended))
            output[item.group].append(responses.global_response(item.value, item.output))
            profiles[item.name].append(responses.radial_profile(output[item.group][-1]))
        for group in attended:
            plain_stacks[group].append(responses.radial_profile(responses.stacked_response(attended[group])))
            inverted_stacks[group].append(responses.radial_profile(responses.stacked_response(output[group])))
        first = first or maps
    inverted = {item.group for item in first if item.high is not None}
    return {
        "frequencies": plain(responses.profile_frequencies()),
        "layers": [{"name": item.name, "group": item.group, "size": list(item.value.shape[1:]),
                    "response": plain(responses.centred(responses.global_response(item.value, item.output))),
                    "profile": mean_over_images(profiles[item.name])} for item in first],
        "stacked": [{"group": group, "layers": sum(item.group == group for item in first),
                     "plain": mean_over_images(plain_stacks[group]),
                     "inverted": mean_over_images(inverted_stacks[group]) if group in inverted else None}
                    for group in plain_stacks],
        "local": local_attention(first, layer, token),
    }


def local_attention(maps: list[AttentionMap], layer: int | None, token: tuple[int, int] | None) -> dict | None:
    """Kernels of the layers with global attention at a token (default: the middle), None where there are none.

    Kernel and response are means over the heads, those of ``inverted`` with S̄ and Ŝ averaged over the channels.
    """
    maps = [item for item in maps if item.queries is not None]
    if not maps:
        if layer is not None or token is not None:
            raise NotThere("--layer and --token choose a kernel of global attention; windows and deformable attention "
                           "have none, only their maps are analysed")
        return None
    item = chosen(maps, layer, -1, "layers of global attention")
    grid = tuple(item.value.shape[1:])
    token = token or (grid[0] // 2, grid[1] // 2)
    rows, plain_stack, inverted_stack = [], [], []
    for each in maps:
        kernel = responses.attention_kernel(each.queries, each.keys, token, grid)
        zero, other = responses.low_pass_figures(responses.local_response(kernel))
        rows.append({"name": each.name, "zero": plain(zero), "largest_other": plain(other),
                     "low_pass": responses.is_low_pass(zero, other)})
        mean = kernel.mean(0)
        modulated = mean
        if each.high is not None:
            low, high = (float(part[:, token[0], token[1]].mean()) for part in (each.low, each.high))
            modulated = responses.inverted_kernel(mean, token, low, high)
        plain_stack.append(responses.local_response(mean))
        inverted_stack.append(responses.local_response(modulated))
        if each is item:
            drawn = {"kernel": plain(mean), "response": plain(responses.centred(plain_stack[-1])),
                     "inverted_response": None if each.high is None else
                     plain(responses.centred(inverted_stack[-1]))}
    has_inversion = any(each.high is not None for each in maps)
    return {"layer": item.name, "token": list(token), "size": list(grid), **drawn, "every_layer": rows,
            "stacked_plain": plain(responses.radial_profile(responses.stacked_response(plain_stack))),
            "stacked_inverted": plain(responses.radial_profile(responses.stacked_response(inverted_stack)))
            if has_inversion else None}
