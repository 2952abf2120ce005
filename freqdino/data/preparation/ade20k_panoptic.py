"""ADE20K panoptic in COCO format: stuff from annotations_detectron2/, things from annotations_instance/.

Writes ade20k_panoptic_{train,val}/*.png and ade20k_panoptic_{train,val}.json. Things lie over stuff; pixels of a thing
class that belong to no object stay unlabelled. Run prepare_ade20k_sem_seg.py first.

    python datasets/prepare_ade20k_panoptic.py [--root datasets] [--splits train val] [--processes 8]
"""
from functools import partial
from pathlib import Path

import numpy as np

from freqdino.data.categories import load_class_table
from freqdino.data.image_reading import read_label_map
from freqdino.data.panoptic_png import nth_segment_id
from freqdino.data.preparation.ade20k import FOLDER, SPLITS, image_id_of, read_objects
from freqdino.data.preparation.jobs import files_in, run_jobs, write_json, write_png
from freqdino.data.segmentation import box_and_area

CLASSES = load_class_table("ade20k_panoptic")
THINGS = list(load_class_table("ade20k_instance").ids)


def convert(path: Path, instance_folder: Path, target: Path) -> tuple[dict, dict]:
    """Draw the panoptic PNG of one semantic label map; its image entry and its annotation."""
    semantic = read_label_map(str(path))
    size, objects = read_objects(instance_folder / path.name, THINGS)
    if size != semantic.shape:
        raise ValueError(f"{instance_folder / path.name} has the size {size} (height, width), {path} {semantic.shape}")
    ids, categories = np.zeros(semantic.shape, dtype=np.int32), {}
    stuff = [(index, semantic == index) for index in np.unique(semantic).tolist() if index < len(CLASSES.ids)
             and not CLASSES.isthing[index]]
    for category_id, mask in stuff + objects:
        segment_id = nth_segment_id(len(categories) + 1)
        ids[mask] = segment_id
        categories[segment_id] = category_id
    write_png(ids, target / path.name)
    drawn = np.unique(ids).tolist()
    segments = [{"id": segment_id, "category_id": category_id, **box_and_area(ids == segment_id)}
                for segment_id, category_id in categories.items() if segment_id in drawn]
    image_id, (height, width) = image_id_of(path), semantic.shape
    return ({"id": image_id, "file_name": f"{path.stem}.jpg", "height": height, "width": width},
            {"image_id": image_id, "file_name": path.name, "segments_info": segments})


def prepare(root: Path, split: str, processes: int) -> Path:
    """Convert a split, "train" or "val", of the data sets below ``root``; returns the JSON file."""
    root = root / FOLDER
    categories = [{"id": category_id, "name": name, "isthing": int(isthing)}
                  for category_id, name, isthing in zip(CLASSES.ids, CLASSES.names, CLASSES.isthing)]
    job = partial(convert, instance_folder=root / "annotations_instance" / SPLITS[split],
                  target=root / f"ade20k_panoptic_{split}")
    files = files_in(root / "annotations_detectron2" / SPLITS[split], "*.png")
    results = run_jobs(job, files, processes, split)
    return write_json({"images": [image for image, _ in results],
                       "annotations": [annotation for _, annotation in results],
                       "categories": categories}, root / f"ade20k_panoptic_{split}.json")
