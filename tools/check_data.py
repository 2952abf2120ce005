#!/usr/bin/env python
"""Checks data sets without training on them; --help says how."""
from freqdino.commands.check_data import main

if __name__ == "__main__":
    raise SystemExit(main())
