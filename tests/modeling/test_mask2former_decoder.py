"""Masked-attention decoder: where queries may look, projections, options."""
import pytest
import torch

from freqdino.modeling.mask2former_decoder import MultiScaleMaskedTransformerDecoder, blocked_places


def decoder(**options):
    defaults = {"in_channels": 16, "num_classes": 3, "hidden_dim": 16, "num_queries": 5, "num_heads": 2,
                "dim_feedforward": 32, "num_layers": 4, "mask_dim": 8}
    return MultiScaleMaskedTransformerDecoder(**{**defaults, **options})


def inputs(batch=2, channels=16, levels=3):
    sizes = [(2, 3), (4, 5), (8, 9), (16, 17)][:levels]
    return [torch.randn(batch, channels, *size) for size in sizes], torch.randn(batch, 8, 16, 18)


def test_shapes_and_number_of_predictions():
    outputs = decoder()(*inputs())
    assert outputs["pred_logits"].shape == (2, 5, 4)
    assert outputs["pred_masks"].shape == (2, 5, 16, 18)
    assert len(outputs["aux_outputs"]) == 4
    assert set(outputs) == {"pred_logits", "pred_masks", "aux_outputs"}


def test_no_layers_predict_from_the_raw_queries():
    module, (levels, mask_features) = decoder(num_layers=0), inputs()
    outputs = module(levels, mask_features)
    queries = module.decoder_norm(module.query_feat.weight)
    assert not outputs["aux_outputs"]
    assert torch.allclose(outputs["pred_logits"], module.class_embed(queries).expand(2, -1, -1), atol=1e-6)
    expected = (module.mask_embed(queries)[None, :, :, None, None] * mask_features[:, None]).sum(dim=2)
    assert torch.allclose(outputs["pred_masks"], expected, atol=1e-5)


def test_first_auxiliary_prediction_is_of_the_raw_queries():
    module, arguments = decoder(), inputs()
    expected = module.class_embed(module.decoder_norm(module.query_feat.weight)).expand(2, -1, -1)
    assert torch.allclose(module(*arguments)["aux_outputs"][0]["pred_logits"], expected, atol=1e-6)


def test_a_shorter_decoder_makes_the_first_predictions_of_a_longer_one():
    long, short, arguments = decoder(num_layers=4), decoder(num_layers=2), inputs()
    short.load_state_dict(long.state_dict(), strict=False)
    auxiliary, last = long(*arguments)["aux_outputs"], short(*arguments)
    for key in ("pred_logits", "pred_masks"):
        assert torch.allclose(auxiliary[2][key], last[key], atol=1e-5)


def test_blocked_places():
    masks = torch.tensor([[[-1.0, 2.0, -3.0], [-1.0, -1.0, -1.0], [0.0, 0.0, -0.1], [1.0, 1.0, 1.0]]])
    # Negative is blocked, 0 is not; the row that would block everything blocks nothing.
    assert blocked_places(masks).tolist() == [[[True, False, True], [False] * 3, [False, False, True], [False] * 3]]


def test_a_query_sees_only_where_its_mask_is_positive():
    module, (levels, _) = decoder(num_layers=1, num_queries=1), inputs(batch=1)
    normed = module.decoder_norm(module.query_feat.weight)
    direction = module.mask_embed(normed)[0].detach()
    # Mask features along the embedding of the only query: positive on the left half, negative on the right.
    mask_features = direction[None, :, None, None].expand(1, 8, 4, 6).clone()
    mask_features[..., 3:] *= -1
    levels[0] = torch.randn(1, 16, 2, 6)
    before = module(levels, mask_features)["pred_logits"]
    levels[0][..., 4:] += 1.0
    assert torch.allclose(module(levels, mask_features)["pred_logits"], before, atol=1e-6)
    levels[0][..., 0] += 1.0
    assert not torch.allclose(module(levels, mask_features)["pred_logits"], before, atol=1e-3)


def test_projection_where_widths_differ_or_it_is_enforced():
    assert not any("input_proj" in key for key in decoder().state_dict())
    for options in ({"in_channels": 24}, {"enforce_input_proj": True}):
        state = decoder(**options).state_dict()
        shapes = {key: tuple(value.shape) for key, value in state.items() if "input_proj" in key}
        channels = options.get("in_channels", 16)
        assert shapes == {f"input_proj.{i}.{key}": shape for i in range(3)
                          for key, shape in (("weight", (16, channels, 1, 1)), ("bias", (16,)))}
    assert decoder(in_channels=24)(*inputs(channels=24))["pred_logits"].shape == (2, 5, 4)


@pytest.mark.parametrize("levels", [0, 2])
def test_too_few_levels(levels):
    with pytest.raises(ValueError, match=f"reads 3 levels, got {levels}"):
        decoder()(*inputs(levels=levels))


def test_only_the_first_three_levels_are_read():
    module, (levels, mask_features) = decoder(), inputs(levels=4)
    expected = module(levels[:3], mask_features)["pred_logits"]
    assert torch.equal(module(levels, mask_features)["pred_logits"], expected)


def test_targets_are_not_read():
    module, arguments = decoder(), inputs()
    assert torch.equal(module(*arguments, targets=["anything"])["pred_logits"], module(*arguments)["pred_logits"])


def test_pre_norm_changes_the_frame_not_the_keys():
    post, pre, arguments = decoder(), decoder(pre_norm=True), inputs()
    pre.load_state_dict(post.state_dict())
    assert not torch.allclose(pre(*arguments)["pred_logits"], post(*arguments)["pred_logits"], atol=1e-3)


def test_level_of_one_pixel():
    levels, mask_features = inputs()
    levels[0] = torch.randn(2, 16, 1, 1)
    outputs = decoder()(levels, mask_features)
    assert outputs["pred_masks"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_float32(dtype):
    # One layer: a mask near 0 may fall to the other side, which later layers see.
    module, arguments = decoder(num_layers=1), inputs()
    expected = module(*arguments)
    with torch.autocast("cpu", dtype):
        actual = module(*arguments)
    for key in ("pred_logits", "pred_masks"):
        assert (actual[key].float() - expected[key]).abs().mean() < 0.05 * expected[key].abs().mean()
