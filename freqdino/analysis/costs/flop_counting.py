"""Counts the FLOPs and activations of whatever runs inside ``with counting(...)``, operator by operator.

Two places are watched: PyTorch's operators, below autograd, so that custom gradient rules hide nothing; and functions
that have several ways to be computed, as a whole: the project's own operators are among them. One of those without a
rule is counted by what it is made of; another operator is not passed over: it is listed with its calls.
"""
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from freqdino.analysis.costs.flop_rules import FUNCTION_RULES, NO_ARITHMETIC, RULES, Rule
from freqdino.ops.registered import RegisteredFunction


class Counts:
    """FLOPs and activations by the part of the model that ran, and the calls of operators that have no rule.

    Activations are the elements of the outputs of convolutions, matrix products, attention, gathers and transforms (a
    complex number is two): fvcore's notion, with the operators that it does not know.
    """

    def __init__(self, current_part: Callable[[], str]):
        self.flops, self.activations, self.uncounted = Counter(), Counter(), Counter()
        self.current_part = current_part
        self.paused = False

    def add(self, rule: Rule, arguments: tuple, options: dict, output) -> None:
        part = self.current_part()
        self.flops[part] += rule.flops(*arguments, **options, output=output)
        if rule.makes_activations:
            made = output if isinstance(output, Tensor) else output[0]
            self.activations[part] += made.numel() * (2 if made.is_complex() else 1)

    def as_one(self, rule: Rule, run: Callable) -> Callable:
        """``run`` counted by the rule, and not by the operators that it calls."""
        def counted(*arguments, **options):
            if self.paused:
                return run(*arguments, **options)
            self.paused = True
            try:
                output = run(*arguments, **options)
            finally:
                self.paused = False
            self.add(rule, arguments, options, output)
            return output
        return counted


class WatchedOperators(TorchDispatchMode):
    """Counts registered operators."""

    def __init__(self, counts: Counts):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.counts.paused:
            return output
        operator = func.overloadpacket
        if operator in RULES:
            self.counts.add(RULES[operator], args, kwargs, output)
        elif not func.is_view and operator not in NO_ARITHMETIC:
            self.counts.uncounted[operator.__name__.strip("_")] += 1
        return output


class WatchedFunctions(TorchFunctionMode):
    """Counts the functions that are computed in several ways, and opens the project's operators without a rule."""

    def __init__(self, counts: Counts):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in FUNCTION_RULES:
            func = self.counts.as_one(FUNCTION_RULES[func], func)
        elif func in RegisteredFunction.of_operator:        # without autograd it would be dispatched as one
            func = RegisteredFunction.of_operator[func].forward
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(current_part: Callable[[], str] = lambda: "") -> Iterator[Counts]:
    """Count what is computed inside, without gradients, for the part that ``current_part`` names at that time."""
    counts = Counts(current_part)
    with WatchedFunctions(counts), WatchedOperators(counts):
        yield counts
