"""What the classes of a trained model are called, and what drawings need besides."""
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from freqdino.data import register_custom_datasets
from freqdino.errors import ConfigError

logger = logging.getLogger(__name__)


def dataset_metadata(name: str) -> Metadata:
    """Metadata of a data set. Raises ConfigError: it is not registered; OSError, ValueError: it is own data that cannot
    be read."""
    register_custom_datasets([name])
    if name not in DatasetCatalog:
        raise ConfigError(f"the data set {name} is not registered; registered are {', '.join(sorted(DatasetCatalog))}")
    return MetadataCatalog.get(name)


def class_metadata(cfg: CfgNode, noted: Mapping[str, object] | None = None) -> Metadata:
    """What the weights say, ``noted`` (`checkpoint.class_rows.CLASS_TABLES`), with the colours of a data set of the
    configuration that has these classes; where they say nothing, metadata of the first of DATASETS.TEST and
    DATASETS.TRAIN that is known on this machine, and empty ones, with a warning, where none is.
    """
    configured = dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN))
    if noted:
        for name in configured:
            if name in DatasetCatalog and noted.items() <= MetadataCatalog.get(name).as_dict().items():
                return MetadataCatalog.get(name)
        return Metadata().set(**noted)
    problems = []
    for name in configured:
        try:
            return dataset_metadata(name)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    logger.warning("No data set that the configuration names is here, so classes are shown by number, and those of a "
                   "panoptic model all count as things: %s", "; ".join(problems) or "DATASETS.TEST and TRAIN are empty")
    return Metadata()


@contextmanager
def classes_to_build_with(cfg: CfgNode, metadata: Metadata) -> Iterator[CfgNode]:
    """``cfg`` whose data set is one of this ``metadata``, from which models take what their classes are; it is in
    Detectron2's catalog for the time of the block."""
    cfg = cfg.clone()
    cfg.defrost()
    tables = {key: value for key, value in metadata.as_dict().items() if key != "name"}
    name = f"classes of a model {uuid.uuid4()}"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ((name,), ()) if tables else ((), ())
    if tables:
        MetadataCatalog.get(name).set(**tables)
    try:
        yield cfg
    finally:
        if tables:
            MetadataCatalog.pop(name)
