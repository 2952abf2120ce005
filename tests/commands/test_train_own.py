"""train_net.py on own data with what the data settle: classes, length in epochs, a split, the best weights."""
import numpy as np
import pytest
import torch

from freqdino import Predictor, load_config
from freqdino.commands.train import run
from freqdino.engine.class_metadata import class_metadata, classes_to_build_with
from freqdino.registration.class_tables import with_counted_classes
from helpers.small_training import fails, options, results

pytestmark = pytest.mark.usefixtures("loggers_as_before")
OWN = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "0", "SOLVER.EPOCHS", "3", "TEST.EVAL_EPOCHS", "1",
       "TEST.KEEP_BEST", "segm/AP", "SOLVER.CHECKPOINT_EPOCHS", "1", "SOLVER.CHECKPOINT_KEEP", "2",
       "MODEL_EMA.ENABLED", "True"]


def own(squares, output, *more):
    """Of four pictures three are learnt from: two iterations of two an epoch."""
    return options(squares, output, "DATASETS.TEST", "()", "DATASETS.SPLIT", "0.75", *OWN, *more)


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    run(own(squares, folder))
    return folder


def test_the_data_settle_the_rest(trained, squares):
    assert sorted(path.name for path in trained.glob("*.pth")) == [
        "model_0000003.pth", "model_0000005.pth", "model_best.pth", "model_final.pth"]
    cfg = load_config(trained / "config.yaml")
    assert (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD) == (2, 6, 2)
    assert cfg.DATASETS.TRAIN == (f"{squares}#train=0.75",) and cfg.DATASETS.TEST == (f"{squares}#val=0.75",)
    log = (trained / "log.txt").read_text()
    assert "NUM_CLASSES is the data's: 2" in log and "An epoch has 2 iterations: 3 pictures in batches of 2." in log
    assert log.count("Start inference on 1 batches") == 3 and list(results(trained)) == [f"{squares}#val=0.75"]
    assert "DATASETS.SPLIT 0.75" in log         # of the one picture for evaluation one of the two classes is missing


def test_what_was_trained_predicts(trained):
    for name in ("model_best.pth", "model_final.pth"):
        predictor = Predictor(trained, weights=trained / name)
        assert len(predictor(np.full((48, 64, 3), 128, np.uint8)).instances) == 5


def test_it_resumes_and_is_evaluated_by_the_same_words(trained, squares, tmp_path):
    (tmp_path / "model_0000003.pth").write_bytes((trained / "model_0000003.pth").read_bytes())
    run(["--resume", *own(squares, tmp_path)])
    one, other = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (trained, tmp_path))
    assert all(torch.equal(one[key], other[key]) for key in one)
    log = (tmp_path / "log.txt").read_text()
    assert "New: nothing" in log
    run(["--eval-only", *own(squares, tmp_path / "again", "MODEL.WEIGHTS", str(trained / "model_final.pth"))])
    assert results(tmp_path / "again") == results(trained)


def test_without_a_test_set_one_warning(squares, tmp_path, caplog):
    run(options(squares, tmp_path, *OWN, "DATASETS.TEST", "()", "SOLVER.EPOCHS", "1"))
    log = (tmp_path / "log.txt").read_text()
    assert log.count("DATASETS.TEST is empty, so nothing is evaluated: TEST.EVAL_EPOCHS, TEST.KEEP_BEST are off") == 1
    assert not (tmp_path / "model_best.pth").exists() and (tmp_path / "model_final.pth").is_file()


def test_iterations_of_the_command_line_win(squares, tmp_path):
    run(options(squares, tmp_path, *OWN, "SOLVER.MAX_ITER", "1"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"
    assert (tmp_path / "log.txt").read_text().count("SOLVER.MAX_ITER 1 takes the place of SOLVER.EPOCHS 3") == 1


def test_what_cannot_be_meant(squares, tmp_path, capsys):
    error = fails(capsys, options(squares, tmp_path, "DATASETS.SPLIT", "0.5"))
    assert "DATASETS.SPLIT is 0.5, but DATASETS.TEST names what is evaluated" in error
    error = fails(capsys, options(squares, tmp_path, *OWN, "DATASETS.TEST", "()", "DATASETS.SPLIT", "0.1"))
    assert "DATASETS.SPLIT 0.1 leaves 0 of the 4 pictures" in error


@pytest.mark.parametrize("classes", [{"thing_classes": ["a", "b", "c"]}, {"stuff_classes": ["a", "b", "c"]}])
def test_the_classes_that_a_checkpoint_notes_are_counted(squares, tmp_path, classes):
    """Where the data are not at hand, as in a demo of the leaf that was trained."""
    cfg = load_config(opts=own(squares, tmp_path, "DATASETS.TRAIN", "gone.json@nowhere"))
    with classes_to_build_with(cfg, class_metadata(cfg, classes)) as of_classes:
        assert with_counted_classes(of_classes).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
