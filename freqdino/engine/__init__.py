"""Training and evaluation: trainer, launch, solver, weight averaging; trained models as predictors and artists."""
from freqdino.errors import needing_detectron2

with needing_detectron2():
    from freqdino.engine.predictor import Predictor

__all__ = ["Predictor"]
