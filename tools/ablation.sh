#!/usr/bin/env bash
# Sets up .venv if needed and runs tools/ablation.py with the arguments given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
exec .venv/bin/python tools/ablation.py "$@"
