"""Two processes that each evaluate one image give the results of both images."""
import json
import os
import subprocess
import sys

import pytest

from helpers import two_ranks


def test_every_evaluator_gathers_over_ranks(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, two_ranks.__file__, str(rank), str(tmp_path)], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for rank in (0, 1)]
    try:
        logs = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(logs)
    results = json.loads((tmp_path / "results.json").read_text())
    # cat: found in one of two images. sky: its IoU in the second image is 1/2, no match: one match, false, missed each.
    assert results["panoptic_seg"]["PQ-cat"] == pytest.approx(100 * 1 / (1 + 1 / 2))
    assert results["panoptic_seg"]["PQ-sky"] == pytest.approx(100 * 1 / (1 + 1 / 2 + 1 / 2))
    # Of two equal halves: cat 1 of 2 halves, sky 2 right halves and 1 too many.
    assert results["sem_seg"]["IoU-cat"] == pytest.approx(50)
    assert results["sem_seg"]["IoU-sky"] == pytest.approx(200 / 3)
    # Precision 1 up to recall 1/2: 51 of 101 recalls.
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100 * 51 / 101)
