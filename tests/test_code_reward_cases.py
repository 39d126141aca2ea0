"""Labels, programs and answers as people have them, each with the verdicts that are acceptable."""

import json
from pathlib import Path

import pytest

from openrlhf_pf.code_reward import Pool
from openrlhf_pf.code_reward.tasks import from_label

FILES = sorted((Path(__file__).parent / "cases").glob("code_reward*.jsonl"))
CASES = [json.loads(line) for file in FILES for line in file.open(encoding="utf-8")]


@pytest.fixture(scope="module")
def results():
    """For each case, the result to wait for, or the refusal of its label."""
    with Pool(2) as pool:
        found = []
        for case in CASES:
            try:
                task = from_label(case["label"])
            except ValueError as error:
                found.append(error)
                continue
            if not isinstance(case["label"], str):
                assert from_label(json.dumps(case["label"])).problem.encoded == task.problem.encoded
            found.append(pool.submit(task.program(case["answer"]), task.problem))
        yield found


@pytest.mark.parametrize(
    "place", range(len(CASES)), ids=lambda place: f"{CASES[place]['kind']}: {CASES[place]['name']}"
)
def test_the_verdict_is_one_of_those_wanted(results, place):
    """With what the detail is to say, the place of the test that failed, and whether a pass is weaker, where given."""
    case, found = CASES[place], results[place]
    if "numpy" in case["answer"] or "np." in json.dumps(case["label"]):
        pytest.importorskip("numpy")
    if isinstance(found, ValueError):
        assert "label refused" in case["want"], found
        assert "no tests in the label" in str(found) and case.get("says", "") in str(found)
        return
    result = found.result()
    assert result.verdict.value in case["want"], result
    assert case.get("says", "") in result.detail
    assert (case.get("test", result.test), case.get("weaker", result.weaker)) == (result.test, result.weaker)
    lacks_package = result.detail.startswith("the program needs the package")
    assert result.label_at_fault == (result.verdict.value == "infrastructure" and not lacks_package)
