"""Where the time goes from the command to the first step: wall seconds, and CPU seconds of each process.

    python tests/benchmarks/start_time.py [--rounds 3] [--steps 8]

Trains OpenRLHF's PPO with best_worst 2 of 5 on random models of the quickstart's size (64 prompts x 5 responses of up
to 48 tokens a step), with a Ray of its own. Prints, for every round, when the first step was done, what each process
had used until then, and the phases of the steps that follow; at the end the medians. With OPENRLHF_PF_WARM_WORKERS=0
every worker imports for itself.
"""

import argparse
import contextlib
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from real_stack import Run, Stack

PHASES = ("generation", "make_experience", "ppo_train", "broadcast", "step_total")
FLAGS = (
    "--sample_filter best_worst --rollout.n_samples_per_prompt 5 --rollout.batch_size 64 --train.batch_size 64 "
    "--train.micro_batch_size 64 --rollout.micro_batch_size 64 --rollout.max_new_tokens 48"
)


def role(process: psutil.Process) -> str:
    """What a process of the training is: Ray's name for an actor, else its program."""
    title = " ".join(process.cmdline()) or process.name()
    actor = re.match(r"ray::(\w+)", title)
    if actor:
        return actor[1]
    if "openrlhf" in title and "spawn" not in title:
        return "driver"
    for known in (
        "EngineCore",
        "raylet",
        "gcs_server",
        "dashboard",
        "default_worker",
        "multiprocessing",
        "log_monitor",
    ):
        if known in title or known in process.name():
            return known
    return process.name()


def sampled(driver: psutil.Process, seen: dict[int, tuple[str, float]]) -> None:
    """Note what each process of the training has used; one that has ended keeps its last figure."""
    with contextlib.suppress(psutil.Error):
        for process in [driver, *driver.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                seen[process.pid] = (role(process), times.user + times.system)


def first_step(stack: Stack, folder: Path, steps: int) -> tuple[float, dict[int, tuple[str, float]], Run]:
    """Train; seconds until the first step was done, what each process had used by then, and the whole run."""
    start = time.monotonic()
    flags = f"{FLAGS} --reward.model_name_or_path {stack.reward}"
    process = stack.start(folder, 64 * steps, flags, RAY_ADDRESS="local", OMP_NUM_THREADS="1")
    seen: dict[int, tuple[str, float]] = {}
    driver = psutil.Process(process.pid)
    log = folder / "log.txt"
    while "Global step 1:" not in log.read_text():
        if process.poll() is not None:
            sys.exit(log.read_text()[-4000:])
        sampled(driver, seen)
        time.sleep(0.25)
    seconds = time.monotonic() - start
    run = stack.finish(process, folder)
    if run.returncode != 0:
        sys.exit(run.log[-4000:])
    return seconds, seen, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    first, cpu, steps = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="pf-start", dir="/tmp") as scratch,
        contextlib.closing(Stack(Path(scratch), hidden_size=128, layers=4)) as stack,
    ):
        for number in range(options.rounds):
            seconds, seen, run = first_step(stack, Path(scratch) / str(number), options.steps)
            first.append(seconds)
            cpu.append(sum(used for _, used in seen.values()))
            print(f"round {number + 1}: first step after {seconds:.1f} s; {cpu[-1]:.0f} CPU seconds until then:")
            for name, used in sorted(seen.values(), key=lambda item: -item[1]):
                if used >= 0.5:
                    print(f"    {used:6.1f}  {name}")
            for values in list(run.steps.values())[1:]:
                steps.append([values.get(f"timing/{phase}", float("nan")) for phase in PHASES])
    print(f"first step: median {statistics.median(first):.1f} s ({min(first):.1f} to {max(first):.1f})")
    print(f"CPU until then: median {statistics.median(cpu):.0f} s, on {os.cpu_count()} cores")
    for phase, values in zip(PHASES, zip(*steps)):
        print(f"{phase}: median {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
