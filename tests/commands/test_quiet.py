"""Commands on a machine without a GPU: nothing of torch's about CUDA on stderr."""
import logging
import os
import subprocess
import sys

import pytest

from freqdino.commands.quiet import is_not_about_cuda

# As Detectron2's engine and the measurements of memory do: the builder is imported, the CPU profiled.
SCRIPT = """
import freqdino.commands
import logging
import torch
import torch.utils.cpp_extension
logging.getLogger("torch.utils.cpp_extension").warning("No CUDA runtime is found, using CUDA_HOME='/usr/local'")
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True):
    torch.ones(3) + 1
"""


def test_no_message_about_cuda():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "CUDA_HOME": "/usr/local", "PYTHONWARNINGS": "ignore"}
    environment.pop("KINETO_LOG_LEVEL", None)
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True,
                            check=True, timeout=300)
    assert result.stdout == result.stderr == ""


@pytest.mark.parametrize(("message", "passes"), [("No CUDA runtime is found, using CUDA_HOME='/x'", False),
                                                 ("The detected CUDA version mismatches", True)])
def test_other_warnings_pass(message, passes):
    record = logging.LogRecord("torch.utils.cpp_extension", logging.WARNING, "", 0, message, (), None)
    assert is_not_about_cuda(record) is passes
