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

    A second call after one that failed midway tells the first cause again, not what it left behind in the registries.

    Raises ImportError: detectron2 is absent, with the remedy, or another project has taken one of the published names;
    what a broken one raises passes.
    """
    try:
        from freqdino import data, registration  # noqa: F401  (importing them registers)
    except AssertionError as error:         # detectron2's registries say so that a name is taken
        if not _first_failure:
            _first_failure.append(ImportError(
                f"FreqDINO's models cannot be registered: {error} Another project in this process, such as "
                "Mask2Former's or Mask DINO's own, has the same published names: import one of them."))
        raise _first_failure[0] from error
    except Exception as error:
        _first_failure[:] = [error]
        raise


_first_failure: list[Exception] = []
