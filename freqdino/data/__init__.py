"""Datasets and their way into the model. Importing it registers the built-in datasets and the sample set.

`register_custom_datasets` takes own data by name, `find_images` the images of a folder or pattern, `dataset_records`
reads a dataset; `build_mapper`, `build_train_loader` and `build_test_loader` read ``cfg.INPUT``, ``cfg.DATASETS`` and
``cfg.DATALOADER``.
"""
from freqdino.errors import needing_detectron2

with needing_detectron2():
    from freqdino.data.builtin import register_builtin_datasets
    from freqdino.data.catalog import dataset_records
    from freqdino.data.custom import register_custom_datasets
    from freqdino.data.image_files import find_images
    from freqdino.data.loaders import build_test_loader, build_train_loader
    from freqdino.data.mapper import build_mapper
    from freqdino.data.sample_scenes import register_sample_scenes

__all__ = ["build_mapper", "build_test_loader", "build_train_loader", "dataset_records", "find_images",
           "register_builtin_datasets", "register_custom_datasets"]

register_builtin_datasets()
register_sample_scenes()
