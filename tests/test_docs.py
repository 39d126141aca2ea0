"""What README, docs/ and the other pages say exists: links, commands, flags, filters, files, names."""

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
from openrlhf_pf.cli import analyze, cost, doctor, evaluate, patch, preferences, weigh_pairs
from openrlhf_pf.filters import FILTERS
from openrlhf_pf.filters.check import __main__ as check
from openrlhf_pf.selection import check as selection_check
from openrlhf_pf.training.arguments import add_arguments
from openrlhf_pf.training.collect_arguments import add_arguments as add_collect_arguments
from openrlhf_pf.training.policy_reward_arguments import add_arguments as add_policy_arguments

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS, ROOT / "CONTRIBUTING.md", ROOT / "patches" / "README.md", *ROOT.glob("examples/**/README.md")]
FOLDERS = ("docs", "examples", "openrlhf_pf", "patches", "tests")

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
BARE_FILE = re.compile(r"[\w.-]+\.(?:py|sh|png|patch|txt)")
DOTTED_NAME = re.compile(r"(?<![\w./-])openrlhf_pf(?:\.\w+)+")


def train_ppo() -> argparse.ArgumentParser:
    """Our flags; OpenRLHF's own are left over."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return parser


def collect() -> argparse.ArgumentParser:
    """The flags of training, and those of collecting."""
    parser = train_ppo()
    add_collect_arguments(parser)
    return parser


def train_rm() -> argparse.ArgumentParser:
    """Our flags; OpenRLHF's own are left over."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_policy_arguments(parser)
    return parser


#: The parser of each command of ours, and the page that has to name its flags.
COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], str]] = {
    SERVED_NAME: (train_ppo, "clusters.md"),
    "openrlhf_pf.cli.train_ppo": (train_ppo, "clusters.md"),
    "openrlhf_pf.cli.collect": (collect, "reliability.md"),
    "openrlhf_pf.cli.analyze": (analyze.parser, "reliability.md"),
    "openrlhf_pf.cli.train_rm": (train_rm, "rlp.md"),
    "openrlhf_pf.cli.preferences": (preferences.parser, "rlp.md"),
    "openrlhf_pf.cli.weigh_pairs": (weigh_pairs.parser, "rlp.md"),
    "openrlhf_pf.cli.evaluate": (evaluate.parser, "code_reward.md"),
    "openrlhf_pf.cli.cost": (cost.parser, "cost.md"),
    "openrlhf_pf.cli.doctor": (doctor.parser, "troubleshooting.md"),
    "openrlhf_pf.cli.patch": (patch.parser, "clusters.md"),
    "openrlhf_pf.filters.check": (check.parser, "filters.md"),
    "openrlhf_pf.selection.check": (selection_check.parser, "prompts.md"),
}
#: OpenRLHF's own, which runs as it is.
HOST_COMMANDS = ("openrlhf.cli.train_rm",)
#: Where OpenRLHF's flags may stand beside ours.
WITH_OPENRLHF = (SERVED_NAME, "openrlhf_pf.cli.train_ppo", "openrlhf_pf.cli.train_rm", "openrlhf_pf.cli.collect")


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    titles = re.findall(r"^#+ +(.+?) *$", prose(page.read_text()), re.M)
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {f"{slug}-{n}" if (n := slugs[:place].count(slug)) else slug for place, slug in enumerate(slugs)}


