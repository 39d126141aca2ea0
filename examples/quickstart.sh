#!/usr/bin/env bash
# The whole of PF-PPO on a CPU: build the environment, train a small policy and a reward model with OpenRLHF, train the
# policy by PPO without a filter, by PPO on a random k of N and by PF-PPO, and measure all by running hidden tests.
# An earlier run in the output directory is replaced. Ends with tables, a verdict and a figure; a failed phase ends it
# with its log's last lines and status 1.
#
#     bash examples/quickstart.sh                      # results in runs/quickstart
#     bash examples/quickstart.sh --overoptimise       # in addition, a run that pushes the reward model too hard
#     bash examples/quickstart.sh --resume             # continue after a failure
#     bash examples/quickstart.sh --seed 2 --output runs/seed2
#
# Options go to examples/micro_code/run.py. VENV names the environment (default: .venv in the repository root).
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # modules that setup.sh has not imported are compiled once, not in every worker
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="${VENV:-.venv}"

bash examples/setup.sh "$VENV"
echo "quickstart: task, SFT, reward model, PPO without and with a filter, evaluation; logs are in logs/ of the run directory"
exec "$VENV/bin/python" -W ignore -m examples.micro_code.run --output runs/quickstart "$@"
