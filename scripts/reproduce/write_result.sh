#!/usr/bin/env bash
# Writes the board of a study into docs/results/NAME.md and .json. Arguments: study, folder with search.log, the command.
set -euo pipefail
study=$1 folder=$2 command=$3
name=${study//-/_}
out=docs/results/$name
shrinkboard leaderboard --study "$study" --format json > "$out.json"
{
    echo "# The board of \`$study\`"
    echo
    echo "Made by \`bash scripts/reproduce/$name.sh\`, which runs"
    echo
    echo "    $command"
    echo
    echo "The same rows as data: \`$name.json\`. Accuracies are those of the validation split."
    echo
    shrinkboard leaderboard --study "$study" --format markdown
    echo
    echo "## What the search printed"
    echo
    echo '```'
    cat "$folder/search.log"
    echo '```'
} > "$out.md"