def code_blocks(text: str) -> list[str]:
    """The fenced and the indented blocks of a page."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return fenced + re.findall(r"(?:\A|\n\n)((?:    .*(?:\n|\Z)|\n(?=    ))+)", rest)


def prose(text: str) -> str:
    """A page without its code blocks."""
    for block in code_blocks(text):
        text = text.replace(block, "\n")
    return text


def commands(text: str) -> Iterator[list[str]]:
    """Each Python or bash command of a page, as words: from code blocks, and from code within a sentence."""
    blocks = [block.replace("\\\n", " ") for block in code_blocks(text)]
    lines = [line for block in blocks for line in block.splitlines()] + CODE_SPAN.findall(prose(text))
    for line in lines:
        line = re.sub(r"\$[a-z]\w*", "1", line)  # the counter of a loop
        line = re.sub(r"(\s|^)#.*", "", re.sub(r"<[^>]*>|\.\.\.|\$\(.*\)", "", line))
        for part in re.split(r"; (?:do )?|&&| \| ", line):
            words = shlex.split(part) if re.match(r"\s*(time |\w+=\S+ )*(python3?|bash) ", part) else []
            while words and words[0] not in ("python", "python3", "bash"):
                words = words[1:]
            if words:
                yield words


def wrong_with(words: list[str]) -> str | None:
    """Why a command cannot be as it stands; None if it can."""
    if words[1] == "-c":
        return None
    if words[1] == "examples/quickstart.sh":  # its options go to the study
        words = ["python", "-m", "examples.micro_code.run", "--output", "runs/quickstart", *words[2:]]
    if words[1] == "examples/rlp.sh":
        words = ["python", "-m", "examples.studies.micro_code.rlp", "--output", "runs/rlp", *words[2:]]
    if words[1] != "-m":
        return None if (ROOT / words[1]).is_file() else f"there is no {words[1]}"
    module, arguments = words[2], words[3:]
    if module == "examples.micro_code.run":
        return exit_of(lambda: run.parse(arguments))
    if module == "examples.studies.micro_code.rlp":
        return exit_of(lambda: rlp.parse(arguments))
    if module in COMMANDS:
        return refused(COMMANDS[module][0](), arguments, module in WITH_OPENRLHF)
    if module in HOST_COMMANDS:
        return None
    if module.startswith("examples."):
        return None if find_spec(module) else f"there is no {module}"
    return f"{module} is no command of ours" if module.startswith("openrlhf") else None


def refused(parser: argparse.ArgumentParser, arguments: list[str], more: bool) -> str | None:
    """What the parser has against the arguments; ``more``: flags of somebody else's may be among them."""
    if not arguments:  # the command as a name
        return None
    parser.allow_abbrev = False
    if why := exit_of(lambda: parser.parse_known_args(arguments)):
        return why
    options, rest = parser.parse_known_args(arguments)
    unknown = [
        word for word in rest if word.startswith(("--sample_filter", "--collect", "--policy_samples")) or not more
    ]
    name = getattr(options, "sample_filter", "none")
    if name not in FILTERS and name != "auto" and not Path(ROOT, name.split(":")[0]).is_file():
        return f"there is no filter {name}"
    return f"there is no {unknown[0]}" if unknown else None


def exit_of(parse: Callable[[], object]) -> str | None:
    """What a parser says when it refuses."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parse()
    except SystemExit:
        return said.getvalue().splitlines()[-1]
    return None


def long_flags(parser: argparse.ArgumentParser) -> set[str]:
    return {text for action in parser._actions for text in action.option_strings if text.startswith("--")} - {"--help"}


def first_cells(page: Path) -> set[str]:
    """The names in code in the first column of the page's tables."""
    rows = re.findall(r"^\| *(.+?) *\|", page.read_text(), re.M)
    return {name for row in rows for name in CODE_SPAN.findall(row)}


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of ours, or a name that its module defines or serves."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        if path.is_dir() or path.with_suffix(".py").is_file():
            if n == len(parts):
                return True
            return n == len(parts) - 1 and hasattr(importlib.import_module(".".join(parts[:n])), parts[n])
    return False


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(prose(page.read_text())) if not re.match(r"https?://", target)]
    dead = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        inside = file.is_file() and ROOT in file.parents
        if not inside or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_are_accepted(page: Path) -> None:
    wrong = [(shlex.join(words), why) for words in commands(page.read_text()) if (why := wrong_with(words))]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_files_and_modules_are_there(page: Path) -> None:
    text = page.read_text()
    paths = {path.rstrip("./*-") for path in REPOSITORY_PATH.findall(LINK.sub("", text))}
    assert [path for path in paths if not (ROOT / path).exists()] == []
    if page.parent not in (ROOT, ROOT / "docs"):  # a folder's own page names the files beside it
        bare = [name for name in CODE_SPAN.findall(prose(text)) if BARE_FILE.fullmatch(name)]
        assert [name for name in bare if not any((folder / name).exists() for folder in (page.parent, ROOT))] == []
    assert [name for name in DOTTED_NAME.findall(text) if not resolves(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_flags_are_there(page: Path) -> None:
    named = set(re.findall(r"--(?:sample_filter|collect\.)\w*", page.read_text()))
    assert named - long_flags(collect()) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_documented(command: str) -> None:
    build, page = COMMANDS[command]
    flags = long_flags(build()) - (long_flags(train_ppo()) if build is collect else set())
    text = (ROOT / "docs" / page).read_text()
    assert command in text or build is train_ppo, f"{page} does not name {command}"
    assert [flag for flag in sorted(flags) if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w.-])", text)] == []


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "filters.md"], ids=page_id)
def test_every_filter_is_in_the_tables(page: Path) -> None:
    assert [name for name in FILTERS if name not in first_cells(page)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert re.findall(r"^[A-Z]{4,}$|TODO|FIXME", prose(page.read_text()), re.M) == []


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", [README, *DOCS], ids=page_id)
def test_lines_are_short(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("page", [page for page in DOCS if page.name != "README.md"], ids=page_id)
def test_a_page_opens_with_what_it_answers_and_is_in_the_index(page: Path) -> None:
    title, blank, opening = page.read_text().splitlines()[:3]
    assert (title[:2], blank, opening[:19]) == ("# ", "", "This page answers: ")
    assert page.name in LINK.findall((ROOT / "docs" / "README.md").read_text())
    assert f"docs/{page.name}" in LINK.findall(README.read_text())
