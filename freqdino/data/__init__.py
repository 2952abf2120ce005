"""Datasets and their way into the model. Importing it registers the built-in datasets and the sample set.

`register_custom_datasets` takes own data by name, `dataset_records` reads a dataset; `build_mapper`,
`build_train_loader` and `build_test_loader` read ``cfg.INPUT``, ``cfg.DATASETS`` and ``cfg.DATALOADER``.
"""
from .builtin import register_builtin_datasets
from .custom import register_custom_datasets
from .loaders import build_test_loader, build_train_loader, dataset_records
from .mapper import build_mapper
from .sample_scenes import register_sample_scenes

__all__ = ["build_mapper", "build_test_loader", "build_train_loader", "dataset_records",
           "register_builtin_datasets", "register_custom_datasets"]

register_builtin_datasets()
register_sample_scenes()
