"""From a label and a model's answer to a program and its tests, and to OpenRLHF's reward."""

import importlib.util
import json
import math

import pytest
import torch

from openrlhf_pf.code_reward import Limits, Pool, Verdict, reward
from openrlhf_pf.code_reward.tasks import BENCHMARKS, from_label
from openrlhf_pf.code_reward.tasks.answers import extract_code, response_of

ADD = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"


@pytest.fixture(scope="module")
def pool():
    with Pool(1, Limits(), packages=()) as pool:
        yield pool


def verdict(pool, row, answer):
    task = from_label(json.dumps(row))
    return pool.check(task.program(answer), task.problem)


@pytest.mark.parametrize(
    "answer, code",
    [
        (ADD, ADD),
        (f"```python\n{ADD}\n```", ADD),
        (f"Sure!\n\n```py\n{ADD}\n```\nIt adds.", ADD),
        (f"~~~\n{ADD}\n~~~", ADD),
        (f"Here:\n```python\n{ADD}", ADD),  # the fence was cut off
        (f"```python\n{ADD}\nprint(add(1,", ADD),  # and so was a statement
        (f"```python\n{WRONG}\n```\nNo, better:\n```python\n{ADD}\n```", ADD),
        (f"```python\n{ADD}\n```\nUse it so:\n```python\nprint(add(1, 2))\n```", ADD),
        (f"```bash\npip install x\n```\n```python\n{ADD}\n```\n```\n3\n```", ADD),
        (f"```python\nimport math\n```\nThen\n```python\n{ADD}\n```", f"import math\n\n{ADD}"),
        (f"The function is simple.\n\n{ADD}\n", ADD),
        (f"<think>def add(a, b): hm\n```python\n{WRONG}\n```</think>\n```python\n{ADD}\n```", ADD),
        (f"```python\r\n{ADD}\r\n```".replace("\n", "\r\n").replace("\r\r", "\r"), ADD),
        ("    return a + b\n", "    return a + b"),
        ("", ""),
        ("I cannot help with that.", "I cannot help with that."),
    ],
)
def test_the_code_in_an_answer(answer, code):
    assert extract_code(answer, "add").strip("\n") == code


@pytest.mark.parametrize(
    "query, prompt, response",
    [
        ("What?def f(): 0", "What?", "def f(): 0"),
        ("<|im_start|>user\nWhat?<|im_end|>\nyes<|im_end|>", "<|im_start|>user\nWhat?<|im_end|>\n", "yes"),
        ("<s> What? yes</s>", "What?", " yes"),
        ("something else", "What?", "something else"),
    ],
)
def test_the_response_in_a_query(query, prompt, response):
    assert response_of(query, prompt) == response


PAIRS = {"entry_point": "add", "inputs": [[1, 2], [0.1, 0.2]], "outputs": [3, 0.3], "tolerance": 1e-9}
STDIO = {"stdin": ["1 2\n", "3 4\n"], "stdout": ["3\n", "7"]}
HUMAN_EVAL = {
    "task_id": "HumanEval/x",
    "prompt": "from typing import List\n\ndef twice(x):\n    return 2 * x\n\n"
    'def add(a: int, b: int):\n    """Add."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    "    assert candidate(twice(2), 0) == add(4, 0) == 4\n",
}
MBPP = {
    "task_id": 601,
    "text": "Write a function to find the longest chain.",
    # As in the data file: a class that the tests need, line ends of another system, letters beyond ASCII.
    "code": "class Pair(object):\r\n    def __init__(self, a, b):\r\n        self.a, self.b = a, b  # é\r\n"
    "def longest(pairs, n):\r\n    return n",
    "test_setup_code": "root = Pair(1, 2)\r\nroot.a = Pair(5, 6)",
    "test_list": ["assert longest([Pair(5, 24), Pair(15, 25)], 2) == 2", "assert longest(root.a.a, root.b) == 2 "],
}
WORD = "import re\ndef word(text):\n    return re.search('^[a-z]', text)\n"
SANITIZED = {
    "task_id": 2,
    "prompt": "Write a function to find shared elements.",
    "code": "def similar(a, b): return 0",
    "test_imports": ["import math", "from collections import Counter"],
    "test_list": [
        "assert set(similar((3, 4, 5), (4, 5))) == set((4, 5))",
        "assert math.isclose(sum(similar([1.5], [1.5])), 1.5)",
        "assert Counter(similar([1], [1])) == Counter([1])",
        "assert all(similar([n], [n]) == [n] for n in range(3))",
    ],
}
LEETCODE = {
    "task_id": "x",
    "prompt": '"""\nAdd.\n"""\nclass Solution:\n    def add(self, a: List[int], b: Optional[int]) -> int:\n        ',
    "test": "\nmy_solution = Solution()\n\n"
    'test_input = { "a": [1], "b": 2 }\nassert my_solution.add(**test_input) == 3\n\n'
    'test_input = { "a": [1, 2], "b": None }\nassert my_solution.add(**test_input) == 3\n',
}
MEMBER = (
    "class Solution:\n    def add(self, a: List[int], b: Optional[int]) -> int:\n        return sum(a) + (b or 0)\n"
)


