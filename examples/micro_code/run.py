"""Run a micro-code study from the task to the table.

python -m examples.micro_code.run --seed 1 --output runs/quickstart
python -m examples.micro_code.run --resume --output runs/quickstart
python -m examples.micro_code.run --set ppo.kl=0.2 --set ppo.steps=80 --output runs/more_kl
"""

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .config import PRESETS, Study, override, with_overoptimisation
from .phases import PhaseFailed, Run, phases_of, settings_of


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.micro_code.run", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), default="quickstart", help="the settings to start from")
    add("--seed", type=int, help="seed of task, policy, reward model and PPO (default: the preset's)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting, e.g. ppo.kl=0.2")
    add("--overoptimise", action="store_true", help="add a PPO run that pushes the same reward model too hard")
    add("--output", type=Path, required=True, help="run directory; an earlier run in it is replaced")
    add("--resume", action="store_true", help="keep the finished phases whose settings are unchanged")
    phases = "task, sft, pairs, reward, reliability, unfiltered, random, ppo, overoptimised"
    add("--until", metavar="PHASE", help=f"stop after this phase: {phases}")
    return parser.parse_args(argv)


def study_of(args: argparse.Namespace) -> Study:
    """Return the study that a command line asks for."""
    preset = PRESETS[args.preset]
    study = override(with_overoptimisation(preset) if args.overoptimise else preset, args.set)
    return study if args.seed is None else override(study, [f"seed={args.seed}"])


def prepare(directory: Path, study: Study, resume: bool) -> None:
    """Make the run directory ready: empty, or with the files of an earlier run."""
    marker = directory / "study.json"
    if marker.exists() and not resume:
        shutil.rmtree(directory)
    elif directory.exists() and not marker.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty and holds no study: take another --output.")
    directory.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(study.as_dict(), indent=1))


def kept_record(record: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a finished phase if it was run with these settings."""
    if not record.exists():
        return None
    kept = json.loads(record.read_text())
    return kept if kept["settings"] == json.loads(json.dumps(settings)) else None


def run_phase(
    record: Path, heading: str, settings: dict[str, Any], work: Callable[[], dict[str, Any]], console: Console
) -> dict[str, Any]:
    """Do the work unless ``record`` shows that it was done with these settings.

    Returns:
        The record: ``{"seconds", "result", "settings"}``.
    """
    kept = kept_record(record, settings)
    if kept is not None:
        console.print(f"{heading}: kept from before")
        return kept
    start = time.perf_counter()
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(heading)
        result = work()
    found = {"seconds": time.perf_counter() - start, "result": result, "settings": settings}
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(found))
    values = {k: v for k, v in result.items() if not isinstance(v, dict)}
    shown = ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
    console.print(f"{heading}: {found['seconds']:.0f} s  {shown}", highlight=False)
    return found


def run_phases(
    run: Run, console: Console, until: str | None = None, only: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Run the phases that are not done, up to ``until`` or those of ``only``; return each one's record."""
    phases = {name: phase for name, phase in phases_of(run.study).items() if only is None or name in only}
    records: dict[str, dict[str, Any]] = {}
    for number, (name, (title, phase)) in enumerate(phases.items(), start=1):
        record, heading = run.path("phases", f"{name}.json"), f"{number}/{len(phases)} {title}"
        work = functools.partial(phase, run)
        records[name] = run_phase(record, heading, settings_of(run.study, name), work, console)
        if name == until:
            break
    return records


def main(argv: list[str] | None = None) -> int:
    """Run a study; return 0 when every phase ended well."""
    args = parse(argv)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # all is sized for a CPU: no warning that there is no GPU
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception, so that a running trainer ends with us
    console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=not sys.stdout.isatty())
    try:
        study = study_of(args)
        prepare(args.output.resolve(), study, args.resume)
        run = Run(study, args.output.resolve())
        try:
            records = run_phases(run, console, args.until)
        finally:
            run.one_ray.close()
    except (PhaseFailed, ValueError) as error:
        console.print(f"[red]Failed:[/red] {error}", markup=True, highlight=False)
        return 1
    if "evaluate" not in records:
        return 0
    from .report import report

    report(run, records, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
