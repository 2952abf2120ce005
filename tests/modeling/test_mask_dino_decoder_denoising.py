"""Denoising queries in Mask DINO's decoder: where they start, and that they change nothing but themselves."""
import pytest
import torch
import torch.nn.functional as F

from helpers.modules import randomised
from helpers.small_mask_dino_decoder import DIM, KEYS, OPTIONS, decoder, inputs, targets


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("labels", [([0, 2], [1]), ([], [1, 1, 1]), ([0] * 9, [])])
def test_denoising_queries_do_not_change_the_others(options, labels):
    module, arguments = randomised(decoder(**options)).eval(), inputs()
    alone, beside = module(*arguments), module(*arguments, targets(*labels))
    assert "denoising" in beside
    for a, b in zip([alone, *alone["aux_outputs"]], [beside, *beside["aux_outputs"]]):
        for key in KEYS:
            assert torch.allclose(a[key], b[key], atol=1e-5)


def test_groups_do_not_change_each_other():
    module, arguments = randomised(decoder(noise_scale=0.0)).eval(), inputs()
    known, _ = module(*arguments, targets([0, 2], [1, 0]))["denoising"]
    for prediction in known:            # without noise the three groups ask the same
        for key in ("pred_logits", "pred_boxes"):
            groups = prediction[key].unflatten(1, (3, 2))
            assert torch.allclose(groups, groups[:, :1].expand_as(groups), atol=1e-5)


def test_denoising_starts_from_labels_and_boxes():
    module, truth = decoder(noise_scale=0.0), targets([2, 0], [1])
    first = module(*inputs(), truth)["denoising"][0][0]
    labels = torch.stack((module.label_enc.weight[[2, 0]], torch.stack((module.label_enc.weight[1], torch.zeros(DIM)))))
    normed = F.layer_norm(labels, (DIM,))
    expected = normed @ module.class_embed.weight.T + module.class_embed.bias
    assert torch.allclose(first["pred_logits"][:, :2], expected, atol=1e-5)
    used, unused = torch.tensor([0.5, 0.5, 0.2, 0.4]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert torch.allclose(first["pred_boxes"][:, :2], torch.stack((used, used, used, unused)).view(2, 2, 4), atol=1e-5)


@pytest.mark.parametrize(("options", "truth"), [({}, ([], [])), ({"num_denoising": 0}, ([0], [1]))])
def test_label_embedding_has_a_gradient_without_denoising(options, truth):
    module = decoder(**options)
    outputs = module.train()(*inputs(), targets(*truth))
    assert "denoising" not in outputs
    outputs["pred_logits"].sum().backward()
    assert torch.equal(module.label_enc.weight.grad, torch.zeros(3, DIM))
