"""One page about a run: what it was, how it learnt, what it does best and worst, what it costs."""
from freqdino.errors import need_detectron2

need_detectron2()
