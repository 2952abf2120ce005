"""What is said while a configuration is loaded stands in log.txt too, once, and not a second time on the screen."""
import logging

from detectron2.utils.logger import setup_logger

from freqdino.engine.early_remarks import remembered, repeat_in_file


def test_warnings_are_remembered_and_written_into_the_file_alone(tmp_path, capsys):
    logger = logging.getLogger("freqdino.config.anything")
    with remembered() as said:
        logger.info("not this")
        logger.warning("%s has no effect", "KEY")
    logger.warning("nor this")
    assert said == ["KEY has no effect"]
    setup_logger(str(tmp_path / "run"), 0, name="freqdino", configure_stdout=False)
    setup_logger(str(tmp_path / "other"), 0, name="freqdino", configure_stdout=False)
    capsys.readouterr()
    repeat_in_file(said, str(tmp_path / "run" / "log.txt"))
    logging.getLogger("freqdino").handlers.pop()
    logging.getLogger("freqdino").handlers.pop()
    [line] = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert line.endswith("freqdino WARNING: KEY has no effect")
    assert not (tmp_path / "other" / "log.txt").read_text() and capsys.readouterr().out == ""
