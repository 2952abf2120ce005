"""The ablation's runs and table; its trainings are replaced by a script that writes the results of an evaluation."""
import json

import pytest
from helpers.paths import load_script

ablation = load_script("tools/ablation.py")

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
    monkeypatch.setattr(ablation, "ROOT", tmp_path)
    (tmp_path / "configs" / "quickstart").mkdir(parents=True)
    (tmp_path / "configs" / "quickstart" / "mask2former.yaml").touch()
    (tmp_path / "train_net.py").write_text(TRAIN)
    return tmp_path


def test_table_over_the_seeds(root, capsys):
    ablation.main(["--seeds", "1", "3", "--jobs", "2"])
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "mask2former, seeds 1 3, 400 iterations",
        "",
        "| variant | mask AP | PQ |",
        "|---|---:|---:|",
        "| plain | 22.0 ± 1.4 | 50.0 ± 0.0 |",      # 21 and 23: √((1 + 1) / (2 − 1))
        "| freqfusion | 32.0 ± 1.4 | – |",
        "| fdconv | 32.0 ± 1.4 | – |",
        "| fdam | 32.0 ± 1.4 | – |",
        "| all | 52.0 ± 1.4 | – |",
    ]
    assert err.count(" s\n") == 10


def test_finished_runs_are_not_repeated_unless_their_options_change(root, capsys):
    ablation.main(["--seeds", "1"])
    results = root / "output" / "ablation" / "mask2former" / "plain_seed1" / "inference" / "results.json"
    results.write_text(json.dumps({"scenes": {"segm": {"AP": 7.0}, "panoptic_seg": {"PQ": 8.0}}}))
    capsys.readouterr()
    ablation.main(["--seeds", "1"])
    out, err = capsys.readouterr()
    assert "| plain | 7.0 | 8.0 |" in out and err.count("done before") == 5
    ablation.main(["--seeds", "1", "SOLVER.MAX_ITER", "9"])
    out, err = capsys.readouterr()
    assert "| plain | 21.0 | 50.0 |" in out and "SOLVER.MAX_ITER 9" in out and "done before" not in err


@pytest.mark.parametrize(("arguments", "message"), [
    (["maskdeeno"], "no configs/quickstart/maskdeeno.yaml"),
    (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    (["--sedes", "1"], "unrecognized arguments: --sedes"),
    (["SOLVER.MAX_ITER"], "expected KEY VALUE pairs"),
])
def test_wrong_arguments(root, capsys, arguments, message):
    with pytest.raises(SystemExit):
        ablation.main(arguments)
    assert message in capsys.readouterr().err


def test_a_training_that_fails_is_named_with_its_log(root):
    with pytest.raises(SystemExit) as error:
        ablation.main(["--seeds", "1", "MODEL.WEIGHTS", "fail"])
    log = root / "output" / "ablation" / "mask2former" / "plain_seed1" / "output.txt"
    assert f"error: plain_seed1 ended with status 1; see {log}" in str(error.value)
    assert "no data" in log.read_text()
