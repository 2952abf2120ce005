#!/usr/bin/env python
"""Trains and evaluates, with Detectron2's command line; --help says how."""
from freqdino.commands.train import run

if __name__ == "__main__":
    run()
