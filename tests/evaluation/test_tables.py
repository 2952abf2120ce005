"""Markdown tables: how cells are written, which side they stand on, rows that come in bit by bit."""
import numpy as np

from freqdino.evaluation.tables import growing_table, markdown_table


def test_cells_and_sides():
    """A name that looks like a number stays a name; tabulate would write 1e3 as 1000."""
    rows = [["1e3", 1234, 1234.5], ["b", np.int64(7), None]]
    assert markdown_table(["class", "count", "AP"], rows, digits=1).splitlines() == [
        "| class   |   count |      AP |",
        "|:--------|--------:|--------:|",
        "| 1e3     |   1,234 | 1,234.5 |",
        "| b       |       7 |       – |"]
    assert markdown_table(["class", "n"], [["a", 1]], aligned=False).splitlines()[::2] == ["| class | n |", "| a | 1 |"]


def test_rows_that_come_in_bit_by_bit():
    lines = list(growing_table(["case", "ms"], iter([[["a", 1.0]], [["b", 2.0], ["c", 3.0]]])))
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]] == [
        ["case", "ms"], ["a", "1.00"], ["b", "2.00"], ["c", "3.00"]]
