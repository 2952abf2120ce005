"""Frequency modules by name: the options exist, switch the module on in every quickstart model, and change it."""
import pytest

from freqdino.analysis.ablation import OPTIONS, module_options
from freqdino.commands.quickstart_options import main
from freqdino.config import load_config, lookup
from helpers.paths import CONFIGS

QUICKSTART = CONFIGS / "quickstart"
MODELS = sorted(file.stem for file in QUICKSTART.glob("*.yaml"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("module", OPTIONS)
def test_a_module_is_a_change_of_the_configuration(model, module):
    file, words = str(QUICKSTART / f"{model}.yaml"), module_options(model, [module])
    plain, changed = load_config(file), load_config(file, words)
    assert all(lookup(plain, key) != lookup(changed, key) for key in words[::2])


def test_several_modules_on_the_command_line(capsys):
    main(["mask2former", "freqfusion", "fdconv"])
    assert capsys.readouterr().out == ("MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED True "
                                       "MODEL.BACKBONE.FDCONV.ENABLED True\n")
