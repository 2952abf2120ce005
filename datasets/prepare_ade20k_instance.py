#!/usr/bin/env python
"""--help says how; `freqdino.data.preparation.ade20k_instance` says what is converted."""
from freqdino.commands.prepare import ade20k_instance as main

if __name__ == "__main__":
    raise SystemExit(main())
