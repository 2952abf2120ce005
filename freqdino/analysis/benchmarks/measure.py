"""Time and allocation peak of several ways to compute one thing, side by side in one process.

The variants of a case run interleaved (A B A B ...), so that a change in the machine's load meets all of them; the
medians of their times are compared. The peak is what a single run allocates beyond what was there before it, outputs
included: by the profiler's allocation events on the CPU, by the allocator's own counter on CUDA.
"""
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from freqdino.evaluation.tables import growing_table

WARM_UP_RUNS = 2
MIB = 2**20


@dataclass
class Case:
    """One table block: variants are zero-argument callables that do one run, ``baseline`` names the one compared with.

    ``target`` is free text, what the ratio is hoped to be; it is printed beside every variant but the baseline.
    """
    title: str
    variants: dict[str, Callable[[], object]]
    baseline: str
    target: str = ""

    def __post_init__(self):
        if self.baseline not in self.variants:
            raise ValueError(f"case {self.title!r}: baseline {self.baseline!r} is none of {', '.join(self.variants)}")


def without_gradient(run: Callable[[], torch.Tensor]) -> Callable[[], object]:
    return torch.no_grad()(run)


def with_gradient(run: Callable[[], torch.Tensor], inputs: Sequence[torch.Tensor] = (),
                  gradient: torch.Tensor | None = None) -> Callable[[], object]:
    """The run and its backward pass: from ``gradient`` to ``inputs``, without them from the sum to every parameter."""
    if gradient is None:
        return lambda: run().sum().backward()
    return lambda: torch.autograd.grad(run(), inputs, gradient)


@dataclass
class Measurement:
    seconds: float
    peak_bytes: int


def measure(case: Case, device: torch.device, repeats: int) -> dict[str, Measurement]:
    """Median seconds and allocation peak of every variant of the case."""
    for run in case.variants.values():
        for _ in range(WARM_UP_RUNS):
            run()
    seconds = {name: [] for name in case.variants}
    for _ in range(repeats):
        for name, run in case.variants.items():
            seconds[name].append(run_seconds(run, device))
    return {name: Measurement(statistics.median(seconds[name]), allocation_peak(run, device))
            for name, run in case.variants.items()}


def run_seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def allocation_peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that one run allocates at its highest point, beyond what was allocated before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Profiler clears events at the end of each cycle")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    # The trace's order is not that of time.
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    allocated = peak = 0
    for _, change in changes:
        allocated += change
        peak = max(peak, allocated)
    return peak


def table(cases: Iterable[Case], device: torch.device, repeats: int) -> Iterator[str]:
    """The lines of a Markdown table, each case's as soon as it is measured; ratios above 1 favour the variant."""
    return growing_table(["case", "variant", "time ms", "× faster", "peak MiB", "× less memory", "target"],
                         (rows_of(case, measure(case, device, repeats)) for case in cases), text=(0, 1, 6))


def rows_of(case: Case, measurements: dict[str, Measurement]) -> list[list]:
    baseline = measurements[case.baseline]
    return [[case.title, name, one.seconds * 1e3, ratio(baseline.seconds, one.seconds),
             one.peak_bytes / MIB, ratio(baseline.peak_bytes, one.peak_bytes),
             "baseline" if name == case.baseline else case.target] for name, one in measurements.items()]


def ratio(baseline: float, variant: float) -> float | None:
    return baseline / variant if variant else None
