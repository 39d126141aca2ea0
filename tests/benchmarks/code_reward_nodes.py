"""Programs a second of the code sandbox on one core, on two, and on two Ray nodes of one core each.

    python tests/benchmarks/code_reward_nodes.py --data HumanEval.jsonl.gz

Each way is a process of its own that stays, with all that it starts, on its cores: both Ray nodes are on this
machine, one on each core. All check HumanEval's own solutions, in turn, so that whatever else the machine does hits
all. What is printed is what a core does with each way, as a ratio to the first: by the clock, and by CPU time, of all
processes of the way (of Ray's, too), which other work on the machine disturbs less. Where there is much of that, what
is tied to a core hardly gets on: --anywhere leaves the cores to the kernel, with as many workers.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from code_reward_throughput import cpu_seconds, solutions

WAYS = {"one core": 1, "two cores": 2, "two Ray nodes": 2}
FEW_BYTES = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


def two_nodes(cores, folder):
    """A Ray cluster of two nodes, each on cores of its own."""
    os.environ["RAY_TMPDIR"] = folder
    os.environ |= {"RAY_worker_niceness": "0"}  # as the other ways; Ray's own 15 starves them on a busy machine
    os.environ.pop("RAY_ADDRESS", None)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for of_node in cores:
        os.sched_setaffinity(0, of_node)  # what is started inherits it
        cluster.add_node(**FEW_BYTES)
    os.sched_setaffinity(0, set.union(*cores))
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    return cluster


def serve(way, data, anywhere):
    """Check all programs whenever a line comes in; a line out: programs, seconds, CPU seconds."""
    from openrlhf_pf.code_reward import Pool, ray_pool

    allowed = os.sched_getaffinity(0)
    cores = [allowed if anywhere else {core} for core in sorted(allowed)[: WAYS[way]]]
    programs, _ = solutions(data)
    folder, cluster = tempfile.mkdtemp(prefix="r"), None
    if way == "two Ray nodes":
        cluster = two_nodes(cores, folder)
        pool = ray_pool()
        while len(pool._schedule.nodes) < 2:
            pool.check_all(programs[:4])
    else:
        os.sched_setaffinity(0, set.union(*cores))
        pool = Pool(len(cores))
    for _ in range(2):
        pool.check_all(programs)  # all workers have compiled all tests by then
    print("ready", flush=True)
    for _ in sys.stdin:
        start, before = time.perf_counter(), cpu_seconds()
        assert all(result.passed for result in pool.check_all(programs * 2))
        print(2 * len(programs), time.perf_counter() - start, cpu_seconds() - before, flush=True)
    pool.close()
    if cluster:
        import ray

        ray.shutdown()
        cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def measure(data, rounds, more):
    processes = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--data", data, "--serve", way, *more]
        processes[way] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for way in WAYS:
        while (line := processes[way].stdout.readline()) != "ready\n":
            assert line, f"{way} does not start"
    rates, costs = defaultdict(list), defaultdict(list)
    for number in range(rounds):
        for way in sorted(WAYS, reverse=bool(number % 2)):
            processes[way].stdin.write("\n")
            processes[way].stdin.flush()
            count, seconds, cpu = map(float, processes[way].stdout.readline().split())
            rates[way].append(count / seconds)
            costs[way].append(1000 * cpu / count)
            print(f"{way}: {count / seconds:.0f} programs/s, {1000 * cpu / count:.2f} ms of CPU time each", flush=True)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    for way, cores in WAYS.items():
        by_clock = [rate / cores / one for rate, one in zip(rates[way], rates["one core"])]
        by_cpu = [one / cost for cost, one in zip(costs[way], costs["one core"])]
        print(f"{way}: {spread(rates[way], 0)} programs/s, {spread(costs[way], 2)} ms of CPU time a program")
        clock, cpu = spread(by_clock, 2), spread(by_cpu, 2)
        print(f"  a core does, of what one alone does: {clock} by the clock, {cpu} by CPU time")


def spread(values, digits):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} (quartiles {low:.{digits}f} and {high:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="HumanEval.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--anywhere", action="store_true", help="tie nothing to a core")
    parser.add_argument("--serve", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: allow this process two (taskset), or run it on a larger machine.")
    if arguments.serve:
        serve(arguments.serve, arguments.data, arguments.anywhere)
    else:
        measure(arguments.data, arguments.rounds, ["--anywhere"] if arguments.anywhere else [])


if __name__ == "__main__":
    main()
