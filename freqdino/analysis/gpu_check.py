"""Whether this project computes on a device what it computes on the CPU, and what that costs there.

Each part is a function of the device and the size of the pictures that yields rows (what, result, whether it is right,
or None where that is not judged). With device cpu the parts rehearse, on the references themselves.
"""
import logging
import platform
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import detectron2
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from freqdino.analysis.benchmarks.measure import MIB, allocation_peak, run_seconds
from freqdino.config import load_config
from freqdino.errors import ending
from freqdino.ops.backends import c_compiler
from freqdino.ops.carafe import TRITON, carafe
from freqdino.ops.ms_deform_attn import ms_deform_attn
from freqdino.ops.ms_deform_attn_fused import DEFORMOPS

logger = logging.getLogger(__name__)
Row = tuple[str, str, bool | None]
TYPES = (torch.float32, torch.float16, torch.bfloat16)
EVERY_MODULE = ["MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED", "True", "MODEL.SEM_SEG_HEAD.FDAM.ENABLED", "True",
                "MODEL.BACKBONE.FDCONV.ENABLED", "True", "MODEL.BACKBONE.FDAM.ENABLED", "True"]
FAMILIES = {"Mask2Former": "quickstart/mask2former.yaml", "Mask DINO": "quickstart/maskdino.yaml"}
# With the most often that the host may wait for the device in a step.
LARGE = {"Mask2Former R50": ("coco/instance/mask2former_r50.yaml", 110),
         "Mask DINO R50": ("coco/instance/maskdino_r50_4s.yaml", 190)}
STEPS = {"cuda": 20, "cpu": 2}      # a CPU's half precision takes seconds a step


def machine(device: torch.device, size: int) -> Iterator[Row]:
    """Versions, the device, what the kernels need."""
    yield "Python, system", f"{platform.python_version()}, {platform.system()} {platform.machine()}", None
    yield "torch, CUDA, cuDNN", f"{torch.__version__}, {torch.version.cuda}, {torch.backends.cudnn.version()}", None
    yield "Detectron2", detectron2.__version__, None
    yield "C compiler", c_compiler() or "none", None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield "device", f"{properties.name}, {properties.total_memory // MIB:,d} MiB, capability " \
                        f"{properties.major}.{properties.minor}", None
        yield "TF32 of convolutions, products", f"{torch.backends.cudnn.allow_tf32}, " \
                                                f"{torch.backends.cuda.matmul.allow_tf32}", None


def operators(device: torch.device, size: int) -> Iterator[Row]:
    """Fused kernels in their trials; PyTorch's paths against the definitions on the CPU, and against themselves."""
    for kernel in (DEFORMOPS, TRITON):
        for dtype in TYPES:
            reason = kernel.reason_against(device, dtype)
            yield f"{kernel.name}, {dtype}", reason or "agrees with the definition", reason is None or None
    generator = torch.Generator().manual_seed(1)
    value, mask = torch.randn(2, 64, 8, 32, generator=generator), torch.rand(2, 9, 16, 16, generator=generator)
    places = torch.rand(2, 64, 8, 1, 4, 2, generator=generator)
    weights = torch.rand(2, 64, 8, 1, 4, generator=generator)
    maps = torch.randn(2, 32, 16, 16, generator=generator)
    for name, operator, inputs in (
        ("deformable attention", lambda *tensors: ms_deform_attn(tensors[0], [(8, 8)], *tensors[1:], operators="torch"),
         (value, places, weights)),
        ("CARAFE", lambda *tensors: carafe(*tensors, 3, 1, 1, operators="torch"), (maps, mask)),
    ):
        expected, first, second = (results_of(operator, inputs, where) for where in ("cpu", device, device))
        error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(first, expected))
        yield f"{name} by PyTorch's operators", f"differs from the CPU by {error:.1e}", error < 1e-4
        equal = all(map(torch.equal, first, second))
        yield f"{name} twice", "the same bit for bit" if equal else "differs", equal


def results_of(operator: Callable[..., Tensor], inputs: tuple[Tensor, ...], device: torch.device | str) -> list[Tensor]:
    """The value and the gradients of its sum of squares, on the CPU."""
    inputs = [tensor.to(device).requires_grad_() for tensor in inputs]
    output = operator(*inputs)
    return [tensor.detach().cpu() for tensor in (output, *torch.autograd.grad(output.square().sum(), inputs))]


