#!/usr/bin/env bash
# Repeat the studies of docs/evidence.md on a CPU: build the environment, make five studies (task, SFT policy, reward
# model), train every arm from each, compare. About 250 PPO runs of one to two minutes on two cores. Finished runs are
# kept: call it again to continue. A failed run ends it with its log's last lines and status 1.
#
#     bash examples/studies/run.sh                                   # all; results in runs/study
#     bash examples/studies/run.sh filters judge                     # some of: filters judge sizes rewards selection
#     bash examples/studies/run.sh correction                        # true scores during a run as rewards and corrections
#     bash examples/studies/run.sh bandit second_opinion noise_mask  # these take minutes
#     STUDIES="1 2" OUTPUT=runs/two bash examples/studies/run.sh     # two studies instead of five
#
# NAME.json and NAME.svg in OUTPUT have all numbers, as examples/studies/*/results do. VENV names the environment
# (default: .venv in the repository root).
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # modules that setup.sh has not imported are compiled once, not in every worker
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
VENV="${VENV:-.venv}"
OUTPUT="${OUTPUT:-runs/study}"
bash examples/setup.sh "$VENV"
mkdir -p "$OUTPUT"

python() { "$VENV/bin/python" -W ignore -m "examples.$@"; }
bases=()
base_studies() {
    for seed in ${STUDIES:-1 2 3 4 5}; do
        python micro_code.run --preset study --seed "$seed" --until reward --resume --output "$OUTPUT/s$seed"
        bases+=("$OUTPUT/s$seed")
    done
}
runs() { # NAME FLAGS...
    [[ ${#bases[@]} -gt 0 ]] || base_studies
    python studies.micro_code.runs --base "${bases[@]}" --output "$OUTPUT/runs" --json "$OUTPUT/$1.json" "${@:2}"
}

for study in "${@:-filters judge sizes rewards selection correction bandit second_opinion noise_mask}"; do for name in $study; do
    echo "studies: $name"
    case $name in
    filters)
        main="none random+updates best_worst+updates best_random+updates learned_weights+updates"
        runs filters --arms $main best_of_n
        runs filters --seeds 1 2 --arms $main
        runs filters --seeds 1 2 --arms $main best_of_n --table
        ;;
    judge) # accurate at the extremes: errors redrawn in each call, and errors that repeat
        judged="judge_none judge_random+updates judge_best_worst+updates"
        runs judge --arms judge_none judge_best_worst+updates+n16
        runs judge --seeds 1 2 --arms $judged
        runs judge --seeds 1 2 --arms $judged judge_best_worst+updates+n16 --table
        runs judge_frozen --arms frozen_none frozen_random+updates frozen_best_worst+updates
        ;;
    sizes) runs sizes --arms none best_worst+updates none+n16 best_worst+updates+n16 ;;
    rewards)
        for reward in given twice fewer16 noise40 close40 exploit; do
            runs "reward_$reward" --reward "$reward" --arms none random+updates best_worst+updates
        done
        runs exploit --reward exploit --seeds 1 2 --arms none random+updates best_worst+updates ranks_2_5+updates
        ;;
    selection)
        runs selection --arms code_{uniform,vade,variance,greedy,target,dynamic} code_vade+{max_variance,best_worst}
        ;;
    correction) # a reward model that few true scores correct during a run, and the same labels spent before it
        for reward in exploit fewer16 noise40 given; do
            runs "correction_$reward" --reward "$reward" --seeds 1 2 --arms none head_5 head_15 scores_15
        done
        runs correction_long --arms none+long head_15+long
        runs correction_long_noise40 --reward noise40 --arms none+long head_5+long scores_5+long
        runs correction_before --reward exploit@768 --versus exploit --arms none
        python studies.micro_code.drift --base "${bases[@]}" --output "$OUTPUT/runs" --labels 768 \
            --json "$OUTPUT/correction_sft.json"
        tuned=() # the same studies, with that policy
        for base in "${bases[@]}"; do
            seed="${base##*/s}" && to="$OUTPUT/tuned/s$seed" && mkdir -p "$to/models" "$OUTPUT/tuned/base$seed-noise40"
            cp -r "$base/phases" "$base/study.json" "$to"
            ln -sfn "$(realpath "$base/data")" "$to/data"
            ln -sfn "$(realpath "$base/models/reward")" "$to/models/reward"
            ln -sfn "$(realpath "$OUTPUT/runs/base$seed-right768")" "$to/models/sft"
            ln -sfn "$(realpath "$OUTPUT/runs/base$seed-noise40/reward")" "$OUTPUT/tuned/base$seed-noise40/reward"
            tuned+=("$to")
        done
        python studies.micro_code.runs --base "${tuned[@]}" --output "$OUTPUT/tuned" --reward noise40 \
            --arms none head_15 --json "$OUTPUT/correction_tuned.json"
        python studies.micro_code.drift --base "${bases[@]}" --output "$OUTPUT/runs" --reward exploit noise40 given \
            --json "$OUTPUT/drift.json"
        uncertain="studies.micro_code.uncertainty --base ${bases[*]} --output $OUTPUT/runs"
        python $uncertain --reward exploit noise40 given --json "$OUTPUT/uncertainty.json"
        python $uncertain --reward fewer16 --members 5 --json "$OUTPUT/members.json"
        ;;
    second_opinion) python studies.beyond_language.second_opinion --json "$OUTPUT/second_opinion.json" ;;
    bandit) python studies.beyond_language.bandit --output "$OUTPUT/bandit.json" ;;
    noise_mask) python studies.noise_mask.study --output "$OUTPUT/noise_mask.json" ;;
    *) echo "studies: there is no study $name" >&2 && exit 2 ;;
    esac
    case $name in filters | judge | selection) python studies.tables --figures "$OUTPUT/$name.json" ;; esac
done; done
echo "studies: DONE, results are in $OUTPUT"
