#!/usr/bin/env bash
# Searches cifar10/resnet8 on the real CIFAR-10 and writes what came out into docs/results/. Takes 25 minutes on two cores.
# Needs SHRINKBOARD_DATA, the folder that holds cifar-10-batches-py. Run again, it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/venv.sh
study=cifar10-resnet8
folder=${1:-build/cifar10_resnet8}
mkdir -p "$folder"
export SHRINKBOARD_STORAGE=$folder/board.db COLUMNS=160
search=(shrinkboard search --workload cifar10/resnet8 --strategy "pca_l1,sentei,uniform,global_l1" --target cpu-onnxruntime
    --trials 8 --time-budget 25m)
"${search[@]}" --study "$study" --resume | tee "$folder/search.log"
bash scripts/reproduce/write_result.sh "$study" "$folder" "${search[*]}"
