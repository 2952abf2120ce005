"""MODEL.BACKBONE.FDCONV and MODEL.BACKBONE.FDAM in the blocks of hierarchical transformers."""
from ...modeling.backbones.token_block import add_fdam, add_fdconv
from ..config_errors import errors_about


def add_frequency_modules(cfg, network, section: str) -> None:
    """Put what is switched on into all blocks of ``network``, in place.

    Raises ConfigError for a number of groups that does not fit, and for channels that do not, which ``section`` sets.
    """
    fdconv = cfg.MODEL.BACKBONE.FDCONV
    if fdconv.ENABLED:
        with errors_about(f"MODEL.BACKBONE.FDCONV.KERNEL_NUM is {fdconv.KERNEL_NUM}"):
            add_fdconv(network, kernel_num=fdconv.KERNEL_NUM)
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        with errors_about(f"{section}, with MODEL.BACKBONE.FDAM.ENABLED"):
            add_fdam(network)
