"""What README, docs/ and the other pages name exists: links, commands, flags, filters, files, names."""

import argparse
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from examples.micro_code import run
from examples.studies.micro_code import rlp
from openrlhf_pf._import_hook import SERVED_NAME
from openrlhf_pf.cli import analyze, check, doctor, evaluate, preferences
from openrlhf_pf.filters import FILTERS
from openrlhf_pf.training import flags
from openrlhf_pf.training.flags import collect

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "patches/README.md"))]
PAGES += sorted(ROOT.glob("examples/**/README.md"))
FOLDERS = ("docs", "examples", "openrlhf_pf", "patches", "tests")

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
DOTTED_NAME = re.compile(r"(?<![\w./-])openrlhf_pf(?:\.\w+)+")


def build_train_ppo() -> argparse.ArgumentParser:
    """Return a parser of our flags; OpenRLHF's own are left over."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flags.add_arguments(parser)
    return parser


def build_collect() -> argparse.ArgumentParser:
    """Return a parser of the flags of training and of collecting."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    collect.add_arguments(parser)
    return parser


#: The parser of each command of ours, and the page that has to name its flags.
COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], str]] = {
    "train_ppo": (build_train_ppo, "clusters.md"),
    "collect": (build_collect, "reliability.md"),
    "analyze": (analyze.parser, "reliability.md"),
    "preferences": (preferences.parser, "rlp.md"),
    "evaluate": (evaluate.parser, "code_reward.md"),
    "doctor": (doctor.parser, "faq.md"),
    "check": (check.parser, "filters.md"),
}
#: Where OpenRLHF's flags may be given together with ours.
WITH_OPENRLHF = ("train_ppo", "collect")


def find_anchors(page: Path) -> set[str]:
    """Return what GitHub makes of the page's headings."""
    titles = re.findall(r"^#+ +(.+?) *$", drop_code(page.read_text()), re.M)
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {f"{slug}-{n}" if (n := slugs[:place].count(slug)) else slug for place, slug in enumerate(slugs)}


def find_code_blocks(text: str) -> list[str]:
    """Return the fenced and the indented blocks of a page."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return fenced + re.findall(r"(?:\A|\n\n)((?:    .*(?:\n|\Z)|\n(?=    ))+)", rest)


def drop_code(text: str) -> str:
    """Return a page without its code blocks."""
    for block in find_code_blocks(text):
        text = text.replace(block, "\n")
    return text


def find_commands(text: str) -> Iterator[list[str]]:
    """Yield each command of a page as a list of arguments: from code blocks, and from code within a sentence."""
    blocks = [block.replace("\\\n", " ") for block in find_code_blocks(text)]
    lines = [line for block in blocks for line in block.splitlines()] + CODE_SPAN.findall(drop_code(text))
    for line in lines:
        line = re.sub(r"\$[a-z]\w*", "1", line)  # the counter of a loop
        line = re.sub(r"(\s|^)#.*", "", re.sub(r"<[^>]*>|\.\.\.|\$\(.*\)", "", line))
        for part in re.split(r"; (?:do )?|&&| \| ", line):
            if match := re.match(r"\s*(?:\$ |time |\w+=\S+ )*((?:python3?|bash|openrlhf-pf)(?: .*|$))", part):
                yield shlex.split(match[1])


def find_fault(command: list[str]) -> str | None:
    """Return why a command cannot work, None if it can."""
    program, *arguments = command
    if program == "openrlhf-pf":
        return parse_ours(arguments[0], arguments[1:]) if arguments and arguments[0] != "--version" else None
    if not arguments or arguments[0] == "-c":
        return None
    if arguments[0] == "examples/quickstart.sh":  # its options go to the study
        return find_refusal(lambda: run.parse(["--output", "runs/quickstart", *arguments[1:]]))
    if arguments[0] == "examples/rlp.sh":
        return find_refusal(lambda: rlp.parse(["--output", "runs/rlp", *arguments[1:]]))
    if arguments[0] != "-m":
        return None if (ROOT / arguments[0]).is_file() else f"there is no {arguments[0]}"
    module, arguments = arguments[1], arguments[2:]
    if module == "examples.micro_code.run":
        return find_refusal(lambda: run.parse(arguments))
    if module == "examples.studies.micro_code.rlp":
        return find_refusal(lambda: rlp.parse(arguments))
    if module.startswith("examples."):
        return None if find_spec(module) else f"there is no {module}"
    if module == SERVED_NAME or module.startswith("openrlhf_pf.cli."):
        return parse_ours(module.rpartition(".")[2], arguments)
    return f"{module} is no command of ours" if module not in ("openrlhf.cli.train_rm", "openrlhf_pf") else None


def parse_ours(name: str, arguments: list[str]) -> str | None:
    """Return what the parser of a command of ours has against the arguments."""
    if name not in COMMANDS:
        return f"there is no command {name}"
    if not arguments:  # the command as a name
        return None
    parser = COMMANDS[name][0]()
    parser.allow_abbrev = False
    if fault := find_refusal(lambda: parser.parse_known_args(arguments)):
        return fault
    options, rest = parser.parse_known_args(arguments)
    ours = ("--sample_filter", "--prompt_selection", "--collect")
    unknown = [word for word in rest if word.startswith(ours) or name not in WITH_OPENRLHF]
    chosen = getattr(options, "sample_filter", "none")
    if chosen not in (*FILTERS, "auto", "NAME") and not Path(ROOT, chosen.split(":")[0]).is_file():
        return f"there is no filter {chosen}"
    return f"there is no {unknown[0]}" if unknown else None


def find_refusal(parse: Callable[[], object]) -> str | None:
    """Return what a parser says when it refuses."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            parse()
    except SystemExit:
        return stderr.getvalue().splitlines()[-1]
    return None


