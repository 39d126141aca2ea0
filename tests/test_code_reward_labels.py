"""Labels as data sets have them: a right program passes, a wrong one fails, and what is not understood is refused."""

# ruff: noqa: E501 - a label stands on one line
import base64
import json
import pickle
import zlib
from types import SimpleNamespace

import pytest

from openrlhf_pf.code_reward import Pool, label_check, reward
from openrlhf_pf.code_reward.tasks import from_label, labels
from openrlhf_pf.training.flags import data

DOUBLE = "def double(x):\n    return 2 * x\n"
METHOD = "class Solution:\n    def double(self, x: List[int]) -> List[int]:\n        return [2 * item for item in x]\n"
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
    "PRIME, a function": ({"fn_name": "double", "inputs": [[3], [5]], "outputs": [[6], [10]]}, DOUBLE),
    "APPS, a method": ({"fn_name": "double", "inputs": [[[3]], [[]]], "outputs": [[[6]], [[]]]}, METHOD),
    "APPS, a row": ({"input_output": json.dumps({"inputs": ["3\n"], "outputs": ["6\n"]}), "problem_id": 1}, PROGRAM),
    "TACO, a program": ({"inputs": ["3\n", "5\n"], "outputs": ["6\n", "10\n"], "fn_name": None}, PROGRAM),
    "APPS, lists of lines": ({"inputs": [["3"], ["5"]], "outputs": [["6"], ["10"]]}, PROGRAM),
    "verl, ground truth": ({"ground_truth": json.dumps({"inputs": ["3"], "outputs": ["6"]})}, PROGRAM),
    "LiveCodeBench, a list": ([{"input": "3", "output": "6", "testtype": "stdin"}, {"input": "4", "output": "8", "testtype": "stdin"}], PROGRAM),
    "LiveCodeBench, a function": ([{"input": "[3, 4]", "output": "[6, 8]", "testtype": "functional", "metadata": {"func_name": "double"}}], METHOD),
    "LiveCodeBench, a row": ({"public_test_cases": json.dumps([{"input": "3", "output": "6", "testtype": "stdin"}]), "private_test_cases": HIDDEN.decode()}, PROGRAM),
    "open-r1": ({"verification_info": {"language": "python", "test_cases": [{"input": "3\n", "output": "6\n", "type": "stdin_stdout"}]}}, PROGRAM),
    "DeepCoder": ({"tests": [{"input": "3", "output": "6", "testtype": "stdin_stdout"}]}, PROGRAM),
    "code_contests": ({"public_tests": {"input": ["3"], "output": ["6"]}, "private_tests": {"input": [], "output": []}, "generated_tests": {"input": ["9"], "output": ["18"]}}, PROGRAM),
    "LeetCodeDataset": ({"prompt": "from typing import *\n", "entry_point": "Solution().double", "test": "def check(candidate):\n    assert candidate(x = [3]) == [6]\n"}, METHOD),
    "HumanEval": ({"prompt": "def double(x):\n    '''Double.'''\n", "entry_point": "double", "test": "def check(candidate):\n    assert candidate(3) == 6\n"}, DOUBLE),
    "HumanEval, a prompt in words": ({"prompt": "Double it.", "entry_point": "double", "test": "def check(candidate):\n    assert candidate(3) == 6\n"}, DOUBLE),
    "EvalPlus": (EVALPLUS, DOUBLE),
    "EvalPlus, MBPP+": ({**EVALPLUS, "task_id": "Mbpp/2", "prompt": '"""Double."""\n', "canonical_solution": DOUBLE}, DOUBLE),
    "MBPP+": ({"code": DOUBLE, "test_list": ["assert double(3) == 6"], "test_imports": [], "test": "inputs = [[3], [5]]\nresults = [6, 10]\nfor inp, exp in zip(inputs, results):\n    assert double(*inp) == exp\n"}, DOUBLE),
    "AceCoder": (["assert double(3) == 6", "assert double(0) == 0"], DOUBLE),
    "AceCoder, as text": ('["assert double(3) == 6"]', DOUBLE),
    "verl, assert_case": ({"assert_case": ["assert double(3) == 6"], "inputs": [], "outputs": []}, DOUBLE),
    "KodCode": ({"question": "Double.", "test": "from solution import double\n\ndef test_a():\n    assert double(3) == 6\n\ndef test_b():\n    assert double(0) == 0\n"}, DOUBLE),
    "KodCode, pytest": ({"test": "import pytest\nfrom solution import double\n\n@pytest.mark.parametrize('x, y', [(1, 2), (3, 6)])\ndef test_a(x, y):\n    assert double(x) == pytest.approx(y)\n\ndef test_b():\n    with pytest.raises(TypeError):\n        double(None)\n"}, DOUBLE),
    "KodCode, a class": ({"test": "from solution import double\n\nclass TestIt:\n    def test_a(self):\n        assert double(3) == 6\n"}, DOUBLE),
    "BigCodeBench": ({"entry_point": "double", "complete_prompt": "def double(x):\n", "test": "import unittest\nclass TestCases(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(double(3), 6)\n    def test_b(self):\n        with self.assertRaises(TypeError):\n            double(None)\n"}, DOUBLE),
    "flat asserts": ({"entry_point": "double", "test": "assert double(3) == 6\nassert double(0) == 0\n"}, DOUBLE),
    "own, by name": ({"entry_point": "double", "inputs": [{"x": 3}], "outputs": [6]}, DOUBLE),
    "own, many digits": ('{"entry_point": "double", "inputs": [[1' + "0" * 6000 + ']], "outputs": [2' + "0" * 6000 + "]}", DOUBLE),
}  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("name", FORMS)
def test_a_right_program_passes_and_a_wrong_one_fails(pool, name):
    label, right = FORMS[name]
    wrong = right.replace("2 *", "5 +")
    for program, expected in ((right, "passed"), (wrong, "failed")):
        for form in (label, label if isinstance(label, str) else json.dumps(label)):
            task = from_label(form)
            result = pool.check(task.program(f"Here:\n```python\n{program}```"), task.problem)
            assert result.verdict.value == expected, result


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
    # With 0 and 0: the stubs 0 and the first argument ([], None, '', True are wrong), and the mutant a - b.
    assert (report["labels_that_stubs_pass"], report["stubs_passed"]) == ([1], 2)
    assert "2 of 12 stubs pass too, on 1 labels: rows 1" in label_check.sentences(report)
