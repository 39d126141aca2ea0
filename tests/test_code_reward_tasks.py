"""From a label and an answer to a program, its tests and OpenRLHF's reward; what is not understood is refused."""

import importlib.util
import json
import math
from types import SimpleNamespace

import pytest
import torch

from openrlhf_pf.code_reward import Pool, Verdict, label_check, reward
from openrlhf_pf.code_reward.tasks import from_label, labels
from openrlhf_pf.training.flags import data

LABEL, DOUBLE = ["assert double(3) == 6", "assert double(0) == 0"], "def double(x):\n    return 2 * x\n"
ADD, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
PAIRS = {"entry_point": "add", "inputs": [[1, 2], [0.1, 0.2]], "outputs": [3, 0.3], "tolerance": 1e-9}


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


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
    found = [LABEL, {"asserts": "x"}, {"asserts": ["assert double(1) == y"]}]
    results = reward.check_responses([DOUBLE] * 3, found, pool)
    assert [result.passed for result in results] == [True, False, False]
    assert [result.label_at_fault for result in results] == [False, True, True]
    assert [result.reward == result.reward for result in results] == [True, False, False]
    assert caplog.text.count("no reward for the label") == 2
    assert "asserts is 'x', and has to be a list" in caplog.text
    lacks, _ = reward.check_responses([f"import torch\n{DOUBLE}"] * 2, [LABEL] * 2, pool)
    assert lacks.reward != lacks.reward and not lacks.label_at_fault
    assert caplog.text.count("no reward for a program: the program needs the package 'torch', which is not among") == 1


def test_the_labels_of_a_run_are_read_when_it_starts():
    good, bad = LABEL, {"asserts": "assert double(1)"}
    assert label_check.refuse_bad_labels([good] * 3) == "all 3 labels of the code reward were read and understood."
    assert label_check.refuse_bad_labels([good] * 30, most=10).startswith("10 of 30 labels of the code reward were")
    message = "1 of 3 labels that were read are not understood, the first in row 1: .*has to be a list"
    with pytest.raises(ValueError, match=message):
        label_check.refuse_bad_labels([good, bad, good])


def test_a_label_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="its tests are too large"):
        from_label({"entry_point": "f", "inputs": [["x" * (17 << 20)]], "outputs": [1]})


def arguments(url, rows=None, label_key="label"):
    data = SimpleNamespace(
        prompt_dataset=str(rows), prompt_probs=None, max_samples=100, prompt_split="train", label_key=label_key
    )
    return SimpleNamespace(reward=SimpleNamespace(remote_url=url), data=data, train=SimpleNamespace(seed=0))


def test_before_training(tmp_path, capsys):
    pytest.importorskip("openrlhf")
    rows = tmp_path / "train.jsonl"
    good = json.dumps(LABEL)
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
