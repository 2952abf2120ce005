"""The ablation's groups, runs and table; trainings are a script that writes the results of an evaluation."""
import json
import sys
from pathlib import Path

import pytest

from freqdino.analysis import ablation
from freqdino.commands.ablation import GROUPS, main
from freqdino.frequency.freqfusion.fusion import FreqFusionSum
from freqdino.registration import upsamplers
from helpers.tables import cells

TRAIN = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
if "fail" in words:
    sys.exit("no data")
folder = Path(words[words.index("OUTPUT_DIR") + 1]) / "inference"
folder.mkdir(parents=True, exist_ok=True)
seed = int(words[words.index("SEED") + 1])
gain = 10 * (words.count("True") - 1) + 100 * words.count("equal")
results = {"scenes": {"segm": {"AP": 20.0 + seed + gain}, "panoptic_seg": {"PQ": None if gain else 50.0},
                      "boundary": {"AP": 8.0 if words[words.index("TEST.BOUNDARY_AP") + 1] == "True" else None},
                      "sem_seg": {"mIoU": None, "mBoundaryIoU": 30.0 + seed}}}
(folder / "results.json").write_text(json.dumps(results))
times = [{"iteration": 19, "time": 0.25}, {"iteration": 39, "time": 0.1 * seed}, {"iteration": 59, "time": 0.5},
         {"iteration": 60, "scenes/segm/AP": 1.0}]
