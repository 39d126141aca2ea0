"""The shell command: it lists its commands, imports only the one that is run, and hints at the right name."""

import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_pf import __main__ as shell
from openrlhf_pf import __version__

CLI = Path(shell.__file__).parent / "cli"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["openrlhf-pf", *arguments])
    return shell.main()


def test_each_command_is_a_module() -> None:
    assert {path.stem for path in CLI.glob("*.py")} - {"__init__"} == set(shell.COMMANDS)


def test_help_lists_the_commands_and_imports_none() -> None:
    code = "import sys, openrlhf_pf.__main__ as m; sys.argv[1:] = ['--help']; m.main(); print(*sys.modules)"
    *lines, modules = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert lines[0] == "usage: openrlhf-pf [--help] [--version] COMMAND ..."
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(shell.COMMANDS)
    imported = {name for name in modules.split() if name.startswith("openrlhf_pf")}
    assert imported <= {"openrlhf_pf", "openrlhf_pf.__main__", "openrlhf_pf._import_hook"}


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"openrlhf-pf {__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("analyse", "did you mean 'analyze'?"), ("xyz", "choose from analyze, collect, evaluate, preferences, ")],
)
def test_unknown_command(name: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run(monkeypatch, name) == 2
    assert capsys.readouterr().err.startswith(f"openrlhf-pf: there is no command {name!r}: {hint}")


def test_no_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run(monkeypatch) == 2
    assert capsys.readouterr().err.startswith("usage: openrlhf-pf")


def test_a_command_gets_its_arguments_and_its_exit_status_is_returned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(monkeypatch, "analyze", "--output", "x") == 2
    assert "there is no PATH" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "evaluate", "--help")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: openrlhf-pf evaluate ")
