"""Reward models that are wrong on purpose, and what their studies say. No training."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from examples.micro_code.config import PRESETS
from examples.studies.micro_code import dial, study
from examples.studies.micro_code.rewards import DIALS, turned

PARSES, BROKEN = "def f(n):\n    return n + 2", "def f(n)\n    return n"
ROWS = [
    {"prompt": f"# {i}\n", "chosen": PARSES, "rejected": BROKEN if i % 2 else "def f(n):\n    return n + 8"}
    for i in range(2000)
]


def wrong(rows):
    return [row["chosen"] != PARSES for row in rows]


def test_the_studys_own_pairs_stay_as_they_are():
    assert turned(ROWS, "given", 1) == ROWS


@pytest.mark.parametrize("name, share", [("noise25", 0.25), ("noise40", 0.4)])
def test_noise_swaps_that_share_of_the_labels_and_nothing_else(name, share):
    rows = turned(ROWS, name, 1)
    assert np.mean(wrong(rows)) == pytest.approx(share, abs=0.03)
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]
    assert all({r["chosen"], r["rejected"]} == {o["chosen"], o["rejected"]} for r, o in zip(rows, ROWS))
    assert turned(ROWS, name, 1) == rows and turned(ROWS, name, 2) != rows


def test_what_cannot_be_parsed_always_loses_and_what_can_is_noisy():
    found = np.array(wrong(turned(ROWS, "close40", 1)))
    assert not found[1::2].any() and found[::2].mean() == pytest.approx(0.4, abs=0.05)


def test_the_exploit_wins_wherever_one_has_more_of_it():
    found = np.array(wrong(turned(ROWS, "exploit", 1)))
    assert found[::2].all() and not found[1::2].any(), "8 is overrated, and neither has any where both are even"


def test_fewer_pairs_are_some_of_them():
    rows = turned(ROWS, "fewer16", 1)
    assert len(rows) == pytest.approx(2000 / 16, abs=40) and all(row in ROWS for row in rows)


def test_twice_as_long_is_every_pair_two_times():
    rows = turned(ROWS, "twice", 1)
    assert len(rows) == 2 * len(ROWS) and rows[::2] == ROWS and rows[1::2] == ROWS


def test_an_unknown_reward_model_is_refused():
    with pytest.raises(ValueError, match="there is no reward model 'noise': take one of given, twice"):
        turned(ROWS, "noise", 1)


# ── Worlds ──

ARMS = ["none", "random+updates", "best_worst+updates"]


@pytest.fixture
def worlds(tmp_path):
    """Two bases, two reward models, finished cells: best_worst gains with one of them and loses with the other."""
    rng, found = np.random.default_rng(0), {}
    for reward, gain in (("given", 0.2), ("noise40", -0.2)):
        found[reward] = []
        for seed in (1, 2):
            base = tmp_path / f"b{seed}"
            (base / "phases").mkdir(parents=True, exist_ok=True)
            (base / "study.json").write_text(json.dumps({**PRESETS["study"].as_dict(), "seed": seed}))
            record = {"result": {"heldout_accuracy": 0.875}}
            (base / "phases" / "reward.json").write_text(json.dumps(record))
            cells = study.Cells(base, tmp_path / "out", reward=reward)
            level = rng.random((400, 1)) * 0.5 + 0.2
            for arm, more in zip(ARMS, (0, 0.05, gain)):
                directory = cells.path(arm, 1)
                directory.mkdir(parents=True)
                np.savez(directory / "scores.npz", **{"16": np.repeat(level + more, 8, axis=1)})
            if reward != "given":
                (cells.output / cells.name / "reward").mkdir()
                accuracy = {"heldout_accuracy": 0.6 + seed / 100}
                (cells.output / cells.name / "reward" / "accuracy.json").write_text(json.dumps(accuracy))
            found[reward].append(cells)
    return found


def test_worlds_with_other_reward_models_are_kept_apart(worlds):
    given, other = worlds["given"][0], worlds["noise40"][0]
    assert given.path("none", 1) != other.path("none", 1) and "base1-noise40" in str(other.path("none", 1))
    assert given.settings("none", 1) == {k: v for k, v in other.settings("none", 1).items() if k != "reward_model"}


def test_a_row_a_reward_model(worlds):
    given, noisy = dial.by_reward(worlds, ARMS, 1)
    assert given["accuracy"] == [0.875] * 2 and noisy["accuracy"] == [0.61, 0.62] and noisy["bases"] == [1, 2]
    assert given["to_first"]["best_worst+updates"] == pytest.approx([0.2] * 3)
    assert noisy["to_first"]["best_worst+updates"] == pytest.approx([-0.2] * 3)
    assert dial.by_reward(worlds, [*ARMS, "best_of_n"], 1) == [], "a base without all cells is left out"


def test_criteria_are_held_against_what_came_of_it(worlds):
    rows = dial.by_reward(worlds, ARMS, 1)
    right = {"given": [1, 2, 3], "noise40": [2, 3, 1]}
    before = {
        (base, reward): {"criteria": {name: order for name in dial.FROM_SAMPLES}}
        for base in (1, 2)
        for reward, order in right.items()
    }
    before[1, "noise40"]["criteria"]["gain"] = [1, 2, 3]
    found = dial.foreseen(rows, before)
    assert (
        found["worlds"] == 4 and found["spearman"]["within_r2"] == [1, 1, 1] and found["regret"]["within_r2"][0] == 0
    )
    # Wrong in one of four worlds: it takes best_worst, .25 below random, where Spearman is -.5.
    assert found["spearman"]["gain"][0] == pytest.approx((1 + 1 + 1 - 0.5) / 4)
    assert found["regret"]["gain"] == pytest.approx([0.25 / 4, 0, 0.25 / 2])
    assert found["regret"]["always best_worst+updates"] == pytest.approx([0.125] * 3)
    assert found["regret"]["always none"][0] == pytest.approx((0.2 + 0.05) / 2)


def test_criteria_come_from_samples_of_the_base_and_are_kept(worlds, monkeypatch):
    scores = np.random.default_rng(1).random((200, 5)).round()
    drawn = []
    monkeypatch.setattr(dial, "sampled", lambda source, n: drawn.append(n) or ([str(i) for i in range(1000)], scores))
    rewards = {"given": scores + 0.01, "noise40": -scores}
    order = iter(["given", "noise40"])
    monkeypatch.setattr(dial, "rewards_of", lambda model, texts: rewards[next(order)].ravel())
    bases = [cells[0] for cells in worlds.values()]
    found = dial.before_training(bases, ARMS)
    assert drawn == [5], "one draw serves all reward models of a base"
    assert found == dial.before_training(bases, ARMS), "kept: there is nothing left to take rewards from"
    none, random, best = found["given"]["criteria"]["gain"]
    assert best > none > 0 and random == pytest.approx(none) and found["noise40"]["criteria"]["gain"][2] < 0
    ranks = found["given"]["true_score_by_rank"]
    assert ranks == sorted(ranks, reverse=True) and found["noise40"]["true_score_by_rank"] == sorted(ranks)


def test_table_json_and_figure_of_what_is_there(worlds, tmp_path, monkeypatch, capsys):
    before = {
        name: {"criteria": {key: [1, 2, 3] for key in dial.FROM_SAMPLES}, "true_score_by_rank": [1]} for name in DIALS
    }
    monkeypatch.setattr(dial, "before_training", lambda bases, arms: {c.reward: before[c.reward] for c in bases})
    flags = ["--base", str(tmp_path / "b1"), str(tmp_path / "b2"), "--output", str(tmp_path / "out"), "--table"]
    assert dial.main([*flags, "--json", str(tmp_path / "d.json"), "--figure", str(tmp_path / "d.svg")]) == 0
    said = capsys.readouterr().out
    assert "| noise40 | 0.615 | 2 |" in said and "-0.200 [-0.200, -0.200]" in said and "| 4 worlds |" in said
    written = json.loads((tmp_path / "d.json").read_text())
    assert [row["reward_model"] for row in written["rewards"]] == ["given", "noise40"]
    text = "".join(ElementTree.parse(tmp_path / "d.svg").getroot().itertext())
    assert "given .88" in text and "noise40 .6" in text
    assert dial.main([*flags, "--arms", "none", "learned_weights"]) == 1
    assert "no criteria for the arm 'learned_weights'" in capsys.readouterr().err
    assert dial.main([*flags, "--arms", "none", "best_of_n"]) == 1
    assert "has no world with all of none, best_of_n" in capsys.readouterr().err
