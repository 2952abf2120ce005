"""Errors of a model's parts, told in the terms of the configuration that they were built from."""
from contextlib import contextmanager

from ..config import ConfigError


@contextmanager
def errors_about(subject: str):
    """Inside the block a ValueError becomes a ConfigError that opens with ``subject``, a key or section."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{subject}: {error}") from error
