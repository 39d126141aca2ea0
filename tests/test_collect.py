"""Collecting: its checks, the true score, and what is left to do; nothing here starts Ray."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("openrlhf")

from openrlhf.utils.config import hierarchize
from rollouts import rollout_of

from openrlhf_pf.training import collect
from openrlhf_pf.training.collect import chunks
from openrlhf_pf.training.collect_arguments import check_arguments
from openrlhf_pf.training.true_score import TrueScore, load_reward_func

TOKENIZER = SimpleNamespace(decode=lambda tokens, skip_special_tokens: " ".join(map(str, tokens)))


def arguments(output, **flat):
    values = {
        "actor.model_name_or_path": "policy",
        "actor.num_nodes": 1,
        "data.prompt_dataset": "prompts.jsonl",
        "rollout.n_samples_per_prompt": 4,
        "rollout.temperature": 1.0,
        "reward.model_name_or_path": "reward",
        "reward.remote_url": None,
        "train.seed": 42,
        "train.agent_func_path": None,
        "collect.output": str(output),
        "collect.score": str(Path(__file__).parent / "end_to_end" / "true_score.py"),
        "collect.unscored": False,
        "collect.checkpoint": None,
        "collect.max_prompts": None,
        "collect.workers": 2,
        "sample_filter": "none",
        "sample_filter_log": None,
        "sample_filter_rank_by": None,
        "sample_filter_reward_models": None,
    }
    return hierarchize(SimpleNamespace(**{**values, **flat}))


def test_a_directory_is_continued_under_the_same_settings_only(tmp_path):
    check_arguments(arguments(tmp_path / "out"))
    check_arguments(arguments(tmp_path / "out", **{"actor.num_nodes": 2, "collect.workers": 7}))
    with pytest.raises(ValueError, match=r"begun with --rollout.temperature 1.0, and now it is 0.5: give the earlier"):
        check_arguments(arguments(tmp_path / "out", **{"rollout.temperature": 0.5}))
    assert (tmp_path / "out" / "collect.json").exists()


def test_a_directory_with_other_samples_is_left_alone(tmp_path):
    (tmp_path / "step-000001.parquet").touch()
    with pytest.raises(ValueError, match="holds samples of something else"):
        check_arguments(arguments(tmp_path))


@pytest.mark.parametrize(
    "flat, words",
    [
        ({"reward.model_name_or_path": None}, "there is nothing to measure: give the reward model"),
        ({"collect.score": "absent.py"}, "absent.py gives no reward_func (FileNotFoundError"),
        ({"collect.score": __file__}, "gives no reward_func (AttributeError"),
        ({"collect.score": None}, "true score with --collect.score FILE.py, or say --collect.unscored that there is"),
        ({"collect.unscored": True}, "--collect.score says where true scores come from, and --collect.unscored that"),
        (
            {"collect.unscored": True, "collect.score": None, "reward.remote_url": "reward.py"},
            "--collect.unscored is for a local reward model: a reward function returns true scores or none by itself",
        ),
        (
            {"reward.remote_url": "reward.py", "sample_filter_reward_models": "a,b"},
            "--sample_filter_reward_models scores with the workers of a local reward model, but",
        ),
        ({"collect.max_prompts": 0}, "--collect.max_prompts must be 1 or more, got 0"),
        ({"collect.workers": 0}, "--collect.workers must be 1 or more, got 0"),
    ],
)
def test_a_bad_flag_gets_one_sentence_and_leaves_no_record(tmp_path, flat, words):
    with pytest.raises(ValueError) as error:
        check_arguments(arguments(tmp_path / "out", **flat))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out" / "collect.json").exists()


def test_a_reward_function_may_bring_the_true_score_itself(tmp_path):
    check_arguments(arguments(tmp_path / "out", **{"collect.score": None, "reward.remote_url": "reward.py"}))


def test_samples_need_no_true_score_where_it_is_said(tmp_path):
    unscored = {"collect.score": None, "collect.unscored": True}
    check_arguments(arguments(tmp_path / "out", **unscored))
    record = json.loads((tmp_path / "out" / "collect.json").read_text())
    assert record["collect.score"] is None and "collect.unscored" not in record, "an older record has no such entry"
    with pytest.raises(ValueError, match="begun with --collect.score None, and now it is "):
        check_arguments(arguments(tmp_path / "out"))


def test_the_filter_of_a_training_command_touches_nothing(monkeypatch, tmp_path):
    """So that the command can be given as it is; above all no rollout log is opened."""
    seen = []
    monkeypatch.setattr(collect, "Collector", lambda args: seen.append(args) or SimpleNamespace(run=lambda: None))
    flat = {"sample_filter": "best_worst", "sample_filter_log": "log", "sample_filter_reward_models": "a,b"}
    collect.collect(arguments(tmp_path, **flat))
    found = {name: value for name, value in vars(seen[0]).items() if name.startswith("sample_filter")}
    assert found == {
        "sample_filter": "none",
        "sample_filter_log": None,
        "sample_filter_rank_by": None,
        "sample_filter_reward_models": "a,b",
    }


@pytest.mark.parametrize(
    "done, expected",
    [
        (set(), [(1, range(4)), (2, range(4, 8)), (3, range(8, 10))]),
        ({2}, [(1, range(4)), (3, range(8, 10))]),
        ({1, 2, 3}, []),
    ],
)
def test_chunks_that_are_left(done, expected):
    assert list(chunks(10, 4, done)) == expected


def test_the_true_score_is_the_functions_scores_or_else_its_rewards():
    samples = rollout_of([[1.0, 2.0, 3.0]])
    answers = iter(
        [
            {
                "rewards": torch.tensor([0.2]),
                "scores": torch.tensor([1.0]),
                "extra_logs": {"tests": torch.tensor([3])},
            },
            {"rewards": [0.5]},
            RuntimeError("boom"),
        ]
    )
    seen = []

    def reward_func(queries, prompts, labels):
        seen.append((queries, prompts, labels))
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    score = TrueScore(reward_func, workers=1)
    score(samples, TOKENIZER)
    assert [float(s.scores) for s in samples] == pytest.approx([1.0, 0.5, math.nan], nan_ok=True)
    assert float(samples[0].info["tests"]) == 3 and "tests" not in samples[1].info
    assert seen[0] == (["1 1 9"], ["prompt 0"], [""])
    assert (score.failed, score.last_error) == (1, "RuntimeError: boom")
    assert [float(s.rewards) for s in samples] == [1.0, 2.0, 3.0]


def test_a_score_file_is_loaded(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def reward_func(queries, prompts, labels):\n    return {'rewards': [len(queries)]}\n")
    assert load_reward_func(str(file), "--flag")(["a"], ["b"], ["c"]) == {"rewards": [1]}


def test_a_score_file_may_have_a_dataclass(tmp_path):
    file = tmp_path / "with_class.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Found:\n"
        "    right: bool\n\n\ndef reward_func(queries, prompts, labels):\n"
        "    return {'rewards': [Found(True).right]}\n"
    )
    assert load_reward_func(str(file), "--flag")(["a"], ["b"], ["c"]) == {"rewards": [True]}


@pytest.mark.parametrize("answer", [None, 1.0, {}, {"rewards": None}, {"rewards": "good"}, {"rewards": []}])
def test_an_answer_that_is_no_score_is_a_call_that_failed(answer):
    samples = rollout_of([[1.0, 2.0]])
    answers = iter([answer, {"scores": [0.5], "rewards": [0.0]}])
    score = TrueScore(lambda queries, prompts, labels: next(answers), workers=1)
    score(samples, TOKENIZER)
    assert [float(s.scores) for s in samples] == pytest.approx([math.nan, 0.5], nan_ok=True)
    assert score.failed == 1 and score.last_error


def test_an_extra_log_that_is_no_number_leaves_the_score():
    samples = rollout_of([[1.0]])
    answer = {"scores": [0.5], "extra_logs": {"why": "wrong", "tests": [3]}}
    score = TrueScore(lambda queries, prompts, labels: answer, workers=1)
    score(samples, TOKENIZER)
    assert float(samples[0].scores) == 0.5 and float(samples[0].info["tests"]) == 3 and "why" not in samples[0].info
