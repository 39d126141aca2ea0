"""Choose preference pairs from a policy's own samples, to retrain its reward model on (RLP-SPG, arXiv 2403.19279).

    openrlhf-pf preferences SAMPLES... --cluster behaviour --output spg.jsonl

SAMPLES is what openrlhf-pf collect wrote (a directory, or one of its files), or any JSONL or Parquet file with the
columns prompt, response and reward; label, score, truncated, response_tokens, step, group and checkpoint are optional.

OUTPUT gets the columns prompt, chosen and rejected. Give it to OpenRLHF's train_rm together with the pairs that the
reward model was trained on: --data.dataset D.jsonl,spg.jsonl. OUTPUT.report.json has the report. OUTPUT.clusters.jsonl
has one line per prompt, from which a killed command resumes. Exit code 0: written. 2: refused in one sentence, and no
pairs were written.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from openrlhf_pf import rlp
from openrlhf_pf.cli import Parser
from openrlhf_pf.code_reward import Unavailable
from openrlhf_pf.files import replace_file
from openrlhf_pf.rlp.clusters import ClusterFile
from openrlhf_pf.rlp.pairs import check_settings
from openrlhf_pf.rlp.report import Order, make_report, measure, show
from openrlhf_pf.rlp.samples import COLUMN_NAMES, check_columns

REPETITIONS = 1000  # of the bootstrap


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = Parser(
        prog="openrlhf-pf preferences",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("samples", nargs="+", metavar="SAMPLES", help="directory of samples, JSONL or Parquet file")
    add(
        "--cluster",
        required=True,
        metavar="HOW",
        help="which responses are equal: exact (text), behaviour (programs, by the inputs of the label's tests), "
        "entailment (by an NLI checkpoint), or file.py:function",
    )
    add("--output", required=True, metavar="FILE.jsonl", help="where to write the pairs")
    add("--threshold", type=float, default=0.5, help="lowest share of the largest cluster, gamma (%(default)s)")
    add("--pairs_per_prompt", type=int, default=1, metavar="K", help="one winner against K losers (%(default)s)")
    add("--seed", type=int, default=0, help="of losers, and of winners with equal rewards (%(default)s)")
    add("--checkpoint", metavar="NAME", help="the policy whose samples to use, if there are several")
    add("--entailment_model", metavar="DIR", help="the NLI checkpoint; nothing is downloaded")
    add("--entailment_batch", type=int, default=32, metavar="B", help="pairs of responses at a time (%(default)s)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Cluster, choose, write and print; returns the exit code."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    options = parser().parse_args(arguments)
    from rich.console import Console

    try:
        report = run(options)
    except (ValueError, OSError, Unavailable) as error:
        print(f"preferences: {error}", file=sys.stderr)
        return 2
    # Without a terminal (a log file), lines must not be cut at 80.
    console = Console(width=None if sys.stdout.isatty() else 140)
    show(report, console)
    console.print(f"{options.output} and its .report.json are written.", soft_wrap=True, highlight=False)
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Cluster, choose and write; return the report.

    Raises:
        ValueError: one sentence on what is wrong with the arguments or the samples.
    """
    check_settings(options.threshold, options.pairs_per_prompt)
    output = options.output
    # OpenRLHF's loader reads a file's format from its suffix, and splits --data.dataset at each comma and @.
    if Path(output).is_dir() or Path(output).suffix != ".jsonl" or set(",@") & set(output):
        raise ValueError(f"--output {output} must be the name of a file that ends in .jsonl, without a comma or @.")
    clustering = rlp.build_clustering(options.cluster, options.entailment_model, options.entailment_batch)
    warnings: list[str] = []
    prompts = rlp.group_by_prompt(_read(options.samples, warnings), options.checkpoint)
    clustering.check(prompts)
    known = ClusterFile(Path(f"{output}.clusters.jsonl"), clustering)
    _log(f"{len(prompts):,} prompts, {known.count_known(prompts):,} of them clustered already")
    groups = []
    for found in known.cluster(prompts):
        groups.append(found)
        if len(groups) % 1000 == 0:
            _log(f"{len(groups):,} of {len(prompts):,} prompts are clustered")
    draws = options.pairs_per_prompt, options.seed
    choices = [rlp.choose(p, g, options.threshold, *draws) for p, g in zip(prompts, groups)]
    rows = rlp.make_pairs(prompts, choices)
    numbers = measure(prompts, groups, choices, *draws)
    if not rows:
        counts = ", ".join(f"{name} {count:,}" for name, count in numbers["skipped"].items())
        notes = "".join(f"; {note}" for note in clustering.notes)
        raise ValueError(f"none of {len(prompts):,} prompts gives a pair ({counts}{notes}): no pairs were written.")
    accuracies = _estimate_accuracies(numbers.pop("orders"), numbers["texts"])
    names = ("cluster", "threshold", "pairs_per_prompt", "seed", "checkpoint", "entailment_model")
    settings = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = {"samples": ", ".join(options.samples), **settings}
    report = make_report(numbers, accuracies, settings, [*warnings, *clustering.notes])
    # The pairs last: they are there only if everything is.
    for name, content in (
        (f"{output}.report.json", json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"),
        (output, "".join(json.dumps(row) + "\n" for row in rows)),
    ):
        with replace_file(Path(name)) as file:
            file.write(content)
    return report


def _read(paths: Sequence[str], warnings: list[str]) -> pa.Table:
    from openrlhf_pf.reliability.read.columns import list_numeric
    from openrlhf_pf.reliability.read.files import read_table

    def check(schema: pa.Schema) -> None:
        check_columns([*schema.names, *(name for name in list_numeric(schema) if "." in name)])

    tables = [read_table(Path(path), warnings, COLUMN_NAMES, check) for path in paths]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"{', '.join(paths)} do not fit together ({cause}): give files of one kind.") from error


def _estimate_accuracies(orders: Mapping[str, Order], n_texts: int) -> dict[str, Any]:
    """Return ``accuracy``, ``lead`` and ``verdict`` as :func:`make_report` takes them."""
    from openrlhf_pf.reliability.measures.bootstrap import Bootstrap, effective_units
    from openrlhf_pf.reliability.recommend import verdict_of

    if not orders:
        return {"accuracy": None, "lead": None, "verdict": "unknown"}
    bootstrap = Bootstrap(n_texts, REPETITIONS)
    found, shares = {}, {}
    for kind, order in orders.items():
        number, *columns = np.array(order, float).reshape(-1, 4).T
        number, total = number.astype(int), sum(column.sum() for column in columns)
        sums = bootstrap.sum_up(bootstrap.block[number], columns[:2])
        with np.errstate(invalid="ignore"):
            shares[kind] = sums[:, 0] / sums.sum(axis=1)
        weights = np.bincount(number, columns[0] + columns[1], minlength=1)
        names = zip(("right", "wrong", "equal"), columns)
        found[kind] = {
            "accuracy": bootstrap.summarize(shares[kind], "share", 0.95, effective_units(weights)),
            **{name: float(column.sum() / total) if total else None for name, column in names},
            "prompts": int((weights > 0).sum()),
        }
    lead = bootstrap.summarize(shares["spg"] - shares["ranked"], "plain", 0.95)
    return {"accuracy": found, "lead": lead, "verdict": verdict_of(found["spg"]["accuracy"])}


def _log(text: str) -> None:
    print(f"preferences: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
