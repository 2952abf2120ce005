"""Results as a file."""
import math

import numpy as np

from freqdino.evaluation.results import read_results, write_results


def test_undefined_metrics_are_null(tmp_path):
    write_results({"set": {"segm": {"AP": np.float64(12.5), "APs": math.nan}}}, tmp_path / "inference")
    assert read_results(tmp_path) == {"set": {"segm": {"AP": 12.5, "APs": None}}}
