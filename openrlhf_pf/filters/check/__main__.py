"""``python -m openrlhf_pf.filters.check``: see the package's docstring."""

import argparse
import sys
from collections.abc import Sequence

from openrlhf_pf.filters.check import check_filter, verdict


def parser() -> argparse.ArgumentParser:
    """The command line."""
    built = argparse.ArgumentParser(
        prog="python -m openrlhf_pf.filters.check", description="Check whether a sample filter is sound."
    )
    built.add_argument("filter", help="path/to/file.py:Class, package.module:Class or a built-in name")
    built.add_argument("--samples", type=int, default=8, metavar="N", help="samples drawn a prompt (default: 8)")
    built.add_argument("--keep", type=int, metavar="K", help="samples a prompt that train (default: the filter's)")
    built.add_argument("--options", nargs="+", default=(), metavar="KEY=VALUE", help="options of the filter")
    built.add_argument("--seed", type=int, default=0, help="seed of the test rollouts (default: 0)")
    return built


def main(argv: Sequence[str] | None = None) -> int:
    """Check one filter, print the report and return the exit status, as the package's docstring says."""
    args = parser().parse_args(argv)
    try:
        findings = check_filter(args.filter, args.samples, args.keep, args.options, args.seed)
    except ValueError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(f"{finding.status:<6}  {finding.check:<10}  {finding.sentence}")
    print(verdict(args.filter, findings))
    return int(any(finding.status == "FAILED" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
