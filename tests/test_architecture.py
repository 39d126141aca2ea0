"""The arrows between modules, as CONTRIBUTING.md draws them, and the size of folders and functions."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "openrlhf_pf"
#: Which parts of the package a part may import, in addition to itself and ``COMMON``; ``cli`` may import all.
ARROWS = {
    "filters": set(),
    "selection": set(),
    "rollout_log": set(),
    "code_reward": set(),
    "rlp": {"code_reward"},
    "reliability": {"filters", "rollout_log"},
    "training": {"filters", "selection", "rollout_log", "reliability", "code_reward", "rlp", "testing"},
    "testing": {"filters", "selection"},
}
#: Modules that every part may import, and which import each other at most.
COMMON = {"registry", "files", "__init__"}
#: The order of the data through the analysis: a folder imports those before it.
LAYERS = ("read", "measures", "recommend", "report")
TORCH_FREE = (
    "filters",
    "selection",
    "rollout_log",
    "reliability",
    "rlp",
    "cli.analyze",
    "cli.preferences",
    "cli.check",
)
HEAVY = {"torch", "openrlhf", "ray", "vllm", "deepspeed", "transformers"}
MOST_FILES, MOST_LINES = 12, 60


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str, only_when_run: bool = False) -> set[str]:
    """Return the modules that a module imports, also inside of functions; without those for type checkers only."""
    skipped = {
        node
        for branch in ast.walk(TREES[module])
        if only_when_run and isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(TREES[module]):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in TREES else node.module for name in names}
    return found


def part_of(module: str) -> str:
    """Return the folder or file below the package that a module is in."""
    return [*module.split("."), "__init__"][1]


EDGES = [(module, name) for module in TREES for name in imports_of(module) if name.split(".")[0] == PACKAGE.name]


def test_arrows() -> None:
    allowed = {
        **{part: {part, *names, *COMMON} for part, names in ARROWS.items()},
        **{part: COMMON for part in COMMON - {"__init__"}},
        "__init__": {"__init__", "filters", "selection"},
        "__main__": COMMON,
        "_import_hook": set(),
        "cli": {"cli", *ARROWS, *COMMON},
    }
    assert {part_of(module) for module in TREES} == allowed.keys()
    wrong = [f"{module} imports {name}" for module, name in EDGES if part_of(name) not in allowed[part_of(module)]]
    assert wrong == []


def test_the_analysis_has_no_arrow_back() -> None:
    layer = {f"openrlhf_pf.reliability.{name}": place for place, name in enumerate(LAYERS)}

    def place_of(module: str) -> int | None:
        return layer.get(".".join(module.split(".")[:3]))

    wrong = [
        f"{module} imports {name}"
        for module, name in EDGES
        if (one := place_of(module)) is not None and (other := place_of(name)) is not None and other > one
    ]
    assert wrong == []


def test_no_import_circle() -> None:
    graph = {module: imports_of(module, only_when_run=True) & TREES.keys() - {module} for module in TREES}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"these modules import each other: {' -> '.join(error.args[1])}")


def test_only_training_imports_openrlhf() -> None:
    wrong = {module for module in TREES if any(name.split(".")[0] == "openrlhf" for name in imports_of(module))}
    assert {part_of(module) for module in wrong} <= {"training"}


@pytest.mark.parametrize("name", TORCH_FREE)
def test_importing_it_imports_no_torch(name: str) -> None:
    code = f"import sys, openrlhf_pf.{name}; print(*sorted({HEAVY} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("\n", 0), result.stderr


def test_the_base_install_has_what_is_imported() -> None:
    """What only training or an explicit choice (a checkpoint, Ray's nodes) needs is not in it."""
    optional = {"torch", "openrlhf", "ray", "vllm", "deepspeed", "transformers", "tqdm"}
    own = {*sys.stdlib_module_names, PACKAGE.name, "markupsafe"}  # jinja2 comes with markupsafe
    imported = {name.split(".")[0] for module in TREES for name in imports_of(module)} - own - optional
    (names,) = re.findall(r"^REQUIRES = \[(.*?)\]", (ROOT / "setup.py").read_text("utf-8"), re.M | re.S)
    assert set(re.findall(r'"([\w-]+)>=', names)) == imported


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE.rglob("*.py")}), ids=lambda path: path.name)
def test_a_folder_can_be_seen_at_once(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_FILES


def test_a_function_fits_on_a_screen() -> None:
    long = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > MOST_LINES
    }
    assert long == {}
