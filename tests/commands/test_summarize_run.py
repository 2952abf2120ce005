"""The table of a run's metrics."""
import json

import pytest
from helpers.paths import load_script

summarize_run = load_script("tools/summarize_run.py")
format_table, main = summarize_run.format_table, summarize_run.main


def test_table_of_a_panoptic_model():
    results = {"scenes": {"segm": {"AP": 41.26}, "bbox": {"AP": None}, "panoptic_seg": {"PQ": 100.0}}}
    assert format_table(results).splitlines() == [
        "| data set | mask AP | box AP |    PQ | mIoU |",
        "|----------|---------|--------|-------|------|",
        "| scenes   |    41.3 |      - | 100.0 |    - |",
    ]


def test_run_folder(tmp_path, capsys):
    with pytest.raises(SystemExit, match="has no finished evaluation"):
        main([str(tmp_path)])
    (tmp_path / "inference").mkdir()
    path = tmp_path / "inference" / "results.json"
    path.write_text(json.dumps({"first": {"sem_seg": {"mIoU": 7.0}}, "second": {}}))
    main(["--dataset", str(tmp_path)])
    assert capsys.readouterr().out == "first\n"
    main([str(tmp_path)])
    assert "|  7.0 |" in capsys.readouterr().out
    path.write_text("{")
    with pytest.raises(SystemExit, match="is not JSON"):
        main([str(tmp_path)])
