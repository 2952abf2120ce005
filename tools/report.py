#!/usr/bin/env python
"""One HTML page about a run of train_net.py; --help says how."""
from freqdino.commands.report import main

if __name__ == "__main__":
    raise SystemExit(main())
