"""Thresholds that are running quantiles, over all prompts or task by task."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from openrlhf_pf.filters import FilterBatch, build_filter, make_generator
from openrlhf_pf.filters.batch_scope import RunningQuantiles, label_fields, threshold_above

NAN = float("nan")
TASKS = [json.dumps({"task": "maths"}), json.dumps({"task": "code"})]


def filter_of(name="top", n=4, **options):
    return build_filter(name, n, 2, unit="quantile", **{"high": 0.75, **options})


def passing(sample_filter, rewards, **columns):
    batch = FilterBatch(np.array(rewards), make_generator(0), **columns)
    return (sample_filter(batch) > 0).astype(int).tolist()


# ── By hand ──


@pytest.mark.parametrize(
    "rewards, level, expected",
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0], 0.75, 3.0),
        ([0.0, 1.0, 2.0, 3.0], 0.75, 2.25),  # place 2.25: a quarter from 2 to 3
        ([0.0, 0.0, 0.0, 1.0], 0.5, 0.0),
        ([0.0, 1.0, 1.0, 1.0], 0.5, 0.0),  # the quantile is the highest reward: the next lower one
        ([0.0, 1.0, 2.0, 2.0], 0.9, 1.0),
        ([2.0, 2.0, 2.0], 0.9, 2.0),  # none lies above
        ([5.0], 0.5, 5.0),
        ([], 0.5, float("inf")),
    ],
)
def test_a_threshold_that_the_highest_rewards_lie_above(rewards, level, expected):
    assert threshold_above(np.array(rewards), level) == expected


def test_a_threshold_is_a_quantile_of_this_rollout_and_of_those_before():
    top = filter_of()
    # 0 to 7: place 5.25, so that 6 and 7 pass.
    assert passing(top, [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]) == [[0] * 4, [0, 0, 1, 1]]
    # With 10 to 13 next to 0 to 7: place 8.25 of 12 is 10.25.
    assert passing(top, [[10.0, 11.0, 12.0, 13.0]]) == [[0, 1, 1, 1]]
    assert top.metrics() == {"high": 10.25}
    both = filter_of("top_bottom", low=0.25)
    assert passing(both, [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert both.metrics() == {"low": 1.75, "high": 5.25}
    random = filter_of("top_random", n=2)
    many = passing(random, [[float(i), float(-i)] for i in range(400)])
    assert all(row[0] for row in many[201:]) and 100 < sum(row[1] for row in many) < 300


@pytest.mark.parametrize("per", ["label:task", "datasource"])
def test_every_task_has_a_threshold_of_its_own_from_its_first_rollout_on(per):
    top = filter_of("top_bottom", low=0.25, per=per)
    columns = {"labels": TASKS, "datasources": ["maths", "code"]}
    # Code is paid in hundreds: one threshold over all would pass all of it and no maths.
    assert passing(top, [[1.0, 2.0, 3.0, 4.0], [100.0, 400.0, 300.0, 200.0]], **columns) == [[1, 0, 0, 1]] * 1 + [
        [1, 1, 0, 0]
    ]
    assert top.metrics() == {"low_maths": 1.75, "high_maths": 3.25, "low_code": 175.0, "high_code": 325.0}
    # A new task is judged by its own rewards, and what others are remembered by stays.
    later = {"labels": ['{"task": "chat"}'], "datasources": ["chat"]}
    assert passing(top, [[-3.0, -4.0, -5.0, -6.0]], **later) == [[1, 0, 0, 1]]
    assert set(top.state_dict()["windows"]) == {"maths", "code", "chat"}


def test_unusable_rewards_are_not_remembered():
    top = filter_of(per="label:task")
    assert passing(top, [[NAN, 1.0, 2.0, float("inf")], [NAN] * 4], labels=TASKS) == [[0, 0, 1, 0], [0] * 4]
    assert {task: [r.tolist() for r in parts] for task, parts in top.state_dict()["windows"].items()} == {
        "maths": [[1.0, 2.0]]
    }


# ── The window ──


def test_the_window_holds_the_last_whole_rollouts():
    window = RunningQuantiles(5)
    assert window.add("a", np.array([3.0, 1.0])).tolist() == [1, 3]
    assert window.add("a", np.array([2.0, 9.0])).tolist() == [1, 2, 3, 9]
    assert window.add("a", np.array([5.0, 4.0])).tolist() == [2, 4, 5, 9], "6 are more than 5: the first goes"
    assert window.add("b", np.array([7.0])).tolist() == [7]
    assert window.add("a", np.array([])).tolist() == [2, 4, 5, 9], "a rollout without a usable reward"


def test_a_rollout_larger_than_the_window_counts_whole_and_is_remembered_evenly():
    window = RunningQuantiles(5)
    rewards = np.random.default_rng(0).permutation(np.arange(101.0))
    assert window.add("a", rewards).tolist() == list(range(101))
    assert [part.tolist() for part in window.state_dict()["a"]] == [[0.0, 25.0, 50.0, 75.0, 100.0]]


def test_a_threshold_follows_the_rewards_and_a_tail_of_tasks_costs_only_what_they_have():
    top = filter_of(n=8, window=512, per="datasource", high=0.8)
    source, normal = make_generator(0), np.random.default_rng(0)
    for step in range(40):
        rewards = normal.normal(size=(32, 8)) + 0.1 * step
        passed = top(FilterBatch(rewards, source, datasources=["one"] * 31 + [f"rare {step}"])) > 0
        # The window is this rollout and the one before it, of 248 rewards each.
        assert 0.13 < passed[:31].mean() < 0.35
        assert 1 <= passed[31].sum() <= 2, "8 rewards alone: place 5.6"
    numbers = sum(len(part) for parts in top.state_dict()["windows"].values() for part in parts)
    assert numbers == 2 * 248 + 40 * 8 and top.metrics().keys() == {"high_one", "high_rare 39"}


# ── Contract ──


def test_a_checkpoint_of_other_tasks_is_refused():
    saved = filter_of(per="datasource")
    passing(saved, [[1.0, 2.0, 3.0, 4.0]], datasources=["a"])
    absolute = build_filter("top", 4, 2, high=0.5)
    for other, words in ((filter_of(), "quantiles over all prompts"), (absolute, "rewards")):
        with pytest.raises(ValueError, match=f"are quantiles per=datasource, these are {words}: give"):
            other.load_state_dict(saved.state_dict())
    assert absolute.state_dict() == {} and absolute.metrics() == {}


# ── Labels ──


def test_a_field_of_a_label_is_its_value_as_text():
    labels = ['{"task": "code"}', '{"task": 3, "tests": []}', '{"task": null}', '{"task": {"b": 1, "a": 2}}']
    assert label_fields(labels, "task") == ["code", "3", "null", '{"a": 2, "b": 1}']


@pytest.mark.parametrize("label", ["no JSON", '{"kind": 1}', "3", "null", "x" * 200])
def test_a_label_without_the_field_is_shown(label):
    with pytest.raises(ValueError) as error:
        label_fields(['{"task": 1}', label], "task")
    assert f"a field 'task', got the label '{label[:60]}" in str(error.value) and len(str(error.value)) < 220


def test_tasks_of_the_data_set_are_looked_for_before_training(monkeypatch, tmp_path):
    pytest.importorskip("openrlhf")
    from rollouts import namespace

    from openrlhf_pf.training.flags.data import check_task_labels

    file = tmp_path / "prompts.jsonl"

    def check(rows, per, label_key="label"):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        args = namespace(sample_filter="top", sample_filter_options=["high=0.5", "unit=quantile", *per])
        names = {"prompt_probs": None, "max_samples": 1000, "prompt_split": "train", "label_key": label_key}
        args.data = SimpleNamespace(prompt_dataset=str(file), **names)
        check_task_labels(args)

    rows = [{"input": "1", "label": TASKS[0]}, {"input": "2", "label": TASKS[1]}]
    check(rows, ["per=label:task"])
    check([{**row, "datasource": "a"} for row in rows], ["per=datasource"])
    check(rows, [], None)
    for per, key, words in (
        ("label:kind", "label", "needs labels that are JSON objects with a field 'kind', got the label"),
        ("label:task", None, "per=label:task needs labels: name the column that holds them with --data.label_key"),
        ("datasource", "label", "the data set has no column 'datasource': it has input, label."),
    ):
        with pytest.raises(ValueError, match=words):
            check(rows, [f"per={per}"], key)
