"""Datasets of the published configurations that Detectron2 lacks: ADE20K panoptic, instance; COCO with semantic maps.

Detectron2 itself has coco_2017_*, coco_2017_{train,val}_panoptic, cityscapes_fine_* and ade20k_sem_seg_{train,val}.
Folder trees and preparation: datasets/README.md.
"""
from detectron2.data import MetadataCatalog

from freqdino.data.categories import ClassTable, load_class_table
from freqdino.data.registering import register_instances, register_panoptic


def _register_ade20k() -> None:
    root = "ADEChallengeData2016"
    panoptic, things = load_class_table("ade20k_panoptic"), load_class_table("ade20k_instance")
    for split, folder in (("train", "training"), ("val", "validation")):
        images, json_file = f"{root}/images/{folder}", f"{root}/ade20k_instance_{split}.json"
        register_instances(f"ade20k_instance_{split}", things, json_file=json_file, image_root=images, under_root=True)
        register_panoptic(f"ade20k_panoptic_{split}", panoptic, panoptic_json=f"{root}/ade20k_panoptic_{split}.json",
                          image_root=images, panoptic_root=f"{root}/ade20k_panoptic_{split}", json_file=json_file,
                          sem_seg_root=f"{root}/annotations_detectron2/{folder}", evaluator_type="ade20k_panoptic_seg",
                          under_root=True)


def _coco_classes() -> ClassTable:
    """COCO's 133 panoptic classes, from the metadata that Detectron2 has of them."""
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    things, stuff = metadata.thing_dataset_id_to_contiguous_id, metadata.stuff_dataset_id_to_contiguous_id
    categories = [{"id": dataset_id, "name": metadata.stuff_classes[index], "isthing": dataset_id in things}
                  for dataset_id, index in {**things, **stuff}.items()]
    return ClassTable.from_categories(categories, "Detectron2's COCO classes", panoptic=True)


def _register_coco() -> None:
    for split in ("train", "val"):
        register_panoptic(f"coco_2017_{split}_panoptic_with_sem_seg", _coco_classes(),
                          panoptic_json=f"coco/annotations/panoptic_{split}2017.json", image_root=f"coco/{split}2017",
                          panoptic_root=f"coco/panoptic_{split}2017", sem_seg_root=f"coco/panoptic_semseg_{split}2017",
                          json_file=f"coco/annotations/instances_{split}2017.json", under_root=True)


def register_builtin_datasets() -> None:
    """Register them; names that are taken already are left alone."""
    _register_ade20k()
    _register_coco()
