"""Weights of other projects under the names of the models here."""
from freqdino.errors import need_detectron2

need_detectron2()
