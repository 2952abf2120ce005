"""The two styles of names in Mask2Former's checkpoints, told by the names alone, and parallel wrappers' prefix."""
from collections.abc import Collection, Mapping
from typing import Any

from freqdino.errors import CheckpointError


def upgrade_keys(tensors: Mapping[str, Any], model_keys: Collection[str]) -> dict[str, Any]:
    """``tensors`` (name -> tensor) under the names of ``model_keys``: a new dictionary that shares the tensors.

    Drops the prefix ``module.`` of parallel wrappers. In a model with ``sem_seg_head.pixel_decoder``, Mask2Former's
    first key style ``sem_seg_head.X`` becomes ``sem_seg_head.pixel_decoder.X`` unless X starts with the name of a part
    of the head, and the predictor's ``static_query`` becomes ``query_feat``. Raises CheckpointError if two names become
    one.
    """
    head = "sem_seg_head."
    head_parts = {key.split(".")[1] for key in model_keys if key.startswith(head)}
    wrapped = all(name.startswith("module.") for name in tensors)
    upgraded = {}
    for name, tensor in tensors.items():
        key = name.removeprefix("module.") if wrapped else name
        if "pixel_decoder" in head_parts and key.startswith(head):
            inner = key.removeprefix(head)
            if inner.split(".")[0] not in head_parts:
                inner = "pixel_decoder." + inner
            key = head + inner.replace("predictor.static_query.", "predictor.query_feat.")
        if key in upgraded:
            raise CheckpointError(f"two entries of the checkpoint mean {key}; one of them is {name}")
        upgraded[key] = tensor
    return upgraded
