"""Blocks that compute their activations again: the same losses, gradients, buffers and keys, from less memory."""
import copy
import pickle

import pytest
import torch
from torch import nn

from freqdino.analysis.benchmarks.measure import allocation_peak
from freqdino.engine.trainer import Trainer
from freqdino.modeling.activation_checkpointing import Checkpointed, checkpoint_blocks
from freqdino.registration.backbones import build_backbone
from helpers import two_processes
from helpers.small_mask_dino import OPTIONS as MASK_DINO
from helpers.small_models import RESNET18, example, small_config, small_model

SWIN = {"MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 8, "MODEL.SWIN.DEPTHS": [1, 1, 1, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 1, 2, 2], "MODEL.SWIN.WINDOW_SIZE": 4}
VIT = {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.VIT.IMG_SIZE": 64, "MODEL.VIT.EMBED_DIM": 16,
       "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2, "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3],
       "MODEL.VIT.DROP_PATH_RATE": 0.2}
MIT = {"MODEL.BACKBONE.NAME": "build_mit_backbone", "MODEL.MIT.EMBED_DIMS": [8, 8, 10, 16],
       "MODEL.MIT.DEPTHS": [1, 1, 1, 1]}
MSCAN = {"MODEL.BACKBONE.NAME": "build_mscan_backbone", "MODEL.MSCAN.EMBED_DIMS": [8, 8, 10, 16],
         "MODEL.MSCAN.DEPTHS": [1, 1, 1, 1], "MODEL.MSCAN.DROP_PATH_RATE": 0.2}
TIMM = {"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.TIMM.NAME": "convnext_atto"}
FREQUENCY = {"MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True, "MODEL.SEM_SEG_HEAD.FDAM.ENABLED": True}
TIMM_BN = {**TIMM, "MODEL.TIMM.NAME": "resnet10t", "MODEL.BACKBONE.FREEZE_AT": 2}
MEAN_COLOUR = {"MODEL.META_ARCHITECTURE": "MeanColour"}
DROPOUT = {"MODEL.MASK_FORMER.DROPOUT": 0.2}


@pytest.mark.parametrize("options, blocks", [
    ({**RESNET18, **FREQUENCY, "MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.RESNETS.NORM": "BN"},
     {"BasicStem", "BasicBlock", "FreqFusionSum"}),
    ({**SWIN, **DROPOUT}, {"SwinTransformerBlock"}),
    ({**SWIN, "MODEL.SWIN.EMBED_DIM": 16, "MODEL.BACKBONE.FDAM.ENABLED": True}, {"FrequencySwinBlock"}),
    (VIT, {"TransformerBlock"}),
    (MIT, {"MiTBlock"}),
    (MSCAN, {"MSCABlock"}),
    (TIMM, {"ConvNeXtBlock"}),
    (TIMM_BN, {"BasicBlock"}),
    (MASK_DINO, {"MaskDINODecoderLayer"}),
])
def test_the_same_step(options, blocks):
    """Random draws and the statistics of batch normalisations too, though the blocks run twice; of a pickle as well."""
    torch.manual_seed(0)
    plain = small_model(options).train()
    model = copy.deepcopy(plain)
    assert checkpoint_blocks(model) >= 3
    assert checkpoint_blocks(model) == 0        # they do
    model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    found = {type(module).__name__.removeprefix("Checkpointed") for module in model.modules()
             if isinstance(module, Checkpointed)}
    decoder = set() if options is MASK_DINO else {"SelfAttentionLayer", "CrossAttentionLayer", "FeedForwardLayer"}
    assert found == blocks | decoder | {"DeformableEncoderLayer"}
    batch = [example(64, 64, [0, 2]), example(64, 96, [1])]
    losses = []
    for each in (plain, model):
        torch.manual_seed(1)
        losses.append(each(batch))
        sum(losses[-1].values()).backward()
    assert all(torch.equal(loss, losses[1][name]) for name, loss in losses[0].items())
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    assert [name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, state[name])] == []


@pytest.mark.parametrize("options", [RESNET18, SWIN, MIT, TIMM])
def test_a_step_needs_less_memory(options):
    torch.manual_seed(0)
    plain = small_model(options).train()
    model = copy.deepcopy(plain)
    checkpoint_blocks(model)
    batch = [example(128, 128, [0])] * 2

    def peak(model):
        def step():
            sum(model(batch).values()).backward()

        step()              # gradients are there
        return allocation_peak(step, torch.device("cpu"))

    assert peak(model) < 0.9 * peak(plain)


@pytest.mark.parametrize("options, learns", [(RESNET18, False), (SWIN, True), (VIT, True), (MIT, False), (TIMM, False)])
def test_frozen_stages_keep_no_activations(options, learns):
    """What goes on learning, the norms of Swin's maps and ViT's neck, keeps about as much as the maps have."""
    def kept(freeze_at):
        """Elements that the backward pass needs beside parameters, and elements of the maps."""
        network = build_backbone(small_config({**options, "MODEL.BACKBONE.FREEZE_AT": freeze_at})).train()
        sizes = []

        def keep(tensor):
            sizes.append(tensor.numel() * (not isinstance(tensor, nn.Parameter)))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            maps = network(torch.randn(1, 3, 64, 64))
        return sum(sizes), sum(each.numel() for each in maps.values())

    frozen, size = kept(5)
    assert frozen <= (1.5 * size if learns else 0) and kept(0)[0] > 4 * size


def test_evaluation_and_what_checkpoints_by_itself_stay_as_they_are():
    network = build_backbone(small_config({**VIT, "MODEL.VIT.USE_CHECKPOINT": True}))
    assert checkpoint_blocks(network) == 0
    assert not any(isinstance(module, Checkpointed) for module in network.modules())
    model = small_model(SWIN).eval()
    before = model([example(64, 64)])[0]["instances"].scores
    assert checkpoint_blocks(model) > 3 and checkpoint_blocks(model) == 0
    assert model([example(64, 64)])[0]["instances"].scores.shape == before.shape


def test_the_key():
    on = {"SOLVER.ACTIVATION_CHECKPOINTING": True}
    model = Trainer.build_model(small_config({**RESNET18, **on}))
    assert isinstance(model.backbone.res2[0], Checkpointed) and isinstance(model.sem_seg_head.pixel_decoder.transformer
                                                                           .encoder.layers[0], Checkpointed)
    assert not isinstance(Trainer.build_model(small_config(RESNET18)).backbone.res2[0], Checkpointed)
    detector = Trainer.build_model(small_config({
        **RESNET18, **on, "MODEL.META_ARCHITECTURE": "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NAME": "UPerNetHead"}))
    assert isinstance(detector.backbone.res5[1], Checkpointed)


def test_a_model_without_blocks(caplog):
    model = Trainer.build_model(small_config({"SOLVER.ACTIVATION_CHECKPOINTING": True, **MEAN_COLOUR}))
    assert isinstance(model, two_processes.MeanColour)
    assert "SOLVER.ACTIVATION_CHECKPOINTING has no effect: MeanColour has no blocks" in caplog.text
