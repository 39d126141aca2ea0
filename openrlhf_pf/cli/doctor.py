"""Could training start here?

    python -m openrlhf_pf.cli.doctor

prints one line for each thing that training needs (ok, note or FAILED), with what to do. Nothing is changed, and
nothing of OpenRLHF, vLLM, Ray or DeepSpeed is imported. Exit status: 0 when training could start, 1 when it could not.
"""

import argparse
import sys
from collections.abc import Sequence

from openrlhf_pf.cli import patch
from openrlhf_pf.doctor import Finding, machine, packages


def examine() -> list[Finding]:
    """All findings, in the order in which they are best mended."""
    torch = machine.TorchQuestion()
    try:
        code, sentence = patch.status()
    except patch.PatchRefused as refusal:
        code, sentence = 2, str(refusal)
    patched = code == 0
    findings = [
        packages.python(),
        packages.openrlhf(),
        *packages.stack(),
        packages.others(patched),
        packages.import_hook(),
        machine.sandbox(),
        machine.ray_directory(),
        machine.shared_memory(),
        machine.locks(),
    ]
    answer = torch.answer()
    return [*findings, machine.device(answer, sentence, patched), machine.compiler(gpu=bool(answer.get("gpus")))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings and a verdict, and return the exit status."""
    parser().parse_args(arguments)
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<6}  {finding.subject:<{width}}  {finding.sentence}")
    failed = [finding.subject for finding in findings if finding.status == "FAILED"]
    print(f"training could not start: mend {', '.join(failed)}." if failed else "training could start.")
    return int(bool(failed))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return argparse.ArgumentParser(
        prog="python -m openrlhf_pf.cli.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    sys.exit(main())
