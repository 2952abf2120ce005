"""ADE20K instances in COCO format: annotations_instance/ -> ade20k_instance_{train,val}.json, masks as RLE.

    python datasets/prepare_ade20k_instance.py [--root datasets] [--splits train val] [--processes 8]
"""
from pathlib import Path

from freqdino.data.categories import load_class_table
from freqdino.data.preparation.ade20k import FOLDER, SPLITS, image_id_of, read_objects
from freqdino.data.preparation.jobs import files_in, run_jobs, write_json
from freqdino.data.segmentation import box_and_area, encode_rle

CLASSES = load_class_table("ade20k_instance")


def convert(path: Path) -> tuple[dict, list[dict]]:
    """The image entry of one instance PNG and its annotations, still without ids."""
    image_id = image_id_of(path)
    (height, width), objects = read_objects(path, list(CLASSES.ids))
    annotations = []
    for category_id, mask in objects:
        annotations.append({"image_id": image_id, "category_id": category_id, "segmentation": encode_rle(mask),
                            **box_and_area(mask)})
    return {"id": image_id, "file_name": f"{path.stem}.jpg", "height": height, "width": width}, annotations


def prepare(root: Path, split: str, processes: int) -> Path:
    """Convert a split, "train" or "val", of the data sets below ``root``; returns the file."""
    categories = [{"id": category_id, "name": name} for category_id, name in zip(CLASSES.ids, CLASSES.names)]
    folder = root / FOLDER / "annotations_instance" / SPLITS[split]
    results = run_jobs(convert, files_in(folder, "*.png"), processes, split)
    annotations = [annotation for _, of_image in results for annotation in of_image]
    for annotation_id, annotation in enumerate(annotations, start=1):
        annotation["id"] = annotation_id
    return write_json({"images": [image for image, _ in results], "annotations": annotations, "categories": categories},
                      root / FOLDER / f"ade20k_instance_{split}.json")
