"""Exported files in use: ONNX by onnxruntime, programs of torch.export by torch; no model is built for it.

Shape key: B: batch, (H, W): size of the pictures, (H', W'): size of the results.
"""
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from freqdino.errors import ArgumentError, ExportError
from freqdino.export import FORMATS
from freqdino.export.description import KEY, Description
from freqdino.export.graph import INPUTS, RESULTS

ONNX_MISSING = "{} needs onnxruntime: pip install freqdino[export]"
EXTRA_FILE = f"{KEY}.json"      # beside a program of torch.export

# uint8 (B, 3, H, W) in RGB, int64 (2,) H' and W', names of outputs -> these, by name.
Run = Callable[[Tensor, Tensor, Sequence[str]], dict[str, Tensor]]


class ExportedModel:
    """A file of tools/export.py, called as Detectron2 calls a model in evaluation; may be called by several threads.

    Raises ImportError: a package that the file needs is absent; ExportError: it is none of ours, or its device is not
    to be had.
    """

    def __init__(self, path: str | Path, device: str = "cpu"):
        self.path = str(path)
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
        self.run: Run
        self.run, text = (_onnx if Path(path).suffix == FORMATS["onnx"] else _program)(self.path, device)
        self.description = Description.from_json(text, self.path)
        self.results = [name for task in self.description.tasks for name in RESULTS[task]]

    def __call__(self, batched_inputs: Sequence[dict]) -> list[dict]:
        """Detectron2's contract: each input ``image`` (3, H, W) uint8 in the description's format and, optionally,
        ``height`` and ``width`` of the result; {sem_seg, instances, panoptic_seg} of each, as the model predicts.

        Raises ExportError: a size that the file does not take.
        """
        groups = defaultdict(list)
        for index, example in enumerate(batched_inputs):
            size = tuple(example["image"].shape[-2:])
            self._check(size)
            groups[size, (example.get("height", size[0]), example.get("width", size[1]))].append(index)
        results: dict[int, dict] = {}
        for (_, output), indices in groups.items():
            at_once = self.description.batch_size or len(indices)
            for start in range(0, len(indices), at_once):
                chunk = indices[start:start + at_once]
                images = torch.stack([batched_inputs[index]["image"] for index in chunk]).cpu()
                images = images.flip(1) if self.description.image_format == "BGR" else images
                missing = at_once - len(images)
                padded = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
                raw = self.run(padded.to(torch.uint8).contiguous(), torch.tensor(output), self.results)
                results.update((index, result_of(raw, number, self.description.tasks, output))
                               for number, index in enumerate(chunk))
        return [results[index] for index in range(len(batched_inputs))]

    def _check(self, size):
        fixed, least = self.description.input_size, self.description.least_size
        if fixed is not None and size != tuple(fixed):
            raise ExportError(f"{self.path} takes pictures of {fixed[0]} x {fixed[1]} pixels (height x width) alone, "
                              f"this one has {size[0]} x {size[1]} after MIN_SIZE_TEST; bring it to that size, or "
                              "export without a fixed size")
        if fixed is None and min(size) < least:
            raise ExportError(f"{self.path} takes pictures of at least {least} pixels a side, this one has {size[0]} x "
                              f"{size[1]}")


def result_of(raw: dict[str, Tensor], number: int, tasks: Sequence[str], size: tuple[int, int]) -> dict:
    """The results of one picture of a batch, as Detectron2's structures."""
    own = {name: value[number] for name, value in raw.items()}
    result: dict = {}
    if "semantic" in tasks:
        result["sem_seg"] = own["semantic_scores"]
    if "instance" in tasks:
        valid = own["instance_valid"]
        result["instances"] = Instances(
            tuple(size), scores=own["instance_scores"][valid], pred_classes=own["instance_classes"][valid],
            pred_boxes=Boxes(own["instance_boxes"][valid]), pred_masks=own["instance_masks"][valid])
    if "panoptic" in tasks:
        table = zip(*(own[name][own["segment_valid"]].tolist() for name in
                      ("segment_ids", "segment_is_thing", "segment_classes", "segment_scores")), strict=True)
        result["panoptic_seg"] = own["panoptic_ids"], [
            {"id": number, "isthing": isthing, "category_id": category, "score": score}
            for number, isthing, category, score in table]
    return result


def _onnx(path: str, device: str) -> tuple[Run, str | None]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(ONNX_MISSING.format(path)) from error
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.partition(":")[0])
    if provider not in onnxruntime.get_available_providers():
        raise ArgumentError("device", f"is {device}, which this onnxruntime does not have: its providers are "
                            f"{', '.join(onnxruntime.get_available_providers())}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    number = int(device.partition(":")[2] or 0)
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=[(provider, {"device_id": number}) if device != "cpu" else provider])
    except Exception as error:      # onnxruntime's own exceptions have no common base
        raise ExportError(f"{path} cannot be read by onnxruntime {onnxruntime.__version__}: {error}") from error

    def run(image: Tensor, output_size: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        found = session.run(list(names), dict(zip(INPUTS, (image.numpy(), output_size.numpy()))))
        return {name: torch.from_numpy(value) for name, value in zip(names, found)}

    return run, session.get_modelmeta().custom_metadata_map.get(KEY)


def _program(path: str, device: str) -> tuple[Run, str | None]:
    extra_files = {EXTRA_FILE: ""}
    try:
        program = torch.export.load(path, extra_files=extra_files)
    except Exception as error:      # what a file of another kind makes torch raise is not documented
        raise ExportError(f"{path} is no program of torch.export: {str(error).partition(chr(10))[0]}") from error
    if device != "cpu":
        raise ArgumentError("device", f"is {device}, but a program of tools/export.py computes on the CPU")
    module = program.module()
    described = extra_files[EXTRA_FILE]
    outputs = Description.from_json(described, path).outputs

    def run(image: Tensor, output_size: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            found = dict(zip(outputs, module(image, output_size), strict=True))
        return {name: found[name] for name in names}

    return run, described
