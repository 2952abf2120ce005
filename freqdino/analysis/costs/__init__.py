"""Parameters, FLOPs, activations, time and memory of models, part by part."""
from freqdino.errors import need_detectron2

need_detectron2()
