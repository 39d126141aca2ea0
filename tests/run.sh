#!/usr/bin/env bash
# Run every test on the real stack: bash tests/run.sh [pytest arguments]
#
# Sets the environment up first (examples/setup.sh), then runs the unit tests, then tests/end_to_end. Both parts always
# run, so that one call tells everything. Exit code 0: all passed. 1: the last line says which part did not.
#     VENV=...    the environment to use, default .venv in the repository root
set -uo pipefail
unset PYTHONDONTWRITEBYTECODE # what setup.sh has not imported is compiled once, not in every worker

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$(realpath -m "${VENV:-$ROOT/.venv}")
NO_TESTS=5 # pytest's exit code when the arguments select none
FAILED=()
RAN=0

part() {
    local name=$1 begin=$SECONDS code
    shift
    echo "tests: $name"
    "$VENV/bin/python" -m pytest --durations=5 "$@"
    code=$?
    echo "tests: $name took $((SECONDS - begin)) s"
    ((code == NO_TESTS)) && return
    RAN=$((RAN + 1))
    ((code == 0)) || FAILED+=("$name")
}

bash "$ROOT/examples/setup.sh" "$VENV" || {
    echo "tests: FAILED: no environment (see above)"
    exit 1
}
cd "$ROOT" || exit 1
part "unit tests" tests --ignore=tests/end_to_end "$@"
part "end-to-end tests" tests/end_to_end "$@"

if ((${#FAILED[@]})); then
    printf -v names '%s and ' "${FAILED[@]}"
    echo "tests: FAILED: ${names% and } (after $SECONDS s)"
    exit 1
elif ((RAN == 0)); then
    echo "tests: FAILED: the arguments select no test"
    exit 1
fi
echo "tests: PASSED ($SECONDS s)"
