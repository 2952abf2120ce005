"""The frequency analyses of the FDAM, FDConv and FreqFusion papers as functions of models and images."""
from freqdino.errors import need_detectron2

need_detectron2()
