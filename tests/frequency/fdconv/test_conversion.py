"""convert_to_fdconv on finished models."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from freqdino.frequency.fdconv.conv import FDConv
from freqdino.frequency.fdconv.conversion import convert_to_fdconv, fdconv_from_conv2d
from freqdino.frequency.freqfusion import FreqFusion


class NormedConv2d(nn.Conv2d):
    """In the manner of Detectron2's Conv2d."""

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x):
        x = super().forward(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def small_model():
    return nn.Sequential(nn.Conv2d(3, 32, 7, padding=3), nn.Conv2d(32, 24, 3, padding=1, padding_mode="reflect"),
                         nn.ReLU(), nn.ModuleDict({"conv": nn.Conv2d(24, 48, 1, stride=2, bias=False)})["conv"],
                         NormedConv2d(48, 20, (1, 3), norm=nn.BatchNorm2d(20), activation=F.relu))


def test_the_model_keeps_its_function():
    model = small_model()
    x = torch.randn(2, 3, 12, 14)
    model(x)  # running statistics other than the initial ones
    model.eval()
    expected, of_large = model(x), model(1000 * x)
    names = convert_to_fdconv(model, kernel_num=16)
    assert names == ["1", "3", "4"]
    assert [type(layer) for layer in model] == [nn.Conv2d, FDConv, nn.ReLU, FDConv, FDConv]
    assert torch.allclose(model(x), expected, atol=1e-4)
    assert (model(1000 * x) - of_large).abs().max() < 1e-4 * of_large.abs().max()
    assert "4.norm.running_mean" in model.state_dict() and model[4].activation is F.relu
    assert convert_to_fdconv(model) == []


@torch.no_grad()
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_large_features_keep_their_function(kernel_size):
    """As a deep ResNet has them whose normalisations are frozen and not loaded yet."""
    torch.manual_seed(0)
    plain = nn.Conv2d(64, 64, kernel_size, bias=False)
    model = nn.Sequential(plain)
    convert_to_fdconv(model)
    x = 1e7 * torch.rand(2, 64, 9, 12)
    expected = plain(x)
    assert (model.eval()(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_state_of_the_source_is_kept():
    conv = NormedConv2d(20, 24, 3, norm=nn.BatchNorm2d(24), dtype=torch.bfloat16)
    conv.weight.requires_grad_(False)
    conv.eval()
    conv.norm.train()
    layer = fdconv_from_conv2d(conv, kernel_num=4)
    assert not layer.dft_weight.requires_grad and layer.bias.requires_grad
    assert all(parameter.requires_grad for name, parameter in layer.named_parameters()
               if name.startswith(("KSM", "FBM")))
    assert not layer.training and not layer.KSM_Global.training and layer.norm.training
    assert layer.norm is conv.norm and torch.equal(layer.bias, conv.bias) and layer.bias is not conv.bias
    assert layer.dft_weight.dtype == layer.KSM_Local.conv.weight.dtype == torch.bfloat16
    assert fdconv_from_conv2d(nn.Conv2d(20, 24, 3, device="meta"), kernel_num=4).dft_weight.device.type == "meta"


def test_where_chooses():
    model = nn.ModuleDict({"a": nn.Conv2d(20, 20, 3), "b": nn.ModuleDict({"conv1": nn.Conv2d(20, 20, 1),
                                                                        "conv2": nn.Conv2d(20, 20, 3)})})
    assert convert_to_fdconv(copy.deepcopy(model), where=["b.conv?"]) == ["b.conv1", "b.conv2"]
    assert convert_to_fdconv(copy.deepcopy(model), where="*conv2") == ["b.conv2"]
    assert convert_to_fdconv(copy.deepcopy(model), where=lambda name, conv: name == "a") == ["a"]
    assert convert_to_fdconv(copy.deepcopy(model), use_fdconv_if_c_gt=20) == []
    with pytest.raises(ValueError, match="where has the pattern 'c.*', which matches none of the 3 convolutions"):
        convert_to_fdconv(model, where=["a", "c.*"])


def test_a_shared_convolution_stays_shared():
    conv, block = nn.Conv2d(20, 20, 3), nn.Sequential(nn.Conv2d(20, 20, 1))
    model = nn.ModuleList([conv, conv, block, block])
    assert convert_to_fdconv(model) == ["0", "1", "2.0", "3.0"]
    assert model[0] is model[1] and model[2][0] is model[3][0] and isinstance(model[2][0], FDConv)


def test_what_cannot_be_converted():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return super().forward(x - 1)

    with pytest.raises(ValueError, match="0: a .*Standardised may compute something else"):
        convert_to_fdconv(nn.Sequential(Standardised(20, 20, 3)))
    with pytest.raises(ValueError, match="module is a convolution itself"):
        convert_to_fdconv(nn.Conv2d(20, 20, 3))
    with pytest.raises(ValueError, match="0: kernel_num must lie between 1 and the 220"):
        convert_to_fdconv(nn.Sequential(nn.Conv2d(20, 20, 1)), kernel_num=221)
    with pytest.raises(TypeError, match="module must be a torch.nn.Module, got str"):
        convert_to_fdconv("model")


@pytest.mark.parametrize("where", [3, [3], b"conv1"])
def test_where_is_patterns_or_a_predicate(where):
    with pytest.raises(TypeError, match="where must be name patterns, a predicate or None, got"):
        convert_to_fdconv(nn.Sequential(nn.Conv2d(20, 20, 1)), where=where)


@pytest.mark.parametrize("option", ["kernel_nun", "stride", "norm"])
def test_unknown_options(option):
    """Also where nothing is to be converted."""
    for model in (nn.Sequential(nn.Conv2d(20, 20, 1)), nn.Sequential()):
        with pytest.raises(TypeError, match=f"FDConv has no option '{option}'; known are kernel_num, "):
            convert_to_fdconv(model, **{option: 3})
    with pytest.raises(TypeError, match=f"no option '{option}'"):
        fdconv_from_conv2d(nn.Conv2d(20, 20, 1), **{option: 3})


def test_detectron2_resnet():
    """Detectron2's own convolutions, norm included; a stage frozen afterwards still loads a plain checkpoint."""
    resnet = pytest.importorskip("detectron2.modeling.backbone.resnet")
    stages = resnet.ResNet.make_default_stages(50, stride_in_1x1=False, norm="FrozenBN")
    model = resnet.ResNet(resnet.BasicStem(norm="FrozenBN"), stages[:2], out_features=["res3"], freeze_at=2).eval()
    x = torch.randn(1, 3, 64, 96)
    expected, state = model(x)["res3"], model.state_dict()
    names = convert_to_fdconv(model, where=["res*.conv?"])
    assert len(names) == 21
    assert torch.allclose(model(x)["res3"], expected, atol=1e-4)
    frozen = model.res2[0].conv2
    assert not frozen.dft_weight.requires_grad
    assert frozen.FBM.freq_weight_conv_list[0].weight.requires_grad and frozen.KSM_Global.fc.weight.requires_grad

    for block in model.res2:
        block.freeze()  # KSM_Global's BatchNorm becomes a FrozenBatchNorm2d
    model.load_state_dict(state)
    assert torch.allclose(model(x)["res3"], expected, atol=1e-4)


def test_parameter_cost_of_resnet50():
    """The published cost of FDConv in a ResNet-50: +3.647 million parameters."""
    model = pytest.importorskip("torchvision").models.resnet50().to("meta")

    def count():
        return sum(parameter.numel() for parameter in model.parameters())

    before = count()
    names = convert_to_fdconv(model, where=["layer*.conv?"])
    assert len(names) == 48
    added = {kind: 0 for kind in ("KSM_Global", "KSM_Local", "FBM")}
    for name, parameter in model.named_parameters():
        for kind in added:
            added[kind] += parameter.numel() * (f".{kind}." in name)
    assert added["KSM_Global"] == pytest.approx(3.173e6, rel=0.005)
    assert added["KSM_Local"] == pytest.approx(0.311e6, rel=0.005)
    assert added["FBM"] == pytest.approx(0.102e6, rel=0.005)
    assert count() - before - sum(added.values()) == pytest.approx(0.060e6, rel=0.01)  # the spectra's one extra column
    assert count() - before == pytest.approx(3.647e6, rel=0.005)


def test_hooks_are_kept():
    """All four kinds run at the FDConv, and their handles remove them there."""
    seen, conv = [], nn.Conv2d(20, 20, 3)
    handles = [conv.register_forward_pre_hook(lambda module, inputs: seen.append("before")),
               conv.register_forward_hook(lambda module, inputs, kwargs, output: seen.append("after"),
                                          with_kwargs=True),
               conv.register_full_backward_pre_hook(lambda module, gradients: seen.append("backward")),
               conv.register_full_backward_hook(lambda module, gradients, of_output: seen.append("done"))]
    model = nn.Sequential(conv)
    assert convert_to_fdconv(model, kernel_num=4) == ["0"]
    x = torch.randn(1, 20, 5, 5, requires_grad=True)
    model(x).sum().backward()
    assert seen == ["before", "after", "backward", "done"]
    for handle in handles:
        handle.remove()
    model(x).sum().backward()
    assert len(seen) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("deed", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm,
                                  lambda conv: prune.l1_unstructured(conv, "weight", 0.5)],
                         ids=["weight_norm", "spectral_norm", "parametrization", "pruning"])
def test_a_computed_weight_is_refused(deed):
    model = nn.Sequential(nn.Conv2d(20, 20, 3))
    deed(model[0])
    with pytest.raises(ValueError, match="0: the weight of a .*Conv2d is made of other parameters .*: remove that"):
        convert_to_fdconv(model)


def test_parts_of_an_fdconv_are_left_alone():
    """Of 1024 channels KSM_Global.fc would be served itself: 64 channels wide."""
    model = nn.Sequential(nn.Conv2d(1024, 32, 1))
    assert convert_to_fdconv(model) == ["0"]
    assert convert_to_fdconv(model) == []
    assert type(model[0].KSM_Global.fc) is nn.Conv2d


@pytest.mark.parametrize("arguments", [{}, {"semi_conv": False}, {"comp_feat_upsample": False}])
def test_inside_freqfusion(arguments):
    """Its content encoders run as one convolution only where both are nothing else."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"fuse": FreqFusion(32, 32, compressed_channels=24, feature_resample=True, **arguments)})
    hr, lr = torch.randn(2, 32, 9, 10), torch.randn(2, 32, 5, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = model["fuse"](hr, lr)
    names = convert_to_fdconv(model, kernel_num=4)
    assert {"fuse.hr_channel_compressor", "fuse.content_encoder", "fuse.dysampler.offset"} <= set(names)
    for output, value in zip(model["fuse"](hr, lr), expected):
        assert torch.allclose(output, value, atol=1e-3)
    model["fuse"].reset_parameters()
    assert all(output.isfinite().all() for output in model["fuse"](hr, lr))


def test_synchronised_normalisation_with_one_image():
    """Without other processes the running statistics serve it, as KSM_Global's own normalisation does."""
    model = nn.Sequential(nn.Conv2d(20, 20, 3))
    convert_to_fdconv(model, kernel_num=4)
    x = torch.randn(1, 20, 5, 5)
    expected = model(x)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(model[0].KSM_Global.bn, nn.SyncBatchNorm)
    assert torch.equal(model.train()(x), expected)
