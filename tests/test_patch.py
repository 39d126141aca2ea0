"""The shipped patch on a copy of the installed OpenRLHF: applied, used, refused, undone."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_pf.cli import patch

ROOT = Path(__file__).parents[1]
TOUCHED = "openrlhf/utils/distributed_util.py"
UNTOUCHED = "openrlhf/cli/train_ppo_ray.py"
pytestmark = pytest.mark.filterwarnings("error")


def contents(site: Path) -> dict[str, bytes]:
    """Every source file of OpenRLHF, and anything else that lies around."""
    return {
        str(path.relative_to(site)): path.read_bytes() for path in (site / "openrlhf").rglob("*") if path.is_file()
    }


@pytest.fixture(scope="session")
def pristine_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release as its wheel has it: the installed copy, which is patched by now, with the patch undone."""
    distribution = importlib.metadata.distribution("openrlhf")
    installed = Path(str(distribution.locate_file("")))
    site = tmp_path_factory.mktemp("pristine")
    shutil.copytree(installed / "openrlhf", site / "openrlhf", ignore=shutil.ignore_patterns("__pycache__"))
    information = Path(distribution._path).name
    shutil.copytree(installed / information, site / information)
    result = run("revert", site)
    assert result.returncode == 0, result.stderr
    sums = {str(file): file.hash.value for file in distribution.files if file.hash and file.parts[0] == "openrlhf"}
    assert {name: patch.sha256(content) for name, content in contents(site).items()} == sums
    return site


@pytest.fixture
def site(pristine_site: Path, tmp_path: Path) -> Path:
    """A copy of the release to work on."""
    return shutil.copytree(pristine_site, tmp_path / "site")


