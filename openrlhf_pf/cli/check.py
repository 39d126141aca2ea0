"""Check a sample filter or a prompt selection of your own before training with it.

    openrlhf-pf check path/to/file.py:Class [KEY=VALUE ...]
    openrlhf-pf check path/to/file.py:Class threshold=0.5 --samples 16 --keep 4

prints one line per check and a verdict. Exit status: 0 when all checks pass, 1 when one fails, 2 when the class cannot
be loaded or built. The same from pytest: openrlhf_pf.testing.
"""

import argparse
import inspect
import sys
from collections.abc import Sequence

from openrlhf_pf import registry, testing
from openrlhf_pf.cli import Parser
from openrlhf_pf.filters import FILTERS
from openrlhf_pf.selection import SELECTIONS, PromptSelection


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    built = Parser(prog="openrlhf-pf check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    built.add_argument("name", help="path/to/file.py:Class, package.module:Class or a built-in name")
    built.add_argument("options", nargs="*", metavar="KEY=VALUE", help="options of the filter or selection")
    built.add_argument("--samples", type=int, default=8, metavar="N", help="samples drawn per prompt (default: 8)")
    built.add_argument("--keep", type=int, metavar="K", help="samples per prompt that train (the filter's own)")
    built.add_argument("--prompts", type=int, default=200, metavar="P", help="prompts of a selection (default: 200)")
    built.add_argument("--seed", type=int, default=0, help="seed of a filter's test rollouts (default: 0)")
    return built


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, print the report and return the exit status, as the module's docstring says."""
    args = parser().parse_args(argv)
    try:
        found = registry.find_named(args.name, {**FILTERS, **SELECTIONS}, "filter or selection")
        if inspect.isclass(found) and issubclass(found, PromptSelection):
            checks = testing.SELECTION_CHECKS
            results = testing.run_selection_checks(args.name, args.prompts, args.options)
        else:
            checks = testing.FILTER_CHECKS
            results = testing.run_filter_checks(args.name, args.samples, args.keep, args.options, args.seed)
    except ValueError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    done, failed = [], []
    for check, passed, sentence in results:
        status = "FAILED" if not passed else "note" if sentence else "ok"
        print(f"{status:<6}  {check:<17}  {sentence or inspect.getdoc(checks[check]).splitlines()[0]}")
        done.append(check)
        failed += [] if passed else [check]
    if failed:
        print(f"{args.name} is not sound: {', '.join(failed)} failed.")
    elif len(done) < len(checks):
        print(f"{args.name} could not be checked to the end: the checks stopped at {done[-1]}.")
    else:
        print(f"{args.name} is sound: {len(done)} checks, none failed.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
