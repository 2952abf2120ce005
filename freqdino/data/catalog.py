"""The records of data sets by name, and what is said where their files are missing."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from detectron2.data import DatasetCatalog, MetadataCatalog

from freqdino.data.custom import register_custom_datasets
from freqdino.data.registering import check_dataset_files
from freqdino.data.splitting import part_of
from freqdino.errors import DataError


@contextmanager
def missing_files_explained(names: Sequence[str]) -> Iterator[None]:
    """Where the loading of a dataset fails and its files are not there, say which ones and where they belong."""
    for name in names:
        if name not in DatasetCatalog:
            raise DataError(f"dataset {name!r} is not registered; registered are {', '.join(sorted(DatasetCatalog))}; "
                            "own data are named as datasets/README.md describes")
    try:
        yield
    except (OSError, AssertionError):  # Detectron2's own datasets assert that their files exist
        for name in names:
            check_dataset_files(name)
        raise


def dataset_records(name: str) -> list[dict]:
    """The records of a registered dataset, or of own data by its name.

    Raises MissingDataError: its files are missing; names the path, DETECTRON2_DATASETS and datasets/README.md;
    DataError: an unknown dataset, or annotations that are not in order.
    """
    register_custom_datasets([name])
    with missing_files_explained((name,)):
        return DatasetCatalog.get(name)


def id_of(record: dict) -> int | str:
    """The image id that a record is evaluated under."""
    return record.get("image_id", record["file_name"])


def keep_only(name: str, records: Sequence[dict], kept: Sequence[dict]) -> None:
    """From now on the records of a data set that are not among the ``kept`` are left out when it is evaluated."""
    left_out = frozenset(map(id_of, records)) - frozenset(map(id_of, kept))
    vars(MetadataCatalog.get(name))["left_out"] = left_out      # metadata refuses to change a value


def left_out(name: str) -> frozenset[int | str]:
    """Ids of the images that are left out when a data set is evaluated; of a part, also those of the other one."""
    metadata = MetadataCatalog.get(name)
    if part_of(name) and "other_part" not in metadata.as_dict():
        dataset_records(name)               # which says what the part holds
    return metadata.get("left_out", frozenset()) | metadata.get("other_part", frozenset())
