"""The examples in the docstrings: each module that has some, found by looking."""
import doctest
from importlib import import_module

import pytest

from helpers.paths import ROOT

FILES = sorted(path for path in (ROOT / "freqdino").rglob("*.py") if ">>>" in path.read_text())


@pytest.mark.parametrize("name", [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES])
def test_examples_in_the_docstrings(name):
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0 and result.failed == 0
