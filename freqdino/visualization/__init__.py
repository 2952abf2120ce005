"""Results, ground truth and numbers as pictures, videos and the report's page."""
from freqdino.errors import need_detectron2

need_detectron2()
