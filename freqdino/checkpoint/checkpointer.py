"""Loading weights into a model, never silently: what does not fit is an error that lists it.

Two kinds of checkpoint are told apart by their keys. A backbone's (ImageNet weights) must fill the backbone; a model's
must fill the whole model, but for its class layers (`class_rows`). ``MODEL.WEIGHTS_PARTIAL True`` loads what fits of
either and lists the rest. Both published styles of Mask2Former's keys load; which one a file has is read off the keys,
since its version metadata is often lost. A ResNet's weights load by Detectron2's names and by torchvision's.
"""
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from freqdino.checkpoint.class_rows import ClassChange, change_classes, class_tables, layer_of
from freqdino.checkpoint.data_config import DataConfig
from freqdino.checkpoint.files import HUB_SCHEMES, LAST, read_checkpoint, write_whole
from freqdino.checkpoint.names.mask2former import upgrade_keys
from freqdino.checkpoint.names.torchvision_resnet import is_torchvision_resnet, with_detectron2_resnet_names
from freqdino.checkpoint.weights import read_weights
from freqdino.errors import CheckpointError, first_few
from freqdino.frequency.plain_state import modules_with_prefixes

# Buffers that modules compute themselves: may be missing or left over in any checkpoint.
COMPUTED = re.compile(r"(^|\.)(num_batches_tracked|relative_position_index|attn_mask|pixel_mean|pixel_std"
                      r"|cell_anchors\.\d+)$")
# What a classification network has for its classes, by names inside the backbone.
CLASSIFIER = re.compile(r"^((stem\.)?(fc\d*|linear|head|head_dist|norm|fc_norm)\.|(cls|dist)_token$)")
# What a backbone has and a classification network has not: Swin's normalisation of each output, a ViT's pyramid.
OUTPUT_LAYERS = re.compile(r"^(norm\d|neck)\.")
# Caffe2 folds the statistics of a batch normalisation into its scale.
FOLDED_STATISTICS = re.compile(r"\.norm\.running_(mean|var)$")
PERIODIC = re.compile(r"model_(\d{7,})\.pth")
LISTED = 10                                 # keys of each kind that an error names


@dataclass
class Fit:
    """How the names and shapes of a checkpoint fit a model; names are the model's, as far as it has them."""

    part: str                               # the part of the model that the checkpoint has to fill, "" for all of it
    matching: dict = field(default_factory=dict)        # name -> tensor, to be loaded
    missing: list = field(default_factory=list)         # in that part, not in the checkpoint
    unexpected: list = field(default_factory=list)      # in the checkpoint, not in the model
    mismatched: dict = field(default_factory=dict)      # name -> its shapes or types, in words
    left_out: list = field(default_factory=list)        # missing or unexpected as it should be, such as a classifier
    neutral: list = field(default_factory=list)         # of frequency modules, not in a plain network's checkpoint
    unconvertible: list = field(default_factory=list)   # why entries of a plain network cannot become a module's
    class_change: ClassChange | None = None             # where the checkpoint is of a model with other classes

    def problems(self) -> list[str]:
        """A line for each kind of problem with its count and first names; empty if the checkpoint fits."""
        kinds = {"missing from the checkpoint": self.missing, "not in the model": self.unexpected,
                 "of another shape or type": [f"{name} ({shapes})" for name, shapes in self.mismatched.items()],
                 "cannot be converted": self.unconvertible}
        return [f"{len(names)} {kind}: {first_few(names, LISTED, counted=False)}"
                for kind, names in kinds.items() if names]


def backbone_prefix(keys: Iterable[str], model: nn.Module) -> str | None:
    """What to put before ``keys`` of a checkpoint that holds a backbone alone; None for one that holds a whole model.

    Backbones are saved with or without the prefix ``backbone.``; in a feature pyramid it is ``backbone.bottom_up.``.
    """
    heads = {name for name, _ in model.named_children()} - {"backbone"}
    if not hasattr(model, "backbone") or any(key.partition(".")[0] in heads for key in keys):
        return None
    backbones = [name + "." for name, module in model.named_modules()
                 if name == "backbone" or (name.startswith("backbone.") and isinstance(module, Backbone))]
    model_keys = model.state_dict().keys()
    hits = {prefix: sum(prefix + key in model_keys for key in keys) for prefix in ("", *backbones)}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] else None


