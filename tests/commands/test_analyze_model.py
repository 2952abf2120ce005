"""tools/analyze_model.py: tables of one, two and all configurations, the parts of a model, and what it refuses."""
import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from freqdino.analysis.costs.frequency_costs import describe_costs, frequency_parameters
from freqdino.analysis.costs.measuring import analyze, build, noise
from freqdino.analysis.costs.parts import REST, PartClock, split_into_parts
from freqdino.commands import analyze_model
from freqdino.config import load_config, loading
from helpers.paths import CONFIGS
from helpers.tables import cells

SMALL = CONFIGS / "quickstart" / "mask2former.yaml"
NO_AMP = ("SOLVER.AMP.ENABLED", False)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.pixel_decoder, self.predictor = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.pixel_decoder.forward_features = self.pixel_decoder_features
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    def pixel_decoder_features(self, x):
        return self.pixel_decoder(x)

    def forward(self, x):
        return self.predictor(self.pixel_decoder.forward_features(x)) * self.gain


class Model(nn.Module):
    """Linear layers of 12, 16 and 8 weights, the second called by another name; the head's gain is nobody's."""

    def __init__(self):
        super().__init__()
        self.backbone, self.sem_seg_head = nn.Linear(3, 4, bias=False), Head()

    def forward(self, images):
        x = torch.stack([image["image"] for image in images]).float().flatten(2).transpose(1, 2)
        return self.sem_seg_head(self.backbone(x)) @ torch.ones(2, 1)


def test_figures_of_the_parts():
    analysis, = analyze([Model()], noise(2, 5, 3), timed=False)
    pixels = 2 * 5 * 3
    names = "backbone", "sem_seg_head.pixel_decoder", "sem_seg_head.predictor", "rest", "total"
    assert analysis.figures["parameters"] == dict(zip(names, (12, 16, 8, 1, 37)))
    assert analysis.figures["trainable"] == dict(zip(names, (12, 16, 8, 0, 36)))
    assert analysis.figures["GFLOPs"] == pytest.approx(
        dict(zip(names, (pixels * n / 1e9 for n in (12, 16, 8, 2, 38)))))
    assert analysis.figures["M activations"] == pytest.approx(
        dict(zip(names, (pixels * n / 1e6 for n in (4, 4, 2, 1, 11)))))
    assert analysis.uncounted == {"mul": 1}


def test_time_goes_to_the_innermost_part(monkeypatch):
    now = 0.0

    class Slow(nn.Module):
        def __init__(self, seconds, inner=None):
            super().__init__()
            self.seconds, self.inner = seconds, inner

        def forward(self):
            nonlocal now
            now += self.seconds
            if self.inner is not None:
                self.inner()
                now += self.seconds

    model = Slow(1.0, Slow(10.0, Slow(100.0)))
    parts = {"outer": model.inner, "inner": model.inner.inner}
    monkeypatch.setattr("time.perf_counter", lambda: now)
    with PartClock(parts, torch.device("cpu")) as clock:
        model()
    assert clock.seconds == {"outer": 20.0, "inner": 100.0, REST: 2.0}
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_head_without_a_pixel_decoder_is_one_part():
    model = nn.Sequential()
    model.backbone = nn.Linear(1, 1)
    model.sem_seg_head = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    assert list(split_into_parts(model)) == ["backbone", "sem_seg_head"]


