"""Mask DINO's decoder: which tokens become queries, how boxes are refined and learn, masks, options."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqdino.modeling.query_selection import box_logits_from_masks
from helpers.modules import randomised
from helpers.refusals import refuses
from helpers.small_mask_dino_decoder import DIM, KEYS, OPTIONS, SIZES, decoder, inputs, targets


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("with_targets", [False, True])
def test_shapes_and_number_of_predictions(options, with_targets):
    outputs = decoder(**options)(*inputs(), targets([0, 2], [1]) if with_targets else None)
    predictions = [outputs, *outputs["aux_outputs"]]
    assert len(predictions) == 4
    assert ("interm_outputs" in outputs) == (options.get("two_stage") is not False)
    if "interm_outputs" in outputs:
        predictions.append(outputs["interm_outputs"])
    for prediction in predictions:
        assert [tuple(prediction[key].shape) for key in KEYS] == [(2, 5, 3), (2, 5, 16, 24), (2, 5, 4)]
        assert all(prediction[key].dtype == torch.float32 and prediction[key].isfinite().all() for key in KEYS)
        assert prediction["pred_boxes"].min() >= 0 and prediction["pred_boxes"].max() <= 1
    if not with_targets:
        assert "denoising" not in outputs
        return
    known, noised = outputs["denoising"]
    assert noised.groups == 3 and len(known) == 4
    for prediction in known:
        assert [tuple(prediction[key].shape) for key in KEYS] == [(2, 6, 3), (2, 6, 16, 24), (2, 6, 4)]


def test_proposal_is_the_anchor_of_the_best_token():
    module, (levels, mask_features) = decoder(num_queries=1), inputs(batch=1)
    with torch.no_grad():
        module.enc_output.weight.copy_(torch.eye(DIM))
        module.enc_output.bias.zero_()
        module.class_embed.bias.zero_()
    direction = F.layer_norm(module.class_embed.weight[1].detach(), (DIM,))
    levels[1][0, :, 2, 4] = 5 * direction               # row 2, column 4 of the level of 4 by 6
    proposal = module.eval()(levels, mask_features)["interm_outputs"]
    assert proposal["pred_logits"][0, 0].argmax() == 1
    # The finest level comes first with sides of 0.05, this one is the second. The box head starts at zero.
    assert torch.allclose(proposal["pred_boxes"][0, 0], torch.tensor([4.5 / 6, 2.5 / 4, 0.1, 0.1]), atol=1e-5)


def test_tokens_at_the_border_of_a_wide_map_are_not_chosen_for_what_they_show():
    # The first of 60 columns is nearer to the border than 0.01: its token is blanked, so that the second best wins.
    module, (levels, mask_features) = decoder(num_queries=1, num_levels=1), inputs(batch=1, sizes=[(1, 60)])
    with torch.no_grad():
        module.enc_output.weight.copy_(torch.eye(DIM))
        module.enc_output.bias.zero_()
        module.class_embed.bias.zero_()
    direction = F.layer_norm(module.class_embed.weight[1].detach(), (DIM,))
    levels[0][0, :, 0, 0] = 5 * direction
    levels[0][0, :, 0, 30] = 5 * direction + 0.3 * torch.randn(DIM)
    box = module.eval()(levels, mask_features)["interm_outputs"]["pred_boxes"][0, 0]
    assert torch.allclose(box, torch.tensor([30.5 / 60, 0.5, 0.05, 0.05]), atol=1e-5)


def test_levels_are_read_in_reverse():
    # Listed fine to coarse, the one coarse token has the smallest anchor, as in the published weights.
    module = decoder(num_queries=21, num_levels=3).eval()
    levels, mask_features = inputs(batch=1, sizes=[(4, 4), (2, 2), (1, 1)])
    boxes = module(levels, mask_features)["interm_outputs"]["pred_boxes"][0]
    counts = {round(side, 3): int((boxes[:, 2] - side).abs().lt(1e-3).sum()) for side in (0.05, 0.1, 0.2)}
    assert counts == {0.05: 1, 0.1: 4, 0.2: 16}


def test_first_queries_are_the_proposals_cut_from_the_gradient():
    module, (levels, mask_features) = randomised(decoder()), inputs()
    outputs = module(levels, mask_features)
    first, proposal = outputs["aux_outputs"][0], outputs["interm_outputs"]
    for key in KEYS:
        assert torch.allclose(first[key], proposal[key], atol=1e-5)
    # Later predictions do not train the selection, the proposals do.
    outputs["pred_logits"].sum().backward(retain_graph=True)
    assert module.enc_output.weight.grad is None
    proposal["pred_logits"].sum().backward()
    assert module.enc_output.weight.grad.any()


@pytest.mark.parametrize("kind", ["bitmask", "mask2box"])
def test_first_boxes_are_those_of_the_proposed_masks(kind):
    module, (levels, mask_features) = randomised(decoder(box_initialisation=kind)), inputs()
    outputs = module(levels, mask_features)
    expected = box_logits_from_masks(outputs["interm_outputs"]["pred_masks"], kind).sigmoid()
    assert torch.equal(outputs["aux_outputs"][0]["pred_boxes"], expected)
    assert not outputs["aux_outputs"][0]["pred_boxes"].requires_grad


@pytest.mark.parametrize("options", [{"two_stage": False}, {"learn_content": True}])
def test_learned_queries_are_the_same_for_every_image(options):
    module = decoder(**options)
    first = module(*inputs())["aux_outputs"][0]
    normed = F.layer_norm(module.query_feat.weight, (DIM,))
    expected = normed @ module.class_embed.weight.T + module.class_embed.bias
    assert torch.allclose(first["pred_logits"], expected.expand(2, -1, -1), atol=1e-5)
    if not module.two_stage:
        assert torch.allclose(first["pred_boxes"], module.query_embed.weight.sigmoid().expand(2, -1, -1))


def test_the_norm_is_applied_twice_before_the_heads():
    module = randomised(decoder(), std=0.5)
    contents = []
    for layer in module.decoder.layers:
        layer.register_forward_hook(lambda _, arguments, content: contents.append(content))
    outputs = module(*inputs())
    for content, prediction in zip(contents, [*outputs["aux_outputs"][1:], outputs], strict=True):
        norm = module.decoder_norm
        twice = F.layer_norm(F.layer_norm(content, (DIM,), norm.weight, norm.bias), (DIM,), norm.weight, norm.bias)
        expected = twice @ module.class_embed.weight.T + module.class_embed.bias
        assert torch.allclose(prediction["pred_logits"], expected, atol=1e-4)


def test_predicted_boxes_come_from_the_norm_and_the_next_layers_from_the_content():
    module = randomised(decoder(two_stage=False, num_layers=2))
    contents, starts = [], []
    for layer in module.decoder.layers:
        layer.register_forward_pre_hook(lambda _, arguments: starts.append(arguments[2]))
        layer.register_forward_hook(lambda _, arguments, content: contents.append(content))
    outputs = module(*inputs())
    first, second = contents
    start = module.query_embed.weight
    norm = module.decoder_norm

    def corrections(content):
        return module._bbox_embed(F.layer_norm(content, (DIM,), norm.weight, norm.bias))

    assert torch.allclose(outputs["aux_outputs"][1]["pred_boxes"], (start + corrections(first)).sigmoid(), atol=1e-5)
    refined = start + module._bbox_embed(first)
    assert torch.allclose(starts[1], refined.sigmoid(), atol=1e-5)
    assert torch.allclose(outputs["pred_boxes"], (refined + corrections(second)).sigmoid(), atol=1e-5)


class BoxHeadOfConstants(nn.Module):
    """Gives a new leaf tensor of corrections at every call, and remembers them."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, x):
        self.given.append(torch.randn(*x.shape[:-1], 4).mul(0.1).requires_grad_())
        return self.given[-1]


