#!/usr/bin/env bash
# The whole way on embedded data: shrinks a digits network in eight ways, measures each on this CPU, ranks them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh
mkdir -p demo
rm -f demo/board.db*
export SHRINKBOARD_STORAGE=demo/board.db
shrinkboard search --study demo --workload digits/cnn --target cpu-onnxruntime --trials 6 --time-budget 150s \
    --strategy pca_l1,sentei,uniform,global_l1,pca_l1+int,sentei+int,uniform+int,global_l1+int
shrinkboard leaderboard --study demo
shrinkboard report --study demo --out demo/board.html
