#!/usr/bin/env bash
# Reward learning on policy on a CPU, whole: build the environment, train a policy and a reward model, the policy by
# PF-PPO, a second reward model on the policy's own samples (by RLP-SPG, by RLP-UML, and a control), and the policy by it; say
# what each is worth by hidden tests. Finished steps are kept: call it again to go on. A failed step ends it with its
# log's last lines and status 1.
#
#     bash examples/rlp.sh                                        # results in runs/rlp
#     bash examples/rlp.sh --base runs/quickstart                 # begin with the quickstart's policy
#     bash examples/rlp.sh --seed 2 --output runs/rlp2
#     bash examples/rlp.sh --policy overoptimised --base runs/rlp/base --output runs/rlp_hard
#
# Options go to examples/studies/micro_code/rlp.py. VENV names the environment (default: .venv in the repository root).
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # what setup.sh has not imported is compiled once, not in every worker
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-.venv}"

bash examples/setup.sh "$VENV"
echo "rlp: SFT, reward model, PF-PPO, samples, second reward models, PF-PPO by each, evaluation; each trainer's output is in logs/"
exec "$VENV/bin/python" -W ignore -m examples.studies.micro_code.rlp --output runs/rlp "$@"
