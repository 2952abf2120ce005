#!/usr/bin/env python
"""Measures the fast paths against plainly written ones; --help says how."""
from freqdino.commands.benchmark import main

if __name__ == "__main__":
    raise SystemExit(main())
