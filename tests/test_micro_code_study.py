"""Arms of the micro-code study, and the alignment of what a filter keeps with the true score."""

import json
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from examples.micro_code.config import PRESETS, PPOConfig
from examples.studies.micro_code import arms, frozen_judge, judge, study


@pytest.fixture
def cells(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "study.json").write_text(json.dumps(PRESETS["quickstart"].as_dict()))
    return study.Cells(base, tmp_path / "out")


def test_the_study_of_a_run_directory_comes_back(cells):
    assert cells.study == PRESETS["quickstart"]


def test_an_arm_and_its_variants_change_what_they_name():
    base = PPOConfig(steps=16)
    plain = arms.config_of(base, "best_worst")
    assert (plain.sample_filter, plain.keep, plain.flags) == ("best_worst", 2, ())
    both = arms.config_of(base, "random+group+updates")
    assert both.weights == (1.0,) * 5 and both.batch_size == 32
    assert both.flags == ("--algo.advantage.estimator", "rloo", "--sample_filter_baseline", "group")
    assert both.actor_updates(16) == 2 * arms.config_of(base, "random").actor_updates(16) == 52
    assert arms.config_of(base, "ranks_2_4").weights == (0, 1, 0, 1, 0)


def test_other_numbers_of_responses_train_all_of_them_or_any():
    base = PPOConfig(steps=16)
    everything, some = arms.config_of(base, "none+n8"), arms.config_of(base, "random+k4+n8")
    assert (everything.samples, everything.keep) == (8, 8)
    assert (some.samples, some.keep, some.weights) == (8, 4, (1.0,) * 8)
    assert some.actor_updates(16) == arms.config_of(base, "best_worst+updates+n16").actor_updates(16) == 52


@pytest.mark.parametrize("name", arms.ARMS)
def test_every_arm_trains_whole_batches_of_what_it_keeps(name):
    config = arms.config_of(PRESETS["study"].ppo, name)
    kept = config.rollout_prompts * config.keep
    assert kept % config.batch_size == 0 and config.batch_size % config.micro_batch_size == 0
    assert len(config.weights) in (0, config.samples)
    if config.sample_filter == "none":
        assert config.keep == config.samples


def test_one_response_each_has_the_rollouts_and_updates_of_no_filter():
    each, none = (arms.config_of(PRESETS["study"].ppo, name) for name in ("one_each", "none"))
    assert each.samples * each.rollout_prompts == none.samples * none.rollout_prompts
    assert each.actor_updates(16) == none.actor_updates(16)


def test_the_judge_is_right_at_the_ends_and_errs_anew_at_each_look_between(monkeypatch):
    monkeypatch.setattr(judge, "_LOOKS", Counter())
    monkeypatch.setattr(judge, "_TRUE_SCORE", lambda queries, *_: {"rewards": [float(q[-1]) for q in queries]})
    queries = [f"{i} {i % 2}" for i in range(4000)]
    first, second = (np.array(judge.reward_func(queries, queries, queries)["rewards"]) for _ in range(2))
    right = np.arange(4000) % 2 * 2 - 1
    ends = np.abs(first) > judge.END
    assert (np.sign(first) == right)[ends].all() and ends.mean() == pytest.approx(judge.SURE, abs=0.03)
    assert (np.sign(first) == right)[~ends].mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(first - right * ends, second - right * ends)[0, 1]) < 0.1
    monkeypatch.setattr(judge, "_LOOKS", Counter())
    shuffled = judge.reward_func(queries[::-1], queries, queries)["rewards"][::-1]
    assert shuffled == first.tolist(), "whatever comes first"
    monkeypatch.setattr(frozen_judge, "_TRUE_SCORE", judge._TRUE_SCORE)
    for _ in range(2):
        assert frozen_judge.reward_func(queries, queries, queries)["rewards"] == first.tolist(), "its first look stays"


