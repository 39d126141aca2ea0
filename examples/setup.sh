#!/usr/bin/env bash
# Build the environment of the examples and tests: real OpenRLHF, vLLM, Ray and DeepSpeed for a machine without a GPU.
#
#     bash examples/setup.sh [VENV]          VENV: default .venv in the repository root
#
# Everything is pinned (examples/requirements-cpu.txt) and goes into VENV; nothing else is changed. A few minutes the
# first time, seconds when there is nothing to do. It may be interrupted and called again. Exit code 0: ready.
# 1: not ready, and the last line says what to do.
#
# Needs Linux, CPython 3.11 with venv, and the command patch (installed with apt-get where it is missing and we are root).
#     PYTHON=...                             the CPython 3.11 to use, if it is not python3.11 in PATH
#     PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS    where pip finds the CPU build of PyTorch, if its usual index has another one
#     PIP_INDEX_URL, PIP_CERT, PIP_CACHE_DIR, PIP_DEFAULT_TIMEOUT ...      as pip reads them
set -euo pipefail
# Byte code is written at the first import, below: without it, every Ray worker would compile vLLM again.
unset PYTHONDONTWRITEBYTECODE

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$(realpath -m "${1:-$ROOT/.venv}")
PYTHON=${PYTHON:-python3.11}
LOCK=$ROOT/examples/requirements-cpu.txt
PATCH=$ROOT/patches/openrlhf-0.11.2-cpu.patch
TORCH=2.13.0
ASIDE="scikit-learn==1.9.1 joblib==1.6.0 threadpoolctl==3.8.0"
STAMP=$VENV/.openrlhf_pf_setup
LOG=$VENV/setup.log
STARTED=$SECONDS
JOB=

fail() {
    echo "setup: NOT READY: $1" >&2
    exit 1
}

# Run a command with its output in the log, and say every 15 seconds how it gets on.
step() {
    local label=$1 begin=$SECONDS
    shift
    echo "setup: $label"
    set -m # a process group of its own, so that whatever it has started ends with it
    "$@" >>"$LOG" 2>&1 &
    JOB=$!
    set +m
    while kill -0 "$JOB" 2>/dev/null; do
        sleep 0.5
        if ((SECONDS - begin >= 15 && (SECONDS - begin) % 15 == 0)); then
            echo "setup:     $((SECONDS - begin)) s: $(grep -E '^[A-Za-z]' "$LOG" | grep -v '^WARNING' | tail -n 1 | cut -c 1-90)"
            sleep 1
        fi
    done
    if ! wait "$JOB"; then
        JOB=
        tail -n 15 "$LOG" >&2
        return 1
    fi
    JOB=
}

check_machine() {
    command -v "$PYTHON" >/dev/null || fail "no $PYTHON in PATH: install CPython 3.11 (python3.11 on Debian) or set PYTHON to it."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
        fail "$PYTHON is $("$PYTHON" -V 2>&1), and the pinned packages are for CPython 3.11: set PYTHON to a CPython 3.11."
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON has no venv or ensurepip: install them (python3.11-venv on Debian)."
    if ! command -v patch >/dev/null && ((EUID == 0)) && command -v apt-get >/dev/null; then
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends patch; } >/dev/null 2>&1 || true
    fi
    command -v patch >/dev/null || fail "the command patch is missing: install it (apt-get install patch)."
    if [[ -e $VENV && ! -e $VENV/pyvenv.cfg && -n $(ls -A "$VENV" 2>/dev/null | grep -v '^setup\.l') ]]; then
        fail "$VENV exists and is not a virtual environment: name another folder."
    fi
    if [[ -x $VENV/bin/python ]] && ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
        fail "$VENV is not a working CPython 3.11 environment: remove it or name another folder."
    fi
}

