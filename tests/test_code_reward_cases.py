"""Labels, programs and answers as people have them, each with the verdicts that are acceptable."""

import json
from pathlib import Path

import pytest

from openrlhf_pf.code_reward import Pool
from openrlhf_pf.code_reward.tasks import from_label

CASES = [json.loads(line) for line in (Path(__file__).parent / "cases" / "code_reward.jsonl").open(encoding="utf-8")]


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as pool:
        yield pool


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['name']}")
def test_the_verdict_is_one_of_those_wanted(pool, case):
    if "numpy" in case["answer"] or "np." in json.dumps(case["label"]):
        pytest.importorskip("numpy")
    try:
        task = from_label(case["label"])
    except ValueError as error:
        assert "label refused" in case["want"], error
        assert "no tests in the label" in str(error)
        return
    result = pool.check(task.program(case["answer"]), task.problem)
    assert result.verdict.value in case["want"], result
    assert result.label_at_fault == (result.verdict.value == "infrastructure")
