#!/usr/bin/env python
"""Parameters, FLOPs, activations, time and memory of models, part by part; --help says how."""
from freqdino.commands.analyze_model import main

if __name__ == "__main__":
    raise SystemExit(main())
