"""Configuration: every key with its default, a loader that is safe and says what is wrong, and the checks."""
from freqdino.errors import ConfigError, UnknownKeyError, needing_detectron2

with needing_detectron2():
    from freqdino.config.keys import add_freqdino_config, default_config
    from freqdino.config.loading import load_config, lookup, merge_config_file, read_yaml

__all__ = ["ConfigError", "UnknownKeyError", "add_freqdino_config", "default_config", "load_config", "lookup",
           "merge_config_file", "read_yaml"]
