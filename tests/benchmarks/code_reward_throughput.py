"""Programs a second of the code sandbox, against one new process a program.

    python tests/benchmarks/code_reward_throughput.py --data HumanEval.jsonl.gz     # HumanEval's own solutions, both
    ways python tests/benchmarks/code_reward_throughput.py --programs 100000             # one pool for a long time:
    its memory

The other way is what many harnesses do: a manager for the result, a process for the program, `exec` of program and
tests in it; neither isolation nor any proof of a pass. Both get the same programs, in turn, so that whatever else
the machine does hits both.
"""

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import resource
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from openrlhf_pf.code_reward import Pool, Problem
from openrlhf_pf.code_reward.problems import humaneval

TRIVIAL = "def f(n):\n    return n + 1\n"
ONE_CASE = Problem("cases", {"path": ["f"], "cases": [([1], {}, 2)], "tolerance": 0.0})


def run_in_process(program, verdict):
    """What the process does: time limit by alarm, nothing printed, a verdict that the program could write itself."""
    signal.setitimer(signal.ITIMER_REAL, 10.0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            exec(program, {})
            verdict.append("passed")
        except BaseException as error:
            verdict.append(f"failed: {error}")


def process_per_program(program):
    """Whether it passed."""
    with multiprocessing.Manager() as manager:
        verdict = manager.list()
        process = multiprocessing.Process(target=run_in_process, args=(program, verdict))
        process.start()
        process.join(timeout=11.0)
        if process.is_alive():
            process.kill()
        return list(verdict) == ["passed"]


def compare(path, workers, rounds):
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    programs = [(row["prompt"] + row["canonical_solution"], humaneval(row).problem) for row in rows]
    joined = [f"{program}\n{row['test']}\ncheck({row['entry_point']})" for (program, _), row in zip(programs, rows)]
    rates = {"sandbox": [], "process": []}
    with Pool(workers) as pool, ThreadPoolExecutor(workers) as threads:
        pool.check_all([(TRIVIAL, ONE_CASE)] * 2 * workers)
        for number in range(rounds):
            for name in sorted(rates, reverse=bool(number % 2)):
                start = time.perf_counter()
                if name == "sandbox":
                    passed = sum(result.passed for result in pool.check_all(programs))
                else:
                    passed = sum(threads.map(process_per_program, joined))
                rates[name].append(len(programs) / (time.perf_counter() - start))
                print(
                    f"round {number + 1}, {name}: {passed}/{len(programs)} pass, {rates[name][-1]:.1f} programs/s",
                    flush=True,
                )
        latency = []
        for _ in range(200):
            start = time.perf_counter()
            pool.check(TRIVIAL, ONE_CASE)
            latency.append(1000 * (time.perf_counter() - start))
    plain = []
    for _ in range(20):
        start = time.perf_counter()
        process_per_program(f"{TRIVIAL}\nassert f(1) == 2")
        plain.append(1000 * (time.perf_counter() - start))
    ratios = [ours / theirs for ours, theirs in zip(rates["sandbox"], rates["process"])]
    for name, values in rates.items():
        print(f"{name}: median {statistics.median(values):.1f} programs/s ({min(values):.1f} to {max(values):.1f})")
    print(f"ratio: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"trivial program: median {statistics.median(latency):.1f} ms here, {statistics.median(plain):.1f} ms there")


def memory_of(pids):
    """Resident megabytes of processes, without what they share counted twice."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


def children():
    """Every process below this one."""
    found, new = [], [os.getpid()]
    while new:
        pid = new.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    below = list(map(int, file.read().split()))
                found, new = found + below, new + below
    return found


def endure(count, workers):
    with Pool(workers) as pool:
        start, done, interval = time.perf_counter(), 0, max(1, count // 10)
        while done < count:
            batch = min(interval, count - done)
            assert all(result.passed for result in pool.check_all([(TRIVIAL, ONE_CASE)] * batch))
            done += batch
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rate = done / (time.perf_counter() - start)
            files = len(os.listdir("/proc/self/fd"))
            print(
                f"{done} programs, {rate:.0f}/s: ours {own:.1f} MB at most, workers {memory_of(children()):.1f} "
                f"MB, {files} descriptors, {len(children())} processes",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="HumanEval.jsonl.gz")
    parser.add_argument("--programs", type=int, default=0, help="run so many trivial programs and print memory")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.data:
        compare(arguments.data, arguments.workers, arguments.rounds)
    if arguments.programs:
        endure(arguments.programs, arguments.workers)


if __name__ == "__main__":
    main()
