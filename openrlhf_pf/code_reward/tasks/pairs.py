"""Labels of inputs with outputs: calls of a function, and whole programs."""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.judge.script import guarded_imports
from openrlhf_pf.code_reward.results import Problem
from openrlhf_pf.code_reward.tasks import task as fields
from openrlhf_pf.code_reward.tasks.task import Task, list_field, paired

_FORMS = ("stdin", "inputs", "asserts", "test")
_NO_PROGRAM = "; where a function is meant, give fn_name or entry_point"
PARTS = ("public_tests", "private_tests", "generated_tests")
HIDDEN = ("public_test_cases", "private_test_cases")
_STDIN, _FUNCTION = {"stdin", "stdin_stdout", "stdio"}, {"functional", "function", "function_call", "call_based"}
_MOST_BYTES = 256 << 20

# ── Calls ──


def own_calls(row: Mapping[str, Any]) -> Task:
    """The task of ``entry_point``, ``inputs`` and ``outputs``; raises ``ValueError`` for a wrong field."""
    fields.only_one(row, _FORMS)
    entry_point = fields.name_field(row, "entry_point")
    inputs = list_field(row, "inputs", (list, dict))
    outputs = list_field(row, "outputs")
    return _call_task(row, entry_point, [(_arguments(item), item_out) for item, item_out in paired(inputs, outputs)])


def apps_calls(row: Mapping[str, Any]) -> Task:
    """The task of ``fn_name``, ``inputs`` and ``outputs``, each perhaps in a list; raises ``ValueError``."""
    fields.only_one(row, _FORMS)
    inputs, outputs = list_field(row, "inputs"), list_field(row, "outputs")
    lines = all(isinstance(item, str) for item in inputs)
    pairs = paired(inputs, outputs)
    if lines:
        pairs = [(_lines(item), _lines(expected)[0]) for item, expected in pairs]
    cases = [(_arguments(item), expected) for item, expected in pairs]
    wrapped = not lines and all(isinstance(expected, list) and len(expected) == 1 for _, expected in cases)
    return _call_task(row, fields.name_field(row, "fn_name"), cases, fields.USUAL_IMPORTS, wrapped)


def _call_task(
    row: Mapping[str, Any], entry_point: str, cases: list[tuple[Any, Any]], preamble: str = "", wrapped: bool = False
) -> Task:
    """The task of calls with JSON values."""
    found = fields.options(row)
    calls = [(args, kwargs, expected) for (args, kwargs), expected in cases]
    data = {"path": entry_point.split("."), "cases": calls, "tolerance": 0.0, "json": True, **found}
    data |= {"wrapped": True} if wrapped else {}
    before = guarded_imports(fields.setup_of(row)) + preamble
    return Task(str(row.get("task_id", "")), Problem("cases", data), "", entry_point.split(".")[0], before)


def _arguments(item: Any) -> tuple[tuple, dict[str, Any]]:
    """Positional arguments of a list, or keyword arguments of an object."""
    if isinstance(item, dict) and item and all(str(key).isidentifier() for key in item):
        return (), item
    if isinstance(item, list):
        return tuple(item), {}
    raise ValueError(f"the input {item!r:.40} is no list of arguments")


def _lines(text: Any) -> list[Any]:
    """The values of a text that has one in JSON on each line."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.40} is no text with a value in JSON on each line")
    try:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        raise ValueError(f"{text!r:.40} has no value in JSON on each line") from None


# ── Whole programs ──


def own_programs(row: Mapping[str, Any]) -> Task:
    """The task of ``stdin`` and ``stdout``; raises ``ValueError`` for a wrong field."""
    fields.only_one(row, _FORMS)
    return _program_task(row, paired(list_field(row, "stdin", str), list_field(row, "stdout", str)))


def apps_programs(row: Mapping[str, Any]) -> Task:
    """The task of ``inputs`` and ``outputs``, texts or lists of lines; raises ``ValueError`` for a wrong field."""
    fields.only_one(row, _FORMS)
    inputs, outputs = ([_text(item, _NO_PROGRAM) for item in list_field(row, name)] for name in ("inputs", "outputs"))
    return _program_task(row, paired(inputs, outputs))


def contest(row: Mapping[str, Any]) -> Task:
    """The task of ``public_tests``, ``private_tests`` and ``generated_tests``, together; raises ``ValueError``."""
    cases = []
    for name in PARTS:
        part = row.get(name) or {"input": [], "output": []}
        if isinstance(part, list):  # some copies have a list of objects
            part = {key: [item.get(key) for item in part] for key in ("input", "output")}
        if not isinstance(part, Mapping):
            raise ValueError(f"{name} is {part!r:.40}, and has to hold input and output")
        if part.get("input"):
            cases += paired(list_field(part, "input", str), list_field(part, "output", str))
    if not cases:
        raise ValueError("there is no test in " + ", ".join(PARTS))
    return _program_task(row, cases)


def _program_task(row: Mapping[str, Any], cases: list[tuple[str, str]]) -> Task:
    problem = Problem("stdio", {"cases": cases, **fields.options(row)})
    return Task(str(row.get("task_id", "")), problem, preamble=guarded_imports(fields.setup_of(row)))


def _text(item: Any, otherwise: str = " of a program's input or output") -> str:
    """A program's input or output, a text or its lines; the error ends with ``otherwise``."""
    if isinstance(item, list) and all(isinstance(line, str) for line in item):
        return "\n".join(item) + "\n"
    if not isinstance(item, str):
        raise ValueError(f"{item!r:.40} is no text{otherwise}")
    return item


