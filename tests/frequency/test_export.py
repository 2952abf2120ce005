"""The frequency modules alone under torch.export and in ONNX: of any size, and without this project where they run."""
import pytest
import torch

from freqdino.frequency import AttentionInversion, FDConv, FDLinear, FreqFusion, FrequencyScale
from freqdino.frequency.rivals import A2U, CARAFE, FADE, SAPAB, SAPAD, DySample, IndexNet
from helpers.exporting import IMAGES, assert_near, export, loaded, off_its_start, onnx_session, run, sides

MAP = {0: IMAGES, **sides(1, least=2)}
TWICE = {0: IMAGES, **sides(2, least=2)}
TOKENS = {0: IMAGES, 1: torch.export.Dim("tokens", min=2, max=4096)}
# What makes the module; sizes of its inputs, which of them are open; others that the same graph is to serve.
CASES = {
    "FDConv": (lambda: FDConv(20, 24, 3, padding=1, kernel_num=4), [(2, 20, 9, 10)], [MAP],
               [[(1, 20, 64, 33)], [(3, 20, 7, 47)]]),
    "FDConv, strided, in groups": (
        lambda: FDConv(40, 40, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="reflect", kernel_num=4),
        [(2, 40, 9, 10)], [{0: IMAGES, **sides(1, least=5)}], [[(1, 40, 16, 33)], [(3, 40, 31, 5)]]),
    "FDLinear": (lambda: FDLinear(20, 24, kernel_num=4), [(2, 11, 20)], [TOKENS], [[(1, 40, 20)], [(3, 7, 20)]]),
    "AttentionInversion": (lambda: AttentionInversion(32, 4, qkv_bias=True), [(2, 11, 32)], [TOKENS],
                           [[(1, 40, 32)], [(3, 7, 32)]]),
    "FrequencyScale": (lambda: FrequencyScale(32), [(2, 32, 6, 9)], [MAP], [[(1, 32, 14, 14)], [(3, 32, 31, 20)]]),
    "FreqFusion": (lambda: FreqFusion(16, 16, compressed_channels=8, feature_resample=True, lowpass_kernel=3),
                   [(2, 16, 12, 18), (2, 16, 6, 9)], [TWICE, MAP],
                   [[(1, 16, 28, 30), (1, 16, 14, 15)], [(3, 16, 10, 62), (3, 16, 5, 31)]]),
}
CASES |= {
    kind.__name__: (lambda kind=kind: kind(hr_channels=32, lr_channels=32), [(2, 32, 12, 18), (2, 32, 6, 9)],
                    [TWICE, MAP], [[(1, 32, 28, 30), (1, 32, 14, 15)], [(3, 32, 10, 62), (3, 32, 5, 31)]])
    for kind in (CARAFE, IndexNet, A2U, FADE, SAPAB, SAPAD, DySample)}
# The others are in tests of whole networks, or take half a minute.
SLOW = {"FreqFusion", "FDConv, strided, in groups", "CARAFE", "A2U", "FADE", "SAPAB", "SAPAD"}
every_case = pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES])


def random(shapes):
    return tuple(torch.randn(shape) for shape in shapes)


@every_case
def test_a_graph_with_gradients_serves_other_sizes_from_a_file(name):
    make, shapes, dynamic, others = CASES[name]
    module = off_its_start(make())
    program = loaded(export(module, random(shapes), *dynamic))
    for inputs in map(random, others):
        outputs = program(*inputs)
        assert_near(outputs, module(*inputs))
    loss = outputs.square().sum() if isinstance(outputs, torch.Tensor) else sum(map(torch.sum, outputs))
    loss.backward()
    for key, parameter in program.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@every_case
def test_onnx_without_gradients(name):
    make, shapes, dynamic, others = CASES[name]
    module = off_its_start(make())
    with torch.no_grad():
        session = onnx_session(export(module, random(shapes), *dynamic))
        for inputs in map(random, others):
            assert_near(run(session, *inputs), module(*inputs))
