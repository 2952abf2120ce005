"""The table of a run's metrics."""
import json

from freqdino.commands import summarize_run

format_table, main = summarize_run.format_table, summarize_run.main


def test_table_of_a_panoptic_model():
    results = {"scenes": {"segm": {"AP": 41.26}, "bbox": {"AP": None}, "panoptic_seg": {"PQ": 100.0}}}
    assert format_table(results).splitlines() == [
        "| data set   |   mask AP |   box AP |    PQ |   mIoU |",
        "|:-----------|----------:|---------:|------:|-------:|",
        "| scenes     |      41.3 |        – | 100.0 |      – |",
    ]


def test_run_folder(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1 and "has no finished evaluation" in capsys.readouterr().err
    (tmp_path / "inference").mkdir()
    path = tmp_path / "inference" / "results.json"
    path.write_text(json.dumps({"first": {"sem_seg": {"mIoU": 7.0}}, "second": {}}))
    assert main(["--dataset", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "first\n"
    assert main([str(tmp_path)]) == 0
    assert "|    7.0 |" in capsys.readouterr().out
    path.write_text("{")
    assert main([str(tmp_path)]) == 1 and "is not JSON" in capsys.readouterr().err
