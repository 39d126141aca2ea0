"""Whole programs with input and output: a form of our own, those of APPS, TACO, PRIME and verl, and code_contests."""

from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks.task import Task, list_field, only_one, options, paired

_FORMS = ("stdin", "inputs", "asserts", "test")
_NO_PROGRAM = "; where a function is meant, give fn_name or entry_point"
_PARTS = ("public_tests", "private_tests", "generated_tests")


def is_own(row: Mapping[str, Any]) -> bool:
    """Whether these fields are those of our own form."""
    return "stdin" in row or "stdout" in row


def own(row: Mapping[str, Any]) -> Task:
    """The task of ``stdin`` and ``stdout``.

    Raises:
        ValueError: a field is missing or wrong.
    """
    only_one(row, _FORMS)
    return program_task(row, paired(list_field(row, "stdin", str), list_field(row, "stdout", str)))


def is_apps(row: Mapping[str, Any]) -> bool:
    """Whether these fields are those of APPS, TACO, PRIME and verl, for a program."""
    return "inputs" in row and "outputs" in row and row.get("fn_name") is None and "entry_point" not in row


def apps(row: Mapping[str, Any]) -> Task:
    """The task of ``inputs`` and ``outputs``, texts or lists of lines.

    Raises:
        ValueError: a field is missing or wrong.
    """
    only_one(row, _FORMS)
    inputs, outputs = (
        [text_of(item, _NO_PROGRAM) for item in list_field(row, name)] for name in ("inputs", "outputs")
    )
    return program_task(row, paired(inputs, outputs))


def is_contest(row: Mapping[str, Any]) -> bool:
    """Whether these fields are those of code_contests."""
    return any(name in row for name in _PARTS)


def contest(row: Mapping[str, Any]) -> Task:
    """The task of ``public_tests``, ``private_tests`` and ``generated_tests``, together.

    Raises:
        ValueError: a field is missing or wrong.
    """
    cases = []
    for name in _PARTS:
        part = row.get(name) or {"input": [], "output": []}
        if isinstance(part, list):  # as some copies have it: a list of objects
            part = {key: [item.get(key) for item in part] for key in ("input", "output")}
        if not isinstance(part, Mapping):
            raise ValueError(f"{name} is {part!r:.40}, and has to hold input and output")
        if part.get("input"):
            cases += paired(list_field(part, "input", str), list_field(part, "output", str))
    if not cases:
        raise ValueError("there is no test in " + ", ".join(_PARTS))
    return program_task(row, cases)


def program_task(row: Mapping[str, Any], cases: list[tuple[str, str]]) -> Task:
    """The task of texts."""
    return Task(str(row.get("task_id", "")), Problem("stdio", {"cases": cases, **options(row)}))


def text_of(item: Any, otherwise: str) -> str:
    """A program's input or output: a text, or its lines.

    Raises:
        ValueError: it is neither; the sentence ends with ``otherwise``.
    """
    if isinstance(item, list) and all(isinstance(line, str) for line in item):
        return "\n".join(item) + "\n"
    if not isinstance(item, str):
        raise ValueError(f"{item!r:.40} is no text{otherwise}")
    return item
