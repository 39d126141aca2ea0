"""Weigh old preference pairs by how likely a new policy is to write them (OCRM, arXiv 2507.15507).

    python -m openrlhf_pf.cli.weigh_pairs D.jsonl --policy DIR --reference DIR --output D_weighted.jsonl
    python -m openrlhf_pf.cli.train_rm <your train_rm flags> --data.dataset D_weighted.jsonl --policy_weights

D.jsonl are the pairs that the reward model was trained on, with the columns prompt, chosen and rejected; POLICY is the
trained policy, REFERENCE the one that wrote the pairs, as a rule the SFT policy. OUTPUT gets D's rows with the weight
in the column margin, which train_rm reads as one with --policy_weights. Exit code 0: written. 2: refused in one
sentence, and nothing was written.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openrlhf_pf.preferences.weights import EFFECTIVE, RELATIVE, log_probabilities, relative_log_ratio, weights_of

#: Below this share, a few pairs decide what the reward model learns.
FEW = 0.1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m openrlhf_pf.cli.weigh_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("pairs", metavar="D.jsonl", help="pairs with the columns prompt, chosen and rejected")
    add("--policy", required=True, metavar="DIR", help="the policy that the reward model is for")
    add("--reference", required=True, metavar="DIR", help="the policy that wrote the pairs")
    add("--output", required=True, metavar="FILE.jsonl", help="where the weighted pairs go")
    add("--relative", type=float, default=RELATIVE, metavar="A", help="alpha of the relative ratio (%(default)s)")
    add("--effective", type=float, metavar="SHARE", help=f"least effective share of the pairs ({EFFECTIVE})")
    add("--scale", type=float, metavar="S", help="the exponent, instead of one that leaves that share")
    add("--max_len", type=int, default=1024, metavar="T", help="tokens of prompt and response (%(default)s)")
    add("--batch", type=int, default=16, metavar="B", help="responses at a time (%(default)s)")
    return found


def run(options: argparse.Namespace) -> str:
    """Weigh and write; what to say of it.

    Raises:
        ValueError: in one sentence, what is wrong with the arguments or the pairs.
    """
    _check(options)
    rows = _rows(Path(options.pairs))
    ratios = np.zeros(len(rows))
    for answer in ("chosen", "rejected"):
        texts = [(row["prompt"], row[answer]) for row in rows]
        new, old = (
            np.fromiter(log_probabilities(folder, texts, options.max_len, options.batch), float, len(texts))
            for folder in (options.policy, options.reference)
        )
        ratios += relative_log_ratio(new - old, options.relative)
        print(f"weigh_pairs: {len(rows):,} {answer} responses are weighed", file=sys.stderr, flush=True)
    effective = EFFECTIVE if options.effective is None else options.effective
    found = weights_of(ratios, effective, options.scale)
    text = "".join(json.dumps(row | {"margin": float(w)}) + "\n" for row, w in zip(rows, found.weights))
    from openrlhf_pf.code_reward.evaluation import whole

    with whole(Path(options.output)) as file:
        file.write(text)
    few = " A few pairs decide: take a lower --scale, or fresh pairs." if found.effective < FEW else ""
    return (
        f"{len(rows):,} pairs are in {options.output}; log ratios from {ratios.min():.2f} to {ratios.max():.2f} "
        f"(median {np.median(ratios):.2f}), exponent {found.scale:.3g}, weights up to {found.weights.max():.2f}, "
        f"worth {found.effective:.0%} of as many equal ones.{few}"
    )


def _check(options: argparse.Namespace) -> None:
    if not 0 <= options.relative < 1:
        raise ValueError(f"--relative must be at least 0 and below 1, got {options.relative}.")
    if options.scale is not None and options.effective is not None:
        raise ValueError("--scale and --effective both set the exponent: give one of them.")
    if options.effective is not None and not 0 < options.effective < 1:
        raise ValueError(f"--effective must lie between 0 and 1, got {options.effective}: it is a share of the pairs.")
    if options.scale is not None and not 0 <= options.scale <= 1:
        raise ValueError(f"--scale must lie between 0 and 1, got {options.scale}; 0 gives all pairs the weight 1.")
    for flag in ("max_len", "batch"):
        if getattr(options, flag) < 1:
            raise ValueError(f"--{flag} must be 1 or more, got {getattr(options, flag)}.")
    if Path(options.output).suffix != ".jsonl" or set(",@") & set(options.output):
        raise ValueError(
            f"--output {options.output} must be the name of a file that ends in .jsonl, without a comma or @."
        )


def _rows(file: Path) -> list[dict]:
    try:
        # Bytes, for those of a text end at U+2028 as well, which JSON may hold as it is.
        rows = [json.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{file} is no JSONL ({error}): give a line of JSON a pair.") from error
    if not rows:
        raise ValueError(f"{file} has no pairs: give those that the reward model was trained on.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {file} is no JSON object: give a line of JSON a pair.")
        missing = [name for name in ("prompt", "chosen", "rejected") if not isinstance(row.get(name), str)]
        if missing:
            raise ValueError(
                f"line {number} of {file} has no text in {', '.join(missing)}: pairs need prompt, chosen and "
                "rejected, as the policy sees them."
            )
        if "margin" in row:
            raise ValueError(f"line {number} of {file} has a margin already, and a pair has one weight: leave it out.")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        said = run(options)
    except (ValueError, OSError) as error:
        print(f"weigh_pairs: {error}", file=sys.stderr)
        return 2
    print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
