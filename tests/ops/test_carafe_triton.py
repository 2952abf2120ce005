"""CARAFE's Triton kernels without a GPU: run by the interpreter against the definition, and compiled ahead of time."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freqdino.ops.carafe import carafe_reference

triton = pytest.importorskip("triton", reason="there is no Triton for this system")

GEOMETRIES = [  # shape, kernel size, groups, upsampling factor
    ((2, 4, 2, 7), 3, 1, 1),
    ((2, 4, 3, 2), 5, 2, 2),
    ((1, 2, 2, 3), 3, 2, 3),
    ((1, 4, 1, 1), 5, 2, 1),   # a map smaller than the kernel
    ((2, 4, 1, 9), 1, 1, 2),
    ((1, 34, 1, 66), 3, 2, 1),  # more than one block of channels and of pixels, both cut
]
TOLERANCE = {torch.float64: 1e-12, torch.float16: 2e-3}
POINTERS = {torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
BLOCKS = 3      # that a multiprocessor has room for at once, with any compiler since Triton 3.2
SHARED, REGISTERS = 64 * 1024, 64 * 1024    # bytes, which leaves the rest to its cache; registers of 32 bits


# torch's own checks of a registered operator: schema, gradient, fake tensors, tracing.
OPCHECK = """
import torch
from freqdino.ops.carafe_triton import carafe_output
inputs = [torch.randn(1, 2, 1, 2, requires_grad=True), torch.randn(1, 1, 2, 4, requires_grad=True)]
torch.library.opcheck(carafe_output, (*inputs, 1, 1, 2))
"""
# Triton decides when it is imported whether kernels are interpreted.
CALLS = """
import sys, torch
from freqdino.ops import carafe_triton
torch.save([getattr(carafe_triton, name)(*arguments) for name, arguments in torch.load(sys.argv[1])], sys.argv[2])
"""


def interpreted(folder, calls):
    """The results of calls (function's name, arguments) in a process whose kernels are interpreted."""
    torch.save(calls, folder / "calls.pt")
    subprocess.run([sys.executable, "-c", CALLS, folder / "calls.pt", folder / "results.pt"], check=True,
                   env={**os.environ, "TRITON_INTERPRET": "1"})
    return torch.load(folder / "results.pt")


def arguments(shape, kernel_size, group, up, dtype):
    batch, channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in (
        shape, (batch, group * kernel_size**2, height * up, width * up), (batch, channels, height * up, width * up))]


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_interpreted_value_and_gradients_agree_with_the_definition(dtype, tmp_path):
    calls, expected = [], []
    for shape, *geometry in GEOMETRIES:
        x, mask, grad_output = arguments(shape, *geometry, dtype)
        calls += [("carafe_output", (x, mask, *geometry)),
                  ("carafe_input_gradient", (grad_output, x, mask, *geometry)),
                  ("carafe_mask_gradient", (grad_output, x, mask, *geometry))]
        inputs = x.double().requires_grad_(), mask.double().requires_grad_()
        output = carafe_reference(*inputs, *geometry)
        expected += [output.detach(), *torch.autograd.grad(output, inputs, grad_output.double())]
    for actual, right in zip(interpreted(tmp_path, calls), expected, strict=True):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), right, rtol=TOLERANCE[dtype],
                                   atol=TOLERANCE[dtype] * float(right.abs().max()))


def test_opcheck():
    subprocess.run([sys.executable, "-c", OPCHECK], check=True, env={**os.environ, "TRITON_INTERPRET": "1"})


def test_layout_strides_and_empty_maps(tmp_path):
    x, mask, _ = arguments((2, 4, 3, 5), 3, 1, 1, torch.float64)
    ones = torch.ones((), dtype=torch.float64).expand(2, 4, 3, 5)    # the gradient of a sum
    last = x.to(memory_format=torch.channels_last)
    no_image, mask_of_none, _ = arguments((0, 4, 3, 3), 3, 1, 1, torch.float32)
    no_channel, mask_alone, nothing = arguments((1, 0, 3, 3), 3, 1, 1, torch.float32)
    expected = carafe_reference(x, mask, 3, 1, 1)
    grad_mask, in_channels_last, of_no_image, of_no_channel = interpreted(tmp_path, [
        ("carafe_mask_gradient", (ones, x, mask, 3, 1, 1)), ("carafe_output", (last, mask, 3, 1, 1)),
        ("carafe_output", (no_image, mask_of_none, 3, 1, 1)),
        ("carafe_mask_gradient", (nothing, no_channel, mask_alone, 3, 1, 1))])
    # Every output pixel adds the channels of a tap's pixel to that tap's gradient: their sum, 0 outside the map.
    torch.testing.assert_close(grad_mask[:, 4], x.sum(dim=1))
    assert torch.equal(grad_mask[:, 0, 0], torch.zeros(2, 5, dtype=torch.float64))
    torch.testing.assert_close(in_channels_last, expected)
    assert in_channels_last.is_contiguous(memory_format=torch.channels_last)
    assert of_no_image.shape == (0, 4, 3, 3)
    assert of_no_channel.shape == (1, 9, 3, 3) and not of_no_channel.any()


@pytest.mark.parametrize("dtype", POINTERS)
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_ahead_of_time_without_spills_or_atomics(dtype, capability, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from freqdino.ops import carafe_triton

    sums = carafe_triton.TYPES[torch.promote_types(dtype, torch.float32)]
    block = dict(GROUP_CHANNELS=256, KERNEL=5, UP=2, SUM=sums, PIXELS=64)
    for kernel, last in ((carafe_triton.output_kernel, {"CHANNELS": 16}),
                         (carafe_triton.input_gradient_kernel, {"CHANNELS": 16}),
                         (carafe_triton.mask_gradient_kernel, {"TAPS": 32})):
        # A contiguous map: pixels of a row lie beside each other.
        constants = block | last | {name: 1 for name in kernel.arg_names if name.endswith("_column")}
        tensors = ("x", "mask", "output", "grad_output", "grad_mask", "grad_x")
        signature = {name: "constexpr" if name in constants else POINTERS[dtype] if name in tensors else "i32"
                     for name in kernel.arg_names}
        compiled = triton.compile(ASTSource(kernel, signature, constants),
                                  target=GPUTarget("cuda", capability, 32), options={"num_warps": carafe_triton.WARPS})
        assert BLOCKS * compiled.metadata.shared <= SHARED
        assert not re.search(r"\b(atom|red)\.", compiled.asm["ptx"])
        ptx = tmp_path / f"{kernel.__name__}.ptx"
        ptx.write_text(compiled.asm["ptx"])
        ptxas = next((Path(triton.__file__).parent / "backends" / "nvidia" / "bin").glob("ptxas"))
        report = subprocess.run([ptxas, "-v", f"--gpu-name=sm_{capability}{'a' * (capability == 90)}", ptx,
                                 "-o", tmp_path / "cubin"], capture_output=True, text=True, check=True).stderr
        registers = int(re.search(r"Used (\d+) registers", report).group(1))
        assert "0 bytes spill stores, 0 bytes spill loads" in report
        assert BLOCKS * carafe_triton.WARPS * 32 * registers <= REGISTERS, report