# ── Lists of {input, output}, with testtype and a function's name where they call one: LiveCodeBench, open-r1 ──


def is_list(label: Any) -> bool:
    """Whether it is such a list."""
    items = label if isinstance(label, list) else []
    return bool(items) and all(isinstance(item, dict) and ("input" in item or "stdin" in item) for item in items)


def live_code_bench(row: Mapping[str, Any]) -> Task:
    """The task of LiveCodeBench's row, with its hidden tests; raises ``ValueError`` for a wrong field."""
    return list_task([test for name in HIDDEN for test in _unpacked(row.get(name))], row)


def list_task(tests: list[dict[str, Any]], row: Mapping[str, Any] | None = None) -> Task:
    """The task of such a list, of one kind of test; raises ``ValueError`` for a wrong field."""
    row = row or {}
    if not is_list(tests):
        raise ValueError("it has to be a list of objects with input and output")
    tests = [_with_usual_names(test) for test in tests]
    named = ["functional" if _name_of(test, row) else "stdin" for test in tests]
    kinds = {str(test.get("testtype") or test.get("type") or kind) for test, kind in zip(tests, named)}
    if len(kinds) != 1:
        raise ValueError(f"its tests are of {len(kinds)} kinds: {', '.join(sorted(kinds))}")
    (kind,) = kinds
    for place, test in enumerate(tests):
        if "output" not in test:
            raise ValueError(f"test {place} has no output")
    if kind in _STDIN:
        cases = [(_text(test["input"]), _text(test["output"])) for test in tests]
        return _program_task(row, cases)
    if kind not in _FUNCTION:
        raise ValueError(f"there is no kind of test {kind!r}: give stdin or functional")
    name = _name_of(tests[0], row)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError("there is no name of the function: give metadata.func_name or fn_name")
    inputs = [_lines(test["input"]) if isinstance(test["input"], str) else test["input"] for test in tests]
    calls = [(_arguments(given), _value(test["output"])) for given, test in zip(inputs, tests)]
    wrapped = all(isinstance(test["output"], list) and len(test["output"]) == 1 for test in tests)
    return _call_task(row, name, calls, fields.USUAL_IMPORTS, wrapped)


def _with_usual_names(test: dict[str, Any]) -> dict[str, Any]:
    """A test with ``input`` and ``output``, which ROLL names ``stdin`` and ``expected_stdout``."""
    given = {"input": test["stdin"]} if "input" not in test else {}
    outputs = [test[name] for name in ("output", "expected_stdout", "expected_output", "stdout") if name in test]
    return {**test, **given, **({"output": outputs[0]} if outputs else {})}


def _name_of(test: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    for source in (test, _object(test.get("metadata")), row, _object(row.get("metadata"))):
        for field in ("fn_name", "func_name", "test_case_function", "entry_point"):
            if (name := source.get(field)) and name != "None":
                return name
    return None


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _lines(value)
    if len(found) != 1:
        raise ValueError(f"{value!r:.40} is not one value in JSON")
    return found[0]


def _unpacked(value: Any) -> list[dict[str, Any]]:
    """Tests as a list, as JSON, or as LiveCodeBench hides them: a pickled text of JSON, compressed."""
    if isinstance(value, str) and value and value.lstrip()[:1] != "[":
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(value), _MOST_BYTES)
            value = _PlainUnpickler(io.BytesIO(packed)).load()
        except Exception as error:
            raise ValueError(f"private_test_cases are not to be read ({type(error).__name__}: {error})") from None
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else []
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is no list of tests")
    return value or []


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain data only: a pickle of anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises ``ValueError``: nothing is looked up."""
        raise ValueError(f"it holds {module}.{name}")
