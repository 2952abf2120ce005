"""Loading a plain network's state dict into one with frequency modules, whose modules say how.

A module that stands in for a plain one, or is an addition to a plain network, has the method

    adapt_plain_state(state_dict, prefix) -> names

It changes the flat ``state_dict`` (name -> tensor) in place: entries of the plain network under ``prefix``, the dotted
name of the module with a dot behind it, become the module's own, and what a plain network lacks is added so that the
module computes what the plain one did. It returns the names of these neutral additions. Entries that are the module's
own already stay as they are. Raises ValueError, with the name, for an entry that cannot be converted.
"""
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def keep_additions(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, names: tuple[str, ...] = ("",)
                   ) -> list[str]:
    """``adapt_plain_state`` of a module whose entries that start with ``names`` are additions, neutral as they start.

    Where ``state_dict`` holds none of these entries, the module's present ones are added.

    >>> import torch
    >>> state = {"0.weight": torch.ones(2)}
    >>> keep_additions(nn.LayerNorm(2), state, "1.")
    ['1.weight', '1.bias']
    >>> keep_additions(nn.LayerNorm(2), state, "0.")
    []
    """
    if any(key.startswith(tuple(prefix + name for name in names)) for key in state_dict):
        return []
    additions = {prefix + key: value for key, value in module.state_dict().items() if key.startswith(names)}
    state_dict.update(additions)
    return list(additions)


def plain_entry(state_dict: dict[str, Tensor], prefix: str, shape: torch.Size) -> Tensor | None:
    """The plain layer's ``weight`` under ``prefix``, where there is one; ValueError if it is of another shape."""
    plain = state_dict.get(f"{prefix}weight")
    if plain is not None and plain.shape != shape:
        raise ValueError(f"size mismatch for {prefix}weight: copying a param with shape {tuple(plain.shape)} "
                         f"from checkpoint, the plain weight has shape {tuple(shape)}.")
    return plain


class FromPlainState(nn.Module):
    """Base of a module whose ``load_state_dict`` takes a plain one's state dict, by its ``adapt_plain_state``."""

    def adapt_plain_state(self, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
        """See above; nothing is changed where it raises."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        try:
            self.adapt_plain_state(state_dict, prefix)
        except ValueError as error:
            error_msgs.append(str(error))
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)


def modules_with_prefixes(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules inside ``module``, itself first, with what their entries start with in its state dict.

    That is their dotted name, without the name of a part that a module says in ``state_without_name``.
    """
    yield prefix, module
    unnamed = getattr(module, "state_without_name", None)
    for name, child in module.named_children():
        yield from modules_with_prefixes(child, prefix if name == unnamed else f"{prefix}{name}.")