(folder.parent / "metrics.json").write_text("".join(json.dumps(row) + "\\n" for row in times))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setattr(ablation, "TRAIN", (sys.executable, str(tmp_path / "train.py")))
    monkeypatch.setattr(ablation, "costs", lambda model, options: (1000 * len(options), len(options) / 8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_table_over_the_seeds(root, capsys):
    """Of mask AP 21 and 23: √((1 + 1) / (2 − 1)). Milliseconds: the medians of 250, 100 or 300, and 500."""
    main(["--seeds", "1", "3", "--jobs", "2"])
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["mask2former, modules, seeds 1 3, 400 iterations", ""]
    rest = ["32.0 ± 1.4", "8.0 ± 0.0", "275.0 ± 35.4"]
    assert cells(out) == [
        ["variant", "mask AP", "PQ", "boundary IoU", "boundary AP", "ms / iteration", "parameters", "GFLOPs"],
        ["plain", "22.0 ± 1.4", "50.0 ± 0.0", *rest, "0", "0.00"],
        ["freqfusion", "32.0 ± 1.4", "–", *rest, "2,000", "0.25"],
        ["fdconv", "32.0 ± 1.4", "–", *rest, "2,000", "0.25"],
        ["fdam", "32.0 ± 1.4", "–", *rest, "2,000", "0.25"],
        ["fdconv_equal", "132.0 ± 1.4", "–", *rest, "4,000", "0.50"],
        ["all", "52.0 ± 1.4", "–", *rest, "6,000", "0.75"],
    ]
    assert err.count(" s\n") == 12


def test_variants_that_are_named(root, capsys):
    main(["--seeds", "1", "--variants", "fdconv_equal", "plain"])
    out, err = capsys.readouterr()
    assert [row[0] for row in cells(out)] == ["variant", "plain", "fdconv_equal"] and err.count(" s\n") == 2
    assert main(["--variants", "plain", "carafe"]) == 1
    assert ("error: --variants: carafe is none of the group modules; known are plain, freqfusion, fdconv, fdam, "
            "fdconv_equal, all") in capsys.readouterr().err


def test_upsamplers_are_those_of_the_registry(root, capsys, monkeypatch):
    monkeypatch.setitem(upsamplers.UPSAMPLERS, "another", None)
    main(["maskrcnn", "--group", "upsamplers", "--seeds", "1", "SOLVER.MAX_ITER", "9"])
    out, _ = capsys.readouterr()
    assert out.startswith("maskrcnn, upsamplers, seeds 1, SOLVER.MAX_ITER 9\n")
    assert [row[0] for row in cells(out)[1:]] == [*upsamplers.UPSAMPLERS, "freqfusion"] and "another" in out
    assert " MODEL.FPN.UPSAMPLER carafe SOLVER.MAX_ITER 9 SEED 1 " in (
        root / "output" / "ablation" / "maskrcnn" / "carafe_seed1" / "command.txt").read_text()


def test_a_model_without_upsampler(root, capsys):
    assert main(["maskdino", "--group", "upsamplers"]) == 1
    assert ("error: the group upsamplers is one of MODEL.FPN.UPSAMPLER, which maskdino does not read; models that do: "
            "maskrcnn\n") == capsys.readouterr().err and not (root / "output").exists()


def test_dynamic_convolutions(root, capsys):
    main(["--group", "dynamic-convs", "--seeds", "1"])
    assert [row[0] for row in cells(capsys.readouterr().out)[1:]] == [
        "plain", "condconv_8", "dyconv_4", "odconv_1", "odconv_4", "kernel_warehouse_1", "kernel_warehouse_4", "fdconv"]
    words = (root / "output" / "ablation" / "mask2former" / "odconv_4_seed1" / "command.txt").read_text()
    assert " MODEL.BACKBONE.DYNAMIC_CONV.NAME odconv MODEL.BACKBONE.DYNAMIC_CONV.NUM 4 SEED 1 " in words


@pytest.mark.parametrize("model", ["mask2former", "maskdino", "maskrcnn"])
def test_variants_of_one_name_are_the_same_in_all_groups(model):
    """Their runs share a folder."""
    found = {}
    for name, variants in ablation.GROUPS.items():
        if name != "upsamplers" or model == "maskrcnn":
            for variant, words in variants(model).items():
                assert found.setdefault(variant, words) == words


def test_groups_of_the_command_are_those_of_the_analysis():
    assert GROUPS == tuple(ablation.GROUPS)


def test_costs_are_those_of_the_variant():
    """Three fusions of 64 channels in a pyramid."""
    plain, more = (ablation.costs("maskrcnn", ["MODEL.FPN.UPSAMPLER", name]) for name in ("nearest", "freqfusion"))
    added = 3 * sum(parameter.numel() for parameter in upsamplers.freqfusion(FreqFusionSum, 64).parameters())
    assert more[0] - plain[0] == added and more[1] > plain[1] > 0


def test_finished_runs_are_not_repeated_unless_their_options_change(root, capsys):
    main(["--seeds", "1"])
    results = root / "output" / "ablation" / "mask2former" / "plain_seed1" / "inference" / "results.json"
    results.write_text(json.dumps({"scenes": {"segm": {"AP": 7.0}, "panoptic_seg": {"PQ": 8.0}}}))
    capsys.readouterr()
    main(["--seeds", "1"])
    out, err = capsys.readouterr()
    assert ["plain", "7.0", "8.0", "–", "–", "250.0", "0", "0.00"] in cells(out) and err.count("done before") == 6
    main(["--seeds", "1", "SOLVER.MAX_ITER", "9"])
    out, err = capsys.readouterr()
    assert ["plain", "21.0", "50.0"] in [row[:3] for row in cells(out)]
    assert "SOLVER.MAX_ITER 9" in out and "done before" not in err


def test_an_unknown_model(root, capsys):
    assert main(["maskdeeno"]) == 1
    assert "configs/quickstart/maskdeeno.yaml" in capsys.readouterr().err


def test_a_training_that_fails_is_named_with_its_log(root, capsys):
    assert main(["--seeds", "1", "MODEL.WEIGHTS", "fail"]) == 1
    log = Path("output", "ablation", "mask2former", "plain_seed1", "output.txt")
    assert f"error: plain_seed1 ended with status 1; see {log}" in capsys.readouterr().err
    assert "no data" in log.read_text()


def test_variants_that_fail_are_left_out_of_the_table(root, capsys, monkeypatch):
    monkeypatch.setitem(ablation.OPTIONS, "fdam", {"": "MODEL.WEIGHTS fail"})
    assert main(["--seeds", "1", "2"]) == 1
    out, err = capsys.readouterr()
    assert [row[0] for row in cells(out)] == ["variant", "plain", "freqfusion", "fdconv", "fdconv_equal"]
    assert all(f"error: {name}_seed{seed} ended" in err for name in ("fdam", "all") for seed in (1, 2))
