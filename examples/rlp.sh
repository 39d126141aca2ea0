#!/usr/bin/env bash
# Reward learning on policy on a CPU: build the environment, train a policy and a reward model, the policy by PF-PPO, a
# second reward model on the policy's own samples (and a control), the policy by it; measure all by hidden tests.
# Finished steps are kept: call it again to continue.
#
#     bash examples/rlp.sh                                        # results in runs/rlp
#     bash examples/rlp.sh --base runs/quickstart                 # begin with the quickstart's policy
#     bash examples/rlp.sh --seed 2 --output runs/rlp2
#
# Options go to examples/studies/micro_code/rlp.py. VENV names the environment (default: .venv in the repository root).
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # modules that setup.sh has not imported are compiled once, not in every worker
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-.venv}"

bash examples/setup.sh "$VENV"
exec "$VENV/bin/python" -W ignore -m examples.studies.micro_code.rlp --output runs/rlp "$@"