def test_boxes_look_forward_twice():
    module = decoder(two_stage=False, num_layers=3)
    module._bbox_embed = head = BoxHeadOfConstants()
    outputs = module(*inputs())
    # Each layer asks twice: for its prediction from the normalised content, and for the start of the next layer.
    predicted, refined = head.given[::2], head.given[1::2]
    boxes = [prediction["pred_boxes"].logit() for prediction in (*outputs["aux_outputs"][1:], outputs)]
    start = module.query_embed.weight.detach()
    for layer in range(3):
        assert torch.allclose(boxes[layer], start + sum(refined[:layer]) + predicted[layer], atol=1e-4)
    # The last prediction corrects the boxes of layer 2 before their gradient is cut, not those of layer 1.
    gradients = torch.autograd.grad(boxes[2].sum(), [predicted[2], refined[1], refined[0], predicted[1]],
                                    allow_unused=True)
    assert torch.allclose(gradients[0], torch.ones(2, 5, 4), atol=1e-3)
    assert torch.allclose(gradients[1], torch.ones(2, 5, 4), atol=1e-3)
    assert gradients[2] is None and gradients[3] is None
    # Where the next layer looks is cut from the gradient.
    assert torch.autograd.grad(outputs["pred_logits"].sum(), refined[1], allow_unused=True) == (None,)


