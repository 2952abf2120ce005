"""The predictor: what it may be given, sizes and batches, precision, threads, and the state of the process."""
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from PIL import Image
from torch import nn

from freqdino import Predictor
from freqdino.config import load_config
from freqdino.data.mapper import build_mapper
from freqdino.errors import CheckpointError, ConfigError

IMAGE = np.zeros((30, 40, 3), np.uint8)
IMAGE[..., 0] = 200     # red
CLASSES = {"thing_classes": ["cup", "jug"], "stuff_classes": ["cup", "jug", "table"],
           "thing_dataset_id_to_contiguous_id": {11: 0, 12: 1}, "stuff_dataset_id_to_contiguous_id": {13: 2}}
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.0",
         "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.0", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "DATASETS.TRAIN",
         "()", "DATASETS.TEST", "()", "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "True"]


@META_ARCH_REGISTRY.register()
class EchoModel(nn.Module):
    """Gives its input back."""

    def __init__(self, cfg):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, samples):
        return samples


@pytest.fixture
def echo(tmp_path):
    def make(*options):
        torch.save({"model": {"offset": torch.zeros(1)}}, tmp_path / "echo.pth")
        return load_config(opts=["MODEL.META_ARCHITECTURE", "EchoModel", "MODEL.WEIGHTS", str(tmp_path / "echo.pth"),
                                 "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "60", *options])
    return make


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as a run leaves it: a small panoptic model of random weights, in which no query takes "no object"."""
    folder = tmp_path_factory.mktemp("run")
    cfg = load_config("quickstart/mask2former.yaml", SMALL)
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -100.0
    torch.save({"model": model.state_dict(), "classes": CLASSES}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run)


def pictures():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 64), (50, 90), (64, 64), (33, 41))]


def same(one, other):
    ids, segments = one.panoptic
    return (torch.equal(ids, other.panoptic[0]) and [s["category_id"] for s in segments] == [
        s["category_id"] for s in other.panoptic[1]] and torch.allclose(one.semantic, other.semantic, atol=1e-5)
            and torch.allclose(one.instances.scores, other.instances.scores, atol=1e-5))


@pytest.mark.parametrize(("order", "red"), [("RGB", 0), ("BGR", 2)])
def test_what_the_model_is_given(echo, order, red):
    predict = Predictor(echo("INPUT.FORMAT", order))
    sample = predict(IMAGE).output
    assert sample["image"].shape == (3, 60, 80) and (sample["height"], sample["width"]) == (30, 40)
    assert (sample["image"][red] == 200).all() and sample["image"].sum() == 200 * 60 * 80
    assert predict.input_size(IMAGE) == (60, 80)


def test_the_input_is_that_of_an_evaluation(echo, tmp_path):
    picture = pictures()[1]
    Image.fromarray(picture).save(tmp_path / "a.png")
    for options in (("INPUT.MIN_SIZE_TEST", "0"), ("INPUT.MAX_SIZE_TEST", "70"), ("INPUT.FORMAT", "RGB")):
        cfg = echo(*options)
        evaluated = build_mapper(cfg, is_train=False)({"file_name": str(tmp_path / "a.png"), "image_id": 1})
        assert torch.equal(Predictor(cfg)(picture).output["image"], evaluated["image"])


def test_paths_arrays_and_pictures(echo, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "red.png")
    palette = Image.fromarray(IMAGE).quantize(2)
    predict = Predictor(config=echo())
    for given in (str(tmp_path / "red.png"), tmp_path / "red.png", Image.open(tmp_path / "red.png"), palette,
                  Image.fromarray(IMAGE).convert("RGBA")):
        result = predict(given)
        assert (result.image == IMAGE).all() and result.output["image"].shape == (3, 60, 80)
    turned = Image.fromarray(IMAGE.transpose(1, 0, 2))
    turned.getexif()[0x0112] = 6       # to be turned clockwise
    assert predict(turned).image.shape == (30, 40, 3)


@pytest.mark.parametrize(("given", "message"), [
    (IMAGE.astype(np.float32), "image must be a path.*array of shape .30, 40, 3. and type float32"),
    (IMAGE[..., 0], "image must be .*shape .30, 40. and"), (torch.zeros(3, 4, 4), "array of shape .*torch.float32"),
    (IMAGE[:0], "image has no pixel"), (7, "got a int"), ("nowhere.png", "nowhere.png does not exist")])
def test_what_is_no_picture(echo, given, message):
    with pytest.raises((ValueError, OSError), match=message):
        Predictor(echo())(given)


def test_a_batch_of_other_sizes_changes_nothing(predictor):
    together = predictor(pictures(), batch_size=3)
    assert isinstance(together, list) and all(same(predictor(picture), result)
                                              for picture, result in zip(pictures(), together, strict=True))
    assert predictor([]) == []
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predictor(pictures(), batch_size=0)


def test_threads_do_not_disturb_each_other(predictor):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predictor, pictures() * 3))
    alone = [predictor(picture) for picture in pictures()]
    assert all(same(result, alone[i % 4]) for i, result in enumerate(found))


def test_the_process_is_left_as_it_was(run):
    def state():
        return (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
                torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), set(MetadataCatalog),
                set(DatasetCatalog), torch.is_autocast_enabled("cpu"))

    before = state()
    Predictor(run, dtype="bfloat16")(pictures())
    assert state() == before


def test_class_names_and_things_are_those_of_the_checkpoint(predictor):
    assert {key: predictor.metadata.get(key) for key in CLASSES} == CLASSES
    segments = predictor(pictures()[0]).panoptic[1]
    assert segments and all(segment["isthing"] == (segment["category_id"] < 2) for segment in segments)
    scores = [segment["score"] for segment in segments]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(run, predictor, dtype):
    """The network computes in it (numbers differ) and close to float32; results stay float32."""
    exact, half = predictor(pictures()[0]).semantic, Predictor(run, dtype=dtype)(pictures()[0]).semantic
    difference = (exact - half).abs().max() / exact.abs().max()
    assert half.dtype == torch.float32 and 0 < difference < 0.1


def test_other_weights_and_options(run, tmp_path):
    contents = torch.load(run / "model_final.pth", weights_only=True)
    contents["model"]["sem_seg_head.predictor.class_embed.bias"][0] = 50.0
    torch.save(contents, tmp_path / "other.pth")
    predict = Predictor(run, weights=tmp_path / "other.pth", options=["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False])
    result = predict(pictures()[0])
    assert result.panoptic is None and (result.instances.pred_classes[:5] == 0).all()
    assert Predictor(config=str(run / "config.yaml"), weights=run / "model_final.pth",
                     device="cpu").cfg.MODEL.WEIGHTS == str(run / "model_final.pth")


def test_what_cannot_be_loaded(run, tmp_path, echo):
    with pytest.raises(CheckpointError, match="does not fit MaskClassificationModel:\n.*221 missing"):
        Predictor(config=run / "config.yaml", weights=echo().MODEL.WEIGHTS)
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty"):
        Predictor(config=run / "config.yaml")
    with pytest.raises(ValueError, match="source or config is needed, one of the two"):
        Predictor()
    with pytest.raises(ValueError, match="source or config is needed, one of the two"):
        Predictor(run, config=run / "config.yaml")
    with pytest.raises(FileNotFoundError, match="there is no such folder of a run"):
        Predictor(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="is no OUTPUT_DIR of train_net.py"):
        Predictor(tmp_path)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'int8'"):
        Predictor(run, dtype="int8")
