"""Commands set up loggers, as in a process of their own."""
import pytest


@pytest.fixture(autouse=True)
def own_loggers(loggers_as_before):
    """Of every test here."""