def test_one_box_head_under_all_published_names():
    module = decoder(num_layers=3)
    state = module.state_dict()
    names = ["_bbox_embed", *(f"{prefix}bbox_embed.{i}" for prefix in ("", "decoder.") for i in range(3))]
    for key in (f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")):
        assert len({state[f"{name}.{key}"].data_ptr() for name in names}) == 1
    assert {name.rsplit(".layers", 1)[0] for name in state if "bbox_embed" in name} == set(names)
    assert state["decoder.norm.weight"].data_ptr() == state["decoder_norm.weight"].data_ptr()
    parameters = [name for name, _ in module.named_parameters() if "bbox_embed" in name]
    assert len(parameters) == 6                         # optimisers meet each of them once


@pytest.mark.parametrize(("options", "learned"), [
    ({}, {"enc_output", "enc_output_norm"}), ({"learn_content": True}, {"enc_output", "enc_output_norm", "query_feat"}),
    ({"two_stage": False}, {"query_feat", "query_embed"})])
def test_keys_that_the_options_decide(options, learned):
    found = {key.split(".")[0] for key in decoder(**options).state_dict()}
    assert found & {"enc_output", "enc_output_norm", "query_feat", "query_embed"} == learned


@pytest.mark.parametrize("options", OPTIONS)
def test_masks_are_computed_when_looked_at(options):
    outputs = decoder(**options).eval()(*inputs())
    predictions = [outputs.last, *outputs.auxiliary, *([outputs.proposals] if outputs.proposals else [])]
    assert all("pred_masks" in prediction and "masks" not in vars(prediction) for prediction in predictions)


def test_masks_are_dot_products():
    module, (levels, mask_features) = decoder(two_stage=False), inputs()
    first = module(levels, mask_features)["aux_outputs"][0]
    embedding = module.mask_embed(F.layer_norm(module.query_feat.weight, (DIM,)))
    expected = (embedding[None, :, :, None, None] * mask_features[:, None]).sum(dim=2)
    assert torch.allclose(first["pred_masks"], expected, atol=1e-5)


@pytest.mark.parametrize("with_targets", [False, True])
def test_without_the_initial_prediction(with_targets):
    options, arguments = {"num_layers": 3, "noise_scale": 0.0}, inputs()
    full, less = decoder(**options), decoder(**options, initial_prediction=False)
    less.load_state_dict(full.state_dict())
    truth = targets([0, 1], [2]) if with_targets else None
    full, less = full(*arguments, truth), less(*arguments, truth)
    assert len(less["aux_outputs"]) == 2
    for a, b in zip((*full["aux_outputs"][1:], full), (*less["aux_outputs"], less), strict=True):
        for key in KEYS:
            assert torch.allclose(a[key], b[key], atol=1e-5)
    if with_targets:
        assert len(less["denoising"][0]) == 3


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_fewer_tokens_than_queries(options, training):
    module = decoder(**options).train(training)
    arguments = inputs(sizes=[(1, 1), (1, 1), (1, 2)])
    outputs = module(*arguments, targets([0, 1], []) if training else None)
    queries = 4 if module.two_stage else 5              # learned queries need no tokens
    for prediction in (outputs, *outputs["aux_outputs"]):
        assert [tuple(prediction[key].shape[:2]) for key in KEYS] == [(2, queries)] * 3
        assert all(prediction[key].isfinite().all() for key in KEYS)


@pytest.mark.parametrize("options", [{"in_channels": 24}, {"enforce_input_proj": True}])
def test_projection_where_widths_differ_or_it_is_enforced(options):
    assert not any("input_proj" in key for key in decoder().state_dict())
    channels = options.get("in_channels", DIM)
    module = decoder(**options)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items() if "input_proj" in key}
    assert shapes == {f"input_proj.{i}.{key}": shape for i in range(3)
                      for key, shape in (("weight", (DIM, channels, 1, 1)), ("bias", (DIM,)))}
    assert module(*inputs(channels=channels))["pred_logits"].shape == (2, 5, 3)


