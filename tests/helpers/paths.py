"""Where things are in the repository."""
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"
FACTS = TESTS / "golden" / "facts"      # what the published projects set and what their models have, as JSON
