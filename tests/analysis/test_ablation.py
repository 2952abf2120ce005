"""The ablation's runs and table; its trainings are replaced by a script that writes the results of an evaluation."""
import json
import sys
from pathlib import Path

import pytest

from freqdino.analysis import ablation
from freqdino.commands.ablation import main
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
gain = 10 * words.count("True")
results = {"scenes": {"segm": {"AP": 20.0 + seed + gain}, "panoptic_seg": {"PQ": None if gain else 50.0}}}
(folder / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.setattr(ablation, "TRAIN", (sys.executable, str(tmp_path / "train.py")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_table_over_the_seeds(root, capsys):
    main(["--seeds", "1", "3", "--jobs", "2"])
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == ["mask2former, seeds 1 3, 400 iterations", ""]
    assert cells(out) == [
        ["variant", "mask AP", "PQ"],
        ["plain", "22.0 ± 1.4", "50.0 ± 0.0"],      # 21 and 23: √((1 + 1) / (2 − 1))
        ["freqfusion", "32.0 ± 1.4", "–"],
        ["fdconv", "32.0 ± 1.4", "–"],
        ["fdam", "32.0 ± 1.4", "–"],
        ["all", "52.0 ± 1.4", "–"],
    ]
    assert err.count(" s\n") == 10


def test_finished_runs_are_not_repeated_unless_their_options_change(root, capsys):
    main(["--seeds", "1"])
    results = root / "output" / "ablation" / "mask2former" / "plain_seed1" / "inference" / "results.json"
    results.write_text(json.dumps({"scenes": {"segm": {"AP": 7.0}, "panoptic_seg": {"PQ": 8.0}}}))
    capsys.readouterr()
    main(["--seeds", "1"])
    out, err = capsys.readouterr()
    assert ["plain", "7.0", "8.0"] in cells(out) and err.count("done before") == 5
    main(["--seeds", "1", "SOLVER.MAX_ITER", "9"])
    out, err = capsys.readouterr()
    assert ["plain", "21.0", "50.0"] in cells(out) and "SOLVER.MAX_ITER 9" in out and "done before" not in err


def test_an_unknown_model(root, capsys):
    assert main(["maskdeeno"]) == 1
    assert "configs/quickstart/maskdeeno.yaml" in capsys.readouterr().err


def test_a_training_that_fails_is_named_with_its_log(root, capsys):
    assert main(["--seeds", "1", "MODEL.WEIGHTS", "fail"]) == 1
    log = Path("output", "ablation", "mask2former", "plain_seed1", "output.txt")
    assert f"error: plain_seed1 ended with status 1; see {log}" in capsys.readouterr().err
    assert "no data" in log.read_text()
