#!/usr/bin/env python
"""Trains a quickstart model with and without each frequency module, over several seeds; --help says how."""
from freqdino.commands.ablation import main

if __name__ == "__main__":
    raise SystemExit(main())
