"""A model into a file, by torch.export and, for ONNX, torch's exporter; verified before the file has its name.

Shape key: B: batch, H, W: height and width of the pictures.
"""
import copy
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from torch import nn
from torch.export import Dim, ExportedProgram

from freqdino.errors import ArgumentError, ExportError
from freqdino.export import FORMATS, OPSETS
from freqdino.export.description import KEY, Description
from freqdino.export.graph import INPUTS, WholeModel, recorded_tokens, token_decoder
from freqdino.export.runtime import EXTRA_FILE, ExportedModel
from freqdino.export.verification import Comparison, smooth_pictures, verify
from freqdino.ops.modules import sizes_left_open

LARGEST_INPUT, LARGEST_BATCH = 4096, 64
MISSING = "exporting to ONNX needs onnx, onnxscript and onnxruntime: pip install freqdino[export]"


@dataclass(frozen=True)
class Summary:
    """What was written: the file, its bytes, its operators by number, and how it compares with the model."""

    path: Path
    size: int
    nodes: Counter
    opset: int | None
    comparison: Comparison


def export_model(model: nn.Module, cfg: CfgNode, metadata: Metadata, path: str | Path, *,
                 file_format: str | None = None, opset: int = 18, input_size: tuple[int, int] | None = None,
                 batch_size: int | None = None) -> Summary:
    """Write ``model``, built of ``cfg``, to ``path`` and verify it; where it differs, there is no file.

    Args:
        metadata: of the classes.
        file_format: onnx or torch-export; default: by the suffix, .onnx or .pt2.
        opset: of ONNX, 18 to 20.
        input_size: (H, W) of the pictures, else any from the least size on, which the model decides, to 4096.
        batch_size: B, else any up to 64.
    Raises ArgumentError, ExportError: what cannot be exported, or differs; ImportError: a package is absent.
    """
    path = Path(path)
    file_format = file_format or {suffix: name for name, suffix in FORMATS.items()}.get(path.suffix)
    if file_format not in FORMATS:
        raise ArgumentError("file_format", f"must be one of {', '.join(FORMATS)}, got {file_format!r}; the suffix "
                            f"{' or '.join(FORMATS.values())} says it, too")
    if path.suffix != FORMATS[file_format]:
        raise ArgumentError("path", f"of the format {file_format} must end in {FORMATS[file_format]}, got {path}")
    if opset not in OPSETS:
        raise ArgumentError("opset", f"must be one of {', '.join(map(str, OPSETS))}, got {opset}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder")
    if cfg.TEST.SLIDING_WINDOW.ENABLED:
        raise ExportError("TEST.SLIDING_WINDOW.ENABLED is True: windows are not part of a graph; set it to False to "
                          "export the model of one window")
    if cfg.MODEL.SEM_SEG_HEAD.NAME == "LightHamHead" and not cfg.MODEL.SEM_SEG_HEAD.HAM.FIXED_BASES:
        raise ExportError("MODEL.SEM_SEG_HEAD.HAM.FIXED_BASES is False: no file can be held against a model that draws "
                          "random numbers; set it to True")
    if file_format == "onnx":
        need_onnx()
    whole = WholeModel(copy.deepcopy(model).float().cpu().eval(), reverse_channels=cfg.INPUT.FORMAT == "BGR").eval()
    for parameter in whole.parameters():
        parameter.requires_grad_(False)
    least = least_size(whole)
    if input_size is not None and min(input_size) < least:
        raise ArgumentError("input_size", f"must have at least {least} pixels a side, got {input_size}")
    description = Description.of(cfg, whole, metadata, least_size=least, input_size=input_size, batch_size=batch_size)
    sizes = sizes_to_verify(whole, least, input_size, batch_size)
    program = trace(whole, least, input_size, batch_size)
    # In a folder beside the file, from which it is moved in one step.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / path.name
        if file_format == "onnx":
            nodes = write_onnx(program, whole, unfinished, opset, description)
        else:
            nodes = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
            torch.export.save(program, unfinished, extra_files={EXTRA_FILE: description.to_json()})
        comparison = verify(whole, ExportedModel(unfinished), sizes)
        os.replace(unfinished, path)
    return Summary(path, path.stat().st_size, nodes, opset if file_format == "onnx" else None, comparison)


