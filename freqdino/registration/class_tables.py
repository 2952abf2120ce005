"""What the data sets' metadata says about classes: how many there are, and which have instances."""
from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from freqdino.checkpoint.class_rows import CLASS_TABLES
from freqdino.config import lookup
from freqdino.config.bounds import COUNTS_CLASSES
from freqdino.errors import ConfigError

# Detectron2's detectors -> the key of their number of classes.
DETECTORS = {"GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES", "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
             "RetinaNet": "MODEL.RETINANET.NUM_CLASSES"}


def training_metadata(cfg: CfgNode) -> Metadata | None:
    """Metadata of the first training set, or None where the configuration names none."""
    return MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None


def training_class_tables(cfg: CfgNode) -> dict[str, object]:
    """What a checkpoint says about its classes: the tables of the first training set's metadata, names and ids."""
    metadata = training_metadata(cfg)
    return {} if metadata is None else {key: value for key, value in metadata.as_dict().items() if key in CLASS_TABLES}


def count_classes(metadata: Metadata) -> int | None:
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
    names = metadata.get("thing_classes") or metadata.get("stuff_classes")     # alone of what a checkpoint notes
    return len(names) if names else None


def with_counted_classes(cfg: CfgNode) -> CfgNode:
    """``cfg`` with the data's number of classes where MODEL.SEM_SEG_HEAD.NUM_CLASSES is 0.

    That of the first of DATASETS.TRAIN and DATASETS.TEST that says it. Raises ConfigError where none does.
    """
    if cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES or cfg.MODEL.META_ARCHITECTURE not in COUNTS_CLASSES:
        return cfg
    counts = [count_classes(MetadataCatalog.get(name)) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)]
    counted = next(filter(None, counts), None)
    if counted is None:
        raise ConfigError("MODEL.SEM_SEG_HEAD.NUM_CLASSES is 0, which means as many as the data have, but no data set "
                          "of DATASETS.TRAIN or DATASETS.TEST says how many that are; set the number, or a data set")
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = counted
    if frozen:
        cfg.freeze()
    return cfg


def check_num_classes(cfg: CfgNode) -> None:
    """Hold MODEL.SEM_SEG_HEAD.NUM_CLASSES against the data sets; ConfigError has both numbers and the option."""
    configured = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if configured < 1:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.NUM_CLASSES must be at least 1, got {configured}; 0 stands for the "
                          "data's number where data are known: set the number to build a model without")
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        counted = count_classes(MetadataCatalog.get(name))
        if counted is not None and counted != configured:
            raise ConfigError(f"the data set {name} has {counted} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
                              f"{configured}; set MODEL.SEM_SEG_HEAD.NUM_CLASSES {counted}")


def check_detector_classes(cfg: CfgNode) -> None:
    """Hold Detectron2's own detectors against the data sets; raises ConfigError with both numbers and the option.

    Their instances have the classes of things, counted from 0, and the label maps of Panoptic FPN have
    ``stuff_classes``: a data set to learn from must not number things and stuff together.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in DETECTORS:
        return
    key = DETECTORS[architecture]
    for name in cfg.DATASETS.TRAIN:
        thing_ids, stuff_ids = (MetadataCatalog.get(name).get(f"{kind}_dataset_id_to_contiguous_id") or {}
                                for kind in ("thing", "stuff"))
        if stuff_ids and not set(thing_ids.values()) & set(stuff_ids.values()):
            raise ConfigError(f"the data set {name} numbers things and stuff together, which {architecture} cannot "
                              "learn from; set DATASETS.TRAIN to one of instances, or to a *_panoptic_separated one")
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        _check_count(name, "classes of things", key, lookup(cfg, key),
                     metadata.get("thing_dataset_id_to_contiguous_id") or metadata.get("thing_classes"))
        if architecture == "PanopticFPN":
            _check_count(name, "classes in its label maps", "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
                         cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, metadata.get("stuff_classes"))


def _check_count(name: str, what: str, key: str, configured: int, classes: Collection[str] | None) -> None:
    if classes is not None and len(classes) != configured:
        raise ConfigError(f"the data set {name} has {len(classes)} {what}, but {key} is {configured}; "
                          f"set {key} {len(classes)}")


def thing_classes(cfg: CfgNode) -> frozenset[int]:
    """Contiguous ids of the classes that have instances, from the first training set's metadata.

    Without a table every class has.
    """
    metadata = training_metadata(cfg)
    ids = metadata.get("thing_dataset_id_to_contiguous_id") if metadata is not None else None
    if ids is not None:
        return frozenset(ids.values())
    return frozenset(range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES))
