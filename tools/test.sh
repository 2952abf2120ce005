#!/usr/bin/env bash
# Sets up .venv if needed and runs the test suite; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
exec .venv/bin/python -m pytest -c tests/pytest.ini tests "$@"
