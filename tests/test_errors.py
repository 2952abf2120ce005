"""How a message is made of an error, and where its traceback goes."""
import logging
import sys

from freqdino.errors import first_few, keep_tracebacks_off_stdout, message_of


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
