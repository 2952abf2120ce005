#!/usr/bin/env python
"""Draws what a configuration trains on; --help says how."""
from freqdino.commands.visualize_data import main

if __name__ == "__main__":
    raise SystemExit(main())
