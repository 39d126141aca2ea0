"""The micro-code task: descriptions of small Python functions, split so that no held-out function is ever trained on.

splits = generate(TaskConfig(), seed=1)
"""

import random
import re
from dataclasses import dataclass

from .families import FAMILIES
from .score import behaviour, passes

PROMPT = "# {}\n"


@dataclass(frozen=True)
class TaskConfig:
    """Sizes of the task. ``bug_rate`` is the share of demonstrations with one bug: SFT learns from imperfect code."""

    demonstrations: int = 8000
    prompts: int = 3000
    heldout: int = 400
    bug_rate: float = 0.45
    families: tuple[str, ...] = tuple(FAMILIES)


@dataclass(frozen=True)
class Task:
    """One function to write. A model is given ``prompt`` only; ``kind`` names the tests (families.INPUTS)."""

    family: str
    kind: str
    prompt: str
    solution: str


def draw(rng: random.Random, config: TaskConfig) -> Task:
    """Return one task, not yet checked against any split."""
    family = rng.choice(config.families)
    draft = FAMILIES[family](rng)
    return Task(family, draft.kind, PROMPT.format(draft.description), draft.solution)


def generate(config: TaskConfig, seed: int) -> dict[str, list[Task]]:
    """Return tasks of three splits: ``demonstrations`` (SFT), ``prompts`` (reward model and PPO) and ``heldout``.

    No prompt occurs twice. A held-out function returns something else on some hidden test than every function of the
    other splits.
    """
    rng = random.Random(f"micro-code tasks {seed}")
    heldout_behaviours: set[tuple[str, str]] = set()
    known_prompts: set[str] = set()
    splits: dict[str, list[Task]] = {"heldout": [], "demonstrations": [], "prompts": []}
    for name, tasks in splits.items():
        while len(tasks) < getattr(config, name):
            task = draw(rng, config)
            key = (task.kind, behaviour(task.solution, task.kind))
            if task.prompt in known_prompts or (name != "heldout" and key in heldout_behaviours):
                continue
            known_prompts.add(task.prompt)
            tasks.append(task)
            if name == "heldout":
                heldout_behaviours.add(key)
    check_disjoint(splits)
    return splits


def check_disjoint(splits: dict[str, list[Task]]) -> None:
    """Assert that no held-out description or function is among those trained on."""
    held = {(t.kind, behaviour(t.solution, t.kind)) for t in splits["heldout"]}
    held_prompts = {t.prompt for t in splits["heldout"]}
    for name in ("demonstrations", "prompts"):
        for task in splits[name]:
            assert task.prompt not in held_prompts, f"held-out description in {name}: {task.prompt!r}"
            function = (task.kind, behaviour(task.solution, task.kind))
            assert function not in held, f"held-out function in {name}: {task.solution!r}"


# (pattern, replacements) of bugs: a slip of the pen, which shows in the code alone ...
_TYPOS: list[tuple[str, tuple[str, ...]]] = [
    (r"return", ("retun", "give")),
    (r" else ", (" or else ", " otherwise ")),
    (r"\):\n", (")\n",)),
    (r" == ", (" = ",)),
    (r" != ", (" <> ",)),
    (r" % ", (" mod ",)),
    (r" // ", (" div ",)),
    (r" \* ", (" x ",)),
    (r"abs\(", ("Math.abs(",)),
    (r"(?<=[( ])[abinvsx](?=[ ,)])", ("m", "y")),  # no such variable
]
# ... or a mistake that shows only against the description.
_SLIPS: list[tuple[str, tuple[str, ...]]] = [
    (r" > ", (" >= ", " < ")),
    (r" < ", (" <= ", " > ")),
    (r" >= ", (" > ", " == ")),
    (r" <= ", (" < ", " == ")),
    (r" == 0", (" != 0", " == 1")),
    (r" == 1", (" == 0",)),
    (r" != ", (" == ",)),
    (r" \+ ", (" - ", " * ")),
    (r" - ", (" + ",)),
    (r" // ", (" % ", " * ")),
    (r" % ", (" // ",)),
    (r" \* ", (" + ",)),
    (r"max", ("min",)),
    (r"min", ("max",)),
    (r"abs\((\w)\)", (r"\1",)),
    (r"return -", ("return ",)),
]


def add_bug(solution: str, kind: str, rng: random.Random) -> str | None:
    """Return the solution with one bug that makes it fail a hidden test; None if 20 tries found none."""
    for _ in range(20):
        luck = rng.random()
        if luck < 0.2:  # a wrong constant
            pattern, replacements = r"\d", (str(rng.randint(1, 9)),)
        else:
            bugs = _TYPOS if luck < 0.6 else _SLIPS
            pattern, replacements = rng.choice([bug for bug in bugs if re.search(bug[0], solution)] or _TYPOS[:1])
        places = list(re.finditer(pattern, solution))
        replacement = rng.choice(replacements)
        if not places:
            continue
        place = rng.choice(places)
        buggy = solution[: place.start()] + place.expand(replacement) + solution[place.end() :]
        if not passes(buggy, solution, kind):
            return buggy
    return None


def demonstrations(tasks: list[Task], bug_rate: float, seed: int) -> list[dict[str, str]]:
    """Return rows ``{"input", "output"}`` for SFT; a share ``bug_rate`` of the outputs has a bug."""
    rng = random.Random(f"micro-code bugs {seed}")
    rows = []
    for task in tasks:
        buggy = add_bug(task.solution, task.kind, rng) if rng.random() < bug_rate else None
        rows.append({"input": task.prompt, "output": buggy or task.solution})
    return rows