def test_a_cell_with_a_reward_function_is_the_same_in_another_checkout(cells, monkeypatch):
    monkeypatch.setattr(study, "__file__", "/elsewhere/examples/studies/micro_code/study.py")
    there = arms.config_of(cells.study.ppo, "judge_none")
    moved = replace(
        there,
        flags=tuple(f.replace(str(Path(arms.__file__).parent), "/elsewhere/examples/micro_code") for f in there.flags),
    )
    monkeypatch.setattr(study, "config_of", lambda base, arm: moved)
    elsewhere = cells.path("judge_none", 1)
    monkeypatch.undo()
    assert cells.path("judge_none", 1) == elsewhere and str(elsewhere.parent) == str(cells.output / cells.name)


def test_a_cell_is_kept_under_all_that_decides_it(cells):
    same, seed, arm = cells.path("none", 1), cells.path("none", 2), cells.path("random", 1)
    assert len({same, seed, arm}) == 3 and same == cells.path("none", 1)
    other = study.Cells(cells.base, cells.output, ["ppo.kl=0.2"])
    assert other.path("none", 1) != same


def test_sigterm_ends_the_trainers_too(cells, monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    closed = []
    monkeypatch.setattr(cells.run.one_ray, "close", lambda: closed.append(True))
    monkeypatch.setattr(cells, "train", lambda arm, seed: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5))
    try:
        with pytest.raises(SystemExit):
            cells.make([("none", 1)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert closed


def planted(cells, arm, seed, scores):
    directory = cells.path(arm, seed)
    directory.mkdir(parents=True)
    np.savez(directory / "scores.npz", **dict.fromkeys("4 8 12".split(), np.zeros_like(scores)), **{"16": scores})
    (directory / "curves.json").write_text(
        json.dumps({"train/kl": [[1, 0.5], [2, 0.25]], "train/timing/step_total": [[1, 5.0], [2, 1.0]]})
    )


def test_the_table_pairs_arms_over_seeds_and_tasks(cells):
    rng = np.random.default_rng(0)
    for seed in (1, 2):
        easy = rng.random((300, 1))
        planted(cells, "none", seed, rng.random((300, 8)) < easy)
        planted(cells, "random", seed, rng.random((300, 8)) < easy * 0.8)
    planted(cells, "best_worst", 1, np.ones((300, 8), bool))
    none, random, best = study.table([cells], ["none", "random", "best_worst"], [1, 2, 3])
    assert (none["cells"], random["cells"], best["cells"]) == (2, 2, 1)
    assert none["difference"] == 0 and none["kl"] == 0.375 and none["by_step"][8] == 0
    assert none["step_seconds"] == 3 and none["informative"] is None
    low, high = random["interval"]
    assert low < random["difference"] < high < 0 and random["difference"] == pytest.approx(-0.1, abs=0.03)
    assert best["pass_at_1"] == 1


def test_the_table_pairs_arms_over_several_bases(cells, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.json").write_text(json.dumps({**PRESETS["quickstart"].as_dict(), "seed": 2}))
    bases = [cells, study.Cells(other, cells.output)]
    for level, base in zip((0.2, 0.8), bases):
        planted(base, "none", 1, np.full((300, 8), level))
        planted(base, "random", 1, np.full((300, 8), level + 0.1))
    planted(bases[1], "best_worst", 1, np.ones((300, 8)))
    none, random, best = study.table(bases, ["none", "random", "best_worst"], [1])
    assert none["by_cell"] == [0.2, 0.8] and random["difference"] == pytest.approx(0.1)
    assert random["interval"] == pytest.approx((0.1, 0.1)) and best["cells"] == 1
    # random takes 2 updates a step, none 5: its end is set against step 8, where planted scores are 0.
    assert none["to_first_after_step"] == 12 and random["to_first_after_step"] == 8
    assert random["difference_then"] == pytest.approx(0.6) and random["interval_then"][0] > 0.2


def test_seeds_of_one_base_are_no_studies_of_their_own(cells, tmp_path):
    """Two bases that differ by .2 with ten seeds each are two studies, not twenty."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.json").write_text(json.dumps({**PRESETS["quickstart"].as_dict(), "seed": 2}))
    bases, seeds = [cells, study.Cells(other, cells.output)], list(range(1, 11))
    for gain, base in zip((0.0, 0.2), bases):
        for seed in seeds:
            planted(base, "none", seed, np.full((300, 8), 0.4))
            planted(base, "random", seed, np.full((300, 8), 0.4 + gain))
    _, random = study.table(bases, ["none", "random"], seeds)
    assert random["cells"] == 20 and random["difference"] == pytest.approx(0.1)
    assert random["interval"] == pytest.approx((0, 0.2))
    _, alone = study.table(bases[1:], ["none", "random"], seeds)
    assert alone["interval"] == pytest.approx((0.2, 0.2))


def test_the_figure_says_what_the_table_says(cells, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for arm, level in {"none": 0.5, "random": 0.3, "best_worst": 0.5}.items():
        planted(cells, arm, 1, rng.random((300, 8)) < level)
    command = [
        "--base",
        str(cells.base),
        "--output",
        str(cells.output),
        "--table",
        "--figure",
        str(tmp_path / "f.svg"),
    ]
    assert study.main([*command, "--json", str(tmp_path / "f.json")]) == 0
    _, random, best = json.loads((tmp_path / "f.json").read_text())
    drawn = (tmp_path / "f.svg").read_text()
    root = ElementTree.fromstring(drawn)
    said = root.find("{http://www.w3.org/2000/svg}desc").text
    assert said.startswith(f"best_worst {best['difference']:+.3f}") and f"random {random['difference']:+.3f}" in said
    low, high = random["interval"]
    assert high < 0 and f"[{low:+.3f}, {high:+.3f}]" in said
    assert drawn.count("var(--c0)") >= 1, "a difference beyond noise has the colour of a series"


def test_arms_with_code_as_the_reward_have_equal_rollouts():
    base = PPOConfig(steps=16)
    uniform = arms.config_of(base, "code_uniform")
    assert arms.episodes(uniform) == 5 and arms.episodes(base) == 1
    for name in (arm for arm in arms.ARMS if arm.startswith("code_")):
        config = arms.config_of(base, name)
        assert (config.steps, config.rollout_prompts, config.samples) == (20, 40, 8)
        assert set(uniform.flags[:8]) <= set(config.flags)
    filtered = arms.config_of(base, "code_vade+best_worst")
    assert filtered.actor_updates(20) == uniform.actor_updates(20) and filtered.flags[-1] == "group"


@pytest.mark.parametrize("name, word", [("nome", "arm 'nome'"), ("none+lr", "variant 'lr'")])
def test_an_unknown_arm_or_variant_is_refused(name, word):
    with pytest.raises(ValueError, match=word):
        arms.config_of(PPOConfig(), name)


def test_the_interval_covers_the_truth_of_paired_differences():
    # Seeds alike: resampling tasks alone would do, and resampling both may not be narrower.
    hits = 0
    for seed in range(60):
        differences = np.random.default_rng(seed).normal(0.1, 1, (4, 100))
        low, high = study.paired_interval(differences, None, 400, seed)
        hits += low < 0.1 < high
    assert hits >= 54


def test_the_interval_covers_the_truth_where_rows_share_a_group():
    hits = {True: 0, False: 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        of_group = np.repeat(rng.normal(0.1, 0.3, (10, 1)), 4, axis=0)
        differences = of_group + rng.normal(0, 0.5, (40, 50))
        for grouped in hits:
            groups = [row // 4 for row in range(40)] if grouped else None
            low, high = study.paired_interval(differences, groups, 400, seed)
            hits[grouped] += low < 0.1 < high
    assert hits[True] >= 52 > 48 >= hits[False]