def need_onnx() -> None:
    """Raise ImportError with the remedy where a package is absent that writing ONNX takes."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(MISSING) from error


def least_size(whole: WholeModel) -> int:
    """The smallest side of pictures whose coarsest map is of two places or more, and whose tokens are as many as the
    queries: of one place a map would be repeated, below, the number of queries would depend on the picture.
    """
    step, steps = whole.step, 2
    decoder = token_decoder(whole.model) if not whole.semantic_only else None
    while decoder is not None:
        pixels = torch.zeros(1, 3, steps * step, steps * step)
        with torch.no_grad(), recorded_tokens(whole.model) as recorded:
            whole.model.sem_seg_head(whole.model.features(pixels))
        if recorded[0][1].shape[1] == decoder.num_queries:
            break
        steps += 1
    return (steps - 1) * step + 1


def sizes_to_verify(whole: WholeModel, least: int, input_size: tuple[int, int] | None,
                    batch_size: int | None) -> list[tuple[int, int, int]]:
    """Three sizes (B, H, W), odd ones among them, none of them the one that was traced."""
    step = whole.step
    sizes = [(least + 4, least + 2 * step + 9), (least + 3 * step, least + step - 1), (least + step, least + step)]
    batches = [1, 1, 3]
    return [(batch_size or batch, *(input_size or size)) for batch, size in zip(batches, sizes)]


def trace(whole: WholeModel, least: int, input_size: tuple[int, int] | None,
          batch_size: int | None) -> ExportedProgram:
    """The model as a program of torch.export, of any size where none is given."""
    step = whole.step
    height, width = input_size or (least + step + 2, least + 2 * step + 5)
    # Of one picture torch would make a graph for one picture alone.
    image = smooth_pictures(batch_size or 2, height, width, seed=0)
    dynamic = {}
    if batch_size is None:
        dynamic[0] = Dim("batch", min=1, max=LARGEST_BATCH)
    if input_size is None:
        dynamic[2], dynamic[3] = (Dim(name, min=least, max=LARGEST_INPUT) for name in ("height", "width"))
    try:
        with torch.no_grad(), sizes_left_open():
            return torch.export.export(whole, (image, torch.tensor([height + 3, width + 7])),
                                       dynamic_shapes=(dynamic, None), strict=False)
    except Exception as error:      # torch.export's own have no common base
        raise ExportError(f"torch.export cannot make a graph of {type(whole.model).__name__}: {error}") from error


def write_onnx(program: ExportedProgram, whole: WholeModel, path: Path, opset: int, description: Description
               ) -> Counter:
    """Write the program as ONNX of standard operators, ``output_size`` being an input that may be left out; returns
    the operators by how often they come."""
    import onnx
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, LiftConstantsToInitializersPass
    from onnxscript import optimizer

    written = torch.onnx.export(program, (), dynamo=True, opset_version=opset, verbose=False, optimize=False,
                                input_names=list(INPUTS), output_names=list(whole.output_names))
    # Not all of torch's optimisation: its patterns take a third of the whole time, and onnxruntime has them, too.
    optimizer.inline(written.model)
    optimizer.fold_constants(written.model)
    for tidy in (LiftConstantsToInitializersPass(lift_all_constants=True), CommonSubexpressionEliminationPass()):
        tidy(written.model)
    optimizer.remove_unused_nodes(written.model)
    model = written.model_proto
    model.graph.initializer.append(onnx.helper.make_tensor(INPUTS[1], onnx.TensorProto.INT64, [2], [0, 0]))
    onnx.helper.set_model_props(model, {KEY: description.to_json()})
    foreign = {node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign:
        raise ExportError(f"the graph has operators that are not ONNX's own: {', '.join(sorted(foreign))}")
    onnx.save(model, path)
    return Counter(node.op_type for node in model.graph.node)
