"""Panoptic quality: worked examples, an independent slow count, the drawn scenes, files and their errors."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqdino.data import sample_scenes
from freqdino.data.panoptic_png import id_to_rgb, read_segment_ids
from freqdino.data.scene_drawing import THINGS
from freqdino.evaluation.panoptic_files import panoptic_quality
from freqdino.evaluation.panoptic_quality import average_quality, match_segments
from helpers.refusals import refuses

THING, STUFF, OTHER = 7, 40, 3  # category ids, neither contiguous nor sorted
CATEGORIES = (THING, STUFF, OTHER)


def segments(**categories):
    """segments_info from keywords such as s5=THING or c5=THING; c marks a crowd."""
    return [{"id": int(name[1:]), "category_id": category, "iscrowd": int(name[0] == "c")}
            for name, category in categories.items()]


def statistics(truth, found, truth_segments, found_segments):
    """{category: (IoU sum, matches, false positives, false negatives)} for one-row maps."""
    maps = np.array([truth]), np.array([found], dtype=np.int32)
    counts = match_segments(*maps, truth_segments, found_segments, CATEGORIES)
    return dict(zip(CATEGORIES, map(tuple, counts.tolist())))


NOTHING = (0, 0, 0, 0)


def test_match_with_an_iou_of_three_fifths():
    # 4 and 4 pixels, 3 of them common: union 5.
    result = statistics([1, 1, 1, 1, 2, 2, 2, 2], [9, 9, 9, 5, 5, 5, 5, 5], segments(s1=THING, s2=STUFF),
                        segments(s9=THING, s5=STUFF))
    assert result == {THING: (pytest.approx(3 / 4), 1, 0, 0), STUFF: (pytest.approx(4 / 5), 1, 0, 0), OTHER: NOTHING}


def test_an_iou_of_exactly_one_half_is_no_match():
    result = statistics([1, 1, 2, 2], [5, 6, 7, 7], segments(s1=THING, s2=STUFF),
                        segments(s5=THING, s6=OTHER, s7=STUFF))
    assert result == {THING: (0, 0, 1, 1), STUFF: (1, 1, 0, 0), OTHER: (0, 0, 1, 0)}


def test_category_mismatch_is_a_false_positive_and_a_false_negative():
    assert statistics([1, 1], [1, 1], segments(s1=THING), segments(s1=STUFF)) == {
        THING: (0, 0, 0, 1), STUFF: (0, 0, 1, 0), OTHER: NOTHING}


def test_void_pixels_leave_the_union():
    # Prediction: 3 pixels on the object of 3, 5 on void. With void in the union the IoU would be 3/8: no match.
    assert statistics([1] * 3 + [0] * 5, [4] * 8, segments(s1=THING), segments(s4=THING))[THING] == (1, 1, 0, 0)


def test_pixels_without_prediction_stay_in_the_union():
    assert statistics([1] * 4, [4, 4, 4, 0], segments(s1=THING), segments(s4=THING))[THING] == (0.75, 1, 0, 0)


@pytest.mark.parametrize(("on_void", "false_positives"), [(1, 1), (2, 1), (3, 0)])
def test_prediction_on_void_is_excused_above_one_half(on_void, false_positives):
    truth = [0] * on_void + [2] * (4 - on_void) + [2] * 6
    result = statistics(truth, [8] * 4 + [5] * 6, segments(s2=STUFF), segments(s8=THING, s5=STUFF))
    assert result[THING] == (0, 0, false_positives, 0)


def test_prediction_on_crowd_is_excused_in_its_own_category_only():
    truth, truth_segments = [1] * 4 + [2] * 2, segments(c1=THING, s2=STUFF)
    own = statistics(truth, [8, 8, 8, 8, 5, 5], truth_segments, segments(s8=THING, s5=STUFF))
    other = statistics(truth, [8, 8, 8, 8, 5, 5], truth_segments, segments(s8=OTHER, s5=STUFF))
    assert own == {THING: NOTHING, STUFF: (1, 1, 0, 0), OTHER: NOTHING}
    assert other == {THING: NOTHING, STUFF: (1, 1, 0, 0), OTHER: (0, 0, 1, 0)}


def test_void_and_crowd_add_up():
    # 5 pixels: 1 void, 1 on each of two crowds of the category, 2 on stuff: 3 of 5 are excused.
    result = statistics([0, 1, 3, 2, 2, 2, 2], [8] * 5 + [5] * 2, segments(c1=THING, c3=THING, s2=STUFF),
                        segments(s8=THING, s5=STUFF))
    assert result == {THING: NOTHING, STUFF: (0, 0, 1, 1), OTHER: NOTHING}


def test_empty_prediction_and_empty_ground_truth():
    assert statistics([1, 1, 2], [0, 0, 0], segments(s1=THING, s2=THING), [])[THING] == (0, 0, 0, 2)
    assert statistics([0, 0, 0], [0, 0, 0], [], []) == dict.fromkeys(CATEGORIES, NOTHING)
    # All void: whatever is predicted there is excused.
    assert statistics([0, 0, 0], [1, 1, 1], [], segments(s1=THING)) == dict.fromkeys(CATEGORIES, NOTHING)


def test_map_without_pixels():
    empty = np.zeros((0, 5), dtype=np.int64)
    assert not match_segments(empty, empty, [], [], CATEGORIES).any()


def test_average():
    # A: 2 matches with IoU 0.8 and 0.6, 1 false positive, 1 false negative: RQ 2/3, SQ 0.7. B: one false. C: absent.
    quality = average_quality(np.array([[1.4, 2, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]), [True, False, False])
    a = [0.7 * 2 / 3, 0.7, 2 / 3]
    np.testing.assert_allclose(quality["per_class"], [a, [0, 0, 0], [np.nan] * 3])
    np.testing.assert_allclose(quality["Things"], a)
    np.testing.assert_allclose(quality["Stuff"], [0, 0, 0])
    np.testing.assert_allclose(quality["All"], np.array(a) / 2)
    assert np.isnan(average_quality(np.zeros((1, 4)), [True])["All"]).all()


test_inconsistent_segments = refuses(lambda found, found_segments: match_segments(
    np.array([[1, 1]]), np.array([found]), segments(s1=THING), found_segments, CATEGORIES), [
    ([1, 2], segments(s1=THING), r"predicted segments in the PNG but not in segments_info: \[2\]"),
    ([1, 1], segments(s1=THING, s2=THING), r"predicted segments in segments_info but not in the PNG: \[2\]"),
    ([1, 1], segments(s1=THING) * 2, r"predicted segments listed more than once: \[1\]"),
    ([1, 1], segments(s1=5), "predicted segment 1 has category_id 5"),
    ([1, 1, 1], segments(s1=THING), "the ground truth has 2x1 pixels, the prediction 3x1"),
])


def test_inconsistent_ground_truth():
    with pytest.raises(ValueError, match=r"ground-truth segments in the PNG but not in segments_info: \[3\]"):
        statistics([1, 3], [1, 1], segments(s1=THING), segments(s1=THING))


def slow_statistics(truth, found, truth_segments, found_segments, category_ids):
    """The same counts by a loop over pairs of masks, after the definition."""
    counts = {category: np.zeros(4) for category in category_ids}
    taken_truth, taken_found = set(), set()
    for t in truth_segments:
        for f in found_segments:
            if t.get("iscrowd") or t["category_id"] != f["category_id"]:
                continue
            inside = (truth == t["id"]) & (found == f["id"])
            union = (truth == t["id"]) | ((found == f["id"]) & (truth != 0))
            iou = inside.sum() / union.sum()
            if iou > 0.5:
                counts[t["category_id"]] += (iou, 1, 0, 0)
                taken_truth.add(t["id"])
                taken_found.add(f["id"])
    for t in truth_segments:
        if t["id"] not in taken_truth and not t.get("iscrowd"):
            counts[t["category_id"]][3] += 1
    for f in found_segments:
        excused = [t["id"] for t in truth_segments if t.get("iscrowd") and t["category_id"] == f["category_id"]] + [0]
        pixels = truth[found == f["id"]]
        if f["id"] not in taken_found and np.isin(pixels, excused).mean() <= 0.5:
            counts[f["category_id"]][2] += 1
    return np.stack([counts[category] for category in category_ids])


def random_maps(seed, size=24):
    """Blocky ground truth with void and crowds, and a prediction that is partly the same and partly shifted."""
    generator = np.random.default_rng(seed)
    truth = np.kron(generator.integers(0, 7, (size // 4, size // 4)), np.ones((4, 4), dtype=np.int64))
    noise = generator.integers(0, 7, truth.shape)
    found = np.where(generator.random(truth.shape) < 0.2, noise, np.roll(truth, seed % 2, 1))
    categories = generator.choice(CATEGORIES, 7)

    def describe(ids, crowd):
        return [{"id": int(i), "category_id": int(categories[i]), "iscrowd": int(crowd and i == 2)}
                for i in np.unique(ids) if i]
    return truth, found, describe(truth, True), describe(found, False)


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_slow_count(seed):
    maps = random_maps(seed)
    np.testing.assert_allclose(match_segments(*maps, CATEGORIES), slow_statistics(*maps, CATEGORIES))


def write_panoptic(folder, name, images, categories=None):
    """Write {file name: (ids, segments)} as JSON and PNG files; returns (JSON, folder)."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    annotations = []
    for number, (file_name, (ids, info)) in enumerate(images.items()):
        Image.fromarray(id_to_rgb(ids)).save(folder / name / file_name)
        annotations.append({"image_id": number, "file_name": file_name, "segments_info": info})
    content = {"annotations": annotations}
    if categories:
        content["categories"] = categories
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return str(path), str(folder / name)


