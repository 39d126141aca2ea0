#!/usr/bin/env bash
# Does the plugin work on these GPUs, and what does it save? About ten minutes; prints a table to send back.
#
#     bash tests/gpu/run.sh                  on all GPUs of this machine
#     bash tests/gpu/run.sh --gpus 2         on two of them
#     bash tests/gpu/run.sh --cpu            without a GPU, on a tiny model: tries this script, not the GPUs
#
# Needs a checkout, an environment in which training could start (python -m openrlhf_pf.cli.doctor) and nothing else on
# the GPUs; takes a random model of about half a billion parameters, made on the spot. Two trainings of some steps, no
# filter and best_worst 2 of 8. The last line is the verdict; all of it is in gpu-check.txt, too, in the folder that
# this was started in, and the log of a training that failed next to it.
#     PYTHON=...    the interpreter of that environment, default python
# Exit code 0: every check passed. 1: one failed, or a training did. 2: refused, nothing was started.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-python}

refuse() {
    echo "gpu/run.sh: $1" >&2
    exit 2
}

cpu=0 given=
while (($#)); do
    case $1 in
    --cpu) cpu=1 ;;
    --gpus)
        given=${2:-}
        [[ $given =~ ^[1-9][0-9]*$ ]] || refuse "--gpus takes a number from 1 on, got '$given'."
        shift
        ;;
    *) refuse "there is no option '$1': give --gpus NUMBER, --cpu or nothing." ;;
    esac
    shift
done

command -v "$PYTHON" >/dev/null || refuse "there is no '$PYTHON': activate the environment that trains, or set PYTHON."
if ((cpu)); then
    gpus=0
else
    hint="use a machine with an NVIDIA GPU and its driver, or try this script alone with --cpu"
    command -v nvidia-smi >/dev/null || refuse "there is no nvidia-smi: $hint."
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true)
    ((gpus > 0)) || refuse "nvidia-smi lists no GPU: $hint."
    ((${given:-1} <= gpus)) || refuse "--gpus $given asks for more than the $gpus that are here."
    gpus=${given:-$gpus}
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" -c "import openrlhf_pf, rich" 2>/dev/null ||
    refuse "$PYTHON lacks what training needs: pip install \".[openrlhf]\", then openrlhf-pf doctor."
exec "$PYTHON" "$ROOT/tests/gpu/check.py" --gpus "$gpus"
