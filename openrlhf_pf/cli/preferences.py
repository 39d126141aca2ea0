"""Preference pairs out of a policy's own samples, to retrain its reward model on (RLP-SPG, arXiv 2403.19279).

    python -m openrlhf_pf.cli.preferences SAMPLES... --cluster behaviour --output spg.jsonl

SAMPLES is what python -m openrlhf_pf.cli.collect wrote (a directory, or one of its files), or any JSONL or Parquet
file with the columns prompt, response and reward; label, score, truncated, response_tokens, step, group and checkpoint
are used when there.

OUTPUT gets the columns prompt, chosen and rejected, for OpenRLHF's train_rm beside the pairs that the reward model was
trained on: --data.dataset D.jsonl,spg.jsonl. Beside it come OUTPUT.report.json and OUTPUT.report.html, and
OUTPUT.clusters.jsonl, a line a prompt, from which a broken run goes on. Exit code 0: written. 2: refused in one
sentence, and no pairs were written.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from openrlhf_pf import rlp
from openrlhf_pf.rlp import pairs as rules


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
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
        help="which answers are equal: exact (text), behaviour (programs, by the inputs of the label's tests), "
        "entailment (by an NLI checkpoint), or file.py:function",
    )
    add("--output", required=True, metavar="FILE.jsonl", help="where the pairs go")
    add("--threshold", type=float, default=0.5, help="least share of the largest cluster, gamma (%(default)s)")
    add("--pairs_per_prompt", type=int, default=1, metavar="K", help="one winner against K losers (%(default)s)")
    add("--seed", type=int, default=0, help="of losers, and of winners with equal rewards (%(default)s)")
    add("--checkpoint", metavar="NAME", help="the policy whose samples are meant, where there are several")
    add("--entailment_model", metavar="DIR", help="the NLI checkpoint; nothing is downloaded")
    add("--entailment_batch", type=int, default=32, metavar="B", help="pairs of answers at a time (%(default)s)")
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Cluster, choose, write; the report.

    Raises:
        ValueError: in one sentence, what is wrong with the arguments or the samples.
    """
    rules.check_settings(options.threshold, options.pairs_per_prompt)
    _check_output(options.output)
    clustering = rlp.build(
        options.cluster, entailment_model=options.entailment_model, entailment_batch=options.entailment_batch
    )
    warnings: list[str] = []
    prompts = rlp.prompts_of(_read(options.samples, warnings), options.checkpoint)
    clustering.check(prompts)
    progress = rlp.Progress(Path(f"{options.output}.clusters.jsonl"), clustering)
    there = progress.known(prompts)
    _say(f"{len(prompts):,} prompts, {there:,} of them clustered already")
    groups = []
    for found in progress.groups(prompts):
        groups.append(found)
        if len(groups) % 1000 == 0:
            _say(f"{len(groups):,} of {len(prompts):,} prompts are clustered")
    drawn = options.pairs_per_prompt, options.seed
    choices = [rlp.choose(p, g, options.threshold, *drawn) for p, g in zip(prompts, groups)]
    rows = rlp.pairs_of(prompts, choices)
    numbers = rlp.measure(prompts, groups, choices, *drawn)
    warnings += clustering.notes
    if not rows:
        counts = ", ".join(f"{name} {count:,}" for name, count in numbers["skipped"].items())
        more = "".join(f"; {note}" for note in clustering.notes)
        raise ValueError(f"none of {len(prompts):,} prompts gives a pair ({counts}{more}): no pairs were written.")
    return _write(options, rows, numbers, warnings)


def _check_output(output: str) -> None:
    # OpenRLHF's loader tells a file's form by the end of its name, and cuts --data.dataset at each comma and @.
    if Path(output).is_dir() or Path(output).suffix != ".jsonl" or set(",@") & set(output):
        raise ValueError(f"--output {output} must be the name of a file that ends in .jsonl, without a comma or @.")


def _read(paths: Sequence[str], warnings: list[str]) -> pa.Table:
    from openrlhf_pf.reliability.files import read_table

    tables = [read_table(Path(path), warnings, rlp.NAMES) for path in paths]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"{', '.join(paths)} do not go together ({cause}): give files of one kind.") from error


def _write(
    options: argparse.Namespace, rows: list[dict[str, str]], numbers: dict[str, Any], warnings: list[str]
) -> dict[str, Any]:
    """Write the three files, each whole or not at all, the pairs last."""
    from openrlhf_pf.files import replace_file
    from openrlhf_pf.reliability import pairs, pairs_page

    names = ("cluster", "threshold", "pairs_per_prompt", "seed", "checkpoint", "entailment_model")
    settings = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    report = pairs.report(numbers, {"samples": ", ".join(options.samples), **settings}, warnings)
    files = {
        f"{options.output}.report.json": pairs.as_json(report),
        f"{options.output}.report.html": pairs_page.html(report, rlp.REASONS),
        options.output: "".join(json.dumps(row) + "\n" for row in rows),
    }
    for name, content in files.items():
        with replace_file(name) as file:
            file.write(content)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    options = parser().parse_args(arguments)
    try:
        from rich.console import Console

        from openrlhf_pf.code_reward import Unavailable
        from openrlhf_pf.reliability import pairs
    except ModuleNotFoundError as error:
        print(f'preferences: {error.name} is not installed: pip install "openrlhf-pf[analyze]".', file=sys.stderr)
        return 2
    try:
        report = run(options)
    except (ValueError, OSError, Unavailable) as error:
        print(f"preferences: {error}", file=sys.stderr)
        return 2
    # Without a terminal (a log file), lines must not be cut at 80.
    console = Console(width=None if sys.stdout.isatty() else 140)
    pairs.show(report, rlp.REASONS, console)
    console.print(f"{options.output} and its .report.html are written.", soft_wrap=True, highlight=False)
    return 0


def _say(text: str) -> None:
    print(f"preferences: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
