#!/usr/bin/env python
"""Writes data sets of other formats as COCO files; --help says how."""
from freqdino.commands.convert_data import main

if __name__ == "__main__":
    raise SystemExit(main())
