"""Which filter suits a reward model: measure where its rewards agree with true scores.

    openrlhf-pf analyze --demo
    openrlhf-pf analyze PATH... --output DIR

--demo needs no data: it simulates two reward models with a known flaw and says what to see in the report.

PATH is a rollout log (the directory that --sample_filter_log wrote, or one of its files), or any Parquet, Arrow, JSON,
JSONL or CSV file, or folder of them, with prompts, rewards and scores, a row per sample or a row per prompt; --columns
names these columns. reward_again, response_tokens, model_rewards, step and checkpoint are used when there.
Several checkpoints (a column, or one for each PATH) are analysed side by side; the recommendation is for the first.

DIR gets report.html (for people), report.json (for --sample_filter auto) and the figures as SVG. Exit code 0: written,
decided or not. 2: refused in one sentence, and nothing was written.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from openrlhf_pf.cli import Parser

DEMO_FOLDER, FOLDER = "openrlhf-pf-demo", "openrlhf-pf-report"
MAX_SEED = 2**64 - 1  # of PyTorch's generators


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = Parser(
        prog="openrlhf-pf analyze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("paths", nargs="*", metavar="PATH", help="rollout log, file or folder of samples")
    add("--demo", action="store_true", help="analyse two simulated reward models with a known flaw")
    add("--output", metavar="DIR", help=f"where the report goes ({FOLDER}; with --demo, {DEMO_FOLDER})")
    add(
        "--columns",
        metavar="OURS=YOURS,...",
        help="names of our columns in the files: reward=rm_score,score=acc,prompt_id=id",
    )
    add("--strategies", nargs="+", default=(), metavar="NAME", help="compare only these, and none (all possible)")
    add("--keep", type=int, metavar="K", help="k, samples per prompt that train (each filter's own default)")
    add("--bins", type=int, default=20, help="groups of equal count for R² (%(default)s)")
    add("--bootstrap", dest="repetitions", type=int, default=1000, help="repetitions over prompts (%(default)s)")
    add("--seed", type=int, default=0, help="of the bootstrap (%(default)s)")
    add("--level", type=float, default=0.95, help="of the intervals (%(default)s)")
    add("--threshold", type=float, default=0.5, help="a score above it is correct (%(default)s)")
    add("--low", type=float, help="for top_bottom (lower quartile of the rewards)")
    add("--high", type=float, help="for top, top_random, top_bottom (upper quartile of the rewards)")
    add("--power", dest="powers", type=float, nargs="+", default=(1.0, 2.0, 3.0), help="for reward_power (1 2 3)")
    add("--weights", type=float, nargs="+", help="for rank_weights: the weight of each rank, best first")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Analyse, print and write; return the exit code."""
    options = parser().parse_args(arguments)
    if wrong := _refusal(options):
        print(f"analyze: {wrong}", file=sys.stderr)
        return 2
    try:
        from rich.console import Console

        from openrlhf_pf.reliability import Settings, analyse, analyse_rollouts, demo, show_report, write_report
        from openrlhf_pf.reliability.read.columns import parse_columns
    except ModuleNotFoundError as error:
        print(f"analyze: {error.name} is not installed: pip install {error.name}.", file=sys.stderr)
        return 2
    # Without a terminal (a log file), lines must not be cut at 80.
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        options.strategies = options.strategies or (demo.STRATEGIES if options.demo else ())
        settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})

        def say(line: str) -> None:
            print(f"analyze: {line}", file=sys.stderr)

        if options.demo:
            analysis = analyse_rollouts(demo.make_samples(), settings, say)
            analysis.opening = demo.describe(analysis)
        else:
            named = parse_columns(options.columns) if options.columns else None
            analysis = analyse(options.paths, settings, say, named)
        files = write_report(analysis, _folder(options))
    except ValueError as error:
        print(f"analyze: {error}", file=sys.stderr)
        return 2
    show_report(analysis, console)
    console.print(f"{files[0]} and {len(files) - 1} more files are written.", soft_wrap=True, highlight=False)
    return 0


def _folder(options: argparse.Namespace) -> Path:
    return Path(options.output or (DEMO_FOLDER if options.demo else FOLDER))


def _refusal(options: argparse.Namespace) -> str:
    """Return why the arguments do not go together, or ""."""
    if options.demo and options.paths:
        return f"--demo makes its own samples, got PATH {options.paths[0]!r} as well: leave out the one or the other."
    if options.demo and options.columns:
        return "--demo makes its own samples, which --columns cannot name: leave out the one or the other."
    if not options.demo and not options.paths:
        return "there is no PATH: give a rollout log, file or folder, or --demo to see a made-up example."
    if options.seed > MAX_SEED:
        return f"--seed must lie between 0 and {MAX_SEED}, got {options.seed}."
    if options.output == "":
        return "--output is empty: name the directory of the report."
    output = _folder(options)
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not there.is_dir():
        return f"--output {str(output)!r} cannot be a directory, because {str(there)!r} is a file: give another."
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return f"--output {str(output)!r} cannot be written ({error.strerror}): give another."
    return ""


if __name__ == "__main__":
    sys.exit(main())
