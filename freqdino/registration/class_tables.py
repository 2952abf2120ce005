"""What the data sets' metadata says about classes: how many there are, and which have instances."""
from detectron2.data import MetadataCatalog

from ..config import ConfigError


def training_metadata(cfg):
    """Metadata of the first training set, or None where the configuration names none."""
    return MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None


def count_classes(metadata) -> int | None:
    """Classes that a model for this data set tells apart; None where the metadata does not say.

    Things and stuff together where both have ids; else those that the kind of the data set evaluates.
    """
    thing_ids = metadata.get("thing_dataset_id_to_contiguous_id")
    stuff_ids = metadata.get("stuff_dataset_id_to_contiguous_id")
    kind = metadata.get("evaluator_type", "")
    if thing_ids and stuff_ids:
        return len({*thing_ids.values(), *stuff_ids.values()})
    if stuff_ids or "sem_seg" in kind or "panoptic" in kind:
        names = metadata.get("stuff_classes")
        return len(names) if names else len(stuff_ids) if stuff_ids else None
    names = metadata.get("thing_classes")
    return len(names) if names else None


def check_num_classes(cfg) -> None:
    """Hold MODEL.SEM_SEG_HEAD.NUM_CLASSES against the data sets; raises ConfigError with both numbers and the option."""
    configured = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        counted = count_classes(MetadataCatalog.get(name))
        if counted is not None and counted != configured:
            raise ConfigError(f"the data set {name} has {counted} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {configured}; "
                              f"set MODEL.SEM_SEG_HEAD.NUM_CLASSES {counted}")


def thing_classes(cfg) -> frozenset[int]:
    """Contiguous ids of the classes that have instances, from the first training set's metadata.

    Without a table every class has.
    """
    metadata = training_metadata(cfg)
    ids = metadata.get("thing_dataset_id_to_contiguous_id") if metadata is not None else None
    if ids is not None:
        return frozenset(ids.values())
    return frozenset(range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES))
