#!/usr/bin/env python
"""Gives the weights of other projects the names of a model here; --help says how."""
from freqdino.commands.convert_weights import main

if __name__ == "__main__":
    raise SystemExit(main())
