"""Time of (make experience + PPO train) with best_worst 2 of 8 against no filter with N = 8, on the real stack.

    python tests/benchmarks/training_time.py [--steps 20] [--rounds 1]

Both trainings take the same prompts, the same number of steps and run one after the other, in turn over the rounds.
Prints medians and spread of each phase over the steps, and the ratio.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from real_stack import Run, Stack

PROMPTS_A_STEP = 32
PHASES = ("timing/make_experience", "timing/ppo_train", "timing/generation", "timing/broadcast")
RUNS = {"none 8": "none --train.batch_size 128", "best_worst 2 of 8": "best_worst --train.batch_size 32"}


def train(stack: Stack, folder: Path, steps: int, flags: str) -> Run:
    # Two optimizer steps a rollout in both runs: what differs is the number of samples in them.
    return stack.train(
        folder,
        steps * PROMPTS_A_STEP,
        f"--reward.model_name_or_path {stack.reward} --rollout.n_samples_per_prompt 8 --rollout.micro_batch_size 16 "
        f"--rollout.batch_size {PROMPTS_A_STEP} --train.micro_batch_size 16 --rollout.max_new_tokens 48 "
        f"--sample_filter {flags}",
        OMP_NUM_THREADS="1",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    times: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in RUNS}
    with (
        tempfile.TemporaryDirectory(prefix="pf-bench", dir="/tmp") as scratch,
        contextlib.closing(Stack(Path(scratch), hidden_size=256, layers=4)) as stack,
    ):
        for round_ in range(options.rounds):
            for name, flags in RUNS.items():
                run = train(stack, Path(scratch) / f"{name.replace(' ', '-')}-{round_}", options.steps, flags)
                samples = run.samples("PolicyModelActor", "forward")
                print(
                    f"round {round_ + 1}, {name}: {len(run.steps)} steps, {samples} samples through the actor",
                    flush=True,
                )
                for phase in PHASES:
                    times[name][phase] += [step[phase] for step in run.steps.values()]
    print(f"\n{'phase (seconds a step)':>26}" + "".join(f"{name:>34}" for name in RUNS) + f"{'ratio':>8}")
    rows = {phase: {name: times[name][phase] for name in RUNS} for phase in PHASES}
    rows["make_experience + ppo_train"] = {
        name: [a + b for a, b in zip(times[name][PHASES[0]], times[name][PHASES[1]])] for name in RUNS
    }
    for phase, of in rows.items():
        cells = [f"{statistics.median(of[n]):.3f} ({min(of[n]):.3f} to {max(of[n]):.3f})" for n in RUNS]
        none, filtered = (sum(of[name]) for name in RUNS)
        print(f"{phase:>26}" + "".join(f"{cell:>34}" for cell in cells) + f"{filtered / none:>8.3f}")


if __name__ == "__main__":
    main()
