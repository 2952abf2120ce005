"""The sample set ``freqdino_scenes_{train,val}``: drawn at first use, in COCO format, under the datasets root.

800 and 100 pictures of 128x128 pixels with instance JSON (polygons; RLE where a part is hidden), panoptic JSON
and PNGs, and semantic PNGs. Registered as any panoptic dataset, and its things alone as an instance dataset,
``freqdino_scenes_instance_{train,val}``; classes are in categories/freqdino_scenes.json.

    freqdino_scenes/{train,val}/*.png  instances_*.json  panoptic_*.json  panoptic_*/*.png  semantic_*/*.png

``freqdino_held_back_{train,val}`` is the same with 40 pictures to learn from, of other things in other colours: what
a model that has learnt the first set can be fine-tuned on.
"""
import json
import logging
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from freqdino.data.categories import ClassTable, load_class_table
from freqdino.data.panoptic_png import id_to_rgb, nth_segment_id
from freqdino.data.registering import register_instances, register_panoptic
from freqdino.data.scene_drawing import (
    HELD_BACK,
    SIZE,
    STUFF_TEXTURES,
    THINGS,
    SceneObject,
    Things,
    draw_scene,
)
from freqdino.data.segmentation import box_and_area, encode_rle

# Folder of a set, which is also the name of its classes -> what is drawn in it, and the pictures of its parts.
SETS: dict[str, tuple[Things, dict[str, int]]] = {
    "freqdino_scenes": (THINGS, {"train": 800, "val": 100}),
    "freqdino_held_back": (HELD_BACK, {"train": 40, "val": 100}),
}

logger = logging.getLogger(__name__)


def _segmentation(scene_object: SceneObject) -> list | dict:
    """The outline of a whole object as a polygon, the visible part of another one as RLE."""
    if scene_object.whole:
        return [[round(float(value), 2) for value in scene_object.outline.ravel()]]
    return encode_rle(scene_object.visible)


def _write_split(folder: Path, split: str, name: str, classes: ClassTable) -> None:
    things, splits = SETS[name]
    first_stuff = len(things.shapes)
    for subfolder in (split, f"panoptic_{split}", f"semantic_{split}"):
        (folder / subfolder).mkdir()
    images, instances, panoptic = [], [], []
    for image_id in range(1, splits[split] + 1):
        scene, file_name = draw_scene([list(splits).index(split), image_id], things), f"{image_id:06d}.png"
        semantic = (first_stuff + scene.stuff).astype(np.uint8)
        for scene_object in scene.objects:
            semantic[scene_object.visible] = scene_object.category
        regions = [(scene_object.category, scene_object.visible) for scene_object in scene.objects]
        covered = semantic < first_stuff
        regions += [(first_stuff + stuff, (scene.stuff == stuff) & ~covered)
                    for stuff in range(len(STUFF_TEXTURES))]
        ids, segments = np.zeros((SIZE, SIZE), dtype=np.int32), []
        for category, mask in regions:
            if not mask.any():
                continue
            segment_id = nth_segment_id(len(segments) + 1)
            ids[mask] = segment_id
            segments.append({"id": segment_id, "category_id": classes.ids[category], **box_and_area(mask)})
        for scene_object in scene.objects:
            instances.append({"id": len(instances) + 1, "image_id": image_id,
                              "category_id": classes.ids[scene_object.category],
                              "segmentation": _segmentation(scene_object), **box_and_area(scene_object.visible)})
        images.append({"id": image_id, "file_name": file_name, "height": SIZE, "width": SIZE})
        panoptic.append({"image_id": image_id, "file_name": file_name, "segments_info": segments})
        Image.fromarray(scene.image).save(folder / split / file_name, compress_level=1)
        Image.fromarray(id_to_rgb(ids)).save(folder / f"panoptic_{split}" / file_name, compress_level=1)
        Image.fromarray(semantic).save(folder / f"semantic_{split}" / file_name, compress_level=1)
    categories = [{"id": dataset_id, "name": name, "isthing": int(isthing)}
                  for dataset_id, name, isthing in zip(classes.ids, classes.names, classes.isthing)]
    things = [{"id": category["id"], "name": category["name"]} for category in categories if category["isthing"]]
    for kind, annotations, table in (("instances", instances, things), ("panoptic", panoptic, categories)):
        document = {"images": images, "annotations": annotations, "categories": table}
        (folder / f"{kind}_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def make_sample_scenes(root: str, name: str = "freqdino_scenes") -> None:
    """Draw a set into <root>/<name> unless that folder is there.

    Written beside it and renamed when complete, so that processes which start together do not disturb each other.
    """
    target = Path(root) / name
    if target.is_dir():
        return
    Path(root).mkdir(parents=True, exist_ok=True)
    logger.info("Drawing the sample scenes into %s", target)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}_", dir=root))
    folder.chmod(0o755)
    try:
        classes = load_class_table(name)
        for split in SETS[name][1]:
            _write_split(folder, split, name, classes)
        try:
            os.rename(folder, target)
        except OSError:
            if not target.is_dir():  # not there because of another process that was faster
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def register_sample_scenes() -> None:
    """Register the sets' parts and their instances alone; nothing is drawn before one is loaded."""
    for name, (_, splits) in SETS.items():
        classes, draw = load_class_table(name), partial(make_sample_scenes, name=name)
        for split in splits:
            register_panoptic(f"{name}_{split}", classes, panoptic_json=f"{name}/panoptic_{split}.json",
                              image_root=f"{name}/{split}", panoptic_root=f"{name}/panoptic_{split}",
                              sem_seg_root=f"{name}/semantic_{split}", json_file=f"{name}/instances_{split}.json",
                              under_root=True, prepare=draw)
            register_instances(f"{name}_instance_{split}", classes.things, json_file=f"{name}/instances_{split}.json",
                               image_root=f"{name}/{split}", under_root=True, prepare=draw)
