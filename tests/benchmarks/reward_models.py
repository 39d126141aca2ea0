"""Time and memory of further reward models, on the real stack: none, one and three beside the first.

    python tests/benchmarks/reward_models.py [--steps 12]

All trainings take the same prompts; they run one after the other. Prints the median and the range over steps of make
experience (the first, which warms up, left out), and the reward model worker's largest resident memory.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from real_stack import Stack
from tiny_model import write_model

PROMPTS_A_STEP = 16
SIZE = {"hidden_size": 256, "layers": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    with (
        tempfile.TemporaryDirectory(prefix="pf-bench", dir="/tmp") as scratch,
        contextlib.closing(Stack(Path(scratch), **SIZE)) as stack,
    ):
        further = [str(write_model(Path(scratch) / f"further{i}", seed=10 + i, **SIZE)) for i in range(3)]
        print(f"{'reward models':>14} {'make experience, s (range)':>28} {'worker MiB':>11}")
        for count in (0, 1, 3):
            models = [str(stack.reward), *further[:count]]
            flags = f"--sample_filter_reward_models {','.join(models)}" if count else ""
            run = stack.train(
                Path(scratch) / f"run{count}",
                steps * PROMPTS_A_STEP,
                f"--sample_filter best_worst --reward.model_name_or_path {stack.reward} {flags} "
                f"--rollout.n_samples_per_prompt 8 --rollout.batch_size {PROMPTS_A_STEP} "
                "--rollout.micro_batch_size 16 --train.batch_size 32 --train.micro_batch_size 16 "
                "--rollout.max_new_tokens 48",
            )
            taken = [step["timing/make_experience"] for step in run.steps.values()][1:]
            figures = f"{statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f})"
            worker = "EnsembleRewardModelActor" if count else "RewardModelActor"
            print(f"{1 + count:>14} {figures:>28} {run.memory(worker):>11.0f}", flush=True)


if __name__ == "__main__":
    main()
