"""Processes that others have started: what the environment must say, and two of torchrun's that train together."""
import os
import re
import subprocess
import sys
import weakref
from argparse import Namespace

import pytest
import torch
from detectron2.utils import comm

from freqdino.engine.joining import leaving, started_process
from freqdino.errors import ConfigError
from helpers.paths import ROOT
from helpers.small_training import options

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "a",
            "MASTER_PORT": "1"}


def arguments(num_gpus=1, num_machines=1, machine_rank=0, dist_url="tcp://127.0.0.1:50000"):
    return Namespace(num_gpus=num_gpus, num_machines=num_machines, machine_rank=machine_rank, dist_url=dist_url)


def test_the_environment_says_where_a_process_stands():
    args = arguments()
    assert started_process({"PATH": ""}, args) is None and args == arguments()
    assert started_process(TORCHRUN, args) == (5, 8, 1, 4)
    assert args == arguments(num_gpus=4, num_machines=2, machine_rank=1, dist_url="env://")
    # As a scheduler has it that starts one process on each machine.
    args = arguments(num_machines=3)
    alone_there = {"RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert started_process(alone_there, args) == (2, 3, 0, 1)
    assert args == arguments(num_gpus=1, num_machines=3, machine_rank=2, dist_url="env://")


@pytest.mark.parametrize("environment, args, message", [
    ({"RANK": "x"}, {}, "RANK 'x'"),
    ({"RANK": "8"}, {}, "RANK '8', WORLD_SIZE '8'"),
    ({"LOCAL_RANK": "2"}, {}, "LOCAL_RANK '2'"),
    ({"LOCAL_WORLD_SIZE": "3"}, {}, "LOCAL_WORLD_SIZE '3'"),
    ({}, {"num_gpus": 8}, "--num-gpus 8, but the environment says 4"),
    ({}, {"num_machines": 4}, "--num-machines 4, but the environment says 2"),
])
def test_contradictions_are_told(environment, args, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        started_process({**TORCHRUN, **environment}, arguments(**args))


def test_a_missing_address_is_told():
    with pytest.raises(ConfigError, match="not MASTER_ADDR: torchrun sets all"):
        started_process({name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"}, arguments())


def torchrun(script, *words):
    """torchrun's two processes of a script, which end."""
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           str(script), *words],
                          capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)


def test_two_processes_of_torchrun_train_together(squares, tmp_path):
    """They write one run."""
    done = torchrun(ROOT / "train_net.py", *options(squares, tmp_path, "SOLVER.MAX_ITER", "1"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Running on cpu in 2 process(es)") == 1
    assert "Rank of current process: 1. World size: 2" in (tmp_path / "log.txt.rank1").read_text()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert sum("total_loss" in line for line in lines) == sum("segm/AP" in line for line in lines) == 1
    checkpoint = torch.load(tmp_path / "model_0000000.pth", weights_only=True)
    assert len(checkpoint["processes"]) == 2


def test_what_the_user_can_mend_is_said_once(tmp_path):
    done = torchrun(ROOT / "train_net.py", "SOLVER.BASE_LRR", "1", "OUTPUT_DIR", str(tmp_path))
    assert done.returncode == 1 and done.stderr.count("unknown configuration key SOLVER.BASE_LRR") == 1


def test_statistics_are_those_of_the_first_process(tmp_path):
    script = tmp_path / "share.py"
    script.write_text("""
import os
from argparse import Namespace
from torch import nn
from freqdino.engine.joining import joined, share_buffers, started_process

process = started_process(os.environ, Namespace(num_gpus=1, num_machines=1, machine_rank=0))
norm = nn.BatchNorm1d(2)
norm.running_mean.fill_(process.rank + 3)
norm.weight.data.fill_(process.rank + 5)
with joined(process):
    share_buffers(norm)
assert norm.running_mean.tolist() == [3, 3] and norm.weight.tolist() == [process.rank + 5] * 2
""")
    done = torchrun(script)
    assert done.returncode == 0, done.stderr[-3000:]


def test_nothing_holds_a_group_that_was_left(tmp_path):
    """A group that is still held when Python ends aborts one process in four."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    with leaving():
        comm.create_local_process_group(1)
        assert comm.gather(1) == [1] and comm._get_global_gloo_group() is torch.distributed.group.WORLD
        groups = [weakref.ref(torch.distributed.group.WORLD), weakref.ref(comm.get_local_process_group())]
    assert [group() for group in groups] == [None, None] and not torch.distributed.is_initialized()