def model_of(leaf: str, device: torch.device, *options: str) -> nn.Module:
    """The leaf's model with random weights, the same ones every time."""
    torch.manual_seed(0)
    return build_model(load_config(leaf, ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", "", *options]))


def scene(size: int, objects: int) -> dict:
    """A random picture with rectangles, and what a model learns of it."""
    instances = Instances((size, size))
    masks = torch.zeros(objects, size, size, dtype=torch.bool)
    for index in range(objects):
        masks[index, index * size // (objects + 1):, index * size // (2 * objects):] = True
    instances.gt_masks, instances.gt_classes = BitMasks(masks), torch.zeros(objects, dtype=torch.int64)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return {"image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8), "instances": instances}


def models(device: torch.device, size: int) -> Iterator[Row]:
    """Both families with every module: results as on the CPU, a finite gradient of every parameter."""
    for name, leaf in FAMILIES.items():
        batch = [scene(128, 3), scene(128, 1)]
        scores = []
        for where in (torch.device("cpu"), device):
            model = model_of(leaf, where, *EVERY_MODULE)
            with torch.no_grad():
                results = model.eval()(batch)
            scores.append(torch.cat([result["instances"].scores.cpu().sort().values for result in results]))
        error = float((scores[0] - scores[1]).abs().max())
        yield f"{name} with every module, scores", f"differ from the CPU by {error:.1e}", error < 1e-2
        with EventStorage():
            sum(model.train()(batch).values()).backward()
        bad = [key for key, parameter in model.named_parameters()
               if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())]
        yield f"{name} with every module, gradients", f"missing or not finite: {', '.join(bad[:3]) or 'none'}", not bad


def mixed_precision(device: torch.device, size: int) -> Iterator[Row]:
    """Steps of the quickstart's Mask2Former in half precision: finite losses, the course of the loss scale."""
    for dtype in TYPES[1:]:
        model = model_of(FAMILIES["Mask2Former"], device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        losses, scales, steps = [], [scaler.get_scale()], STEPS[device.type]
        for _ in range(steps):
            with EventStorage(), torch.autocast(device.type, dtype):
                loss = sum(model([scene(128, 3), scene(128, 2)]).values())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
            scales.append(scaler.get_scale())
        finite = bool(torch.stack(losses).isfinite().all())
        lowered = sum(after < before for before, after in zip(scales, scales[1:]))
        yield f"{steps} steps in {dtype}", f"loss {float(losses[0]):.1f} to {float(losses[-1]):.1f}, scale lowered " \
                                           f"{lowered} times", finite and lowered <= steps // 2


@contextmanager
def counted_waits() -> Iterator[Counter]:
    """Counts, by file and line, what CUDA's debug mode warns of as waiting for the device."""
    waits: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits.update(f"{warning.filename.rpartition('/')[2]}:{warning.lineno}" for warning in caught
                 if "synchronizing" in str(warning.message))


def costs(device: torch.device, size: int) -> Iterator[Row]:
    """A training step of the full-size models: time, memory, waits."""
    for name, (leaf, most_waits) in LARGE.items():
        model = model_of(leaf, device).train()
        batch = [scene(size, 12)]

        def step() -> None:
            with EventStorage(), torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                losses = model(batch)
            model.zero_grad()
            sum(losses.values()).backward()

        step()
        seconds = sorted(run_seconds(step, device) for _ in range(3))[1]
        yield f"{name}, {size}², a step", f"{seconds:.3f} s, {allocation_peak(step, device) // MIB:,d} MiB", None
        if device.type == "cuda":
            with counted_waits() as waits:
                step()
            most = ", ".join(f"{count} {place}" for place, count in waits.most_common(4))
            yield f"{name}, waits of a step", f"{sum(waits.values())}: {most}", sum(waits.values()) <= most_waits


PARTS = {"machine": machine, "operators": operators, "models": models, "mixed precision": mixed_precision,
         "costs": costs}


def rows_of(part: str, device: torch.device, size: int) -> list[Row]:
    """The part's rows; what it ends in is one that is wrong."""
    found = []
    try:
        for row in PARTS[part](device, size):
            found.append(row)
    except Exception as error:      # the other parts shall run
        found.append((part, ending(error), False))
        logger.warning("%s", part, exc_info=True)
    return found
