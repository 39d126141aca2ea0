"""Lists of ``{input, output}``, with ``testtype`` and a function's name where they call one: LiveCodeBench, open-r1,
DeepCoder.
"""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

from openrlhf_pf.code_reward.tasks.calls import arguments_of, call_task, lines_of
from openrlhf_pf.code_reward.tasks.programs import program_task, text_of
from openrlhf_pf.code_reward.tasks.task import USUAL_IMPORTS, Task

_STDIN, _FUNCTION = {"stdin", "stdin_stdout", "stdio"}, {"functional", "function", "function_call", "call_based"}
_OF_A_PROGRAM = " of a program's input or output"
_MOST_BYTES = 256 << 20


def is_list(label: Any) -> bool:
    """Whether it is such a list."""
    return (
        isinstance(label, list) and bool(label) and all(isinstance(item, dict) and "input" in item for item in label)
    )


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether these fields are LiveCodeBench's."""
    return "public_test_cases" in row or "private_test_cases" in row


def row_task(row: Mapping[str, Any]) -> Task:
    """The task of LiveCodeBench's row, with its hidden tests.

    Raises:
        ValueError: a field is missing or wrong.
    """
    tests = [*_tests(row.get("public_test_cases")), *_tests(row.get("private_test_cases"))]
    return list_task(tests, row)


def list_task(tests: list[dict[str, Any]], row: Mapping[str, Any] | None = None) -> Task:
    """The task of such a list, of one kind of test.

    Raises:
        ValueError: a field is missing or wrong.
    """
    row = row or {}
    if not is_list(tests):
        raise ValueError("it has to be a list of objects with input and output")
    kinds = {str(test.get("testtype") or test.get("type") or _kind_of(test, row)) for test in tests}
    if len(kinds) != 1:
        raise ValueError(f"its tests are of {len(kinds)} kinds: {', '.join(sorted(kinds))}")
    (kind,) = kinds
    for place, test in enumerate(tests):
        if "output" not in test:
            raise ValueError(f"test {place} has no output")
    if kind in _STDIN:
        cases = [(text_of(test["input"], _OF_A_PROGRAM), text_of(test["output"], _OF_A_PROGRAM)) for test in tests]
        return program_task(row, cases)
    if kind not in _FUNCTION:
        raise ValueError(f"there is no kind of test {kind!r}: give stdin or functional")
    name = _name_of(tests[0], row)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError("there is no name of the function: give metadata.func_name or fn_name")
    calls = [(arguments_of(_values(test["input"])), _value(test["output"])) for test in tests]
    return call_task(row, name, calls, USUAL_IMPORTS)


def _kind_of(test: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return "functional" if _name_of(test, row) else "stdin"


def _name_of(test: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    for source in (test, _object(test.get("metadata")), row, _object(row.get("metadata"))):
        if name := source.get("fn_name") or source.get("func_name"):
            return name
    return None


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _values(value: Any) -> Any:
    return lines_of(value) if isinstance(value, str) else value


def _value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = lines_of(value)
    if len(found) != 1:
        raise ValueError(f"{value!r:.40} is not one value in JSON")
    return found[0]


def _tests(value: Any) -> list[dict[str, Any]]:
    """Tests as a list, as JSON, or as LiveCodeBench hides them: a pickled text of JSON, compressed."""
    if isinstance(value, str) and value and value.lstrip()[:1] != "[":
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(value), _MOST_BYTES)
            value = _Texts(io.BytesIO(packed)).load()
        except Exception as error:
            raise ValueError(f"private_test_cases are not to be read ({type(error).__name__}: {error})") from None
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else []
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is no list of tests")
    return value or []


class _Texts(pickle.Unpickler):
    """Takes plain data only: a pickle of anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises ``ValueError``: nothing is looked up."""
        raise ValueError(f"it holds {module}.{name}")
