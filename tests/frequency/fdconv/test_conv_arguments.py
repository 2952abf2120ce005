"""What FDConv refuses, and how it says so."""
import pytest
import torch

from freqdino.frequency.fdconv.conv import FDConv
from helpers.refusals import refuses

test_bad_arguments = refuses(lambda arguments: FDConv(20, 24, 3, **arguments), [
    (dict(groups=3), "groups must divide in_channels, got 3 groups and 20 channels"),
    (dict(groups=5), "groups must divide out_channels, got 5 groups and 24 channels"),
    (dict(groups=0), "groups must divide in_channels, got 0 groups and 20 channels"),
    (dict(groups=2.0), "groups must divide in_channels, got 2.0 groups and 20 channels"),
    (dict(kernel_num=2.5), "kernel_num must be an integer, got 2.5"),
    (dict(param_ratio=1.5), "param_ratio must be an integer, got 1.5"),
    (dict(stride=(1, 0)), r"stride must be at least 1, got \(1, 0\)"),
    (dict(dilation=0), "dilation must be at least 1, got 0"),
    (dict(padding=-1), "padding must be at least 0, got -1"),
    (dict(fbm_cfg=dict(k_list=2)), "k_list must hold numbers of at least 1, got 2"),
    (dict(fbm_cfg=dict(spatial_group=2.0)), "spatial_group must be an integer, got 2.0"),
    (dict(fbm_cfg=dict(spatial_kernel=3.0)), "spatial_kernel must be an integer, got 3.0"),
    (dict(kernel_num=0), "kernel_num must be at least 1, got 0"),
    (dict(kernel_num=3000), "kernel_num must lie between 1 and the 2232 .* 72 × 60 .*, got 3000"),
    (dict(param_ratio=0), "param_ratio must be at least 1, got 0"),
    (dict(reduction=0.0), "reduction must be greater than 0, got 0.0"),
    (dict(reduction=None), "reduction must be greater than 0, got None"),
    (dict(use_ksm_local="False"), "use_ksm_local must be one of True, False, got 'False'"),
    (dict(convert_param=2), "convert_param must be one of True, False, got 2"),
    (dict(use_fdconv_if_k_in=3), "use_fdconv_if_k_in must hold kernel sizes, as .* got 3"),
    (dict(use_fbm_if_k_in="3"), "use_fbm_if_k_in must hold kernel sizes, as .* got '3'"),
    (dict(fbm_cfg=[4]), "fbm_cfg must be a dictionary of arguments, got"),
    (dict(temp=-1.0), "temp must be greater than 0, got -1.0"),
    (dict(kernel_temp=0.0), "kernel_temp must be greater than 0, got 0.0"),
    (dict(att_multi=1.0), "att_multi must be greater than 1, got 1.0"),
    (dict(ksm_global_act="relu"), "ksm_global_act must be one of sigmoid, tanh, got 'relu'"),
    (dict(ksm_kernel_act="relu"), "ksm_kernel_act must be one of sigmoid, tanh, softmax, got 'relu'"),
    (dict(ksm_local_act="relu"), "ksm_local_act must be one of sigmoid, tanh, got 'relu'"),
    (dict(fbm_cfg=dict(act="relu")), "fbm_cfg's act must be one of sigmoid, tanh, got 'relu'"),
    (dict(fbm_cfg=dict(k_list=[])), r"k_list must hold numbers of at least 1, got \[\]"),
    (dict(fbm_cfg=dict(spatial_group=3)), "spatial_group must divide the 20 channels, got 3"),
    (dict(fbm_cfg=dict(spatial_kernel=2)), "spatial_kernel must be odd and positive, got 2"),
    (dict(fbm_cfg=dict(klist=[2])), "fbm_cfg has no key 'klist'; known are k_list"),
    (dict(fbm_cfg=dict(init="random")), "fbm_cfg's init can only be 'zero', got 'random'"),
    (dict(param_reduction=0.5), "FDConv's param_reduction can only be 1.0, got 0.5"),
    (dict(ksm_only_kernel_att=True), "FDConv's ksm_only_kernel_att can only be False, got True"),
    (dict(att_grid=2), "FDConv's att_grid can only be 1, got 2"),
    (dict(spatial_freq_decompose=True), "FDConv's spatial_freq_decompose can only be False, got True"),
    (dict(linear_mode=True), "FDConv's linear_mode can only be False, got True"),
])


test_bad_sizes = refuses(lambda arguments: FDConv(*arguments), [
    ((0, 24, 3), "in_channels must be at least 1, got 0"),
    ((20, -1, 3), "out_channels must be at least 1, got -1"),
    ((20.5, 24, 3), "in_channels must be an integer, got 20.5"),
    ((20, 24, 0), "kernel_size must be at least 1, got 0"),
    ((20, 24, (3, -1)), r"kernel_size must be at least 1, got \(3, -1\)"),
])


test_bad_input = refuses(lambda shape: FDConv(20, 24, 3, padding=2)(torch.zeros(shape)), [
    ((2, 21, 5, 5), "in_channels = 20 channels, got 21"),
    ((20, 5, 5), "4 dimensions .* got 3"),
    ((2, 20, 0, 5), "at least one row and one column, got"),
])


def test_published_defaults_are_accepted():
    layer = FDConv(20, 24, 3, use_fdconv_if_k_in=[1, 3], use_fbm_if_k_in=[3], param_reduction=1.0, att_grid=1,
                   ksm_only_kernel_att=False, use_ksm_local=True, spatial_freq_decompose=False, linear_mode=False)
    assert set(layer.state_dict()) == set(FDConv(20, 24, 3).state_dict())


def test_kernel_sizes_that_are_served():
    assert not FDConv(20, 24, 1, use_fdconv_if_k_in=[3]).active
    wide = FDConv(20, 24, 5, padding=2, use_fdconv_if_k_in=[1, 3, 5])
    assert wide.active and wide.FBM is None and FDConv(20, 24, 3, use_fbm_if_k_in=[]).FBM is None
    x = torch.randn(2, 20, 6, 7)
    expected = torch.nn.functional.conv2d(x, wide.static_weight(), wide.bias, padding=2)
    assert torch.allclose(wide(x), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(2, 3), (9, 10)])  # as a product, as a convolution
def test_without_ksm_local(size):
    """No entries, and the weight that a KSM_Local of zero logits gives: its factors are 2σ(0) = 1."""
    torch.manual_seed(0)
    layer, full = FDConv(20, 32, 3, padding=1, use_ksm_local=False), FDConv(20, 32, 3, padding=1)
    assert not any(key.startswith("KSM_Local") for key in layer.state_dict())
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        full.KSM_Local.conv.weight.zero_()
    state = full.state_dict()
    layer.load_state_dict({key: value for key, value in state.items() if not key.startswith("KSM_Local")})
    x = torch.randn(2, 20, *size)
    assert torch.allclose(layer(x), full(x), atol=1e-4)
