"""Where missing weights come from: every file that a configuration names is known, and the commands told work."""
import re
import shlex

import pytest

from freqdino.checkpoint.files import local_path
from freqdino.checkpoint.sources import source_of
from freqdino.commands.convert_weights import parse_arguments
from freqdino.config import load_config
from freqdino.config.loading import read_yaml
from freqdino.errors import CheckpointError
from helpers.paths import CONFIGS, ROOT


def named_files():
    found = {read_yaml(str(path)).get("MODEL", {}).get("WEIGHTS", "") for path in CONFIGS.rglob("*.yaml")}
    return sorted(name for name in found if name and "://" not in name)


def test_every_file_that_a_configuration_names_has_a_source():
    names = named_files()
    assert "R-101.pkl" in names and "swin_tiny_patch4_window7_224.pkl" in names and "mit_b0.pth" in names
    for name in names:
        assert source_of(f"weights/{name}"), name
    assert source_of("output/model_final.pth") == source_of("") == ""


@pytest.mark.parametrize("name, size", [
    ("swin_tiny_patch4_window7_224", "t"), ("swin_small_patch4_window7_224", "s"),
    ("swin_base_patch4_window12_384_22k", "b"), ("swin_large_patch4_window12_384_22k", "l")])
def test_a_missing_swin_says_where_it_comes_from_and_how_it_is_converted(tmp_path, name, size):
    with pytest.raises(CheckpointError) as caught:
        local_path(str(tmp_path / f"{name}.pkl"))
    message = str(caught.value)
    assert f"{name}.pkl: no such checkpoint file. It is made of Microsoft's https://github.com/SwinT" in message
    assert f"releases/download/v1.0.0/{name}.pth: set MODEL.WEIGHTS to that file" in message
    command = shlex.split(re.search(r"python tools/convert_weights.py (\S+ \S+ --config-file \S+yaml)", message)[1])
    arguments = parse_arguments(command)
    assert (arguments.source, arguments.target.name) == (f"{name}.pth", f"{name}.pkl")
    cfg = load_config(ROOT / arguments.config_file)
    assert cfg.MODEL.WEIGHTS == f"{name}.pkl" and arguments.config_file.endswith(f"swin_{size}.yaml")


def test_the_names_of_timm_and_torchvision():
    assert 'timm.create_model("deit_small_patch16_224", pretrained=True)' in source_of("deit_small_patch16_224.pth")
    assert "huggingface.co/timm/convnext_tiny.fb_in1k" in source_of("convnext_tiny.fb_in1k.safetensors")
    assert "resnet101-63fe2227.pth R-101.pkl --config-file" in source_of("/anywhere/R-101.pkl")
