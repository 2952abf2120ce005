"""Two parts of a data set by name: every picture in one of them, by its file's name alone; what is lost is said."""
import json

import pytest
from detectron2.data import MetadataCatalog

from freqdino.data import dataset_records
from freqdino.data.catalog import left_out
from freqdino.data.splitting import Part, part_names, part_of, split_records
from freqdino.errors import DataError
from freqdino.evaluation.build import build_evaluator


def records(*names):
    return [{"file_name": f"folder/{name}", "image_id": number} for number, name in enumerate(names)]


def test_names():
    assert part_names("a.json@b", 0.8) == ("a.json@b#train=0.8", "a.json@b#val=0.8")
    assert part_of("a.json@b#val=0.8") == Part("a.json@b", "val", 0.8)
    assert part_of(part_names("x", 1e-05)[0]) == Part("x", "train", 1e-05)
    assert part_of("a.json@b") is part_of("a.json@b#val") is part_of("a.json@b#val=1.2.3") is None


def test_every_picture_is_in_one_part_whatever_the_order_and_the_folder():
    names = [f"{number}.png" for number in range(25)]
    parts = split_records("set", records(*names), 0.8)
    assert [len(parts[kind]) for kind in ("train", "val")] == [20, 5]
    learnt = {record["file_name"].rpartition("/")[2] for record in parts["train"]}
    other = [{"file_name": f"elsewhere/{name}"} for name in reversed(names)]
    assert {record["file_name"].rpartition("/")[2] for record in split_records("set", other, 0.8)["train"]} == learnt
    assert [record["image_id"] for record in parts["val"]] == sorted(record["image_id"] for record in parts["val"])
    # sha256 of "a" to "d": ca97..., 3e23..., 2e7d..., 18ac...; the smaller half are d and c.
    halves = split_records("set", records("a", "b", "c", "d"), 0.5)
    assert [record["image_id"] for record in halves["train"]] == [2, 3]


@pytest.mark.parametrize("count, share", [(1, 0.8), (2, 0.8), (0, 0.5), (3, 0.1)])
def test_an_empty_part_is_refused(count, share):
    with pytest.raises(DataError, match=f"DATASETS.SPLIT {share} leaves .* of the {count} pictures of set"):
        split_records("set", records(*map(str, range(count))), share)


def test_parts_of_own_data(squares, caplog):
    """Four pictures, two of each class: they are evaluated by the ground truth of their own part."""
    train, val = part_names(squares, 0.5)
    assert [len(dataset_records(name)) for name in (train, val)] == [2, 2]
    ids = {name: {record["image_id"] for record in dataset_records(name)} for name in (train, val)}
    assert ids[train] | ids[val] == {record["image_id"] for record in dataset_records(squares)}
    assert left_out(val) == ids[train] and left_out(train) == ids[val] and not left_out(squares)
    assert MetadataCatalog.get(val).thing_classes == ["bright", "dark"]
    evaluator = build_evaluator(val, tasks=["instance"], output_dir=None, distributed=False)._evaluators[0]
    assert evaluator._image_ids == ids[val]


def test_a_class_that_a_part_loses_is_said(squares, tmp_path, caplog):
    file, images = squares.split("@")
    document = json.loads(open(file).read())
    for number, annotation in enumerate(document["annotations"]):
        annotation["category_id"] = 2 if number == 0 else 1         # one picture alone has the second class
    (tmp_path / "rare.json").write_text(json.dumps(document))
    name = f"{tmp_path}/rare.json@{images}"
    dataset_records(part_names(name, 0.5)[0])
    (message,) = [record.getMessage() for record in caplog.records if "DATASETS.SPLIT" in record.getMessage()]
    assert message.startswith(f"DATASETS.SPLIT 0.5 of {name} leaves no picture of the class 'dark' to ")
    assert "name them in DATASETS.TRAIN and DATASETS.TEST" in message


def test_a_part_of_a_set_that_is_not_known():
    with pytest.raises(DataError, match="dataset 'nonesuch#val=0.8' is not registered"):
        dataset_records("nonesuch#val=0.8")