@pytest.mark.parametrize(
    "row, answer, expected",
    [
        (PAIRS, ADD, "passed"),
        (PAIRS, WRONG, "failed"),
        (PAIRS, "def add(a, b:\n", "syntax_error"),
        (PAIRS, "def plus(a, b):\n    return a + b", "failed"),
        (PAIRS, "add = lambda a, b: a + b", "passed"),
        (STDIO, "print(sum(map(int, input().split())))", "passed"),
        (STDIO, "import sys\nprint(sum(map(int, sys.stdin.read().split())))\nsys.exit(0)", "passed"),
        (STDIO, "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)", "passed"),
        (STDIO, "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(1)", "failed"),
        (STDIO, "print(3)", "failed"),
        (STDIO, "while True: print('x' * 65536)", "failed"),
        (STDIO, "print(", "syntax_error"),
        (HUMAN_EVAL, "    return a + b", "passed"),
        (HUMAN_EVAL, f"```python\n{ADD}\n```", "passed"),
        (HUMAN_EVAL, "def add(a: List, b):\n    return twice(a) - a + b", "passed"),
        (HUMAN_EVAL, "    return a - b", "failed"),
        (MBPP, f"```python\n{MBPP['code']}\n```", "passed"),
        (MBPP, "def longest(pairs, n):\n    return n", "failed"),  # without the class
        (MBPP, MBPP["code"].replace("return n", "return 3"), "failed"),
        (SANITIZED, "def similar(a, b):\n    return sorted(set(a) & set(b))", "passed"),
        (SANITIZED, "def similar(a, b):\n    return []", "failed"),
        (LEETCODE, MEMBER, "passed"),
        (LEETCODE, f"Sure:\n```python\n{MEMBER}```", "passed"),
        (LEETCODE, "return sum(a) + (b or 0)", "passed"),
        (LEETCODE, MEMBER.replace("or 0", "or 1"), "failed"),
        ({"asserts": ["assert add(1, 2) == 3"], "setup": "x = 1"}, ADD, "passed"),
        ({"asserts": ["x = add(1, 2)", "assert x == 3 and x != 4"]}, ADD, "passed"),
        ({"asserts": ["x = [1]", "assert add(x, [2]) == [1, 2]"]}, ADD, "passed"),
        (
            SANITIZED,
            "from __future__ import annotations\ndef similar(a: X, b):\n    return sorted({*a} & {*b})",
            "passed",
        ),
        (HUMAN_EVAL, f"from __future__ import annotations\n{ADD}", "passed"),
        # Their truth is plain data where they are not.
        ({"asserts": ["assert word('ab')", "assert not word('1') and word('c')"]}, WORD, "passed"),
        ({"asserts": ["assert word('ab')", "assert not word('c') or word('1')"]}, WORD, "failed"),
        ({"asserts": ["assert word('ab') == 1"]}, WORD, "failed"),
        ({"asserts": ["assert True"]}, ADD, "infrastructure"),  # proves nothing about the program
    ],
)
def test_labels_of_every_form(pool, row, answer, expected):
    assert verdict(pool, row, answer).verdict.value == expected


def test_the_failed_test_is_named(pool):
    failed = verdict(pool, MBPP, MBPP["code"].replace("return n", "return 2 if len(pairs) else 0"))
    assert (failed.verdict, failed.test) == (Verdict.FAILED, 1)
    assert failed.detail == "TypeError: object of type 'int' has no len()"
    assert verdict(pool, PAIRS, "def add(a, b):\n    return 3").test == 1
    assert verdict(pool, HUMAN_EVAL, "    return 3").test == 1


