"""HumanEval and LeetCode Contest: what is right passes, what is not does not, whatever it does to get
there.
"""

import gzip
import json
import os
import re
from pathlib import Path
from textwrap import indent

import pytest

from openrlhf_pf.code_reward import Pool, label_check
from openrlhf_pf.code_reward.tasks import from_label, humaneval, leetcode, mbpp

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the benchmarks' data next to the repository")

ALWAYS_EQUAL = """
class Any(int):
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
    __sub__ = __rsub__ = __abs__ = __len__ = __iter__ = lambda self, *other: self
    __hash__ = int.__hash__
{name} = lambda *_: Any()
"""


def whole(row):
    """The benchmark's own solution, imports and all."""
    return row["code"] if "code" in row else row["prompt"] + row["canonical_solution"]


LINKED_LISTS = {
    "doubleIt": """
class Solution:
    def doubleIt(self, head):
        digits = []
        while head:
            digits.append(str(head.val))
            head = head.next
        for digit in reversed(str(2 * int("".join(digits)))):
            head = ListNode(int(digit), head)
        return head
""",
    "insertGreatestCommonDivisors": """
class Solution:
    def insertGreatestCommonDivisors(self, head: Optional[ListNode]) -> Optional[ListNode]:
        node = head
        while node and node.next:
            node.next = ListNode(math.gcd(node.val, node.next.val), node.next)
            node = node.next.next
        return head
""",
}


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def human_eval():
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    return [(humaneval(row), row) for row in rows]


