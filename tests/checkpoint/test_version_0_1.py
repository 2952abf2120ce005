"""What version 0.1 wrote loads: weights, strictly, averages, and the state of the optimiser on --resume.

version_0_1.pth is the last checkpoint of a run of that version: two iterations of the model of OPTIONS, with averages.
version_0_1_timm_names.txt has the names of timm's networks with frequency scaling, <network>.<name> a line.
"""
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from freqdino.checkpoint import StrictCheckpointer, fit_checkpoint, read_checkpoint
from freqdino.checkpoint.names.version_0_1 import current_name
from freqdino.config import load_config
from freqdino.data import register_custom_datasets
from freqdino.engine.resuming import parameter_names
from freqdino.engine.trainer import Trainer
from freqdino.engine.weight_averaging import averaged_weights
from freqdino.modeling.backbones.timm_backbone import add_frequency_scale, timm_backbone

HERE = Path(__file__).parent
FILE = HERE / "version_0_1.pth"
OPTIONS = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor", "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_fdam_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8, "MODEL.RESNETS.RES2_OUT_CHANNELS": 16, "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.OUT_FEATURES": ["res2"], "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2"], "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 2,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 4, "MODEL.SEM_SEG_HEAD.NORM": "", "INPUT.DATASET_MAPPER_NAME":
    "mask_former_semantic", "DATALOADER.NUM_WORKERS": 0, "SOLVER.IMS_PER_BATCH": 1, "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": (), "SOLVER.FREQ_SCALE_MULTIPLIER": 10.0, "MODEL_EMA.ENABLED": True}


def config(**options):
    return load_config(opts=[word for item in {**OPTIONS, **options}.items() for word in item])


def renamed(name):
    """By hand, for this model: the slot of each block's last convolution was FreqScale's."""
    return name.replace("conv3.activation.freq_scale", "freq_scale")


def test_weights_and_averages_fill_the_model_strictly():
    written = torch.load(FILE, weights_only=True)
    assert sum("conv3.activation.freq_scale" in name for name in written["model"]) == 3 * 5
    model = build_model(config())
    checkpoint = StrictCheckpointer(model, whole_model=True).load(str(FILE), checkpointables=[])
    state = model.state_dict()
    assert state.keys() == {renamed(name) for name in written["model"]}
    assert all(torch.equal(state[renamed(name)], tensor) for name, tensor in written["model"].items())
    average = averaged_weights(checkpoint)
    model.load_state_dict(average)
    kept = written["trainer"]["hooks"]["WeightAveraging"]
    assert all(torch.equal(tensor, average[renamed(name.removeprefix("module."))])
               for name, tensor in kept.items() if name != "n_averaged")


def test_the_optimiser_goes_on(tmp_path):
    for folder, pixels in (("images", np.zeros((64, 64, 3), np.uint8)), ("labels", np.eye(64, dtype=np.uint8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.txt").write_text("ground\nsquare\n")
    name = f"{tmp_path}/classes.txt@{tmp_path}/images@{tmp_path}/labels"
    register_custom_datasets([name])
    shutil.copy(FILE, tmp_path / "model_0000001.pth")
    trainer = Trainer(config(**{"DATASETS.TRAIN": (name,), "DATASETS.TEST": (), "OUTPUT_DIR": str(tmp_path)}))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    written = torch.load(FILE, weights_only=True)["trainer"]
    saved, names = written["_trainer"]["optimizer"], written["_trainer"]["parameter_names"]
    now = trainer.optimizer.state_dict()["state"]
    numbers = {name: number for number, name in enumerate(parameter_names(trainer.model, trainer.optimizer))}
    assert numbers.keys() == set(map(renamed, names)) and len(now) == len(names)
    for number, name in zip((number for group in saved["param_groups"] for number in group["params"]), names):
        for key, value in saved["state"][number].items():
            assert torch.equal(now[numbers[renamed(name)]][key], value), name
    averaged = trainer._hooks[0].model.state_dict()
    for name, tensor in written["hooks"]["WeightAveraging"].items():
        assert name == "n_averaged" or torch.equal(averaged[renamed(name.removeprefix("module."))], tensor)


@pytest.mark.parametrize("network", ["test_convnext2", "test_resnet"])
def test_names_of_timms_networks(network, tmp_path):
    lines = (HERE / "version_0_1_timm_names.txt").read_text().splitlines()
    names = [line.partition(".")[2] for line in lines if line.startswith(f"{network}.")]
    backbone = timm_backbone(network, in_chans=3, drop_path_rate=0.1, activation_checkpointing=False)
    add_frequency_scale(backbone)
    state = backbone.state_dict()
    assert any(".drop_path.freq_scale." in name for name in names)
    torch.save({name: state[name.replace(".drop_path.freq_scale.", ".freq_scale.")] for name in names},
               tmp_path / "old.pth")
    fit = fit_checkpoint(backbone, read_checkpoint(str(tmp_path / "old.pth")), whole_model=True)
    assert fit.problems() == [] and fit.matching.keys() == state.keys()


def test_present_names_stay():
    for name in ("backbone.res2.0.freq_scale.complex_weights", "backbone.blocks.0.freq_scale_1.complex_weights",
                 "backbone.res2.0.conv3.norm.weight", "stages.0.blocks.1.drop_path.scale"):
        assert current_name(name) == name
