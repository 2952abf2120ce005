"""FreqDINO: frequency-aware segmentation for Detectron2.

Importing it registers the models, backbones and data sets with detectron2 where that is installed. Without it only the
parts that need torch alone can be imported: ``freqdino.frequency``, ``freqdino.ops`` and ``freqdino.layers``.
"""
from importlib.util import find_spec

__version__ = "0.1.0"
__all__ = ["add_freqdino_config"]

if find_spec("detectron2") is not None:
    from . import data, registration
    from .config import add_freqdino_config
else:
    def add_freqdino_config(cfg):
        """Stands in for `freqdino.config.add_freqdino_config`; always raises ImportError with the remedy."""
        raise ImportError("FreqDINO's models need detectron2, which has no release on PyPI: run "
                          "`bash tools/setup_env.sh`, or `python tools/install_detectron2.py` with the interpreter "
                          "that should get it.")
