#!/usr/bin/env python
"""The papers' frequency analyses of any model: figures and numbers; --help says how."""
from freqdino.commands.analyze_frequency import main

if __name__ == "__main__":
    raise SystemExit(main())
