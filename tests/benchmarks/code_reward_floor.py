"""Where the CPU time of a judged program goes, and what of it no sandbox that forks could save.

    python tests/benchmarks/code_reward_floor.py --data HumanEval.jsonl.gz

Counted while one worker checks HumanEval's own solutions, for each process of it: CPU time and page faults, from
/proc; a program's own count once it has ended. Beside that, outside of any sandbox: what a fork costs whose child ends
at once, from a process as large as the one that programs are forked from; what each page costs that such a child
writes to and so has to copy; and what the programs and their tests cost in a process that runs them all.
"""

import argparse
import os
import resource
import statistics
import time
from collections import defaultdict

from code_reward_throughput import children, solutions

from openrlhf_pf.code_reward import Pool
from openrlhf_pf.code_reward.sandbox import kernel

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
FORKS, WRITTEN = 100, 1000


def usage():
    """CPU seconds in user mode and in the kernel, and page faults, by part: of those alive, and of ended programs."""
    used = defaultdict(lambda: [0.0, 0.0, 0])
    own = resource.getrusage(resource.RUSAGE_SELF)
    used["pool: the process that asks"] = [own.ru_utime, own.ru_stime, own.ru_minflt]
    for pid in children():
        try:
            command = open(f"/proc/{pid}/cmdline").read()
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        checker = "judge.checker" in command
        for name, faults, user, system in (
            ("checker" if checker else "fork, wait, clean up", 7, 11, 12),
            ("checker" if checker else "programs, with their walls", 8, 13, 14),
        ):
            values = int(fields[user]) / TICKS, int(fields[system]) / TICKS, int(fields[faults])
            used[name] = [old + new for old, new in zip(used[name], values)]
    return used


def own_pages(pid):
    """A process's memory but for files: what a fork has to describe anew."""
    resident, shared = map(int, open(f"/proc/{pid}/statm").read().split()[1:3])
    return resident - shared


def forking_pages():
    """Of the largest process that programs are forked from."""
    return max(own_pages(pid) for pid in children() if "sandbox.candidate" in open(f"/proc/{pid}/cmdline").read())


def forked(pages, written):
    """CPU milliseconds of a fork whose child writes to some of the process's pages and ends, and the wait for it; from
    this process, made as large as one of so many pages.
    """
    more = max(WRITTEN, pages - own_pages(os.getpid()))
    memory = bytearray(more * PAGE)
    memory[::PAGE] = b"x" * more
    before = time.process_time() + sum(os.times()[2:4])
    for _ in range(FORKS):
        child = kernel.fork()
        if child == 0:
            for place in range(0, written * PAGE, PAGE):
                memory[place] = 1
            os._exit(0)
        os.waitpid(child, 0)
    return 1000 * (time.process_time() + sum(os.times()[2:4]) - before) / FORKS


def bare(rows):
    """CPU milliseconds of a program and its test, run in this process."""
    costs = []
    for _ in range(3):
        before = time.process_time()
        for row in rows:
            names = {}
            source = f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})"
            exec(compile(source, "<program>", "exec"), names)
        costs.append(1000 * (time.process_time() - before) / len(rows))
    return min(costs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="HumanEval.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    programs, rows = solutions(arguments.data)
    found = defaultdict(list)
    with Pool(1) as pool:
        pool.check_all(programs * 2)
        for _ in range(arguments.rounds):
            before = usage()
            assert all(result.passed for result in pool.check_all(programs))
            after = usage()
            for name, values in after.items():
                found[name].append([(new - old) / len(programs) for old, new in zip(before[name], values)])
        pages = forking_pages()
    total = 0.0
    print("CPU time of a program, by part: ms in user mode, ms in the kernel, page faults (medians of rounds)")
    for name, rounds in found.items():
        user, system, faults = (statistics.median(column) for column in zip(*rounds))
        total += 1000 * (user + system)
        print(f"  {name}: {1000 * user:.2f}, {1000 * system:.2f}, {faults:.0f}")
    print(f"  together: {total:.2f} ms, {1000 / total:.0f} programs a second on a core")
    empty = statistics.median(forked(pages, 0) for _ in range(3))
    page = (statistics.median(forked(pages, WRITTEN) for _ in range(3)) - empty) / WRITTEN
    copied = statistics.median(faults for _, _, faults in found["programs, with their walls"]) * page
    alone = bare(rows)
    floor = empty + copied + alone
    print(f"a fork from a process with {pages * PAGE >> 20} MB of its own whose child ends at once: {empty:.2f} ms")
    print(f"a page that a child copies: {1000 * page:.2f} microseconds, so its page faults: {copied:.2f} ms")
    print(f"the program and its test, without a sandbox: {alone:.2f} ms")
    print(f"these three: {floor:.2f} ms, {1000 / floor:.0f} programs a second on a core")


if __name__ == "__main__":
    main()
