"""The frequency modules against what the published implementations computed: outputs, and all gradients."""
import pytest
import torch

from freqdino.frequency import AttentionInversion, FDAMVisionTransformer, FDConv, FreqFusion, FrequencyScale
from freqdino.frequency.fdconv import conv
from helpers.golden import assert_agrees, load_golden, subset


def fdam_vit(*, init_scale, use_simple_fpn, **arguments):
    return FDAMVisionTransformer(init_values=init_scale, **arguments)


# name -> module, its inputs, its outputs.
MODULES = {
    "attinv": (AttentionInversion, ["x"], ["y"]),
    "freqscale": (FrequencyScale, ["x"], ["y"]),
    "freqscale_resized": (FrequencyScale, ["x"], ["y"]),
    "fdam_vit": (fdam_vit, ["x"], ["f0", "f1"]),
    **{f"fdconv_{kind}": (FDConv, ["x"], ["y"]) for kind in ("k1", "k3", "k3_train", "small_map")},
    **{f"freqfusion_{kind}": (FreqFusion, ["hr", "lr"], ["lowpass_mask", "hr", "lr"])
       for kind in ("default", "mask2former", "no_semi", "resample")},
}
# FDConv whatever the map's size: as a matrix product, and as a convolution.
CASES = [(name, small_map) for name in MODULES for small_map in ([0, 10**9] if "fdconv" in name else [None])]


@pytest.mark.parametrize("name, small_map", CASES)
def test_published_numbers(name, small_map, monkeypatch):
    monkeypatch.setattr(conv, "SMALL_MAP", small_map)
    tensors, case = load_golden(f"modules/{name}")
    make, inputs, outputs = MODULES[name]
    module = make(**case["args"]).train(case.get("train", False))
    buffers = subset(tensors, "buffer.")
    if make is FreqFusion:
        for key, value in buffers.items():
            assert_agrees(module.get_buffer(key), value, key)
    module.load_state_dict(subset(tensors, "param.") | buffers, strict=True)
    if make is FDConv:
        assert torch.equal(module.group_map.long(), tensors["group_map"])
    leaves = {f"input.{key}": tensors[f"input.{key}"].requires_grad_() for key in inputs}
    leaves |= {f"param.{key}": parameter for key, parameter in module.named_parameters()}
    assert {f"grad.{key}" for key in leaves} == {key for key in tensors if key.startswith("grad.")}

    def assert_outputs_agree():
        found = module(*list(leaves.values())[:len(inputs)])
        found = [found] if isinstance(found, torch.Tensor) else found
        for key, output in zip(outputs, found, strict=True):
            assert_agrees(output, tensors[f"output.{key}"], key)
        return found

    torch.autograd.backward(assert_outputs_agree(), [tensors[f"cotangent.{key}"] for key in outputs])
    for key, leaf in leaves.items():
        assert_agrees(leaf.grad, tensors[f"grad.{key}"], f"gradient of {key}")
    with torch.no_grad():
        assert_outputs_agree()
