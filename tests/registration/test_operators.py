"""MODEL.OPERATORS reaches every module that calls a sparse operator; what runs and why is said, or refused."""
import logging

import pytest

from freqdino.config import load_config
from freqdino.errors import ConfigError
from freqdino.ops.backends import HasOperators
from helpers.small_models import small_config, small_model

FREQFUSION = {"MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True}


@pytest.mark.parametrize("operators", ["auto", "torch"])
def test_every_module_gets_the_choice(operators, caplog):
    with caplog.at_level(logging.INFO, "freqdino"):
        model = small_model({**FREQFUSION, "MODEL.OPERATORS": operators})
    chosen = {type(module).__name__: module.operators for module in model.modules() if isinstance(module, HasOperators)}
    assert chosen == {"MSDeformAttn": operators, "FreqFusionSum": operators}
    reason = {"auto": "cpu is not CUDA", "torch": "MODEL.OPERATORS is torch"}[operators]
    assert [record.message for record in caplog.records if "operators are" in record.message] == [
        f"{name}: not used, PyTorch's operators are ({reason})"
        for name in ("CARAFE in Triton", "deformops' deformable attention")]


def test_fused_where_it_cannot_run():
    with pytest.raises(ConfigError, match="MODEL.OPERATORS is fused, but deformops' .* cannot run: cpu is not CUDA"):
        small_model({"MODEL.OPERATORS": "fused"})


def test_an_unknown_choice():
    with pytest.raises(ConfigError, match="MODEL.OPERATORS .*'triton'.*known are auto, torch, fused"):
        from freqdino.config.bounds import check_run

        check_run(load_config(opts=["MODEL.OPERATORS", "triton"]), training=False)
    assert small_config().MODEL.OPERATORS == "auto"