@pytest.fixture(scope="module")
def contest():
    with open(DATA / "leetcode-20240121-Jul.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(leetcode(row), row) for row in rows]


def passed(pool, programs):
    return sum(result.passed for result in pool.check_all(programs))


@pytest.mark.parametrize(
    "wrap, expected",
    [
        (lambda row: row["canonical_solution"], 164),
        (lambda row: f"Here it is:\n\n```python\n{whole(row)}```\nIt works because ...", 164),
        (lambda row: "    return None\n", 0),
        (lambda row: "    pass\n", 0),
        (lambda row: f"    import sys\n    sys.exit(0)\n{row['canonical_solution']}", 0),
        (lambda row: f"```\nimport sys\nsys.exit(0)\n{whole(row)}```", 0),
        (lambda row: f"```\nimport os\nos._exit(0)\n{whole(row)}```", 0),
        (lambda row: f"```\n{whole(row)}\n{ALWAYS_EQUAL.format(name=row['entry_point'])}```", 0),
    ],
    ids=["continued", "fenced", "None", "pass", "exit in the function", "sys.exit", "os._exit", "always equal"],
)
def test_human_eval(pool, human_eval, wrap, expected):
    assert len(human_eval) == 164
    assert passed(pool, ((task.program(wrap(row)), task.problem) for task, row in human_eval)) == expected


def looked_up(task):
    """The name of the method, its calls with their results, and a program that looks them up."""
    method = task.problem.data["path"][1]
    table = [(arguments, expected) for _, arguments, expected in task.problem.data["cases"]]
    body = f"return next(expected for arguments, expected in {table!r} if arguments == asked)"
    return method, table, f"class Solution:\n    def {method}(self, **asked):\n        {body}\n"


def test_leetcode_with_the_answers_looked_up(pool, contest):
    programs = []
    for task, _ in contest:
        listed = [text for name, text in LINKED_LISTS.items() if name in task.prompt]
        program = looked_up(task)[2] if task.problem.kind == "cases" else listed[0]
        programs.append((task.program(program), task.problem))
    assert passed(pool, programs) == 180


def test_leetcode_without_a_solution(pool, contest):
    assert passed(pool, ((task.program(f"{row['prompt']}return None"), task.problem) for task, row in contest)) == 0


# Whatever a name stands for in a test, a program that defines it decides nothing by that.
NAME_THIEF = """
import builtins, sys
class Yes:
    def __getattr__(self, name): return Yes()
    def __call__(self, *arguments, **named): return Yes()
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: True
    __add__ = __sub__ = __radd__ = __rsub__ = __mul__ = __truediv__ = __abs__ = lambda self, *other: self
    __bool__ = __contains__ = lambda self, *other: True
    __iter__ = lambda self: iter(())
    __len__ = lambda self: 0
    __hash__ = lambda self: 0
check = candidate = my_solution = test_input = math = np = random = copy = Yes()
class Solution(Yes): pass
for name in ("abs", "all", "any", "len", "sorted", "set", "round", "tuple", "isinstance"):
    setattr(builtins, name, Yes())
{name} = Yes()
"""
# Looks at what it is asked, and answers what the form of the question may mean.
FORM_READER = """
import sys
def {name}(*arguments, **named):
    frame, asked = sys._getframe(), ""
    while frame:
        asked += repr(frame.f_locals.get("asked", "")) + repr(frame.f_locals.get("question", ""))
        frame = frame.f_back
    return True if "not" in asked else False if "==" in asked else None
"""


@pytest.mark.parametrize("way", [NAME_THIEF, FORM_READER], ids=["name thief", "form reader"])
def test_no_program_passes_by_names_or_forms(pool, human_eval, contest, way):
    programs = [(way.format(name=row["entry_point"]), task.problem) for task, row in human_eval]
    methods = [re.findall(r"my_solution\.(\w+)\(", row["test"])[0] for _, row in contest]
    for method, (task, _) in zip(methods, contest):
        name = f"Solution.{method}" if way is NAME_THIEF else method
        text = way.format(name=name)
        programs.append((text if way is NAME_THIEF else "class Solution:" + indent(text, "    "), task.problem))
    assert passed(pool, programs) == 0


def test_no_stub_passes(pool, human_eval):
    programs = [(task.program(row["canonical_solution"]), task.problem) for task, row in human_eval]
    made = [(stub, problem) for text, problem in programs for stub in label_check.stubs(text)]
    assert len(made) == 6 * 164
    assert passed(pool, made) == 0


def test_leetcode_in_the_shape_of_leetcodedataset(pool, contest):
    """Its rows have their imports in the prompt, and ``check(candidate)`` as the test."""
    programs = []
    for task, _ in contest[:40]:
        if task.problem.kind != "cases":
            continue
        method, table, program = looked_up(task)
        lines = "".join(f"    assert candidate(**{arguments!r}) == {expected!r}\n" for arguments, expected in table)
        test = f"def check(candidate):\n{lines}"
        made = from_label({"prompt": "from typing import *\n", "entry_point": f"Solution().{method}", "test": test})
        wrong = program.partition("return ")[0] + "return None\n"
        programs += [(made.program(program), made.problem), (made.program(wrong), made.problem)]
    results = [result.passed for result in pool.check_all(programs)]
    assert results == [True, False] * (len(programs) // 2)


def test_every_leetcode_test_is_there(contest):
    counts = [len(task.problem.data.get("cases") or task.problem.data["asserts"]) for task, _ in contest]
    assert counts == [100] * 180


@pytest.mark.parametrize("file, count", [("mbpp.jsonl", 974), ("sanitized-mbpp.json", 427)])
def test_mbpp(pool, file, count):
    """``MBPP_DATA`` names a folder with the files of google-research/google-research, ``mbpp/``."""
    path = Path(os.environ.get("MBPP_DATA", DATA)) / file
    if not path.exists():
        pytest.skip(f"needs {file}: MBPP_DATA names its folder")
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))
    problems = [mbpp(row).problem for row in rows]
    fenced = [mbpp(row).program(f"```python\n{row['code']}\n```") for row in rows]
    assert passed(pool, zip(fenced, problems)) == count
    names = [re.findall(r"def (\w+)", row["code"]) for row in rows]
    for way in (NAME_THIEF, FORM_READER, "def {name}(*arguments):\n    return None\n"):
        wrong = ("".join(way.format(name=name) for name in defined) for defined in names)
        assert passed(pool, zip(wrong, problems)) == 0
