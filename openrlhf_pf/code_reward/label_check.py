"""Checks of labels: are they understood, do their reference solutions pass, and do stubs fail?"""

import ast
import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openrlhf_pf.code_reward.sandbox.pool import AnyPool
from openrlhf_pf.code_reward.tasks import Task, from_label

MOST_BEFORE_TRAINING = 10_000  # labels that are read when a run starts: half a minute
_SHOWN = 3


def read_labels(labels: Sequence[Any]) -> tuple[dict[int, Task], dict[int, str]]:
    """The tasks of the labels that are understood, and what is wrong with the others, by their places."""
    tasks, refused = {}, {}
    for place, label in enumerate(labels):
        try:
            tasks[place] = from_label(label)
        except ValueError as error:
            refused[place] = str(error)
    return tasks, refused


def refuse_bad_labels(labels: Sequence[Any], most: int = MOST_BEFORE_TRAINING) -> str:
    """Read the labels, or an even sample of more than ``most``; returns a sentence with their number.

    Raises:
        ValueError: one of them is not understood.
    """
    total = len(labels)
    places = range(total) if total <= most else sorted(random.Random(0).sample(range(total), most))
    _, bad = read_labels([labels[place] for place in places])
    what = f"all {total} labels" if len(places) == total else f"{len(places)} of {total} labels"
    if bad:
        place, why = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} of {len(places)} labels that were read are not understood, the first in row {places[place]}: "
            f"{why} To see all: python -m openrlhf_pf.cli.evaluate --check-labels DATA."
        )
    return f"{what} of the code reward were read and understood."


def check(pool: AnyPool, labels: Sequence[Any], references: Sequence[str | None] | None = None) -> dict[str, Any]:
    """How many labels are understood, how many references pass, and which labels stubs of them pass too."""
    tasks, refused = read_labels(labels)
    report: dict[str, Any] = {"labels": len(labels), "understood": len(tasks), "refused": refused}
    if references is None:
        return report
    programs = {place: task.program(references[place] or "") for place, task in tasks.items() if references[place]}
    results = dict(zip(programs, pool.check_all((text, tasks[place].problem) for place, text in programs.items())))
    report["references"] = len(programs)
    report["references_passed"] = sum(result.passed for result in results.values())
    report["references_failed"] = {
        place: f"{result.verdict.value}: {result.detail}" for place, result in results.items() if not result.passed
    }
    report["labels_at_fault"] = sum(result.label_at_fault for result in results.values())
    sound = {place: programs[place] for place, result in results.items() if result.passed}
    made = [(place, stub) for place, program in sound.items() for stub in stubs(program)]
    stub_results = pool.check_all((stub, tasks[place].problem) for place, stub in made)
    passed = [place for (place, _), result in zip(made, stub_results) if result.passed]
    return report | {"stubs": len(made), "stubs_passed": len(passed), "labels_that_stubs_pass": sorted(set(passed))}


def stubs(program: str) -> Iterator[str]:
    """The program with all functions emptied: they return nothing, 0, an empty text or list, or what they get. A
    program without functions prints one thing, or nothing.
    """
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError):
        return
    if not any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in ast.walk(tree)):
        yield from ("pass\n", "print(0)\n", "print('YES')\n", "print(input())\n")
        return
    for value in ("None", "0", "True", "''", "[]", "ARGUMENT"):
        changed = _Emptied(value).visit(copy.deepcopy(tree))
        yield ast.unparse(ast.fix_missing_locations(changed)) + "\n"


class _Emptied(ast.NodeTransformer):
    def __init__(self, value: str) -> None:
        self._value = value

    def _emptied(self, node: Any) -> Any:
        if node.name.startswith("__"):
            return node
        names = [argument.arg for argument in node.args.args if argument.arg != "self"]
        value = (names or ["None"])[0] if self._value == "ARGUMENT" else self._value
        node.body = ast.parse(f"return {value}").body
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _emptied


def sentences(report: Mapping[str, Any]) -> list[str]:
    """A report for people."""
    lines = [f"{report['understood']} of {report['labels']} labels are understood"]
    lines += [f"  row {place}: {why}" for place, why in list(report["refused"].items())[:_SHOWN]]
    if "references" not in report:
        return lines
    lines.append(f"{report['references_passed']} of {report['references']} reference solutions pass")
    lines += [f"  row {place}: {why}" for place, why in list(report["references_failed"].items())[:_SHOWN]]
    if report["labels_at_fault"]:
        lines.append(f"{report['labels_at_fault']} labels have a test that is itself at fault")
    places = report["labels_that_stubs_pass"]
    rows = f": rows {', '.join(map(str, places[:10]))}{', ...' if len(places) > 10 else ''}" if places else ""
    lines.append(f"{report['stubs_passed']} of {report['stubs']} stubs pass too, on {len(places)} labels{rows}")
    return lines