def list_flags(parser: argparse.ArgumentParser) -> set[str]:
    """Return the long flags of a parser."""
    return {text for action in parser._actions for text in action.option_strings if text.startswith("--")} - {"--help"}


def list_first_cells(page: Path) -> set[str]:
    """Return the names in code in the first column of the page's tables."""
    rows = re.findall(r"^\| *(.+?) *\|", page.read_text(), re.M)
    return {name for row in rows for name in CODE_SPAN.findall(row)}


def is_name_of_ours(name: str) -> bool:
    """Return whether a dotted name is a module of ours, or a name that its module defines or serves."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        if path.is_dir() or path.with_suffix(".py").is_file():
            if n == len(parts):
                return True
            return n == len(parts) - 1 and hasattr(importlib.import_module(".".join(parts[:n])), parts[n])
    return False


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(drop_code(page.read_text())) if not re.match(r"https?://", target)]
    dead = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        inside = file.is_file() and ROOT in file.parents
        if not inside or (anchor and anchor not in find_anchors(file)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_named_commands_files_and_flags_exist(page: Path) -> None:
    text = page.read_text()
    faults = [(shlex.join(words), why) for words in find_commands(text) if (why := find_fault(words))]
    paths = {path.rstrip("./*-") for path in REPOSITORY_PATH.findall(LINK.sub("", text))}
    faults += [(path, "there is no such file") for path in paths if not (ROOT / path).exists()]
    faults += [(name, "there is no such name") for name in DOTTED_NAME.findall(text) if not is_name_of_ours(name)]
    if page.name != "CHANGELOG.md":  # which names flags that were removed
        flags = set(re.findall(r"--(?:sample_filter|prompt_selection|collect\.)\w*", text))
        faults += [(flag, "there is no such flag") for flag in flags - list_flags(build_collect())]
    assert faults == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_documented(command: str) -> None:
    build, page = COMMANDS[command]
    flags = list_flags(build()) - (list_flags(build_train_ppo()) if command == "collect" else set())
    text = (ROOT / "docs" / page).read_text()
    assert re.search(rf"openrlhf-pf {command}|cli\.{command}", text), f"{page} does not name {command}"
    assert [flag for flag in sorted(flags) if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w.-])", text)] == []


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "filters.md"], ids=name_page)
def test_every_filter_is_in_the_tables(page: Path) -> None:
    assert [name for name in FILTERS if name not in list_first_cells(page)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert re.findall(r"^ *[A-Z]{4,}$|TODO|FIXME", page.read_text(), re.M) == []


def test_pages_that_code_names_exist() -> None:
    files = [file for folder in ("openrlhf_pf", "examples") for file in (ROOT / folder).rglob("*.py")]
    named = {(file.name, page) for file in files for page in re.findall(r"\bdocs/\w+\.md", file.read_text())}
    assert len(named) > 5 and [(file, page) for file, page in named if not (ROOT / page).exists()] == []


def test_the_docs_stay_short() -> None:
    assert len(DOCS) <= 10
    assert sum(len(page.read_text().split()) for page in (README, *DOCS)) <= 14_000
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", [README, *DOCS], ids=name_page)
def test_lines_are_short(page: Path) -> None:
    lines = [line for line in page.read_text().splitlines() if not line.startswith("|")]  # a row cannot be wrapped
    assert [line for line in lines if len(line) > 120 and "](" not in line] == []


@pytest.mark.parametrize("page", DOCS, ids=name_page)
def test_a_page_begins_with_its_problem_and_is_in_the_readme(page: Path) -> None:
    title, blank, opening = page.read_text().splitlines()[:3]
    assert (title[:2], blank, opening[:2]) == ("# ", "", "**")
    assert f"docs/{page.name}" in LINK.findall(README.read_text())
