#!/usr/bin/env bash
# The study of docs/evidence.md on a CPU, whole: build the environment, make five studies (task, SFT policy, reward model), train
# every arm from each, compare. About 250 PPO runs of one to two minutes and ten of eight on two cores. What is finished is
# kept, also a part of it: call it again to go on. A failed run ends it with its log's last lines and status 1.
#
#     bash examples/studies/run.sh                                      # results in runs/study
#     STUDIES="1 2" OUTPUT=runs/two bash examples/studies/run.sh        # of two studies
#
# Tables are printed; FILE.json and FILE.svg in OUTPUT have all numbers, as those in examples/studies do. VENV names
# the environment (default: .venv in the repository root).
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # what setup.sh has not imported is compiled once, not in every worker
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
VENV="${VENV:-.venv}"
OUTPUT="${OUTPUT:-runs/study}"
bash examples/setup.sh "$VENV"

run() { "$VENV/bin/python" -W ignore -m "examples.$@"; }
bases=()
for seed in ${STUDIES:-1 2 3 4 5}; do
    echo "study: task, policy and reward model $seed"
    run micro_code.run --preset study --seed "$seed" --until reward --resume --output "$OUTPUT/s$seed"
    bases+=("$OUTPUT/s$seed")
done
cells() { run "studies.micro_code.$1" --base "${bases[@]}" --output "$OUTPUT/cells" "${@:2}"; }
written() { echo --json "$OUTPUT/$1.json" --figure "$OUTPUT/$1.svg"; }

main="none random+updates best_worst+updates best_random+updates learned_weights+updates"
others="raft ipo dpo_iterative dpo best_of_n"
echo "study: filters with the studies' own reward models"
cells study --arms $main $others
cells study --seeds 1 2 --arms $main
cells study --seeds 1 2 --arms $main $others --table $(written filters)
echo "study: a reward that is right at both ends, with errors made anew and with errors that stay"
judged="judge_none judge_random+updates judge_best_worst+updates"
cells study --arms $judged judge_best_worst+updates+n16
cells study --seeds 1 2 --arms $judged
cells study --seeds 1 2 --arms $judged judge_best_worst+updates+n16 --table $(written judge)
cells study --arms frozen_none frozen_random+updates frozen_best_worst+updates --json "$OUTPUT/judge_frozen.json"
echo "study: more responses a prompt"
cells study --arms none best_worst+updates none+n16 best_worst+updates+n16 --json "$OUTPUT/sizes.json"
echo "study: other reward models"
cells dial --reward given twice fewer16 noise40 close40 exploit $(written dial)
cells study --reward exploit --seeds 1 2 --arms none random+updates best_worst+updates ranks_2_5+updates \
    --json "$OUTPUT/exploit.json"
cells overoptimisation --reward exploit --arms none random+updates best_worst+updates ranks_2_5+updates \
    $(written overoptimisation)
echo "study: DONE, tables and figures are in $OUTPUT"