@pytest.mark.parametrize("num_levels", [1, 4, 5])
def test_other_numbers_of_levels(num_levels):
    sizes = [(1, 1), (2, 2), (3, 4), (6, 8), (12, 16)][-num_levels:]
    outputs = decoder(num_levels=num_levels)(*inputs(sizes=sizes), targets([0], [1]))
    assert outputs["pred_masks"].shape == (2, 5, 16, 24)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(options, dtype):
    module, arguments, truth = decoder(**options), inputs(), targets([0, 2], [1])
    with torch.autocast("cpu", dtype):
        outputs = module(*arguments, truth)
        predictions = [outputs, *outputs["aux_outputs"], *outputs["denoising"][0]]
        predictions += [outputs["interm_outputs"]] if "interm_outputs" in outputs else []
        for prediction in predictions:
            assert [prediction[key].dtype for key in KEYS] == [dtype, dtype, torch.float32]
            assert all(prediction[key].isfinite().all() for key in KEYS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_float32(dtype):
    # Learned queries: where tokens are chosen by score, rounding may choose others.
    module, arguments = randomised(decoder(two_stage=False)), inputs()
    exact = module(*arguments)
    with torch.autocast("cpu", dtype):
        rounded = module(*arguments)
    for key in KEYS:
        assert (rounded[key].float() - exact[key]).abs().mean() < 0.05 * exact[key].abs().mean()


test_bad_options = refuses(lambda options: decoder(**options), [
    ({"box_initialisation": "boxes"}, "box_initialisation must be one of no, bitmask, mask2box, got 'boxes'"),
    ({"box_initialisation": "bitmask", "two_stage": False}, "box_initialisation is 'bitmask', which needs two_stage"),
    ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
    ({"num_denoising": -1}, "num_denoising must be at least 0, got -1"),
    ({"noise_scale": 2.5}, "noise_scale must be in 0..2, .* got 2.5"),
    ({"hidden_dim": 36}, "num_heads must divide the 36 channels, got 8"),
])


@pytest.mark.parametrize("sizes", [SIZES[:2], [(1, 2), *SIZES], []])
def test_other_levels_than_it_was_made_for(sizes):
    with pytest.raises(ValueError, match=f"the decoder was made for num_levels 3, got {len(sizes)} levels"):
        decoder()(*inputs(sizes=sizes))
