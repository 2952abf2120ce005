"""Results as a file: what is written, and what is not taken for one."""
import math

import numpy as np
import pytest

from freqdino.evaluation.results import read_results, write_results


def test_undefined_metrics_are_null(tmp_path):
    write_results({"set": {"segm": {"AP": np.float64(12.5), "APs": math.nan}}}, tmp_path / "inference")
    assert read_results(tmp_path) == {"set": {"segm": {"AP": 12.5, "APs": None}}}


@pytest.mark.parametrize("contents", ["{}", "[1]", '{"a": 3}', '{"a": {"segm": 3}}', '{"a": {"segm": {"AP": "x"}}}'])
def test_other_json_is_an_error(tmp_path, contents):
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "results.json").write_text(contents)
    with pytest.raises(ValueError, match="results.json does not hold data set -> task -> metric -> number"):
        read_results(tmp_path)