def start(command: str, site: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = [sys.executable, "-m", "openrlhf_pf.cli.patch", command]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, cwd=site.parent, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(command: str, site: Path) -> subprocess.CompletedProcess:
    return finish(start(command, site))


def in_process(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find OpenRLHF in `site`."""
    monkeypatch.syspath_prepend(str(site))
    for name in [name for name in sys.modules if name.split(".")[0] == "openrlhf"]:
        monkeypatch.delitem(sys.modules, name)


def test_apply_twice_then_revert_twice_gives_the_exact_bytes(site: Path) -> None:
    before = contents(site)
    assert run("status", site).returncode == 1
    first = run("apply", site)
    assert (first.returncode, f"{len(patched_names())} files changed" in first.stdout) == (0, True), first.stderr
    applied = contents(site)
    assert {name for name in before if before[name] != applied[name]} == set(patched_names())
    assert run("status", site).returncode == 0

    second = run("apply", site)
    assert (second.returncode, "nothing to do" in second.stdout) == (0, True)
    assert contents(site) == applied

    assert run("revert", site).returncode == 0
    assert contents(site) == before
    again = run("revert", site)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert run("status", site).returncode == 1


def patched_names() -> list[str]:
    """Read off the patch file itself."""
    text = patch.shipped_patches()["0.11.2"].read_text()
    return [line.removeprefix("+++ b/").split("\t")[0] for line in text.splitlines() if line.startswith("+++ ")]


def test_the_patch_is_what_git_makes_of_it(site: Path) -> None:
    by_git = shutil.copytree(site, site.parent / "by_git")
    file = patch.shipped_patches()["0.11.2"]
    subprocess.run(["git", "apply", "-p1", file], cwd=by_git, check=True, env={**os.environ, "GIT_DIR": "/nowhere"})
    assert run("apply", site).returncode == 0
    assert contents(site) == contents(by_git)


def test_the_patched_code_runs_where_the_release_does_not(site: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import openrlhf.models.ring_attn_utils as module; print(module.__file__)"
    command = [sys.executable, "-c", code]
    before = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True)
    try:
        importlib.metadata.distribution("flash-attn")
    except importlib.metadata.PackageNotFoundError:
        assert "No module named 'flash_attn'" in before.stderr
    assert run("apply", site).returncode == 0
    after = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True)
    assert after.stdout.strip().endswith(f"{site}/openrlhf/models/ring_attn_utils.py"), after.stderr


@pytest.mark.parametrize("command", ["apply", "revert", "status"])
@pytest.mark.parametrize("name", [TOUCHED, UNTOUCHED])
@pytest.mark.parametrize("state", ["release", "patched"])
def test_an_edited_file_is_named_and_nothing_changes(site: Path, state: str, name: str, command: str) -> None:
    if state == "patched":
        assert run("apply", site).returncode == 0
    with open(site / name, "a") as file:
        file.write("# mine\n")
    before = contents(site)
    result = run(command, site)
    assert result.returncode == 2
    assert name in result.stderr and "force-reinstall openrlhf==0.11.2" in result.stderr.replace("--", "")
    assert contents(site) == before


def test_a_missing_file_is_named(site: Path) -> None:
    (site / TOUCHED).unlink()
    result = run("apply", site)
    assert (result.returncode, TOUCHED in result.stderr) == (2, True)


def test_an_edit_inside_a_patched_line_is_an_edit(site: Path) -> None:
    assert run("apply", site).returncode == 0
    path = site / TOUCHED
    path.write_bytes(path.read_bytes().replace(b"class GlooCommunicator", b"class MyCommunicator"))
    assert run("status", site).returncode == 2
    # patch-ng compares lines without their ends, so undoing the patch would drop this edit without a word.
    path.write_bytes(path.read_bytes().replace(b"class MyCommunicator:\n", b"class GlooCommunicator:\r\n"))
    assert run("revert", site).returncode == 2


def test_an_unknown_version_is_refused(site: Path) -> None:
    (information,) = site.glob("openrlhf-*.dist-info")
    metadata = information / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 0.11.2", "Version: 0.11.3", 1))
    information.rename(site / "openrlhf-0.11.3.dist-info")
    before = contents(site)
    for command in ("apply", "revert", "status"):
        result = run(command, site)
        assert result.returncode == 2
        assert "0.11.3" in result.stderr and "0.11.2" in result.stderr
    assert contents(site) == before


def test_a_source_tree_in_front_of_the_release_is_refused(site: Path, tmp_path: Path) -> None:
    front = shutil.copytree(site / "openrlhf", tmp_path / "front" / "openrlhf")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [front.parent, site, ROOT]))}
    command = [sys.executable, "-m", "openrlhf_pf.cli.patch", "apply"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, str(front) in result.stderr) == (2, True)
    assert run("status", site).returncode == 1


def test_two_at_once(site: Path) -> None:
    expected_site = shutil.copytree(site, site.parent / "expected")
    assert run("apply", expected_site).returncode == 0
    results = [finish(process) for process in [start("apply", site) for _ in range(4)]]
    assert [result.returncode for result in results] == [0] * 4, [result.stderr for result in results]
    # One of them did the work and the others, one after the other, found it done.
    changed = f"{len(patched_names())} files changed"
    assert sorted(changed in result.stdout for result in results) == [False, False, False, True]
    assert contents(site) == contents(expected_site)


def test_one_waits_for_the_other(site: Path) -> None:
    before = contents(site)
    with patch.locked(site / "openrlhf"):
        waiting = start("apply", site)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=5)
        assert contents(site) == before
    assert finish(waiting).returncode == 0


def test_a_failed_write_undoes_the_others(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process(site, monkeypatch)
    before = contents(site)
    replace, calls = os.replace, []

    def replace_four(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_four)
    assert patch.main(["apply"]) == 2
    assert len(calls) == 5 + 4, "four files were written, the fifth failed, four were put back"
    assert contents(site) == before


def test_a_killed_apply_is_finished_or_undone_by_the_next_call(site: Path) -> None:
    before = contents(site)
    assert run("apply", site).returncode == 0
    applied = contents(site)
    (site / TOUCHED).write_bytes(before[TOUCHED])
    status = run("status", site)
    assert (status.returncode, "partly applied" in status.stdout) == (1, True)
    assert run("apply", site).returncode == 0
    assert contents(site) == applied
    (site / TOUCHED).write_bytes(before[TOUCHED])
    assert run("revert", site).returncode == 0
    assert contents(site) == before


def test_a_hard_link_in_a_package_cache_keeps_its_bytes_and_modes_stay(site: Path) -> None:
    path = site / TOUCHED
    path.chmod(0o640)
    os.link(path, site / "cached")
    released = path.read_bytes()
    assert run("apply", site).returncode == 0
    assert (site / "cached").read_bytes() == released != path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o640


def test_without_openrlhf_one_sentence(tmp_path: Path) -> None:
    code = """if True:
        import sys
        sys.path = [folder for folder in sys.path if "site-packages" not in folder]
        from openrlhf_pf.cli import patch
        sys.exit(patch.main(["apply"]))"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "OpenRLHF is not installed" in result.stderr


def test_without_patch_ng_one_sentence(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    in_process(site, monkeypatch)
    monkeypatch.setitem(sys.modules, "patch_ng", None)
    assert patch.main(["status"]) == 2
    assert capsys.readouterr().err == "patch-ng is not installed: pip install 'openrlhf-pf[cpu]'.\n"
