"""Panoptic quality of predictions stored in COCO's panoptic format: one JSON file and a folder of PNG files each.

Source: https://cocodataset.org/#format-data and #format-results (panoptic segmentation).
"""
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing import Pool

import numpy as np
from detectron2.utils.file_io import PathManager

from freqdino.data.coco_files import read_panoptic_ground_truth
from freqdino.data.panoptic_png import read_segment_ids
from freqdino.errors import first_few
from freqdino.evaluation.panoptic_quality import average_quality, match_segments

# Below this number of images a process costs more to start than it saves.
IMAGES_PER_PROCESS = 32


def panoptic_quality(ground_truth_json: str, ground_truth_folder: str, prediction_json: str, prediction_folder: str, *,
                     processes: int | None = None, without: Collection[int | str] = ()) -> dict[str, np.ndarray]:
    """Score the predictions of ``prediction_json`` for every image that ``ground_truth_json`` annotates.

    Args:
        without: ids of images that are left out.
        processes: processes that read and match images; None: as many as there are CPUs, fewer for few images. The
            result does not depend on it.
    Returns as ``average_quality``; the rows of ``per_class`` are in the order of the ground truth's ``categories``.
    Raises ValueError: a JSON without annotations or categories, an image without prediction or without ground truth, a
    PNG that is missing, damaged, of the wrong kind or size, or does not fit its segments; the message names file and
    segment.
    """
    categories, truth_by_image = ground_truth_by_image(ground_truth_json)
    for image_id in without:
        truth_by_image.pop(str(image_id), None)
    found_by_image = _annotations_by_image(_read_json(prediction_json), prediction_json)
    missing = truth_by_image.keys() - found_by_image.keys()
    if missing:
        raise ValueError(f"{prediction_json} has no prediction for {_named(missing)} of {ground_truth_json}")
    unknown = found_by_image.keys() - truth_by_image.keys()
    if unknown:
        raise ValueError(f"{ground_truth_json} has no ground truth for {_named(unknown)} of {prediction_json}")

    match = partial(_match_files, ground_truth_folder=ground_truth_folder, prediction_folder=prediction_folder,
                    category_ids=[category["id"] for category in categories])
    pairs = [(annotation, found_by_image[image_id]) for image_id, annotation in truth_by_image.items()]
    if processes is None:
        processes = max(1, min(os.cpu_count() or 1, len(pairs) // IMAGES_PER_PROCESS))
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    with ExitStack() as stack:
        results = (stack.enter_context(Pool(processes)).imap(match, pairs, chunksize=8) if processes > 1
                   else map(match, pairs))
        # Summed in the order of the images, so that rounding does not depend on the number of processes.
        statistics = sum(results, start=np.zeros((len(categories), 4)))
    return average_quality(statistics, [category["isthing"] for category in categories])


def ground_truth_by_image(path: str) -> tuple[list[dict], dict[str, dict]]:
    """The categories of a COCO panoptic JSON file, and its annotations by image id.

    Image ids are given as text, since loaders make integers of ids that a file may hold as text.
    Raises as `read_panoptic_ground_truth`.
    """
    categories, annotations = read_panoptic_ground_truth(path)
    return categories, {str(annotation["image_id"]): annotation for annotation in annotations}


def _match_files(pair: tuple[Mapping, Mapping], *, ground_truth_folder: str, prediction_folder: str,
                 category_ids: Sequence[int]) -> np.ndarray:
    truth, found = pair
    truth_file = os.path.join(ground_truth_folder, truth["file_name"])
    found_file = os.path.join(prediction_folder, found["file_name"])
    try:
        return match_segments(read_segment_ids(truth_file), read_segment_ids(found_file), truth["segments_info"],
                              found["segments_info"], category_ids)
    except (ValueError, OSError) as error:
        raise ValueError(f"image {truth['image_id']} (ground truth {truth_file}, prediction {found_file}): "
                         f"{error}") from error


def _read_json(path):
    with PathManager.open(path) as file:
        return json.load(file)


def _annotations_by_image(content, path):
    annotations = content.get("annotations", [])
    by_image = {str(annotation["image_id"]): annotation for annotation in annotations}
    if len(by_image) < len(annotations):
        raise ValueError(f"{path} holds {len(annotations)} annotations for {len(by_image)} images; one each is allowed")
    return by_image


def _named(image_ids: Collection[str]) -> str:
    return f"{len(image_ids)} images ({first_few(sorted(image_ids), counted=False)})"
