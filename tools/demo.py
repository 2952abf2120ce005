#!/usr/bin/env python
"""Draws a model's predictions into images, videos or a camera's pictures; --help says how."""
from freqdino.commands.demo import main

if __name__ == "__main__":
    raise SystemExit(main())
