"""Calls of a function with what they return: a form of our own, and the one of APPS, TACO, PRIME and verl."""

import json
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.results import Problem
from openrlhf_pf.code_reward.tasks.task import USUAL_IMPORTS, Task, list_field, name_field, only_one, options, paired

_FORMS = ("inputs", "stdin", "asserts", "test")


def is_own(row: Mapping[str, Any]) -> bool:
    """Whether these fields are those of our own form."""
    return "inputs" in row and "entry_point" in row and "fn_name" not in row


def own(row: Mapping[str, Any]) -> Task:
    """The task of ``entry_point``, ``inputs`` and ``outputs``.

    Raises:
        ValueError: a field is missing or wrong.
    """
    only_one(row, _FORMS)
    entry_point = name_field(row, "entry_point")
    inputs = list_field(row, "inputs", (list, dict))
    outputs = list_field(row, "outputs")
    return call_task(row, entry_point, [(arguments_of(item), item_out) for item, item_out in paired(inputs, outputs)])


def is_apps(row: Mapping[str, Any]) -> bool:
    """Whether these fields are those of APPS, TACO, PRIME and verl, for a function."""
    return "inputs" in row and "fn_name" in row and row["fn_name"] is not None


def apps(row: Mapping[str, Any]) -> Task:
    """The task of ``fn_name``, ``inputs`` and ``outputs``, where each output may stand in a list of its own.

    Raises:
        ValueError: a field is missing or wrong.
    """
    only_one(row, _FORMS)
    inputs, outputs = list_field(row, "inputs"), list_field(row, "outputs")
    lines = all(isinstance(item, str) for item in inputs)
    cases = [
        (arguments_of(lines_of(item) if lines else item), lines_of(expected)[0] if lines else expected)
        for item, expected in paired(inputs, outputs)
    ]
    wrapped = not lines and all(isinstance(expected, list) and len(expected) == 1 for _, expected in cases)
    return call_task(row, name_field(row, "fn_name"), cases, USUAL_IMPORTS, wrapped)


def call_task(
    row: Mapping[str, Any],
    entry_point: str,
    cases: list[tuple[tuple[tuple, dict[str, Any]], Any]],
    preamble: str = "",
    wrapped: bool = False,
) -> Task:
    """The task of calls with JSON values."""
    found = options(row)
    data = {
        "path": entry_point.split("."),
        "cases": [(args, kwargs, expected) for (args, kwargs), expected in cases],
        "tolerance": found.pop("tolerance", 0.0),
        "json": True,
        **({"wrapped": True} if wrapped else {}),
        **found,
    }
    return Task(str(row.get("task_id", "")), Problem("cases", data), "", entry_point.split(".")[0], preamble)


def arguments_of(item: Any) -> tuple[tuple, dict[str, Any]]:
    """Arguments by place, a list, or by name, an object.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(item, dict) and item and all(str(key).isidentifier() for key in item):
        return (), item
    if isinstance(item, list):
        return tuple(item), {}
    raise ValueError(f"the input {item!r:.40} is no list of arguments")


def lines_of(text: Any) -> list[Any]:
    """The values of a text that has one in JSON on each line.

    Raises:
        ValueError: it has something else.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.40} is no text with a value in JSON on each line")
    try:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        raise ValueError(f"{text!r:.40} has no value in JSON on each line") from None
