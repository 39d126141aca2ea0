#!/usr/bin/env bash
# Run the tests, the real stack included: bash tests/run.sh [pytest arguments]
# Slow ones are run by bash tests/run.sh -m slow, and bash .ci/run runs both. By hand: bash tests/run.sh -m by_hand.
#
# Sets the environment up first (examples/setup.sh), then runs the unit tests, then tests/end_to_end. Both parts always
# run, so that one call tells everything. Exit code 0: all passed. 1: the last line says which part did not.
#     VENV=...    the environment to use, default .venv in the repository root
#
# One test opens a page in Chromium. Without arguments, as root on Debian, it is installed where there is no browser;
# elsewhere that test is skipped, and says so.
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
    "$VENV/bin/python" -m pytest --durations=5 -m "not slow and not by_hand" "$@" # the last -m counts
    code=$?
    echo "tests: $name took $((SECONDS - begin)) s"
    ((code == NO_TESTS)) && return
    RAN=$((RAN + 1))
    ((code == 0)) || FAILED+=("$name")
}

browser() {
    local log
    command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null && return
    ((EUID == 0)) && command -v apt-get >/dev/null || return 0
    echo "tests: installing chromium (apt-get)"
    log=$({ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } 2>&1) ||
        echo "tests: chromium could not be installed, its test will be skipped: ${log##*$'\n'}"
}

(($#)) || browser
bash "$ROOT/examples/setup.sh" "$VENV" || {
    echo "tests: FAILED: no environment (see above)"
    exit 1
}
cd "$ROOT" || exit 1
# A process a core, a file of tests in one of them. Two end-to-end tests at a time: each start-up waits a good part of it.
part "unit tests" -n "$(nproc)" --maxprocesses 8 --dist loadfile tests --ignore=tests/end_to_end "$@"
part "end-to-end tests" -n "$(($(nproc) > 1 ? 2 : 1))" --dist worksteal tests/end_to_end "$@"

if ((${#FAILED[@]})); then
    printf -v names '%s and ' "${FAILED[@]}"
    echo "tests: FAILED: ${names% and } (after $SECONDS s)"
    exit 1
elif ((RAN == 0)); then
    echo "tests: FAILED: the arguments select no test"
    exit 1
fi
echo "tests: PASSED ($SECONDS s)"
