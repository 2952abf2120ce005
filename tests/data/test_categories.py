"""Class tables: contiguous indices in the order of the ids, metadata of the three kinds, tables out of order."""
import json

import pytest

from freqdino.data.categories import ClassTable, class_colors, load_class_table
from helpers.paths import FACTS

CATEGORIES = [{"id": 20, "name": "dog", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0},
              {"id": 90, "name": "cat", "isthing": 1}]


def test_indices_follow_the_ids():
    table = ClassTable.from_categories(CATEGORIES, "a.json", panoptic=True)
    assert table.names == ("sky", "dog", "cat")
    assert table.index_of_id == {9: 0, 20: 1, 90: 2}


def test_metadata():
    table = ClassTable.from_categories(CATEGORIES, "a.json", panoptic=True)
    panoptic = table.panoptic_metadata()
    assert panoptic["thing_dataset_id_to_contiguous_id"] == {20: 1, 90: 2}
    assert panoptic["stuff_dataset_id_to_contiguous_id"] == {9: 0}
    assert panoptic["thing_classes"] == panoptic["stuff_classes"] == ["sky", "dog", "cat"]
    assert (panoptic["ignore_label"], panoptic["label_divisor"]) == (255, 1000)
    assert table.instance_metadata()["thing_dataset_id_to_contiguous_id"] == {9: 0, 20: 1, 90: 2}
    assert table.semantic_metadata()["stuff_classes"] == ["sky", "dog", "cat"]


@pytest.mark.parametrize("categories, message", [
    ([], "not a list of at least one category"),
    ([{"id": 1}], "category number 0 has no name"),
    ([{"id": 1, "name": "a"}], "category number 0 has no isthing"),
    ([{"id": "x", "name": "a", "isthing": 1}], "category 'a' has the id 'x'; ids are integers"),
    ([*CATEGORIES, {"id": 9, "name": "again", "isthing": 0}], r"category ids \[9\] occur more than once"),
])
def test_bad_tables_name_the_file(categories, message):
    with pytest.raises(ValueError, match=f"^a.json: .*{message}"):
        ClassTable.from_categories(categories, "a.json", panoptic=True)


def test_built_in_tables():
    panoptic, instance = load_class_table("ade20k_panoptic"), load_class_table("ade20k_instance")
    assert (len(panoptic.names), sum(panoptic.isthing), len(instance.names)) == (150, 100, 100)
    assert panoptic.ids == tuple(range(150))
    assert instance.ids == tuple(index for index in panoptic.ids if panoptic.isthing[index])
    assert (panoptic.names[0], instance.names[0], instance.ids[0]) == ("wall", "bed", 7)


def test_ade20k_tables_are_the_published_ones():
    """Ids and kinds; names are the full ones here, where the published list shortens some."""
    published = json.loads((FACTS / "ade20k_categories.json").read_text())
    panoptic, instance = load_class_table("ade20k_panoptic"), load_class_table("ade20k_instance")
    assert [(entry["id"], bool(entry["isthing"])) for entry in published["panoptic_150"]] == list(
        zip(panoptic.ids, panoptic.isthing))
    assert [entry["id"] for entry in published["instance_100"]] == list(instance.ids)
    rows = (FACTS / "ade20k_instance_catid_mapping.txt").read_text().splitlines()[1:]
    counted_from_one = dict(map(int, row.split()[:2]) for row in rows if row.strip())
    assert {key - 1: value - 1 for key, value in counted_from_one.items()} == dict(enumerate(instance.ids))


def test_colours_are_distinct_and_in_range():
    colors = class_colors(150)
    assert len({tuple(color) for color in colors}) == 150
    assert all(0 <= value <= 255 for color in colors for value in color)
