"""For the tests of tools/convert_weights.py: configurations of small models, and the tool run on a file in a folder."""
import torch
from detectron2.modeling import build_model

from freqdino.checkpoint import StrictCheckpointer
from freqdino.commands import convert_weights
from freqdino.config import load_config
from helpers import small_models
from helpers.small_detectors import BACKBONE, FASTER_RCNN, MASK_RCNN
from helpers.small_semantic_heads import SMALL_MODEL

RGB = {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
       "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "MODEL.RESNETS.STRIDE_IN_1X1": False}
NEAREST = {"MODEL.FPN.UPSAMPLER": "nearest"}
FDCONV = {"MODEL.BACKBONE.FDCONV.ENABLED": True, "MODEL.BACKBONE.FDCONV.KERNEL_NUM": 4}
FASTER = {**BACKBONE, **FASTER_RCNN, **RGB, **NEAREST}
MASK = {**BACKBONE, **MASK_RCNN, **RGB, **NEAREST, "MODEL.ROI_MASK_HEAD.NUM_CONV": 2}
MASK2FORMER = {**small_models.OPTIONS, **small_models.RESNET18, **RGB}
SWIN = {**small_models.OPTIONS, **RGB, "MODEL.BACKBONE.NAME": "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM": 32,
        "MODEL.SWIN.DEPTHS": [1, 2, 1, 1], "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8], "MODEL.SWIN.WINDOW_SIZE": 4}
UPERNET = {**SMALL_MODEL, **RGB, "MODEL.SEM_SEG_HEAD.NAME": "UPerNetHead"}
UPERNET_RESNET = {**UPERNET, **small_models.RESNET18}
UPERNET_TRANSFORMER = {**UPERNET, "MODEL.BACKBONE.NAME": "build_fdam_vit_backbone", "MODEL.VIT.IMG_SIZE": 64,
                       "MODEL.VIT.EMBED_DIM": 32, "MODEL.VIT.DEPTH": 4, "MODEL.VIT.NUM_HEADS": 2,
                       "MODEL.VIT.OUT_INDICES": [0, 1, 2, 3]}

SEGNEXT = {**SMALL_MODEL, **RGB, "MODEL.BACKBONE.NAME": "build_mscan_backbone",
           "MODEL.MSCAN.EMBED_DIMS": [16, 16, 32, 32], "MODEL.MSCAN.DEPTHS": [1, 1, 2, 1],
           "MODEL.SEM_SEG_HEAD.NAME": "LightHamHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res3", "res4", "res5"],
           "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 8, "MODEL.SEM_SEG_HEAD.NORM": "GN",
           "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32, "MODEL.SEM_SEG_HEAD.HAM.BASES": 3}
SEGNEXT_FREQFUSION = {**SEGNEXT, "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED": True}


def words(options):
    return [str(word) for item in options.items() for word in item]


class Converter:
    """Runs the tool in a folder, on a file with the contents given."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.target = folder / "converted.pth"
        (folder / "empty.yaml").write_text("VERSION: 2\n")

    def run(self, contents, options, *flags):
        """Exit status, stdout, stderr."""
        torch.save(contents, self.folder / "source.pth")
        status = convert_weights.main([str(self.folder / "source.pth"), str(self.target), "--config-file",
                                       str(self.folder / "empty.yaml"), *flags, *words(options)])
        return status, *self.capsys.readouterr()

    def load(self, contents, options, *flags, whole_model=True):
        """The model of the options, strictly filled from what the tool wrote; and the tool's report."""
        status, report, error = self.run(contents, options, *flags)
        assert status == 0, error
        model = build_model(load_config(opts=words(options)))
        StrictCheckpointer(model, whole_model=whole_model).load(str(self.target))
        return model.eval(), report

    def refuse(self, contents, options, *flags):
        """The message of a refusal, which has written nothing."""
        status, _, error = self.run(contents, options, *flags)
        assert status == 1 and error.startswith("error: ")
        assert not list(self.folder.glob("converted*"))
        return error
