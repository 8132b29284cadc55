#!/usr/bin/env bash
# Runs the tests; arguments go to pytest. Example: bash scripts/test.sh tests/strategies -k sentei
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh dev web browser postgres openvino ray torchao
export OMP_NUM_THREADS=1
exec python -m pytest "$@"
