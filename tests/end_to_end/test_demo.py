"""The first minute: the demonstration where nothing is installed but what the extra ``analyze`` asks for."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_install import OFFLINE, Environment, checkout, wheel  # noqa: F401 (two fixtures)

pytestmark = pytest.mark.end_to_end

STACK = ("openrlhf", "vllm", "ray", "deepspeed", "transformers")


def distributions_of(requirement: str, found: dict[str, importlib.metadata.Distribution]) -> None:
    """Add what a requirement needs, and what that needs, from the running environment to ``found``."""
    wanted = Requirement(requirement)
    distribution = importlib.metadata.distribution(wanted.name)
    name = distribution.metadata["Name"].lower()
    if name in found and not wanted.extras:
        return
    found[name] = distribution
    for text in distribution.requires or []:
        marker = Requirement(text).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            distributions_of(text.partition(";")[0], found)


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:  # noqa: F811
    """The wheel, and links to exactly those packages that ``openrlhf-pf[analyze]`` asks for."""
    made = Environment(tmp_path_factory.mktemp("demo") / "venv")
    made.site.joinpath("linked.pth").unlink()
    made.pip("install", *OFFLINE, str(wheel))
    (metadata,) = made.site.glob("openrlhf_pf-*.dist-info")
    found: dict[str, importlib.metadata.Distribution] = {}
    for text in importlib.metadata.PathDistribution(metadata).requires or []:
        marker = Requirement(text).marker
        if marker is None or marker.evaluate({"extra": "analyze"}):
            distributions_of(text.partition(";")[0], found)
    for distribution in found.values():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = made.site / top
            if not link.exists():
                link.symlink_to(Path(distribution.locate_file(top)).resolve())
    return made


def test_the_demo_runs_and_says_what_to_see(environment: Environment, tmp_path: Path) -> None:
    missing = environment.run(
        "-c", f"from importlib.util import find_spec as found; print([name for name in {STACK} if found(name)])"
    )
    assert missing.stdout == "[]\n", missing.stderr
    result = environment.run("-m", "openrlhf_pf.cli.analyze", "--demo", "--output", str(tmp_path / "report"))
    assert result.returncode == 0, result.stderr[-2000:]
    page = (tmp_path / "report" / "report.html").read_text()
    opening = re.findall(r'<p class="opening">(.*?)</p>', page, re.DOTALL)
    assert len(opening) == 3
    assert [line for line in result.stdout.splitlines() if line][:3] == opening
    assert "right at both ends" in opening[0] and "hacked at the top" in opening[0]
    assert "best_worst" in opening[1] and "best_of_n" in opening[2]
    assert str(tmp_path / "report" / "report.html") in result.stdout
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [c["n_scored"] for c in report["checkpoints"]] == [12_000, 12_000]
