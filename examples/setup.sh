#!/usr/bin/env bash
# Build the environment of the examples and tests: real OpenRLHF, vLLM, Ray and DeepSpeed for a machine without a GPU.
#
#     bash examples/setup.sh [VENV]          VENV: default .venv in the repository root
#
# Everything is pinned (examples/requirements-cpu.txt) and goes into VENV; nothing else is changed. A few minutes the
# first time, seconds when there is nothing to do. It may be interrupted and called again. Exit code 0: ready.
# 1: not ready, and the last line says what to do.
#
# Needs Linux, CPython 3.11 with venv and headers, a C++ compiler.
#     PYTHON=...                             the CPython 3.11 to use, if it is not python3.11 in PATH
#     PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS    where pip finds the CPU build of PyTorch, if its usual index has another one
#     PIP_INDEX_URL, PIP_CERT, PIP_CACHE_DIR, PIP_DEFAULT_TIMEOUT ...      as pip reads them
set -euo pipefail
# Byte code is written at the first import, below: without it, every Ray worker would compile vLLM anew.
unset PYTHONDONTWRITEBYTECODE

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$(realpath -m "${1:-$ROOT/.venv}")
PYTHON=${PYTHON:-python3.11}
LOCK=$ROOT/examples/requirements-cpu.txt
TORCH=2.13.0
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
    "$@" >>"$LOG" 2>&1 &
    JOB=$!
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
    "$PYTHON" -c 'import sys, sysconfig; from pathlib import Path
sys.exit(not Path(sysconfig.get_path("include"), "Python.h").exists())' ||
        fail "$PYTHON has no headers, and DeepSpeed compiles its CPU operators: install them (python3.11-dev on Debian)."
    command -v "${CXX:-c++}" >/dev/null ||
        fail "no C++ compiler (${CXX:-c++}), and DeepSpeed compiles its CPU operators: install one (g++ on Debian)."
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
        (cd / && "$VENV/bin/python" -m openrlhf_pf.cli.patch status >/dev/null 2>&1)
}

install_torch() {
    step "2/6 torch $TORCH, the CPU build" "$VENV/bin/pip" install --no-deps --no-compile "torch==$TORCH" setuptools==77.0.3 ||
        fail "pip could not install torch $TORCH (see above): check the network and the PIP_* variables, then run again."
    grep -q '^cuda.*= None$' "$VENV"/lib/python3.11/site-packages/torch/version.py ||
        fail "pip found a CUDA build of torch: point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at PyTorch's CPU builds, remove $VENV, and run again."
}

install_packages() {
    # Byte code is left to the first import, which compiles what is used instead of everything.
    # Nothing is resolved: every package is in the list, and the two that are built from source (DeepSpeed for one, in
    # an environment without torch, because it would try to compile with it) get their setuptools from it, too.
    step "3/6 $(grep -c == "$LOCK") packages, about two minutes" \
        env DS_BUILD_OPS=0 PIP_CONSTRAINT="$LOCK" PIP_BUILD_CONSTRAINT="$LOCK" \
        "$VENV/bin/pip" install --no-deps --no-compile -r "$LOCK" ||
        fail "pip could not install $LOCK (see above): check the network and the PIP_* variables, then run again."
    local unmet
    unmet=$(unmet_pins)
    [[ -z $unmet ]] || fail "pip left these packages out: $unmet; remove $VENV and run again."
}

install_plugin() {
    step "4/6 openrlhf-pf, editable" "$VENV/bin/pip" install --no-deps --no-build-isolation -e "$ROOT" ||
        fail "pip could not install this repository (see above)."
    step "5/6 the CPU patch for OpenRLHF" env -C / "$VENV/bin/python" -m openrlhf_pf.cli.patch apply ||
        fail "the CPU patch was refused (see above)."
}

# DeepSpeed compiles two operators when they are first used. Done here once, so that no training process waits for the
# compiler, or for the lock that a killed one leaves behind; and in VENV, because environments that share the usual
# folder compile over each other's results.
try_it() {
    local site=$VENV/lib/python3.11/site-packages
    echo 'import os, sys; os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))' \
        >"$site/openrlhf_pf_torch_extensions.pth"
    rm -f "$VENV"/torch_extensions/*/lock
    step "6/6 import everything, compile DeepSpeed's operators" env -C / PATH="$VENV/bin:$PATH" timeout 900 "$VENV/bin/python" -c '
import deepspeed, ray, vllm
import openrlhf.cli.train_ppo_ray
import openrlhf_pf.filters
from deepspeed.accelerator import get_accelerator
assert get_accelerator().device_name() == "cpu", get_accelerator().device_name()
for name in ("ShareMemCommBuilder", "FusedAdamBuilder"):
    print(f"imports work, compiling {name}", flush=True)
    get_accelerator().create_op_builder(name).load(verbose=False)
' || fail "the environment does not work (see above)."
}

check_machine
mkdir -p "$VENV"
exec 9>"$VENV/setup.lock"
flock -n 9 || { echo "setup: waiting for another setup of $VENV"; flock 9; }
if ready; then
    echo "setup: READY, nothing to do ($((SECONDS - STARTED)) s): source $VENV/bin/activate"
    exit 0
fi

trap '[[ -z $JOB ]] || kill "$JOB" 2>/dev/null' EXIT
trap 'fail "interrupted: run again to go on."' INT TERM
rm -f "$STAMP"
echo "setup: everything goes into $VENV, pip's own words into $LOG"
: >"$LOG"
step "1/6 virtual environment of $("$PYTHON" -V)" "$PYTHON" -m venv "$VENV" || fail "python -m venv failed (see above)."
unmet_pins >/dev/null
install_torch
install_packages
install_plugin
try_it
fingerprint >"$STAMP"
echo "setup: READY in $((SECONDS - STARTED)) s: source $VENV/bin/activate"