def fit_checkpoint(model: nn.Module, checkpoint: Mapping[str, Any], *, whole_model: bool = False,
                   classes: Mapping[str, Any] | None = None) -> Fit:
    """Hold the tensors of `read_checkpoint` against ``model``.

    A plain network's entries become those of the frequency modules in its place (`adapt_plain_state` of
    `freqdino.frequency.plain_state`). ``whole_model``: neither they nor a backbone alone are enough, nor are
    other classes. ``classes``: the model's class tables, by which rows of class layers are carried over (`class_rows`).
    """
    targets = model.state_dict(keep_vars=True)
    tensors = upgrade_keys(checkpoint["model"], targets)
    prefix = None if whole_model else backbone_prefix(tensors, model)
    fit = Fit(part="" if prefix is None else prefix or "backbone.")
    inside = len(fit.part)
    tensors = {(prefix or "") + key: tensor for key, tensor in tensors.items()}
    if not whole_model:
        _adapt_plain_entries(model, tensors, fit)
    for key, tensor in tensors.items():
        if key not in targets:
            expected = COMPUTED.search(key) or (fit.part and CLASSIFIER.match(key[inside:]))
            (fit.left_out if expected else fit.unexpected).append(key)
        elif tensor.shape != targets[key].shape:
            fit.mismatched[key] = f"checkpoint {tuple(tensor.shape)}, model {tuple(targets[key].shape)}"
        elif tensor.is_floating_point() and not targets[key].is_floating_point():
            fit.mismatched[key] = f"checkpoint {tensor.dtype}, model {targets[key].dtype}"
        else:
            fit.matching[key] = tensor
    # A parameter with several names is filled by any of them; .safetensors files keep only one.
    filled = {id(targets[key]) for key in fit.matching}
    for key, target in targets.items():
        if not key.startswith(fit.part) or id(target) in filled or key in fit.mismatched:
            continue
        expected = (COMPUTED.search(key) or (fit.part and OUTPUT_LAYERS.match(key[inside:]))
                    or (checkpoint["caffe2"] and FOLDED_STATISTICS.search(key)))
        (fit.left_out if expected else fit.missing).append(key)
    if not (whole_model or fit.part or fit.missing or fit.unexpected or any(map(not_of_classes, fit.mismatched))):
        fit.class_change = change_classes(tensors, targets, class_tables(checkpoint), classes or {})
    if fit.class_change:
        fit.mismatched.clear()
        fit.matching = {key: tensor for key, tensor in fit.matching.items() if key not in fit.class_change.anew}
        fit.matching.update(fit.class_change.tensors)
    return fit


def not_of_classes(key: str) -> bool:
    return layer_of(key) is None


