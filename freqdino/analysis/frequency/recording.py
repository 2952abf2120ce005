"""Records what modules of a model are called with and what they return, and nothing of how they compute it."""
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn


class Call(NamedTuple):
    """One call of a module: its positional arguments and its result."""
    module: nn.Module
    args: tuple
    output: object


Calls = Mapping[str, list[Call]]    # name of the module in the model -> its calls, in their order


@contextmanager
def recorded_calls(model: nn.Module, wanted: Callable[[str, nn.Module], bool]) -> Iterator[Calls]:
    """Record the calls of the modules for which ``wanted(name, module)`` holds, while the context lasts."""
    calls = defaultdict(list)

    def recorder(name):
        def record(module, args, output):
            calls[name].append(Call(module, args, output))
        return record

    hooks = [module.register_forward_hook(recorder(name)) for name, module in model.named_modules()
             if wanted(name, module)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
