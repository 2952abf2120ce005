"""Errors of a model's parts, told in the terms of the configuration that they were built from."""
import re
from contextlib import contextmanager

from ..config import ConfigError


@contextmanager
def errors_about(subject: str, **keys: str):
    """Inside the block a ValueError becomes a ConfigError that opens with ``subject``, a key or section.

    ``keys``: argument -> the key that it comes from, which takes its place in the message. A ConfigError passes.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        message = re.sub(r"\w+", lambda word: keys.get(word[0], word[0]), str(error))
        raise ConfigError(f"{subject}: {message}") from error
