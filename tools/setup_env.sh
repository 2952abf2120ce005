#!/usr/bin/env bash
# Makes .venv beside this folder's parent: torch and torchvision, FreqDINO's dependencies, Detectron2, FreqDINO itself.
# Needs python3 (>= 3.10) and a package index; a second run takes a second. PYTHON=... picks another interpreter.
# Where nvidia-smi lists a GPU it takes an installed Python 3.13 or 3.12, and adds deformops, whose kernels compute
# deformable attention there; without it PyTorch's operators do.
# An interpreter that already has torch >= 2.6 with torchvision (and perhaps detectron2) shares them with .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
if [ -z "${PYTHON:-}" ] && [ "$gpus" -gt 0 ]; then
    for PYTHON in python3.13 python3.12 python3; do
        if "$PYTHON" -c 'import venv' 2>/dev/null; then break; fi
    done
fi
PYTHON=${PYTHON:-python3}
TORCH="torch==2.14.1 torchvision==0.29.1"
step="checking $PYTHON"
remedy="install Python 3.10 or newer with its venv module, or name one: PYTHON=python3.11 bash tools/setup_env.sh"
trap 'echo "setup_env: failed while $step. Remedy: $remedy" >&2' ERR

"$PYTHON" -c 'import sys, venv; assert sys.version_info >= (3, 10), f"Python {sys.version.split()[0]} is older than 3.10"'
stamp=.venv/.complete
fingerprint=$(cat setup.py tools/setup_env.sh tools/install_detectron2.py | "$PYTHON" -c 'import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), sys.version.split()[0])')
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ] && .venv/bin/python -c 'import torch, detectron2' 2>/dev/null; then
    echo "setup_env: .venv is up to date"
    exit 0
fi

step="making .venv"
remedy="delete the folder .venv and run again"
has_torch='import torch, torchvision; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)'
if [ ! -x .venv/bin/python ]; then
    if "$PYTHON" -c "$has_torch" 2>/dev/null; then
        echo "setup_env: $PYTHON has torch; .venv shares its packages"
        "$PYTHON" -m venv --system-site-packages .venv
    else
        "$PYTHON" -m venv .venv
    fi
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

step="installing setuptools"
remedy="check that pip reaches its package index: .venv/bin/pip config list"
pip install -q "setuptools>=61,<81" wheel

step="installing $TORCH"
remedy="$remedy; or install a matching pair of torch >= 2.6 and torchvision into .venv yourself and run again"
if ! .venv/bin/python -c "$has_torch" 2>/dev/null; then
    echo "setup_env: installing $TORCH"
    pip install -q $TORCH
fi

step="installing FreqDINO and its dependencies"
echo "setup_env: installing FreqDINO and its dependencies"
pip install -q --no-build-isolation -e ".[test,fast-eval]"

if [ "$gpus" -gt 0 ]; then
    if .venv/bin/python -c 'import sys, torch
version, lowest = tuple(map(int, torch.__version__.split(".")[:2])), 12 if (torch.version.cuda or "") > "13" else 11
sys.exit(not ((3, 12) <= sys.version_info < (3, 14) and version >= (2, lowest)))'
    then
        pip install -q --no-build-isolation -e ".[gpu]" || echo "setup_env: deformops could not be installed"
    else
        echo "setup_env: a GPU, but not Python 3.12 or 3.13 with torch 2.11 (CUDA 13: 2.12) for deformops: PyTorch's" \
             "operators compute deformable attention"
    fi
fi

step="installing detectron2"
remedy="the lines above say what is missing; an importable detectron2 in .venv is used as it is"
echo "setup_env: installing detectron2"
.venv/bin/python tools/install_detectron2.py

step="importing freqdino"
remedy="delete the folder .venv and run again; if that does not help, report the lines above"
.venv/bin/python -c 'import freqdino, detectron2, torch, torchvision
print(f"setup_env: ready, torch {torch.__version__}, torchvision {torchvision.__version__}, detectron2 {detectron2.__version__}")'
echo "$fingerprint" > "$stamp"
