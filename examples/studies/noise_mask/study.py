"""Does a learned noise mask help a classifier, and is it the learning that helps?

python -m examples.studies.noise_mask.study --seeds 30 --train 100 --output runs/noise_mask

A seed fixes training images, first weights and the order of images in all arms, so that differences are paired.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.studies.beyond_language.measures import mean_interval, show

from .mask import MaskPolicy
from .training import ARMS, MOST, N_CLASSES, Digits, Plan, load_digits, split, train

#: Each claim, and the difference of accuracies that would bear it out.
CLAIMS = {
    "a learned mask helps (the paper's comparison)": ("reinforce", "plain"),
    "learning it helps": ("reinforce", "uniform"),
    "seeing the image helps": ("reinforce", "base"),
    "a mask helps": ("uniform", "plain"),
    "a mask beats plain noise": ("reinforce", "gaussian"),
}
#: Accuracy below which a network is dead: twice what guessing gets.
DEAD = 2 / N_CLASSES


def accuracy(classifier: torch.nn.Module, digits: Digits) -> float:
    """Share of images that are put into their class."""
    classifier.eval()
    with torch.no_grad():
        return float((classifier(digits.images).argmax(dim=1) == digits.labels).float().mean())


def described(policy: MaskPolicy, digits: Digits) -> dict[str, float]:
    """What a policy has learned.

    Returns:
        ``brightness``, mean of a cell; ``concentration``, mean of exp a + exp b (2 for a uniform one);
        ``spread over images``, standard deviation of a cell's mean over images, mean over cells.
    """
    policy.eval()
    with torch.no_grad():
        alpha, beta = (log.exp() for log in policy(digits.images))
        mean = alpha / (alpha + beta)
        found = {"brightness": mean.mean(), "concentration": (alpha + beta).mean()}
        found["spread over images"] = mean.std(dim=0).mean()
        return {name: round(float(value), 4) for name, value in found.items()}


def run(arms: Sequence[str], seeds: Sequence[int], plan: Plan) -> dict[str, Any]:
    """Every arm on every seed: ``accuracy`` by arm, and what the ``policy`` of an arm has learned, seed by seed."""
    digits = load_digits()
    results: dict[str, Any] = {"train": plan.n_train, "grid": plan.grid, "seeds": len(seeds), "accuracy": {}}
    results["policy"] = {}
    for arm in arms:
        found, policies = [], []
        for seed in seeds:
            mine, others = split(digits, plan.n_train, seed)
            classifier, policy = train(ARMS[arm], seed, mine, plan)
            found.append(round(accuracy(classifier, others), 4))
            if policy is not None:
                policies.append(described(policy, mine))
        results["accuracy"][arm] = found
        if policies:
            results["policy"][arm] = {name: [each[name] for each in policies] for name in policies[0]}
        print(f"{arm}: {np.mean(found):.3f}", flush=True)
    return results


def tables(results: dict[str, Any]) -> str:
    """Markdown, from what :func:`run` returns: accuracies, claims, and what policies have learned."""
    found = {arm: np.array(values) for arm, values in results["accuracy"].items()}
    lines = ["| arm | accuracy | minus plain | dead |", "|---|---|---|---|"]
    for arm, values in found.items():
        ahead = show(mean_interval(values - found["plain"])) if "plain" in found and arm != "plain" else ""
        lines.append(f"| `{arm}` | {values.mean():.3f} | {ahead} | {(values < DEAD).sum()} of {len(values)} |")
    lines += ["", "| claim | difference | |", "|---|---|---|"]
    for claim, (one, other) in CLAIMS.items():
        if one in found and other in found:
            lines.append(f"| {claim} | {one} - {other} | {show(mean_interval(found[one] - found[other]))} |")
    lines += ["", "| policy | brightness | concentration | spread over images |", "|---|---|---|---|"]
    for arm, learned in results["policy"].items():
        cells = [f"{np.median(learned[n]):.3f}" for n in ("brightness", "concentration", "spread over images")]
        lines.append(f"| `{arm}`, median | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags, checked before anything begins."""
    parser = argparse.ArgumentParser(prog="python -m examples.studies.noise_mask.study", description=__doc__)
    parser.add_argument("--seeds", type=int, default=30, help="runs of each arm, at least 2")
    parser.add_argument("--train", type=int, default=100, help="training images, a multiple of 10 up to 1,500")
    parser.add_argument("--grid", type=int, default=4, help="cells of a mask along each side, 1 to 8")
    parser.add_argument("--blur", type=int, default=3, help="pixels of the Gaussian blur, odd, up to 15; 1 for none")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="of " + ", ".join(ARMS))
    parser.add_argument("--output", type=Path, required=True, help="folder for noise_mask.json and noise_mask.md")
    args = parser.parse_args(argv)
    unknown = [arm for arm in args.arms if arm not in ARMS]
    if unknown:
        parser.error(f"there is no arm {unknown[0]}: choose of {', '.join(ARMS)}.")
    if args.seeds < 2:
        parser.error(f"--seeds {args.seeds} leaves no interval: give at least 2.")
    if not 0 < args.train <= MOST or args.train % N_CLASSES:
        parser.error(f"--train {args.train} is no multiple of {N_CLASSES} from {N_CLASSES} to {MOST}: give one.")
    if not 1 <= args.grid <= 8:
        parser.error(f"--grid {args.grid} does not lie between 1 and 8, the images' size: give one that does.")
    released = [arm for arm in args.arms if ARMS[arm].mask == "released"]
    if args.grid == 1 and released:
        parser.error(
            f"--grid 1 lets the factor of {released[0]} be negative, so that the classifier climbs its loss: give a "
            "larger grid or leave the arm out."
        )
    if not 1 <= args.blur <= 15 or args.blur % 2 == 0:
        parser.error(f"--blur {args.blur} is no odd number from 1 to 15: a blur has a middle pixel, give an odd one.")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run, write noise_mask.json and noise_mask.md."""
    args = parse(argv)
    torch.set_num_threads(1)  # tensors are small
    args.output.mkdir(parents=True, exist_ok=True)
    plan = Plan(args.train, args.grid, args.blur)
    results = run(args.arms, range(args.seeds), plan)
    (args.output / "noise_mask.json").write_text(json.dumps(results))
    (args.output / "noise_mask.md").write_text(tables(results))
    print(tables(results))


if __name__ == "__main__":
    main()
