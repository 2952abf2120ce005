#!/usr/bin/env python
"""Writes trained models as ONNX files or programs of torch.export; --help says how."""
from freqdino.commands.export import main

if __name__ == "__main__":
    raise SystemExit(main())
