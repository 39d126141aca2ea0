"""From a label and an answer to a program, its tests and OpenRLHF's reward; what is not understood is refused."""

# ruff: noqa: E501 - a label stands on one line
import base64
import importlib.util
import json
import math
import pickle
import zlib
from types import SimpleNamespace

import pytest
import torch

from openrlhf_pf.code_reward import Pool, Verdict, label_check, reward
from openrlhf_pf.code_reward.tasks import BENCHMARKS, from_label, labels
from openrlhf_pf.training.flags import data

DOUBLE = "def double(x):\n    return 2 * x\n"
PROGRAM = "print(2 * int(input()))\n"
HIDDEN = base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "4", "output": "8", "testtype": "stdin"}])))
)
EVALPLUS = {
    "task_id": "HumanEval/0",
    "prompt": "def double(x):\n    '''Double.'''\n",
    "canonical_solution": "    return 2 * x\n",
    "entry_point": "double",
    "base_input": [[1]],
    "plus_input": [[2.5], [-7]],
    "atol": 0,
}
FORMS = {
    "LiveCodeBench, a row": ({"public_test_cases": json.dumps([{"input": "3", "output": "6", "testtype": "stdin"}]), "private_test_cases": HIDDEN.decode()}, PROGRAM),
    "code_contests": ({"public_tests": {"input": ["3"], "output": ["6"]}, "private_tests": {"input": [], "output": []}, "generated_tests": {"input": ["9"], "output": ["18"]}}, PROGRAM),
    "EvalPlus": (EVALPLUS, DOUBLE),
    "MBPP+": ({"code": DOUBLE, "test_list": ["assert double(3) == 6"], "test_imports": [], "test": "inputs = [[3], [5]]\nresults = [6, 10]\nfor inp, exp in zip(inputs, results):\n    assert double(*inp) == exp\n"}, DOUBLE),
    "AceCoder": (["assert double(3) == 6", "assert double(0) == 0"], DOUBLE),
}  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


def test_every_test_of_a_row_counts(pool):
    """Not the first ones only: 6 is right for the base test of MBPP+, and for the public one of LiveCodeBench."""
    for name in ("MBPP+", "LiveCodeBench, a row", "EvalPlus", "code_contests"):
        label, right = FORMS[name]
        six = "def double(x):\n    return 2 if x == 1 else 6\n" if "def" in right else "print(6)\n"
        task = from_label(label)
        assert pool.check(six, task.problem).verdict.value == "failed", name


@pytest.mark.parametrize(
    "label, message",
    [
        ({"stdin": "3", "stdout": "6"}, "stdin is '3', and has to be a list"),
        ({"stdin": ["3"]}, "stdout is missing"),
        ({"stdin": ["3"], "stdout": ["6", "7"]}, "there are 1 inputs and 2 outputs"),
        ({"stdin": [3], "stdout": ["6"]}, "stdin[0] is 3, and has to be a string"),
        ({"stdin": [], "stdout": []}, "stdin is empty"),
        ({"entry_point": "f", "inputs": [3], "outputs": [6]}, "inputs[0] is 3"),
        ({"entry_point": "f", "inputs": "[[3]]", "outputs": [6]}, "inputs is '[[3]]', and has to be a list"),
        (
            {"entry_point": "f(x)", "inputs": [[3]], "outputs": [6]},
            "entry_point is 'f(x)', and has to name the function",
        ),
        ({"inputs": [[3]], "outputs": [6]}, "give fn_name or entry_point"),
        ({"asserts": "assert f(1)"}, "asserts is 'assert f(1)', and has to be a list"),
        ({"asserts": ["assert f(1)"], "stdin": ["1"], "stdout": ["1"]}, "it has both asserts and stdin"),
        ({"asserts": ["assert f(1)"], "tolerence": 1}, "there is no 'tolerence': did you mean 'tolerance'"),
        ({"stdin": ["1"], "stdout": ["1"], "tolerance": "small"}, "tolerance is 'small', and has to be a number"),
        ({"stdin": ["1"], "stdout": ["1"], "cpu_seconds": 0}, "cpu_seconds is 0, and has to be a number above 0"),
        ({"stdin": ["1"], "stdout": ["1"], "checker": "def check(): pass"}, "checker does not define"),
        ({"test": "def check(candidate): pass", "entry_point": ""}, "entry_point is '', and has to name"),
        ({"test": "def check(candidate) pass", "entry_point": "f"}, "test is no Python code"),
        ({"test": "x = 1", "entry_point": "f"}, "test defines no function check(candidate)"),
        ({"fn_name": "f", "inputs": ["x y"], "outputs": ["1"]}, "has no value in JSON on each line"),
        (
            {
                "public_test_cases": "[]",
                "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(print))).decode(),
            },
            "it holds builtins.print",
        ),
        ([{"input": "1", "output": "1", "testtype": "telnet"}], "there is no kind of test 'telnet'"),
        ([{"input": "1", "output": "1", "testtype": "functional"}], "there is no name of the function"),
        ({"question": "Double."}, "none of its fields (question) are those of a form"),
        ({"entry_point": "f", "inputs": [["x" * (17 << 20)]], "outputs": [1]}, "its tests are too large"),
        (3, "it is neither an object nor a list of tests"),
        ("{", "it is no JSON, from character 1 on"),
    ],
)
def test_what_is_not_understood_is_refused_when_it_is_read(label, message):
    with pytest.raises(ValueError) as error:
        from_label(label)
    assert message in str(error.value)
    assert "no tests in the label" in str(error.value)


