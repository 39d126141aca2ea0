"""Programs a second of the code sandbox in this checkout, against another checkout of it.

    git worktree add --detach ../before COMMIT
    python tests/benchmarks/code_reward_versions.py --data HumanEval.jsonl.gz --before ../before

Each has a process and a pool of its own, which lasts; they take turns, and which is first alternates, so that whatever
else the machine does hits both. CPU time is that of the pool with all its processes: less disturbed than the rate.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def serve(data, workers, times):
    """Runs all programs for each line of standard input; prints seconds and CPU seconds a program."""
    from code_reward_throughput import Pool, cpu_seconds, solutions

    programs, _ = solutions(data)
    with Pool(workers) as pool:
        for _ in range(3):  # all tests are compiled by then
            assert all(result.passed for result in pool.check_all(programs))
        print(Path(sys.modules[Pool.__module__].__file__).resolve(), flush=True)
        for _ in sys.stdin:
            start, before = time.perf_counter(), cpu_seconds()
            assert all(result.passed for result in pool.check_all(programs * times))
            seconds, cpu = time.perf_counter() - start, cpu_seconds() - before
            print(seconds / times / len(programs), cpu / times / len(programs), flush=True)


def started(checkout, arguments):
    """A process that serves with the code of a checkout."""
    command = [sys.executable, __file__, "--serve", "--data", os.path.abspath(arguments.data)]
    command += ["--workers", str(arguments.workers), "--times", str(arguments.times)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    where = process.stdout.readline().strip()
    assert where.startswith(str(checkout)), f"{where!r} is not in {checkout}"
    return process


def measured(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return [float(word) for word in process.stdout.readline().split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="HumanEval.jsonl.gz")
    parser.add_argument("--before", help="the other checkout")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--times", type=int, default=2, help="how often each runs all programs in a pair")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.data, arguments.workers, arguments.times)
        return
    checkouts = [Path(arguments.before).resolve(), Path(__file__).resolve().parents[2]]
    processes = [started(checkout, arguments) for checkout in checkouts]
    pairs = []
    for number in range(arguments.pairs):
        order = [0, 1] if number % 2 else [1, 0]
        found = {place: measured(processes[place]) for place in order}
        pairs.append((found[0], found[1]))
    for process in processes:
        process.stdin.close()
        process.wait()
    for place, name in enumerate(("before", "now")):
        rates = [1 / pair[place][0] for pair in pairs]
        cpu = 1000 * statistics.median(pair[place][1] for pair in pairs)
        print(
            f"{name}: {statistics.median(rates):.0f} programs/s ({min(rates):.0f} to {max(rates):.0f}), "
            f"{cpu:.2f} ms CPU"
        )
    for place, name in enumerate(("programs/s", "programs/CPU second")):
        low, middle, high = statistics.quantiles([old[place] / new[place] for old, new in pairs], n=4)
        print(f"{name}, now / before: median {middle:.3f}, quartiles {low:.3f} and {high:.3f}")


if __name__ == "__main__":
    main()