CATEGORY_TABLE = [{"id": category, "name": str(category), "isthing": int(category == THING)} for category in CATEGORIES]


@pytest.mark.parametrize("processes", [1, 2, None])
def test_files_in_any_number_of_processes(tmp_path, processes):
    maps = [random_maps(seed) for seed in range(20)]
    truth = write_panoptic(tmp_path, "truth", {f"{i}.png": (m[0], m[2]) for i, m in enumerate(maps)}, CATEGORY_TABLE)
    found = write_panoptic(tmp_path, "found", {f"{i}.png": (m[1], m[3]) for i, m in enumerate(maps)})
    result = panoptic_quality(*truth, *found, processes=processes)
    expected = average_quality(sum(slow_statistics(*m, CATEGORIES) for m in maps), [True, False, False])
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value)


class TestFileErrors:
    @pytest.fixture
    def files(self, tmp_path):
        ids, info = np.array([[1, 1, 2]]), segments(s1=THING, s2=STUFF)
        truth = write_panoptic(tmp_path, "truth", {"a.png": (ids, info), "b.png": (ids, info)}, CATEGORY_TABLE)
        found = write_panoptic(tmp_path, "found", {"a.png": (ids, info), "b.png": (ids, info)})
        return tmp_path, truth, found

    def edit(self, path, change):
        content = json.loads(Path(path).read_text())
        change(content)
        Path(path).write_text(json.dumps(content))

    def fails(self, files, message, processes=1):
        with pytest.raises(ValueError, match=message):
            panoptic_quality(*files[1], *files[2], processes=processes)

    def test_no_prediction_for_an_image(self, files):
        self.edit(files[2][0], lambda content: content["annotations"].pop())
        self.fails(files, r"found.json has no prediction for 1 images \(1\) of .*truth.json")

    def test_no_ground_truth_for_an_image(self, files):
        self.edit(files[1][0], lambda content: content["annotations"].pop())
        self.fails(files, r"truth.json has no ground truth for 1 images \(1\) of .*found.json")

    def test_ground_truth_without_annotations(self, files):
        self.edit(files[1][0], lambda content: content.pop("annotations"))
        self.fails(files, "truth.json holds no annotations: there is no ground truth")

    def test_two_annotations_for_an_image(self, files):
        self.edit(files[2][0], lambda content: content["annotations"].append(content["annotations"][0]))
        self.fails(files, "found.json holds 3 annotations for 2 images")

    @pytest.mark.parametrize("processes", [1, 2])
    def test_segments_that_do_not_fit_name_the_files(self, files, processes):
        self.edit(files[2][0], lambda content: content["annotations"][1]["segments_info"].pop())
        self.fails(files, r"image 1 \(.*truth.b.png, .*found.b.png\): predicted .* not in segments_info: \[2\]",
                   processes)

    def test_size(self, files):
        Image.fromarray(np.zeros((4, 3, 3), np.uint8)).save(files[0] / "found" / "a.png")
        self.fails(files, r"found.a.png\): the ground truth has 3x1 pixels, the prediction 3x4")

    def test_grey_missing_and_damaged_files(self, files):
        path = files[0] / "found" / "a.png"
        Image.fromarray(np.zeros((1, 3), np.uint8)).save(path)
        self.fails(files, "panoptic PNG .*found.a.png has mode L; expected three 8-bit channels")
        path.write_bytes(path.read_bytes()[:40])
        self.fails(files, "found.a.png")
        path.unlink()
        self.fails(files, "found.a.png does not exist")

    def test_processes(self, files):
        self.fails(files, "processes must be at least 1, got 0", processes=0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Panoptic JSON and PNG folder of the sample scenes' validation set, drawn here, cut to six pictures."""
    root = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sample_scenes.SETS, "freqdino_scenes", (THINGS, {"train": 0, "val": 6}))
        sample_scenes.make_sample_scenes(str(root))
    folder = root / "freqdino_scenes"
    return str(folder / "panoptic_val.json"), str(folder / "panoptic_val")