def test_the_cache_is_bounded_in_bytes():
    cache = labels._Cache(100_000)
    for number in range(100):
        cache.get(f"{number}" + "x" * 5000, lambda: None)
    assert cache._bytes <= 100_000
    assert 1 <= len(cache._tasks) <= 5
    calls = []
    cache.get("99" + "x" * 5000, lambda: calls.append(1))
    assert calls == []  # the last ones are still there


def test_one_bad_label_does_not_kill_a_batch(pool, caplog):
    label, right = FORMS["AceCoder"]
    answers = [right, right, right]
    results = reward.check_responses(answers, [label, {"asserts": "x"}, {"asserts": ["assert double(1) == y"]}], pool)
    assert [result.passed for result in results] == [True, False, False]
    assert [result.label_at_fault for result in results] == [False, True, True]
    assert [result.reward == result.reward for result in results] == [True, False, False]
    assert caplog.text.count("no reward for the label") == 2
    assert "asserts is 'x', and has to be a list" in caplog.text


def test_the_labels_of_a_run_are_read_when_it_starts():
    good, bad = FORMS["AceCoder"][0], {"asserts": "assert double(1)"}
    assert label_check.refuse_bad_labels([good] * 3) == "all 3 labels of the code reward were read and understood."
    assert label_check.refuse_bad_labels([good] * 30, most=10).startswith(
        "10 of 30 labels of the code reward were read"
    )
    with pytest.raises(
        ValueError, match="1 of 3 labels that were read are not understood, the first in row 1: .*has to be a list"
    ):
        label_check.refuse_bad_labels([good, bad, good])


def arguments(url, rows=None, label_key="label"):
    data = SimpleNamespace(
        prompt_dataset=str(rows), prompt_probs=None, max_samples=100, prompt_split="train", label_key=label_key
    )
    return SimpleNamespace(reward=SimpleNamespace(remote_url=url), data=data, train=SimpleNamespace(seed=0))


def test_before_training(tmp_path, capsys):
    pytest.importorskip("openrlhf")
    rows = tmp_path / "train.jsonl"
    good = json.dumps(FORMS["AceCoder"][0])
    rows.write_text("".join(json.dumps({"input": "x", "label": good}) + "\n" for _ in range(4)))
    data.check_code_labels(arguments(["http://localhost:5000"], tmp_path / "not there"))
    data.check_code_labels(arguments(None))
    assert capsys.readouterr().out == ""
    data.check_code_labels(arguments(reward.__file__, rows))
    assert "all 4 labels of the code reward were read and understood" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no column 'tests': it has input, label"):
        data.check_code_labels(arguments([reward.__file__], rows, "tests"))
    with pytest.raises(ValueError, match="--data.label_key"):
        data.check_code_labels(arguments([reward.__file__], rows, None))
    rows.write_text(json.dumps({"input": "x", "label": "[]"}) + "\n")
    with pytest.raises(ValueError, match="1 of 1 labels that were read are not understood"):
        data.check_code_labels(arguments([reward.__file__], rows))


def test_before_training_a_bad_setting_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENRLHF_PF_CODE_RAY", "yes")
    with pytest.raises(ValueError, match="OPENRLHF_PF_CODE_RAY is 'yes': give 0 or 1"):
        data.check_code_labels(arguments([reward.__file__], tmp_path / "not there"))


def test_what_labels_are_worth(pool):
    strong = {"entry_point": "f", "inputs": [[1, 2], [3, 5], [-1, 0]], "outputs": [3, 8, -1]}
    weak = {"entry_point": "f", "inputs": [[0, 0]], "outputs": [0]}
    right = "def f(a, b):\n    return a + b\n"
    report = label_check.check(
        pool, [strong, weak, {"asserts": "x"}, strong], [right, right, right, "def f(a, b):\n    return a\n"]
    )
    assert (report["labels"], report["understood"], list(report["refused"])) == (4, 3, [2])
    assert (report["references"], report["references_passed"], list(report["references_failed"])) == (3, 2, [3])
    # With 0 and 0: the stubs 0 and the first argument ([], None, '', True are wrong).
    assert (report["labels_that_stubs_pass"], report["stubs_passed"]) == ([1], 2)
    assert "2 of 12 stubs pass too, on 1 labels: rows 1" in label_check.sentences(report)


# ── Verdicts and OpenRLHF's reward ──

ADD = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"


def verdict(pool, row, answer):
    task = from_label(json.dumps(row))
    return pool.check(task.program(answer), task.problem)


PAIRS = {"entry_point": "add", "inputs": [[1, 2], [0.1, 0.2]], "outputs": [3, 0.3], "tolerance": 1e-9}
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
