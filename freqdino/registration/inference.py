"""How the models of a configuration are called in evaluation: TEST.GROUP_BY_SIZE and TEST.SLIDING_WINDOW."""
import logging

from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n

from freqdino.errors import ConfigError
from freqdino.modeling.inference import Inference, SlidingWindow
from freqdino.registration.binding import errors_about
from freqdino.registration.predictions import how_to_predict, predictions_of

SECTION = "TEST.SLIDING_WINDOW"

logger = logging.getLogger(__name__)


def inference_of(cfg: CfgNode, size_divisibility: int) -> Inference:
    """What TEST says for a model that pads to multiples of ``size_divisibility``. Raises ConfigError, see
    `sliding_window`; windows that the model pads are said in the log.
    """
    window = sliding_window(cfg)
    if window is not None and any(side % max(size_divisibility, 1) for side in window.size):
        logger.warning("%s.SIZE is %s, but the model pads its input to multiples of %d: every window is padded with "
                       "zeros at its right or bottom, inside the picture", SECTION, list(window.size),
                       size_divisibility)
    return Inference(group_by_size=cfg.TEST.GROUP_BY_SIZE, window=window)


def sliding_window(cfg: CfgNode) -> SlidingWindow | None:
    """The window of TEST.SLIDING_WINDOW, None where it is not enabled.

    Raises ConfigError for a model that predicts more or other than semantic maps, and for a size or stride that cannot
    be meant.
    """
    options = cfg.TEST.SLIDING_WINDOW
    if not options.ENABLED:
        if (options.SIZE, options.STRIDE) != (None, None):
            log_first_n(logging.WARNING, f"{SECTION}.SIZE and STRIDE change nothing: {SECTION}.ENABLED is False",
                        name=__name__, key="message")
        return None
    tasks = predictions_of(cfg).tasks
    if tasks != ("semantic",):
        raise ConfigError(f"{SECTION}.ENABLED is True, but {cfg.MODEL.META_ARCHITECTURE} predicts {', '.join(tasks)}: "
                          "windows merge to semantic maps alone, since an object may lie in several; set "
                          f"{SECTION}.ENABLED to False, or {how_to_predict(cfg, ('semantic',))}")
    size, stride = (_height_and_width(f"{SECTION}.{key}", options[key]) for key in ("SIZE", "STRIDE"))
    with errors_about(SECTION, size="SIZE", stride="STRIDE"):
        return SlidingWindow(size=size, stride=stride)


def _height_and_width(key: str, value: object) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, (int, float)) else value
    if (not isinstance(sides, (list, tuple)) or len(sides) != 2
            or any(not isinstance(side, (int, float)) or isinstance(side, bool) or side % 1 for side in sides)):
        raise ConfigError(f"{key} is {value!r}; expected one whole number of pixels or two, [height, width], as in "
                          f"{SECTION}.SIZE 512 {SECTION}.STRIDE 341")
    height, width = map(int, sides)
    return height, width
