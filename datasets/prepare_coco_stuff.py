#!/usr/bin/env python
"""--help says how; `freqdino.data.preparation.coco_stuff` says what is converted."""
from freqdino.commands.prepare import coco_stuff as main

if __name__ == "__main__":
    raise SystemExit(main())