def _adapt_plain_entries(model, tensors, fit):
    """Let the modules of the part to be filled convert, in ``tensors``, what a plain network has in their place."""
    for prefix, module in modules_with_prefixes(model):
        adapt = getattr(module, "adapt_plain_state", None)
        if adapt is not None and prefix.startswith(fit.part):
            try:
                fit.neutral += adapt(tensors, prefix)
            except ValueError as error:
                fit.unconvertible.append(str(error))


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with loading that says what does not fit.

    partial: load what fits and warn about the rest. whole_model: a backbone alone does not do; ``partial`` is ignored.
    remarks: further entries of every file that is saved, name -> what Python's own types can express. data_config: how
    the model is given its images, which weights that say how they want them are held against.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, partial: bool = False, whole_model: bool = False,
                 remarks: Mapping[str, Any] | None = None, data_config: DataConfig | None = None,
                 **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        self.data_config = data_config
        self.partial, self.whole_model, self.remarks = partial, whole_model, dict(remarks or {})

    def save(self, name: str, **entries: Any) -> None:
        """Write the model, the checkpointables, the remarks and ``entries`` to ``save_dir``/<name>.pth.

        The file appears whole or not at all, and ``last_checkpoint`` names it only then. Raises CheckpointError, with
        the file's name, where it cannot be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        self.save_weights(name, self.model, **states, **entries)
        write_whole(os.path.join(self.save_dir, LAST), lambda file: file.write(f"{name}.pth".encode()))

    def save_weights(self, name: str, model: nn.Module, **entries: Any) -> None:
        """Write ``model``, the remarks and ``entries`` to ``save_dir``/<name>.pth, as `save`; nothing names it."""
        if not self.save_dir or not self.save_to_disk:
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        contents = {"model": model.state_dict(), **self.remarks, **entries}
        write_whole(path, lambda file: torch.save(contents, file))

    def keep_newest(self, count: int, *, iteration: int) -> None:
        """Delete the periodic checkpoints, model_<iteration>.pth, up to ``iteration`` but for the newest ``count``."""
        if not self.save_dir or not self.save_to_disk:
            return
        found = {path: int(match[1]) for path in self._saved_files()
                 if (match := PERIODIC.fullmatch(os.path.basename(path)))}
        older = sorted((path for path in found if found[path] <= iteration), key=found.__getitem__)[:-count]
        for path in older:
            os.unlink(path)

    def load(self, path: str, checkpointables: Iterable[str] | None = None) -> dict[str, Any]:
        """Fill the model from ``path``, whatever `read_weights` knows ("" leaves the model as it is), and restore
        ``checkpointables`` (None: all of them).

        Returns what else the file holds. Raises CheckpointError, and leaves the model alone, if the file does not fit.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: the model starts from random weights")
            return {}
        restored = self.checkpointables if checkpointables is None else checkpointables
        return self._load(path, restored, whole_model=self.whole_model)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With ``resume`` and a checkpoint of a run in ``save_dir`` continue from there, else load ``path``."""
        found = self.read_last() if resume else None
        return self.restore(*found) if found else self.load(path, checkpointables=[])

    def read_last(self) -> tuple[str, dict[str, Any]] | None:
        """(path, contents) of the newest whole checkpoint of the run in ``save_dir``; None where there is no run.

        That is the one that ``last_checkpoint`` names. Where it is gone or damaged, the one with the most iterations of
        those that can be read, and a warning. Raises CheckpointError if there is none that can be.
        """
        named = self.get_checkpoint_file() if self.has_checkpoint() else ""
        damage = None
        if named:
            try:
                return named, read_weights(named)
            except CheckpointError as error:
                damage = error
        others = {path: self._iteration(path) for path in self._saved_files() if path != named}
        for path in sorted((path for path in others if others[path] is not None), key=others.__getitem__, reverse=True):
            try:
                contents = read_checkpoint(path)
            except CheckpointError:
                continue
            reason = damage or f"{self.save_dir} has no file {LAST}."
            self.logger.warning("%s Continuing from %s, after iteration %d", reason, path, others[path])
            return path, contents
        if damage:
            raise CheckpointError(f"{damage} {self.save_dir}/{LAST} names this file: write the name of an "
                                  "intact checkpoint of that folder into it, or delete it to start anew.") from damage
        if others:
            raise CheckpointError(f"{self.save_dir} has no whole checkpoint of a training run that could be resumed: "
                                  f"{first_few(sorted(map(os.path.basename, others)), LISTED)}")
        return None

    def _saved_files(self):
        folder = Path(self.save_dir)
        return [str(path) for path in folder.glob("model_*.pth")] if self.save_dir and folder.is_dir() else []

    def _iteration(self, path):
        """The last iteration that a file of a run holds; None for a file that is damaged or of another kind."""
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return contents["iteration"] if contents.keys() >= {"iteration", *self.checkpointables} else None
        # What a damaged file makes the reader raise is not documented.
        except Exception as error:
            self.logger.warning("%s is passed over, it cannot be read: %s", path, str(error).partition("\n")[0])
            return None

    def restore(self, path: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Fill the whole model and the checkpointables from the contents of ``path``; returns the rest of them."""
        return self._restore(path, checkpoint, self.checkpointables, whole_model=True)

    def _load(self, path, restored, *, whole_model):
        self.logger.info("Loading %s", path)
        return self._take(path, read_weights(path), restored, whole_model=whole_model)

    def load_contents(self, path: str, contents: dict[str, Any]) -> dict[str, Any]:
        """`load` of what `read_weights` gave for ``path`` already; checkpointables are left as they are."""
        return self._take(path, dict(contents), (), whole_model=self.whole_model)

    def _take(self, path, checkpoint, restored, *, whole_model):
        data_config = checkpoint.pop("data_config", None)
        if data_config is not None and self.data_config is not None:
            data_config.check(path, self.data_config)
        stride_in_1x1 = checkpoint.pop("stride_in_1x1", None)
        if stride_in_1x1 is not None:
            self._warn_of_strides("transformers", in_1x1=stride_in_1x1)
        return self._restore(path, checkpoint, restored, whole_model=whole_model)

    def _restore(self, path, checkpoint, restored, *, whole_model):
        absent = [name for name in restored if name not in checkpoint]
        if absent:
            raise CheckpointError(f"{path}: holds no state of the {', '.join(absent)}; only a checkpoint of a training "
                                  "run can be resumed. Without --resume it can start a new one as MODEL.WEIGHTS.")
        self._fill_model(path, checkpoint, whole_model=whole_model)
        for name in restored:
            try:
                self.checkpointables[name].load_state_dict(checkpoint.pop(name))
            except (ValueError, KeyError, RuntimeError) as error:
                raise CheckpointError(f"{path}: its state of the {name} does not fit this configuration: "
                                      f"{error}") from error
        return checkpoint

    def _with_model_names(self, checkpoint):
        """The checkpoint with Detectron2's names in it, if it is torchvision's ResNet and the model Detectron2's."""
        model_names = self.model.state_dict().keys()
        tensors = upgrade_keys(checkpoint["model"], model_names)
        if not is_torchvision_resnet(tensors, model_names):
            return checkpoint
        self.logger.info("The names are those of torchvision's ResNet, whose weights are for RGB images that are "
                         "normalised by ImageNet's mean and standard deviation")
        self._warn_of_strides("torchvision", in_1x1=False)
        return {**checkpoint, "model": with_detectron2_resnet_names(tensors)}

    def _warn_of_strides(self, library, *, in_1x1):
        blocks = [module for module in self.model.modules() if isinstance(module, BottleneckBlock)]
        if blocks and any(block.conv1.stride != (1, 1) for block in blocks) != in_1x1:
            self.logger.warning("The weights of %s are for bottlenecks with the stride in their %s convolution: set "
                                "MODEL.RESNETS.STRIDE_IN_1X1 %s", library, "1 x 1" if in_1x1 else "3 x 3", in_1x1)

    def _fill_model(self, path, checkpoint, *, whole_model):
        name = type(self.model).__name__
        try:
            fit = fit_checkpoint(self.model, self._with_model_names(checkpoint), whole_model=whole_model,
                                 classes=self.remarks.get("classes"))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        problems = fit.problems()
        if problems and (whole_model or not self.partial):
            part = f"the {fit.part[:-1]} of {name}" if fit.part else name
            remedy = ("The configuration must be the one that the checkpoint was trained with." if whole_model else
                      "To load what fits and train the rest from random weights: MODEL.WEIGHTS_PARTIAL True.")
            if path.startswith(HUB_SCHEMES):
                remedy += (f" Where the names alone differ: python tools/convert_weights.py {path} NEW.pth "
                           "--config-file FILE.")
            raise CheckpointError("\n  ".join([f"{path} does not fit {part}:", *problems]) + f"\n{remedy}")
        if not fit.matching.keys() - fit.neutral:
            raise CheckpointError(f"{path}: nothing in it fits {name}")
        self.model.load_state_dict(fit.matching, strict=False)
        if problems:
            loaded = f"MODEL.WEIGHTS_PARTIAL: loaded {len(fit.matching)} tensors of {path}"
            self.logger.warning("\n  ".join([loaded, *problems]))
        if fit.class_change:
            self.logger.info(fit.class_change.line(path))
        if fit.part:
            self.logger.info("Filled %s only; the other parts start from random weights", fit.part[:-1])
        if fit.neutral:
            self.logger.info("The checkpoint is a plain network's: %d tensors of frequency modules start neutral: %s",
                             len(fit.neutral), first_few(fit.neutral, LISTED, counted=False))
        if fit.left_out:
            self.logger.info("Left out, as it should be: %s", ", ".join(fit.left_out))
