"""Suite-wide settings: one thread, a fixed seed for every test, `gpu` tests that skip without CUDA and run in float32's
precision; fixtures of the tests that train."""
import json
import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)      # tiny tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_tf32(request, monkeypatch):
    """From Ampere on cuDNN's convolutions round float32 to TF32's ten bits, which no comparison here allows."""
    if "gpu" in request.keywords:
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def forgetting_catalogs():
    """What is registered meanwhile is forgotten, but for what comes with the packages when they are first loaded."""
    if "freqdino.data" not in sys.modules:
        yield
        return
    from detectron2.data import DatasetCatalog, MetadataCatalog
    before = {id(catalog): set(catalog) for catalog in (DatasetCatalog, MetadataCatalog)}
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in set(catalog) - before[id(catalog)]:
            catalog.pop(name)


catalogs_of_a_test = pytest.fixture(autouse=True)(forgetting_catalogs)
catalogs_of_a_file = pytest.fixture(autouse=True, scope="module")(forgetting_catalogs)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def loggers_as_before():
    """Detectron2's loggers keep their handlers and stop propagating; other tests read them through caplog."""
    from detectron2.utils.logger import setup_logger  # here: the frequency modules' tests do without Detectron2

    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "freqdino")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    threads = torch.get_num_threads()
    for logger in loggers:
        logger.handlers = []        # of an earlier call, whose stream is another test's
    setup_logger.cache_clear()
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    setup_logger.cache_clear()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Own-data name of four pictures with a bright or a dark square each."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    images, annotations = [], []
    for index in range(4):
        pixels = np.full((48, 64, 3), 128, np.uint8)
        x, y, dark = 4 + 8 * index, 6 + 4 * index, index % 2
        pixels[y:y + 20, x:x + 20] = 40 if dark else 230
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        images.append({"id": index + 1, "file_name": f"{index}.png", "height": 48, "width": 64})
        corners = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
        annotations.append({"id": index + 1, "image_id": index + 1, "category_id": dark + 1, "iscrowd": 0, "area": 400,
                            "bbox": [x, y, 20, 20], "segmentation": [corners]})
    coco = {"images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]}
    (folder / "squares.json").write_text(json.dumps(coco))
    return f"{folder}/squares.json@{folder}/images"