def test_expected_values_do_not_reach_the_program(pool):
    """Everything that the program's process is asked, as it sees it."""
    spy = """
import sys
def add(a, b):
    frame = sys._getframe()
    while "asked" not in frame.f_locals:
        frame = frame.f_back
    raise ValueError(repr([question for question in frame.f_locals["asked"] if question[0] != "load"]))
"""
    row = {"asserts": ["assert abs(add(1, 2) - 314159) < 1e-6 and add(1, 2) == 314159"]}
    assert verdict(pool, row, spy).detail == "ValueError: [('change', ['add'], (1, 2), {})]"
    row = {"entry_point": "add", "inputs": [[1, 2]], "outputs": [314159]}
    assert verdict(pool, row, spy).detail == "ValueError: [('call', ['add'], (1, 2), {}), ('end',)]"


@pytest.mark.parametrize("label", ["", "null", "[]", "{}", '{"inputs": [], "outputs": [], "entry_point": "f"}', "def"])
def test_a_label_without_tests_is_refused(label):
    with pytest.raises(ValueError, match="no tests in the label .* give a row of HumanEval"):
        from_label(label)


def test_benchmarks_have_names():
    assert list(BENCHMARKS) == ["humaneval", "mbpp", "mbpp_sanitized", "leetcode"]


@pytest.fixture
def reward_module(monkeypatch):
    """Loaded as OpenRLHF loads ``--reward.remote_url path/to/reward.py``."""
    monkeypatch.setenv("OPENRLHF_PF_CODE_WORKERS", "1")
    monkeypatch.setenv("OPENRLHF_PF_CODE_CPU_SECONDS", "5")
    spec = importlib.util.spec_from_file_location("reward_func", reward.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    if module._pool:
        module._pool.close()


def test_reward_func_keeps_openrlhfs_contract(reward_module):
    prompts = ["Add two numbers.", "Add two numbers.", "Say it:"]
    answers = [f"```python\n{ADD}\n```<|im_end|>", f"```python\n{WRONG}\n```", "def add(a, b:"]
    labels = [json.dumps(PAIRS)] * 3
    out = reward_module.reward_func([p + a for p, a in zip(prompts, answers)], prompts, labels, anything=1)
    assert out["rewards"].tolist() == out["scores"].tolist() == [1.0, 0.0, 0.0]
    assert {name: values.tolist() for name, values in out["extra_logs"].items() if values.any()} == {
        "code_passed": [1.0, 0.0, 0.0],
        "code_failed": [0.0, 1.0, 0.0],
        "code_syntax_error": [0.0, 0.0, 1.0],
    }
    assert all(isinstance(values, torch.Tensor) and values.shape == (3,) for values in out["extra_logs"].values())


def test_a_broken_sandbox_is_a_missing_reward(reward_module, monkeypatch):
    pool = reward_module.shared_pool()
    monkeypatch.setattr(
        pool, "_attempt", lambda place, *program: (reward_module.Result(Verdict.INFRASTRUCTURE), place)
    )
    out = reward_module.reward_func([ADD], [""], [json.dumps(PAIRS)])
    assert math.isnan(out["rewards"].item())
    assert out["extra_logs"]["code_infrastructure"].tolist() == [1.0]


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("MEMORY_MB", "much", "is 'much': give a whole number above 0"),
        ("WORKERS", "0", "is '0': give a whole number above 0"),
        ("RAY", "auto", "is 'auto': give 0 or 1"),
        ("REQUIRE_ISOLATION", "2", "is '2': give 0 or 1"),
    ],
)
def test_a_bad_setting_is_refused(reward_module, monkeypatch, name, value, message):
    monkeypatch.setenv(f"OPENRLHF_PF_CODE_{name}", value)
    with pytest.raises(ValueError, match=f"OPENRLHF_PF_CODE_{name} {message}"):
        reward_module.reward_func([ADD], [""], [json.dumps(PAIRS)])


def test_over_rays_nodes_the_number_of_workers_is_each_nodes_own(reward_module, monkeypatch):
    assert reward_module.settings()[:2] == (False, 1)
    monkeypatch.setenv("OPENRLHF_PF_CODE_RAY", "1")
    assert reward_module.settings()[:2] == (True, 1)
    monkeypatch.delenv("OPENRLHF_PF_CODE_WORKERS")
    assert reward_module.settings()[:2] == (True, None)
    monkeypatch.setenv("OPENRLHF_PF_CODE_RAY", "0")
    assert reward_module.settings()[:2] == (False, 2)
