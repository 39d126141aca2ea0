"""What does a PPO step cost with and without a filter, and what would another k, N or cluster give?

    python -m openrlhf_pf.cli.cost --preset 70b-64 --samples 16 --keep 4
    python -m openrlhf_pf.cli.cost --presets

prints the assumptions, seconds by phase, memory a GPU, what the filter saves and where that ends. The flags describe
one training; what is not given is the preset's. After a run of your own, the same flags with what it took

    python -m openrlhf_pf.cli.cost <flags of that run> --measured ckpt/tensorboard --calibration mine.json
    python -m openrlhf_pf.cli.cost <flags of the next> --calibration mine.json

make the next prediction rest on it; a second run of another size makes it better. Exit code 0: printed. 2: refused in
one sentence.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from openrlhf_pf.cost import ORDERS, PRESETS, Calibration, Setting, compare
from openrlhf_pf.cost.arguments import add_arguments, setting_of
from openrlhf_pf.cost.calibration import from_tensorboard


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m openrlhf_pf.cli.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(found)
    add = found.add_argument
    add("--presets", action="store_true", help="a line for each preset instead of one setting")
    add("--measured", metavar="PATH", help="TensorBoard directory of a run, or JSON: seconds by phase")
    add("--order", default="filter", choices=ORDERS[:3], help="of the measured run (%(default)s)")
    add("--calibration", metavar="FILE", help="measured runs: read if there, and --measured is added")
    add("--json", metavar="FILE", help="write all numbers there, too")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, and write where asked to; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        from rich.console import Console

        from openrlhf_pf.cost import report
    except ModuleNotFoundError as error:
        print(f'cost: {error.name} is not installed: pip install "openrlhf-pf[analyze]".', file=sys.stderr)
        return 2
    # Without a terminal (a log file), lines must not be cut at 80.
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        if options.presets:
            compared = {name: (setting, compare(setting)) for name, setting in PRESETS.items()}
            report.show_all(compared, console)
            numbers = {name: report.as_dict(*pair) for name, pair in compared.items()}
        else:
            setting = _calibrated(options)
            comparison = compare(setting)
            report.show(setting, comparison, console)
            numbers = report.as_dict(setting, comparison)
        if options.json:
            Path(options.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"cost: {error}", file=sys.stderr)
        return 2
    return 0


def _calibrated(options: argparse.Namespace) -> Setting:
    """The setting, with what was measured where there is something; a measured run is noted first."""
    setting = setting_of(options)
    file = Path(options.calibration) if options.calibration else None
    if not file and not options.measured:
        return setting
    if file and not options.measured and not file.exists():
        raise ValueError(f"there is no {file}: give --measured with the times of a run to begin it.")
    calibration = Calibration.read(file) if file and file.exists() else Calibration()
    if options.measured:
        calibration.add(setting, options.order, _seconds(Path(options.measured)))
        if file:
            calibration.write(file)
    return calibration.applied_to(setting)


def _seconds(path: Path) -> dict[str, float]:
    if path.is_dir():
        return from_tensorboard(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is no JSON ({error}): write {{"ppo_train": 2.5, ...}} in seconds.') from error
    if not isinstance(found, dict):
        raise ValueError(f'{path} holds no phases: write {{"ppo_train": 2.5, ...}} in seconds.')
    return found


if __name__ == "__main__":
    sys.exit(main())
