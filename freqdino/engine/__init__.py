"""Training and evaluation: trainer, launch, solver, weight averaging; trained models as predictors and artists."""
from freqdino.errors import detectron2_remedy

with detectron2_remedy():
    from freqdino.engine.predictor import Predictor

__all__ = ["Predictor"]
