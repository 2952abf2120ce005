"""FreqDINO: frequency-aware segmentation for Detectron2.

Importing it imports neither torch nor detectron2. The names below come from their rooms when they are first asked for;
`add_freqdino_config`, `load_config` and `Predictor` fill Detectron2's registries and catalogs at their first use.
"""
from importlib import import_module

__version__ = "0.1.0"
__all__ = ["Predictor", "add_freqdino_config", "load_config"]

_ROOMS = {"Predictor": "freqdino.engine", "add_freqdino_config": "freqdino.config", "load_config": "freqdino.config"}


def __getattr__(name):
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})


def register() -> None:
    """Register the models, backbones and data sets with detectron2, once.

    Raises:
        ImportError: detectron2 is absent, with the remedy; what a broken one raises passes.
    """
    from freqdino import data, registration  # noqa: F401  (importing them registers)
