"""Cluster programs that return the same on the hidden inputs. The reference solution takes no part.

For ``openrlhf_pf.cli.preferences --cluster examples/studies/micro_code/clusters.py:behaviour``. Of the label, only the
kind of the inputs is read. Run as a module, it is the process that runs programs: one line of JSON in, one out.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ALONE = -1


@lru_cache(maxsize=1)
def _runner() -> subprocess.Popen:
    # A process of its own, because its memory limit is below what the caller holds already.
    command = [sys.executable, "-m", "examples.studies.micro_code.clusters"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def behaviour(prompt: str, responses: Sequence[str], label: str) -> list[int]:
    """Return (N,) equal numbers for programs with equal outputs; -1 for one that is refused, fails or is slow."""
    runner = _runner()
    print(json.dumps([json.loads(label)["kind"], *responses]), file=runner.stdin, flush=True)
    return json.loads(runner.stdout.readline())


def group(kind: str, programs: Sequence[str]) -> list[int]:
    """Return what ``behaviour`` returns, for arguments of that kind; call it in a main thread."""
    from examples.micro_code.families import INPUTS
    from examples.micro_code.score import run

    known: dict[str, int] = {}
    groups = []
    for program in programs:
        outputs = run(program, INPUTS[kind])
        # As text, in which True is not 1 and 1.0 is not 1, as for the true score.
        groups.append(ALONE if outputs is None else known.setdefault(repr(outputs), len(known)))
    return groups


def main() -> None:
    """Group programs until the input ends."""
    from examples.micro_code.score import limit_memory

    limit_memory()
    for line in sys.stdin:
        kind, *programs = json.loads(line)
        print(json.dumps(group(kind, programs)), flush=True)


if __name__ == "__main__":
    main()
