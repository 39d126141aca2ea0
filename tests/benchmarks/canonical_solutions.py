"""How many of a benchmark's own solutions pass in the sandbox, and how many of the ways around solving it.

    python tests/benchmarks/canonical_solutions.py --benchmark humaneval --data HumanEval.jsonl.gz
    python tests/benchmarks/canonical_solutions.py --benchmark mbpp --data mbpp.jsonl
    python tests/benchmarks/canonical_solutions.py --benchmark mbpp_sanitized --data sanitized-mbpp.json

All of the first line should pass, none of the others.
"""

import argparse

from openrlhf_pf.code_reward import Pool
from openrlhf_pf.code_reward.evaluation import read_rows
from openrlhf_pf.code_reward.tasks import BENCHMARKS

ALWAYS_EQUAL = """
class Any(int):
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
    __sub__ = __rsub__ = __abs__ = __len__ = __iter__ = lambda self, *other: self
    __hash__ = int.__hash__
{name} = lambda *_: Any()
"""


def whole(row):
    """The benchmark's own solution, imports and all."""
    return row["code"] if "code" in row else row["prompt"] + row["canonical_solution"]


WAYS = {
    "its own solutions": lambda row, name: whole(row),
    "a stub": lambda row, name: f"def {name}(*arguments, **named):\n    return None\n",
    "sys.exit first": lambda row, name: f"import sys\nsys.exit(0)\n{whole(row)}",
    "os._exit first": lambda row, name: f"import os\nos._exit(0)\n{whole(row)}",
    "a result that equals everything": lambda row, name: whole(row) + ALWAYS_EQUAL.format(name=name),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    # LeetCode Contest has no solutions of its own.
    parser.add_argument("--benchmark", required=True, choices=[name for name in BENCHMARKS if name != "leetcode"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rows = read_rows(arguments.data)
    tasks = [BENCHMARKS[arguments.benchmark](row) for row in rows]
    with Pool(arguments.workers) as pool:
        for name, way in WAYS.items():
            answers = [f"```python\n{way(row, task.entry_point)}\n```" for row, task in zip(rows, tasks)]
            results = pool.check_all((task.program(text), task.problem) for task, text in zip(tasks, answers))
            print(f"{name}: {sum(result.passed for result in results)} of {len(rows)} pass", flush=True)


if __name__ == "__main__":
    main()