class TestDrawnScenes:
    def test_ground_truth_against_itself(self, scenes):
        quality = panoptic_quality(*scenes, *scenes)
        for group in ("All", "Things", "Stuff"):
            np.testing.assert_array_equal(quality[group], [1, 1, 1])

    @pytest.mark.parametrize("change", ["shifted", "merged"])
    def test_against_a_changed_version(self, scenes, tmp_path, change):
        json_file, folder = scenes
        content = json.loads(Path(json_file).read_text())
        images = [(read_segment_ids(f"{folder}/{entry['file_name']}"), entry) for entry in content["annotations"]]
        category_ids = [category["id"] for category in content["categories"]]
        expected, annotations = 0, []
        (tmp_path / "found").mkdir()
        for truth, annotation in images:
            info = annotation["segments_info"]
            if change == "shifted":
                found = np.roll(truth, 9, axis=1)
            else:  # all segments of a category become its first one
                first = {}
                for segment in info:
                    first.setdefault(segment["category_id"], segment["id"])
                found = truth.copy()
                for segment in info:
                    found[truth == segment["id"]] = first[segment["category_id"]]
                info = [segment for segment in info if segment["id"] in first.values()]
            expected = expected + slow_statistics(truth, found, annotation["segments_info"], info, category_ids)
            Image.fromarray(id_to_rgb(found)).save(tmp_path / "found" / annotation["file_name"])
            annotations.append({**annotation, "segments_info": info})
        (tmp_path / "found.json").write_text(json.dumps({"annotations": annotations}))
        quality = panoptic_quality(*scenes, str(tmp_path / "found.json"), str(tmp_path / "found"))
        wanted = average_quality(expected, [category["isthing"] for category in content["categories"]])
        assert 0.1 < wanted["All"][0] < 0.99
        for name, value in wanted.items():
            np.testing.assert_allclose(quality[name], value)
