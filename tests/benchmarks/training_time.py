"""Time of making experience and training on the real stack: no filter, the package's order, and the authors' order.

    python tests/benchmarks/training_time.py [--steps 6] [--rounds 2] [--sizes 256x4 512x4 384x4] [--json FILE]
                                             [--calibrate 256x4 512x4]

For each size of policy, reward model and critic (width x layers), three trainings take the same prompts, one after the
other, in turn over the rounds: ``none`` with N = 8, ``best_worst`` 2 of 8, and the same with all forward passes on N
first, as the code published with PF-PPO does. Prints, by phase, the median and range over steps (the first of each run
left out) of CPU seconds in the models' workers and of what OpenRLHF logs; the share of the ideal saving (reward model
on N, all else on k); and the cost model's prediction after calibrating on ``none`` of the first size (or of those
that --calibrate names, of which two widths are enough to predict a third), with the ratio.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from phase_times import PARTS, Times, calibrated, of_ideal, parts_of
from real_stack import ENTRY, Run, Stack

from openrlhf_pf.cost import Hardware, Model, Setting, step

HERE = Path(__file__).parent
PROMPTS, N, K, PROMPT_TOKENS, NEW_TOKENS, VOCABULARY = 16, 8, 2, 10, 48, 258
#: By arm: the order in the cost model, the entry point, and flags. Two optimizer steps a rollout in all.
ARMS = {
    "none 8": ("none", ENTRY, f"none --train.batch_size {PROMPTS * N // 2}"),
    "best_worst 2 of 8": ("filter", ENTRY, f"best_worst --train.batch_size {PROMPTS * K // 2}"),
    "all forwards first": (
        "forward_first",
        (str(HERE / "forward_first.py"),),
        f"best_worst --train.batch_size {PROMPTS * K // 2}",
    ),
}
NONE = "none 8"
#: One core in the place of a GPU; calibrating finds what it really gives.
CORE = Hardware("one core", 50e9, 1e12, 10e9, 10e9, 10e9)


def size_of(text: str) -> tuple[int, int]:
    """Width and layers of ``256x4``."""
    width, layers = map(int, text.split("x"))
    return width, layers


def times_of(seconds: dict[str, dict[str, list[float]]]) -> dict[str, Times]:
    """What --json holds of a size, by arm."""
    return {arm: Times(by_phase) for arm, by_phase in seconds.items()}


def model_of(width: int, layers: int) -> Model:
    """What tests/end_to_end/tiny_model.py writes, without the table of input embeddings."""
    in_layers = layers * (4 * width**2 + 3 * width * 2 * width)
    return Model(in_layers + VOCABULARY * width, layers, width, vocabulary=VOCABULARY)


def setting_of(width: int, layers: int) -> Setting:
    model = model_of(width, layers)
    return Setting(
        *(model, model, model, model),
        hardware=CORE,
        gpus=dict.fromkeys(("actor", "critic", "reward", "reference", "vllm"), 1),
        prompts=PROMPTS,
        prompt_tokens=PROMPT_TOKENS,
        response_tokens=NEW_TOKENS,
        samples=N,
        keep=K,
        updates=2,
        colocate=("all",),  # of CPU seconds, those of workers at the same time add up, too
        sleep=False,
        zero_stage=0,
        checkpointing=False,
        micro_batch=16,
        train_micro_batch=16,
    )


def train(stack: Stack, folder: Path, steps: int, arm: str) -> Run:
    _, entry, flags = ARMS[arm]
    run = stack.train(
        folder,
        steps * PROMPTS,
        f"--reward.model_name_or_path {stack.reward} --rollout.n_samples_per_prompt {N} --rollout.micro_batch_size 16 "
        f"--rollout.batch_size {PROMPTS} --train.micro_batch_size 16 --rollout.max_new_tokens {NEW_TOKENS} "
        f"--sample_filter {flags}",
        entry=entry,
        OMP_NUM_THREADS="1",
    )
    scored, forwarded, trained = (
        run.samples(model, event) // PROMPTS // len(run.steps)
        for model, event in (
            ("RewardModelActor", "forward"),
            ("PolicyModelActor", "forward"),
            ("ActorPPOTrainer", "train"),
        )
    )
    expected = {"none 8": (N, N, N), "best_worst 2 of 8": (N, K, K), "all forwards first": (N, N, K)}[arm]
    assert (scored, forwarded, trained) == expected, (arm, scored, forwarded, trained)
    return run


def measure(size: tuple[int, int], steps: int, rounds: int) -> dict[str, Times]:
    times = {arm: Times() for arm in ARMS}
    with (
        tempfile.TemporaryDirectory(prefix="pf-bench", dir="/tmp") as scratch,
        contextlib.closing(Stack(Path(scratch), hidden_size=size[0], layers=size[1])) as stack,
    ):
        for round_ in range(rounds):
            for place, arm in enumerate(ARMS):
                run = train(stack, Path(scratch) / f"{place}-{round_}", steps, arm)
                times[arm].add(run)
                print(f"{size[0]}x{size[1]}, round {round_ + 1}, {arm}: {len(run.steps)} steps", flush=True)
    return times


def show_measured(size: tuple[int, int], times: dict[str, Times]) -> None:
    print(f"\nseconds a step, {size[0]}x{size[1]} ({model_of(*size).parameters / 1e6:.1f} million parameters)")
    print(f"{'phase':>28}" + "".join(f"{arm:>30}" for arm in ARMS) + f"{'best_worst/none':>18}")
    for phase in times[NONE].by_phase:
        ratio = times["best_worst 2 of 8"].median(phase) / times[NONE].median(phase)
        print(f"{phase:>28}" + "".join(f"{times[arm].text(phase):>30}" for arm in ARMS) + f"{ratio:>18.3f}")
    for arm in list(ARMS)[1:]:
        share, ideal = of_ideal(times, NONE, arm, K / N)
        print(f"{arm}: {share:.3f} of the ideal saving on forward + train (ideal {ideal:.3f} CPU seconds)")


def show_predicted(all_times: dict[str, dict[str, Times]], calibrate: list[str]) -> None:
    for arms in (list(ARMS)[:1], list(ARMS)[:2]):
        runs = [(setting_of(*size_of(on)), ARMS[arm][0], all_times[on][arm]) for on in calibrate for arm in arms]
        calibration = calibrated(runs)
        how = f"calibrated on {' and '.join(arms)} of {' and '.join(calibrate)}"
        if (half_width := calibration.half_width()) is not None:
            how += f" (half width {half_width:.0f})"
        print(f"\nCPU seconds a step, {how}: measured, predicted, predicted / measured")
        for size, times in all_times.items():
            for arm, (order, _, _) in ARMS.items():
                told = parts_of(step(calibration.applied_to(setting_of(*size_of(size))), order))
                cells = []
                for phase in (*PARTS, "forward", "train", "forward + train"):
                    measured = times[arm].median(f"{phase}, cpu")
                    mark = "" if abs(told[phase] / measured - 1) <= 0.15 else " *"
                    cells.append(f"{phase} {measured:.3f} {told[phase]:.3f} {told[phase] / measured:.2f}{mark}")
                print(f"{size}, {arm}: " + "; ".join(cells))
        print("* not within 15%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=["256x4", "256x12", "512x4"], metavar="WIDTHxLAYERS")
    parser.add_argument("--calibrate", nargs="+", metavar="WIDTHxLAYERS", help="of --sizes (the first)")
    parser.add_argument("--json", type=Path, help="every step's seconds; what it holds already is not measured again")
    options = parser.parse_args()
    calibrate = options.calibrate or options.sizes[:1]
    if absent := [size for size in calibrate if size not in options.sizes]:
        parser.error(f"--calibrate {absent[0]} is not measured: name it in --sizes, too")
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for size in options.sizes:
        if size not in known:
            times = measure(size_of(size), options.steps, options.rounds)
            known[size] = {arm: of_arm.by_phase for arm, of_arm in times.items()}
        show_measured(size_of(size), times_of(known[size]))
        if options.json:  # after every size: what follows takes minutes
            options.json.write_text(json.dumps(known))
    show_predicted({size: times_of(known[size]) for size in options.sizes}, calibrate)


if __name__ == "__main__":
    main()