# All that decides what the environment holds, in one word.
fingerprint() {
    (
        cd "$ROOT"
        echo "$ROOT"
        cat examples/requirements-cpu.txt examples/setup.sh setup.py pyproject.toml openrlhf_pf/openrlhf_pf.pth patches/*.patch
        find openrlhf_pf -name '*.py' -printf '%h\n' | sort -u
    ) | sha256sum | cut -d ' ' -f 1
}

# Names every package that is missing, has another version, or was left half-installed by an interrupted run; the
# leftovers of the latter are removed, because pip would take them for installed.
unmet_pins() {
    "$VENV/bin/python" - "$LOCK" "$TORCH" <<'PYTHON'
import importlib.metadata
import re
import shutil
import sys


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


lines = open(sys.argv[1]).read().splitlines() + [f"torch=={sys.argv[2]}"]
pins = {plain(name): version for name, version in (line.split("==") for line in lines if line and line[0] != "#")}
found = {}
for distribution in importlib.metadata.distributions():
    if distribution.read_text("INSTALLER") is None or distribution.read_text("RECORD") is None:
        shutil.rmtree(distribution._path, ignore_errors=True)
    else:
        found[plain(distribution.name)] = distribution.version.split("+cpu")[0]
print(*(name for name, version in pins.items() if found.get(name) != version))
PYTHON
}

ready() {
    [[ -f $STAMP && $(cat "$STAMP") == "$(fingerprint)" && -z $(unmet_pins) ]] &&
        run_patch --reverse --dry-run >/dev/null
}

run_patch() {
    patch -p1 --fuzz=0 --force --directory "$VENV/lib/python3.11/site-packages" "$@" <"$PATCH"
}

# Does nothing if the patch is applied already. Where it fits in neither direction, an earlier run was interrupted or
# had another patch: OpenRLHF is installed again first.
apply_patch() {
    run_patch --reverse --dry-run && return
    run_patch --dry-run ||
        "$VENV/bin/pip" install --no-deps --no-compile --force-reinstall "$(grep '^openrlhf==' "$LOCK")" || return
    run_patch
}

# Two installations side by side, one a core: torch, and the packages. Nothing is resolved, so neither has to wait for
# the other: every package is in the list, and the two that are built from source (DeepSpeed for one, in an environment
# without torch, because it would try to compile with it) get their setuptools from it, too. Byte code is left to the
# first import, which compiles what is used instead of everything.
install_torch() {
    "$VENV/bin/pip" install --no-deps --no-compile "torch==$TORCH"
}

install_packages() {
    env DS_BUILD_OPS=0 PIP_CONSTRAINT="$LOCK" PIP_BUILD_CONSTRAINT="$LOCK" \
        "$VENV/bin/pip" install --no-deps --no-compile -r "$LOCK"
}

# scikit-learn checks metrics in the tests, and a study needs it. It goes into a folder of its own, which tests/conftest.py
# puts on the path: transformers imports it wherever it finds it, which costs every training process 4 seconds of CPU and
# 35 to 140 MB. For the study, set PYTHONPATH=$VENV/aside.
install_aside() {
    "$VENV/bin/pip" install --no-deps --no-compile --upgrade --target "$VENV/aside" $ASIDE
}

install_all() {
    local code=0
    install_torch &
    { install_packages && install_aside; } || code=1
    wait $! && return $code
}

check_installed() {
    grep -q '^cuda.*= None$' "$VENV"/lib/python3.11/site-packages/torch/version.py ||
        fail "pip found a CUDA build of torch: point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at PyTorch's CPU builds, remove $VENV, and run again."
    local unmet
    unmet=$(unmet_pins)
    [[ -z $unmet ]] || fail "pip left these packages out: $unmet; remove $VENV and run again."
}

# Done once here, so that no training process waits for byte code; what trains and what generates side by side.
import_stack() {
    local code=0
    cd /
    "$VENV/bin/python" -c '
import vllm.entrypoints.openai.api_server, vllm.model_executor.models.qwen2, vllm.v1.engine.async_llm, vllm.v1.worker.cpu_worker' &
    "$VENV/bin/python" -c '
import openrlhf.cli.train_ppo_ray, openrlhf.trainer.ppo_trainer, openrlhf.trainer.ppo_trainer_async
import openrlhf_pf.reliability, openrlhf_pf.training.trainer
from deepspeed.accelerator import get_accelerator
assert get_accelerator().device_name() == "cpu", get_accelerator().device_name()' || code=1
    wait $! && return $code
}

check_machine
mkdir -p "$VENV"
exec 9>"$VENV/setup.lock"
flock -n 9 || { echo "setup: waiting for another setup of $VENV"; flock 9; }
if ready; then
    echo "setup: READY, nothing to do ($((SECONDS - STARTED)) s): source $VENV/bin/activate"
    exit 0
fi

trap '[[ -z $JOB ]] || kill -- "-$JOB" 2>/dev/null' EXIT
trap 'fail "interrupted: run again to continue."' INT TERM
rm -f "$STAMP"
echo "setup: everything goes into $VENV, pip's own words into $LOG"
: >"$LOG"
step "1/5 virtual environment of $("$PYTHON" -V)" "$PYTHON" -m venv "$VENV" || fail "python -m venv failed (see above)."
unmet_pins >/dev/null
step "2/5 torch $TORCH (CPU build) and $(grep -c == "$LOCK") packages, about a minute" install_all ||
    fail "pip could not install torch $TORCH or $LOCK (see above): check the network and the PIP_* variables, then run again."
check_installed
step "3/5 openrlhf-pf, editable" "$VENV/bin/pip" install --no-deps --no-build-isolation -e "$ROOT" ||
    fail "pip could not install this repository (see above)."
step "4/5 the CPU patch for OpenRLHF" apply_patch || fail "$PATCH does not fit the installed OpenRLHF (see above)."
step "5/5 import everything" import_stack || fail "the environment does not work (see above)."
fingerprint >"$STAMP"
echo "setup: READY in $((SECONDS - STARTED)) s: source $VENV/bin/activate"
