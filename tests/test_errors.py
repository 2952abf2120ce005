"""How a message is made of an error, whose argument becomes whose key, and where its traceback goes."""
import logging
import pickle
import sys

import pytest

from freqdino.errors import ArgumentError, ConfigError, errors_in, first_few, keep_tracebacks_off_stdout, message_of
from freqdino.registration.binding import errors_about


def test_an_argument_error_has_the_argument_and_says_in_which_part():
    with pytest.raises(ArgumentError) as caught, errors_in("blocks.0"), errors_in("attn"):
        raise ArgumentError("dim", "must be 1, got 2")
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.argument, error.problem, error.parts) == ("dim", "must be 1, got 2", ("blocks.0", "attn"))
        assert message_of(error) == "blocks.0: attn: dim must be 1, got 2"
    with pytest.raises(ValueError, match="^attn: no argument's fault$"), errors_in("attn"):
        raise ValueError("no argument's fault")


@pytest.mark.parametrize(("error", "message"), [
    (ArgumentError("order", "must be up, in this order"), "MODEL.X.FEATURE_ORDER must be up, in this order"),
    (ArgumentError("order", "is lost", ("blocks.0", "attn")), "MODEL.X.FEATURE_ORDER is lost (in blocks.0.attn)"),
    (ArgumentError("num_heads", "must be 1"), "MODEL.Y.NHEADS must be 1"),
    (ArgumentError("dim", "must be in order"), "MODEL.X: dim must be in order"),
    (ValueError("order, order!"), "MODEL.X: order, order!"), (ConfigError("MODEL.Z is known"), "MODEL.Z is known")])
def test_where_registration_read_an_argument(error, message):
    with pytest.raises(ConfigError) as caught:
        with errors_about("MODEL.X", order="FEATURE_ORDER", num_heads="MODEL.Y.NHEADS"):
            raise error
    assert message_of(caught.value) == message


def test_what_is_about_none_of_the_keys_passes_where_there_is_no_subject():
    for error in (ValueError("a loss that is not finite"), ArgumentError("dim", "is odd")):
        with pytest.raises(type(error)) as caught, errors_about(None, order="MODEL.ORDER"):
            raise error
        assert caught.value is error


def test_messages():
    assert message_of(KeyError("no 'x'")) == "no 'x'"       # without the quotes that str() puts round it
    assert message_of(ValueError("wrong")) == "wrong"
    assert message_of(KeyError()) == "KeyError"
    assert "tools/install_detectron2.py" in message_of(ModuleNotFoundError("No module named 'x'", name="detectron2"))


def test_the_first_few_of_many():
    assert first_few([]) == "" and first_few("ab", 2) == "a, b"
    assert first_few(range(3), 2) == "0, 1, ... (3 in all)" and first_few(range(3), 2, counted=False) == "0, 1, ..."


def test_message_of_a_data_loaders_worker():
    passed_on = ("Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                 '  File "x.py", line 1, in load\n    raise OSError("gone.png")\nOSError: gone.png is not there\n')
    assert message_of(OSError(passed_on)) == "gone.png is not there"


def test_tracebacks_go_to_files_alone(tmp_path, capsys):
    logger = logging.Logger("test")
    logging.Logger.manager.loggerDict["freqdino_test_errors"] = logger
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.addHandler(logging.FileHandler(tmp_path / "log.txt"))
    try:
        keep_tracebacks_off_stdout("freqdino_test_errors")
        logger.info("before")
        try:
            raise ValueError("wrong")
        except ValueError:
            logger.exception("stopped")
    finally:
        del logging.Logger.manager.loggerDict["freqdino_test_errors"]
    assert capsys.readouterr().out == "before\n"
    assert "ValueError: wrong" in (tmp_path / "log.txt").read_text()
