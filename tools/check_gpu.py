#!/usr/bin/env python
"""Holds a GPU against the CPU; --help says how."""
from freqdino.commands.check_gpu import main

if __name__ == "__main__":
    raise SystemExit(main())
