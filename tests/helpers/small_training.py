"""Command lines of train_net.py for a tiny Mask2Former that learns the pictures of the fixture ``squares``."""
import json

import pytest

from freqdino.commands.train import run

TINY_SWIN = ["MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", "8",
             "MODEL.SWIN.DEPTHS", "[1, 1, 1, 1]", "MODEL.SWIN.NUM_HEADS", "[1, 1, 2, 2]", "MODEL.SWIN.WINDOW_SIZE", "4"]
TINY_HEAD = ["MODEL.META_ARCHITECTURE", "MaskFormer", "MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead", "MODEL.WEIGHTS", "",
             "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2",
             "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']", "MODEL.SEM_SEG_HEAD.NORM", "GN",
             "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "32",
             "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", "MODEL.MASK_FORMER.HIDDEN_DIM", "32",
             "MODEL.MASK_FORMER.NHEADS", "4", "MODEL.MASK_FORMER.DIM_FEEDFORWARD", "32",
             "MODEL.MASK_FORMER.DEC_LAYERS", "3", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "5",
             "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "32", "MODEL.MASK_FORMER.DROPOUT", "0.0",
             "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "multi_scale_pixel_decoder",
             "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False", "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True"]
SHORT = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0",
         "MODEL.DEVICE", "cpu", "TEST.DETECTIONS_PER_IMAGE", "5", "SEED", "1"]


def options(squares, output, *more):
    data = ["DATASETS.TRAIN", f"('{squares}',)", "DATASETS.TEST", f"('{squares}',)", "INPUT.DATASET_MAPPER_NAME",
            "coco_instance_lsj", "INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"]
    return [*data, *TINY_SWIN, *TINY_HEAD, *SHORT, "OUTPUT_DIR", str(output), *more]


def results(folder):
    return json.loads((folder / "inference" / "results.json").read_text())


def fails(capsys, words):
    """The message with which a run ends, without a traceback."""
    with pytest.raises(SystemExit) as caught:
        run(words)
    error = capsys.readouterr().err
    assert caught.value.code == 1 and "Traceback" not in error
    return error[error.index("error: "):]
