#!/usr/bin/env python
"""Prints the metrics of a run's last evaluation; --help says how."""
from freqdino.commands.summarize_run import main

if __name__ == "__main__":
    raise SystemExit(main())
