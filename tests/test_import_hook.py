"""The import finder serves one name, never before OpenRLHF's own module, and costs next to nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_pf import _import_hook

ROOT = Path(__file__).parents[1]
PTH = ROOT / "openrlhf_pf" / "openrlhf_pf.pth"


def write_openrlhf(site: Path, *modules: str) -> None:
    """A package openrlhf.cli in `site` whose modules say that they are OpenRLHF's own."""
    cli = site / "openrlhf" / "cli"
    cli.mkdir(parents=True)
    for folder in (cli.parent, cli):
        (folder / "__init__.py").touch()
    for module in modules:
        (cli / f"{module}.py").write_text(f"print('{module} of OpenRLHF')\n")


def run_python(site: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Python without any installed package but `site`, after the line of our .pth file."""
    line = PTH.read_text().strip()
    start = "import runpy, sys; sys.argv = sys.argv[1:]; "
    code = f"{line}; {start}" + "exec(sys.argv[1]) if sys.argv[0] == '-c' else runpy._run_module_as_main(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-S", "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "name", ["openrlhf", "openrlhf.cli", "openrlhf.cli.train_ppo_ray", "openrlhf.cli.train_pp", ""]
)
def test_every_other_name_is_left_alone(name: str) -> None:
    assert _import_hook.TrainPPOFinder.find_spec(name) is None


def test_the_one_name_gets_the_launcher() -> None:
    spec = _import_hook.TrainPPOFinder.find_spec("openrlhf.cli.train_ppo")
    assert spec.name == "openrlhf.cli.train_ppo"
    assert Path(spec.origin) == Path(_import_hook.__file__).parent / "cli" / "train_ppo.py"
    assert Path(spec.origin).is_file()


def test_the_name_is_served_where_openrlhf_lacks_it(tmp_path: Path) -> None:
    write_openrlhf(tmp_path, "train_sft")
    code = "import importlib.util as u; print(u.find_spec('openrlhf.cli.train_ppo').origin)"
    assert run_python(tmp_path, "-c", code).stdout.strip() == str(ROOT / "openrlhf_pf" / "cli" / "train_ppo.py")
    assert run_python(tmp_path, "-m", "openrlhf.cli.train_sft").stdout == "train_sft of OpenRLHF\n"


def test_openrlhfs_own_module_wins(tmp_path: Path) -> None:
    write_openrlhf(tmp_path, "train_ppo")
    result = run_python(tmp_path, "-m", "openrlhf.cli.train_ppo")
    assert (result.stdout, result.returncode) == ("train_ppo of OpenRLHF\n", 0)


def test_without_openrlhf_the_usual_error(tmp_path: Path) -> None:
    result = run_python(tmp_path, "-c", "import openrlhf.cli.train_ppo")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'openrlhf'"


def test_start_up_imports_the_hook_and_nothing_else(tmp_path: Path) -> None:
    # Every Python process of the environment pays for this: not even the standard library's typing is worth it.
    code = (
        f"import site, sys; old = set(sys.modules); {PTH.read_text().strip()}; print(sorted(set(sys.modules) - old))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "['openrlhf_pf', 'openrlhf_pf._import_hook']", result.stderr
