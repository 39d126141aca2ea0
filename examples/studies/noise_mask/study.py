"""Does a learned noise mask help a classifier, and is it the learning that helps?

python -m examples.studies.noise_mask.study --seeds 30 --train 100 --output noise_mask.json

A seed fixes training images, first weights and the order of images in all arms, so that differences are paired.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.micro_code.sampling import bootstrap_interval
from examples.studies.tables import tables_of

from .training import ARMS, MOST, N_CLASSES, Digits, Plan, load_digits, split, train


def accuracy(classifier: torch.nn.Module, digits: Digits) -> float:
    """Return the share of images that are put into their class."""
    classifier.eval()
    with torch.no_grad():
        return float((classifier(digits.images).argmax(dim=1) == digits.labels).float().mean())


def run(arms: Sequence[str], seeds: Sequence[int], plan: Plan) -> dict[str, Any]:
    """Return ``accuracy`` by arm, seed by seed, and its ``difference`` from that of ``plain`` and ``uniform``."""
    digits = load_digits()
    results: dict[str, Any] = {"train": plan.n_train, "grid": plan.grid, "seeds": len(seeds)}
    results |= {"accuracy": {}, "difference": {}}
    for arm in arms:
        found = []
        for seed in seeds:
            mine, others = split(digits, plan.n_train, seed)
            found.append(round(accuracy(train(ARMS[arm], seed, mine, plan), others), 4))
        results["accuracy"][arm] = found
        print(f"{arm}: {np.mean(found):.3f}", flush=True)
    for arm, found in results["accuracy"].items():
        rivals = {name: results["accuracy"][name] for name in ("plain", "uniform") if name in arms}
        results["difference"][arm] = {
            f"minus {name}": [float(np.mean(found) - np.mean(rival)), *bootstrap_interval(np.subtract(found, rival))]
            for name, rival in rivals.items()
        }
    return results


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the flags, checked before anything begins."""
    parser = argparse.ArgumentParser("python -m examples.studies.noise_mask.study", description=__doc__)
    parser.add_argument("--seeds", type=int, default=30, help="runs of each arm, at least 2")
    parser.add_argument("--train", type=int, default=100, help="training images, a multiple of 10 up to 1,500")
    parser.add_argument("--grid", type=int, default=4, help="points of a mask along each side, 2 to 8")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="what is done to images")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON file")
    args = parser.parse_args(argv)
    if args.seeds < 2:
        parser.error(f"--seeds {args.seeds} leaves no interval: give at least 2.")
    if not 0 < args.train <= MOST or args.train % N_CLASSES:
        parser.error(f"--train {args.train} is not a multiple of {N_CLASSES} from {N_CLASSES} to {MOST}: give one.")
    if not 2 <= args.grid <= 8:
        parser.error(f"--grid {args.grid} is not between 2 and 8, the size of the images: give a number that is.")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run and write the results."""
    args = parse(argv)
    torch.set_num_threads(1)  # tensors are small
    results = run(args.arms, range(args.seeds), Plan(args.train, args.grid))
    args.output.write_text(json.dumps(results))
    print(tables_of(results))


if __name__ == "__main__":
    main()
