"""The shell command: it lists its commands, imports only the one that is run, and hints at the right name."""

import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_pf import __main__ as shell
from openrlhf_pf import __version__

CLI = Path(shell.__file__).parent / "cli"


def test_each_command_is_a_module() -> None:
    assert {path.stem for path in CLI.glob("*.py")} - {"__init__"} == set(shell.COMMANDS)


def test_help_lists_the_commands_and_imports_none() -> None:
    code = "import sys, openrlhf_pf.__main__ as m; sys.argv[1:] = ['--help']; m.main(); print(*sys.modules)"
    *lines, modules = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert lines[0] == "usage: openrlhf-pf [--help] [--version] COMMAND ..."
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(shell.COMMANDS)
    imported = {name for name in modules.split() if name.startswith("openrlhf_pf")}
    assert imported <= {"openrlhf_pf", "openrlhf_pf.__main__", "openrlhf_pf._import_hook"}


@pytest.mark.parametrize(
    ("arguments", "status", "out", "err"),
    [
        (["--version"], 0, f"openrlhf-pf {__version__}\n", ""),
        ([], 2, "", "usage: openrlhf-pf"),
        (["analyse"], 2, "", "openrlhf-pf: there is no command 'analyse': did you mean 'analyze'?"),
        (
            ["xyz"],
            2,
            "",
            "openrlhf-pf: there is no command 'xyz': choose from analyze, collect, evaluate, preferences, ",
        ),
        (["analyze", "--output", "x"], 2, "", "analyze: there is no PATH"),
        (["evaluate", "--help"], 0, "usage: openrlhf-pf evaluate ", ""),
    ],
)
def test_exit_status_and_what_is_printed(
    arguments: list[str],
    status: int,
    out: str,
    err: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["openrlhf-pf", *arguments])
    try:
        assert shell.main() == status
    except SystemExit as exit_:  # of a command's parser
        assert exit_.code == status
    printed = capsys.readouterr()
    for found, begin in ((printed.out, out), (printed.err, err)):
        assert found.startswith(begin) and bool(found) == bool(begin)
