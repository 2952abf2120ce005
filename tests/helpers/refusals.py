"""Tests of what is refused, as tables of what is given and what the message says."""
import pytest


def refuses(call, cases, error=ValueError):
    """A test that ``call(*given)`` raises, for cases (*given, pattern of the message)."""
    @pytest.mark.parametrize("case", cases, ids=lambda case: str(case[-1]))
    def test(case):
        *given, message = case
        with pytest.raises(error, match=message):
            call(*given)
    return test