def test_two_configurations(capsys):
    assert analyze_model.main([str(SMALL), str(SMALL), "--size", "64", "96", "--no-time",
                               "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "10"]) == 0
    output = capsys.readouterr().out
    heading, *lines = cells(output)
    assert heading == ["quantity", "part", "A", "B", "B - A", "%"]
    assert [line[:2] for line in lines[:5]] == [["parameters", part] for part in (
        "backbone", "sem_seg_head.pixel_decoder", "sem_seg_head.predictor", "rest", "total")]
    assert {line[0] for line in lines} == {"parameters", "trainable", "GFLOPs", "M activations"}
    assert {line[4].strip("+") for line in lines} == {"0", "0.00"}
    assert "1 image(s) of 64 x 96" in output and "Not counted (operator calls): add" in output


def test_a_frequency_module_shows_as_difference(capsys):
    leaves = [str(CONFIGS / "coco/panoptic" / name) for name in (
        "mask2former_r50.yaml", "mask2former_r50_freqfusion.yaml")]
    assert analyze_model.main([*leaves, "--size", "64", "64", "--no-time"]) == 0
    lines = {(line[0], line[1]): line[2:] for line in cells(capsys.readouterr().out)}
    assert lines["parameters", "total"] == ["43,983,878", "44,297,180", "+313,302", "+0.7"]
    assert lines["parameters", "sem_seg_head.pixel_decoder"][2] == "+313,302"
    assert lines["GFLOPs", "backbone"][2] == "+0.00"


def test_time_and_memory(capsys):
    assert analyze_model.main([str(SMALL), "--size", "64", "64", "--batch", "2"]) == 0
    heading, *lines = cells(capsys.readouterr().out)
    assert heading == ["part", "parameters", "trainable", "GFLOPs", "M activations", "time ms", "peak MiB"]
    assert all(float(line[5].replace(",", "")) > 0 for line in lines)
    assert float(lines[-1][6].replace(",", "")) > 0 and lines[0][6] == "–"


def parameters(leaf, *options):
    """Of a leaf's model, and what it says of its frequency modules; nothing is allocated."""
    cfg = load_config(str(CONFIGS / f"{leaf}.yaml"), ["MODEL.DEVICE", "meta", *NO_AMP, *options])
    with torch.device("meta"):
        model = build(cfg)
    costs = frequency_parameters(model)
    return sum(parameter.numel() for parameter in model.parameters()), costs, describe_costs(model, cfg)


@pytest.mark.parametrize("leaf, suffix, costs, text", [
    ("coco/instance/mask2former_r50", "_freqfusion", {"FreqFusion": 313_302},
     "FreqFusion +313,302 (published +313,302)"),
    ("coco/detection/faster_rcnn_r50", "_freqfusion", {"FreqFusion in the pyramid": 313_302},
     "FreqFusion in the pyramid +313,302 (published +0.3 M)"),
    ("coco/instance/mask2former_r50", "_fdconv", {"FDConv": 3_647_120}, "FDConv +3,647,120 (published +3.6 M)"),
    ("coco/instance/maskdino_r50_12ep", "_encfdam", {"FDAM in the encoder": 175_236}, "FDAM in the encoder +175,236"),
    ("coco/instance/maskdino_r50_12ep", "_freqfusion", {"FreqFusion": 313_302}, "FreqFusion +313,302"),
    ("ade20k/semantic/mask2former_deit_s", "_fdam", {"AttInv": 64_680, "FreqScale": 516_144},
     "AttInv +64,680 (published +0.1 M), FreqScale +516,144 (published +0.5 M)"),
])
def test_costs_of_the_modules_are_the_difference_from_the_plain_model(leaf, suffix, costs, text):
    plain, plain_costs, plain_text = parameters(leaf)
    total, found, description = parameters(leaf + suffix)
    assert plain_costs == {} and plain_text == ""
    assert found == costs and total - plain == sum(costs.values())
    assert description == text


def test_no_published_cost_of_another_width():
    for leaf, width in (("coco/detection/faster_rcnn_r50_freqfusion", ("MODEL.FPN.OUT_CHANNELS", 128)),
                        ("coco/instance/mask2former_r50_freqfusion", ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 128))):
        _, costs, description = parameters(leaf, *width)
        (kind, count), = costs.items()
        assert count < 313_302 and description == f"{kind} +{count:,}"


def test_detectors_find_objects_for_their_later_stages():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.IN_FEATURES = "StandardROIHeads", ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 16, 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    model = build(cfg)
    with torch.no_grad():
        assert len(model(noise(1, 128, 128))[0]["instances"]) == 5
    analysis, = analyze([model], noise(1, 128, 128), timed=False)
    assert list(analysis.figures["GFLOPs"]) == ["backbone", "proposal_generator", "roi_heads", "rest", "total"]
    # The mask head on 5 objects: a transposed convolution from 14 × 14 and one class layer a class at 28 × 28.
    assert analysis.figures["GFLOPs"]["roi_heads"] * 1e9 > 5 * (14 * 14 * 256 * 256 * 4 + 28 * 28 * 256 * 80)


def test_all_configurations(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "configs_folder", lambda: tmp_path)
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "part.yaml").write_text("MODEL: {}\n")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "small.yaml").write_text(f"_BASE_: {SMALL}\n")
    (tmp_path / "coco" / "fused.yaml").write_text(
        f"_BASE_: {SMALL}\nMODEL:\n  SEM_SEG_HEAD:\n    FREQFUSION:\n      ENABLED: True\n")
    assert analyze_model.main(["--all", "--no-time", "--size", "64", "64"]) == 0
    heading, fused, small = cells(capsys.readouterr().out)
    assert heading == ["configuration", "parameters", "of which frequency modules", "GFLOPs"]
    assert fused[0] == "coco/fused" and fused[2].startswith("FreqFusion +")
    assert small[0] == "coco/small" and small[2] == ""
    (tmp_path / "coco" / "broken.yaml").write_text("MODELS: {}\n")
    assert analyze_model.main(["--all", "--size", "64", "64"]) == 1
    captured = capsys.readouterr()
    assert cells(captured.out)[0][-1] == "time ms" and len(cells(captured.out)) == 3
    assert "coco/broken.yaml" in captured.err and "MODELS" in captured.err


@pytest.mark.parametrize("words, message", [
    (["absent.yaml"], "absent.yaml: no such configuration file"),
    ([str(SMALL), "MODEL.NO_SUCH_KEY", "1"], "unknown configuration key MODEL.NO_SUCH_KEY"),
    ([str(SMALL), "MODEL.META_ARCHITECTURE", "NoSuchModel"], "NoSuchModel"),
])
def test_errors_in_a_configuration(words, message, capsys):
    assert analyze_model.main([*words, "--no-time"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.gpu
def test_the_network_costs_the_same_on_cuda(capsys):
    tables = []
    for device in ("cpu", "cuda"):
        assert analyze_model.main([str(SMALL), "--size", "64", "64", "--no-time", "--device", device]) == 0
        tables.append(cells(capsys.readouterr().out)[:4])
    assert tables[0] == tables[1]


def test_help_states_the_rules(capsys):
    with pytest.raises(SystemExit):
        analyze_model.main(["--help"])
    text = capsys.readouterr().out
    assert "1 FLOP is one multiply-add" in text and "5 N log2 N" in text and "not counted but listed" in text
