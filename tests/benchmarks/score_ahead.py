"""What scoring finished prompts while others are generated hides of a step, on the real stack.

    python tests/benchmarks/score_ahead.py [--steps 6] [--rounds 2] [--size 256x4] [--prompts 64]

``best_worst``, 2 of 8, actor, critic, reward model and reference in processes of their own, without and with
``--sample_filter_score_ahead``, in turn over the rounds on the same prompts. The engine takes 256 responses at a time,
so that prompts finish one part after the other. Prints seconds a step as OpenRLHF logs them, median and range over
steps (the first of each run left out), the ratio of medians, and how many samples were scored during generation.
"""

import argparse
import contextlib
import re
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from phase_times import Times
from real_stack import Run, Stack

N, K, NEW_TOKENS = 8, 2, 48
ARMS = {"afterwards": "", "ahead": "--sample_filter_score_ahead"}
SAID = re.compile(r"Scored ahead: (\d+) of (\d+) samples while others were generated, \d+ in ([\d.]+) s afterwards")


def train(stack: Stack, folder: Path, steps: int, prompts: int, flag: str) -> Run:
    return stack.train(
        folder,
        steps * prompts,
        f"--reward.model_name_or_path {stack.reward} --rollout.n_samples_per_prompt {N} --rollout.max_new_tokens "
        f"{NEW_TOKENS} --rollout.batch_size {prompts} --rollout.micro_batch_size {N} --train.micro_batch_size 16 "
        f"--sample_filter best_worst --train.batch_size {prompts * K // 2} {flag}",
        OMP_NUM_THREADS="1",
    )


class StepTimes(Times):
    """Seconds of every step by phase, with those of generation and experience together."""

    def add(self, run: Run) -> None:
        super().add(run)
        both = (m["timing/generation"] + m["timing/make_experience"] for m in run.steps.values())
        self._note("generation + make_experience", list(both))
        self._note("step", [metrics["timing/step_total"] for metrics in run.steps.values()])


PHASES = (
    *("generation", "make_experience", "generation + make_experience", "ppo_train", "broadcast", "step"),
    *("reward_forward, wall", "reward_forward, cpu"),
)


def show(times: dict[str, StepTimes], said: list[tuple[int, int, float]]) -> None:
    print(f"\n{'seconds a step':>30}" + "".join(f"{arm:>30}" for arm in ARMS) + f"{'ahead/afterwards':>18}")
    for phase in PHASES:
        ratio = times["ahead"].median(phase) / times["afterwards"].median(phase)
        print(f"{phase:>30}" + "".join(f"{times[arm].text(phase):>30}" for arm in ARMS) + f"{ratio:>18.3f}")
    shares = [early / all_ for early, all_, _ in said]
    tails = [seconds for *_, seconds in said]
    print(
        f"scored while others were generated: {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
    )
    print(f"the others took, afterwards: {statistics.median(tails):.2f} s ({min(tails):.2f} to {max(tails):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", default="256x4", metavar="WIDTHxLAYERS")
    parser.add_argument("--prompts", type=int, default=64)
    options = parser.parse_args()
    width, layers = map(int, options.size.split("x"))
    times, said = {arm: StepTimes() for arm in ARMS}, []
    with (
        tempfile.TemporaryDirectory(prefix="pf-bench", dir="/tmp") as scratch,
        contextlib.closing(Stack(Path(scratch), hidden_size=width, layers=layers)) as stack,
    ):
        for round_ in range(options.rounds):
            for arm, flag in ARMS.items():
                run = train(stack, Path(scratch) / f"{arm}-{round_}", options.steps, options.prompts, flag)
                times[arm].add(run)
                told = [(int(early), int(all_), float(seconds)) for early, all_, seconds in SAID.findall(run.log)]
                assert len(told) == (len(run.steps) if arm == "ahead" else 0), run.log[-3000:]
                said += told[1:]
                print(f"round {round_ + 1}, {arm}: {len(run.steps)} steps", flush=True)
    show(times, said)


if __name__ == "__main__":
    main()
