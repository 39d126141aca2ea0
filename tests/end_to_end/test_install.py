"""The wheel and the editable install in fresh environments: what a user types works, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from openrlhf_pf import __version__

ROOT = Path(__file__).parents[2]
SOURCES = ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md", "openrlhf_pf"]
OFFLINE = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
LAUNCHERS = ["openrlhf.cli.train_ppo", "openrlhf_pf.cli.train_ppo"]
pytestmark = pytest.mark.end_to_end


class Environment:
    """A fresh virtual environment that sees the packages of the running one, but none of its .pth files."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python3*/site-packages")
        self.site.joinpath("linked.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "COLUMNS": "200"}
        environment.pop("PYTHONPATH", None)
        command = [str(self.python), *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)

    def pip(self, *arguments: str) -> None:
        # The running environment's pip, working on this one.
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments]
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr

    def files(self) -> set[str]:
        """What lies in site-packages, without byte code."""
        return {str(path.relative_to(self.site)) for path in self.site.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build needs, so that its litter stays out of the repository."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in (ROOT / name for name in SOURCES):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, folder)
    return folder


def build(source: Path, folder: Path) -> Path:
    """Build a wheel of `source` into `folder`."""
    command = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", str(folder), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = shutil.copytree(checkout, tmp_path_factory.mktemp("wheel") / "source")
    return build(source, source.parent)


@pytest.fixture(scope="session", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp(request.param) / "venv")
    if request.param == "wheel":
        environment.pip("install", *OFFLINE, str(request.getfixturevalue("wheel")))
    else:
        environment.pip("install", *OFFLINE, "--editable", str(request.getfixturevalue("checkout")))
    return environment


@pytest.mark.parametrize("module", LAUNCHERS)
def test_help_lists_openrlhfs_flags_and_ours(installed: Environment, module: str) -> None:
    result = installed.run("-m", module, "--help")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "--rollout.n_samples_per_prompt" in result.stdout
    assert "policy filtration" in result.stdout.lower()
    assert "--sample_filter " in result.stdout


def test_the_shell_command(installed: Environment) -> None:
    command = [installed.folder / "bin" / "openrlhf-pf", "--version"]
    assert subprocess.check_output(command, text=True) == f"openrlhf-pf {__version__}\n"


def test_the_launcher_is_the_installed_one(installed: Environment) -> None:
    code = """if True:
        from importlib.util import find_spec
        print(find_spec("openrlhf.cli.train_ppo").origin, find_spec("openrlhf_pf").origin)"""
    launcher, package = installed.run("-c", code).stdout.split()
    assert Path(launcher) == Path(package).parent / "cli" / "train_ppo.py"
    assert ROOT not in Path(package).parents, "the repository itself is not what is tested here"


def test_python_starts_silently(installed: Environment) -> None:
    result = installed.run("-c", "import sys; print('openrlhf' in sys.modules, 'torch' in sys.modules)")
    assert (result.stdout, result.stderr) == ("False False\n", "")


def find_distributions(requirement: str, found: dict[str, metadata.Distribution]) -> None:
    """Add what a requirement needs, and what that needs, from the running environment to ``found``."""
    distribution = metadata.distribution(Requirement(requirement).name)
    if distribution.name in found:
        return
    found[distribution.name] = distribution
    for text in distribution.requires or []:
        marker = Requirement(text).marker
        if marker is None or marker.evaluate({"extra": ""}):
            find_distributions(text.partition(";")[0], found)


def test_the_base_install_analyzes_without_torch(wheel: Path, tmp_path: Path) -> None:
    """Links to exactly the packages that the wheel asks for stand in for a download."""
    environment = Environment(tmp_path / "venv")
    environment.site.joinpath("linked.pth").unlink()
    environment.pip("install", *OFFLINE, str(wheel))
    (information,) = environment.site.glob("openrlhf_pf-*.dist-info")
    found: dict[str, metadata.Distribution] = {}
    for text in metadata.PathDistribution(information).requires or []:
        if "extra ==" not in text:
            find_distributions(text, found)
    for distribution in found.values():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = environment.site / top
            if not link.exists():
                link.symlink_to(Path(distribution.locate_file(top)).resolve())
    assert environment.run("-c", "import torch").stderr.endswith("No module named 'torch'\n")
    command = str(environment.folder / "bin" / "openrlhf-pf")
    result = environment.run(command, "analyze", "--demo", "--output", str(tmp_path / "report"))
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [checkpoint["n_scored"] for checkpoint in report["checkpoints"]] == [12_000, 12_000]
    for name in ("check", "doctor", "evaluate", "preferences"):
        assert f"usage: openrlhf-pf {name}" in environment.run(command, name, "--help").stdout


def test_the_wheel_holds_the_package_and_the_hook(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert any(name.endswith(".data/purelib/openrlhf_pf.pth") for name in names)
    code = [path for path in (ROOT / "openrlhf_pf").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT)) for path in code if path.suffix != ".pth"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"openrlhf_pf"}


def test_the_source_distribution_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    source = shutil.copytree(checkout, tmp_path / "source", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    code = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    again = build(archive, tmp_path)
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstalling_leaves_nothing(kind: str, checkout: Path, wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    before = environment.files()
    environment.pip("install", *OFFLINE, *([str(wheel)] if kind == "wheel" else ["--editable", str(checkout)]))
    assert "openrlhf_pf.pth" in environment.files()
    environment.pip("uninstall", "--quiet", "--yes", "openrlhf-pf")
    assert environment.files() == before
    result = environment.run("-c", "import openrlhf.cli.train_ppo")
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'openrlhf.cli.train_ppo'"
