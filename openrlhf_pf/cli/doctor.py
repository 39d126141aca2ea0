"""Check whether training could start here.

Prints one line for each thing that training needs (ok, note or FAILED), with what to do. Nothing is changed. Exit
status: 0 if training could start, 1 if not.
"""

import argparse
import sys
from collections.abc import Sequence

from openrlhf_pf.doctor import examine


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which has no flags."""
    return argparse.ArgumentParser(
        prog="openrlhf-pf doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings and a verdict, and return the exit status."""
    parser().parse_args(arguments)
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<6}  {finding.subject:<{width}}  {finding.sentence}")
    failed = [finding.subject for finding in findings if finding.status == "FAILED"]
    print(f"training could not start: fix {', '.join(failed)}." if failed else "training could start.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
