"""Every leaf, made small, takes one training step: finite losses, a gradient for every trainable parameter."""
import pytest

from helpers.config_leaves import LEAVES
from helpers.small_leaves import small_leaf
from helpers.training_step import assert_a_step_reaches_every_parameter


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_training_step_reaches_every_parameter(leaf):
    assert_a_step_reaches_every_parameter(small_leaf(leaf))
