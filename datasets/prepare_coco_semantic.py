#!/usr/bin/env python
"""--help says how; `freqdino.data.preparation.coco_semantic` says what is converted."""
from freqdino.commands.prepare import coco_semantic as main

if __name__ == "__main__":
    raise SystemExit(main())
