"""MODEL.BACKBONE.FDCONV and MODEL.BACKBONE.FDAM in the blocks of hierarchical transformers."""
from ...config import ConfigError
from ...modeling.backbones.token_block import add_fdam, add_fdconv


def add_frequency_modules(cfg, network, section: str) -> None:
    """Put what is switched on into all blocks of ``network``, in place.

    Raises ConfigError for a number of groups that does not fit, and for channels that do not, which ``section`` sets.
    """
    fdconv = cfg.MODEL.BACKBONE.FDCONV
    if fdconv.ENABLED:
        try:
            add_fdconv(network, kernel_num=fdconv.KERNEL_NUM)
        except ValueError as error:
            raise ConfigError(f"MODEL.BACKBONE.FDCONV.KERNEL_NUM is {fdconv.KERNEL_NUM}: {error}") from error
    if cfg.MODEL.BACKBONE.FDAM.ENABLED:
        try:
            add_fdam(network)
        except ValueError as error:
            raise ConfigError(f"{section}, with MODEL.BACKBONE.FDAM.ENABLED: {error}") from error
