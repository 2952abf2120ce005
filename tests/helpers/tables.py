"""Markdown tables in what a command prints."""


def cells(text):
    """The cells of each line of the tables, the heading first, the lines of dashes left out."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
             if line.startswith("|")]
    return [line for line in lines if not all(set(cell) <= set("-:") for cell in line)]
