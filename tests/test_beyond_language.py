"""examples/studies/beyond_language: worlds, training and comparisons in closed form, and tiny runs of each study."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.studies.beyond_language import bandit, criteria, measures, reversal, sizes
from examples.studies.beyond_language.arms import ARMS, Arm, ranks
from examples.studies.beyond_language.training import Luck, Policy, Settings, Trainer, by_logit, roll, train
from examples.studies.beyond_language.worlds import ERRORS, Worlds, pick, stack, world

WAYS = [Settings(policy, "sgd", 0.1) for policy in ("tabular", "shared")]


def tiny(error: str = "flat", seeds: tuple[int, ...] = (0, 1), **options) -> Worlds:
    return stack([world(error, seed, n_contexts=40, n_actions=6, **options) for seed in seeds])


# ── Worlds ──


@pytest.mark.parametrize("error", ERRORS)
def test_a_world_depends_on_its_seed_alone(error: str) -> None:
    alone, beside = world(error, 3), stack([world(error, 7), world(error, 3)])
    assert torch.equal(alone.reward[0], beside.reward[1])
    assert not torch.equal(beside.reward[0], beside.reward[1])


def test_errors_are_as_large_as_they_should_be() -> None:
    flat, middle, hacked = (stack([world(error, s) for s in range(10)]) for error in ("flat", "middle", "hacked"))
    assert float((flat.reward - flat.value).std()) == pytest.approx(0.4, abs=0.005)
    away, near = (middle.reward - middle.value).abs(), middle.value.abs() < 0.05
    assert float(away[near].square().mean().sqrt()) == pytest.approx(0.8, abs=0.03)
    assert float(away[middle.value > 0.9].square().mean().sqrt()) < 0.02  # .8 exp(-5.06) = .005
    # 1.2 - q against q differ by 1.2 - 2 q, which is beyond .5 for q < .35
    exploited = hacked.value < -0.5
    exploited &= hacked.reward > 1.0
    assert float((hacked.reward + hacked.value)[exploited].mean()) == pytest.approx(1.2, abs=0.02)
    low = hacked.value < 0.35
    assert float(((hacked.reward - hacked.value).abs() > 0.45)[low].float().mean()) == pytest.approx(0.05, abs=0.005)


def test_fresh_errors_are_drawn_at_every_look_and_frozen_ones_are_not() -> None:
    for frozen in (True, False):
        worlds = tiny(frozen=frozen)
        settings = Settings(prompts=5, samples=3, steps=2)
        luck = Luck.of(worlds, settings)
        assert worlds.fresh is not frozen and (luck.normal is None) is frozen
        contexts, actions = luck.contexts[0], torch.zeros(2, 5, 3, dtype=torch.long)
        one, two = (worlds.look(contexts, actions, luck.normal[i] if worlds.fresh else None) for i in (0, 1))
        assert torch.equal(one, two) is frozen


@pytest.mark.parametrize("start", ["uniform", "peaked"])
def test_blind_top_has_two_equal_top_ranks(start: str) -> None:
    worlds = stack([world("blind_top", seed, start=start) for seed in range(16)])
    policy = Policy(worlds, Settings(samples=5))
    rollouts = [roll(policy, Luck.of(worlds, Settings(samples=5, steps=10)), step) for step in range(10)]
    by_rank = torch.stack(
        [
            pick(worlds.value, r.contexts).gather(-1, r.actions).gather(-1, r.rewards.argsort(-1, descending=True))
            for r in rollouts
        ]
    ).mean((0, 1, 2))
    assert by_rank.tolist() == pytest.approx([0.70, 0.70, 0.53, 0.27, 0.07], abs=0.06)


# ── Training ──


def test_arms_keep_what_they_say() -> None:
    rewards = torch.tensor([[[0.1, 0.9, 0.5, 0.3, 0.7]]])  # ranks 5 1 3 4 2
    rng = torch.Generator().manual_seed(0)

    def kept(name: str) -> list[float]:
        arm = ARMS[name]
        return arm.counts(arm.build(5), rewards, rewards, 0, rng).flatten().tolist()

    fifth, half = pytest.approx([0.2] * 5), 0.5
    assert kept("none") == fifth
    assert kept("best_of_n") == [0, half, 0, 0, half]
    assert kept("best_worst") == kept("max_variance") == [half, half, 0, 0, 0]
    assert kept("ranks_2_and_last") == [half, 0, 0, 0, half]
    assert kept("ranks_2_and_last_but_1") == [0, 0, 0, half, half]
    assert sorted(kept("random")) == [0, 0, 0, half, half]
    assert ranks(1, -1)(3) == {"weights": [1.0, 0.0, 1.0]}


def test_the_gradient_by_logits_is_that_of_the_log_probability() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    actions, coefficient = torch.randint(4, (2, 3, 5)), torch.randn(2, 3, 5)
    (coefficient * logits.log_softmax(-1).gather(-1, actions)).sum().backward()
    assert torch.allclose(by_logit(logits.softmax(-1).detach(), actions, coefficient), logits.grad, atol=1e-6)


@pytest.mark.parametrize("settings", WAYS, ids=lambda s: s.policy)
def test_a_small_step_raises_the_value_by_the_slope(settings: Settings) -> None:
    """d/dt of the mean value along the exact gradient is the gradient's squared length, by C for the mean."""
    policy = Policy(tiny(start="peaked"), replace(settings, learning_rate=1e-3))
    chances, value = policy.everywhere(), policy.worlds.value
    truth = chances * (value - (chances * value).sum(-1, keepdim=True))
    gradient = policy.gradient(torch.arange(40).expand(2, -1), truth)
    before = (chances * value).sum(-1).mean(-1)
    policy.climb(gradient)
    after = (policy.everywhere() * value).sum(-1).mean(-1)
    expected = 1e-3 * gradient.square().sum((1, 2)) / 40
    assert torch.allclose(after - before, expected, rtol=0.05)


def test_adam_and_normed_steps_have_a_length_of_their_own() -> None:
    for optimizer, length in (("adam", 0.1 * (40 * 6) ** 0.5), ("normed", 0.1)):
        for size in (1.0, 1000.0):
            policy = Policy(tiny(), Settings(optimizer=optimizer, learning_rate=0.1))
            policy.climb(size * torch.ones_like(policy.learnt))
            assert policy.learnt.square().sum((1, 2)).sqrt().tolist() == pytest.approx([length] * 2)


def test_advantages() -> None:
    policy = Policy(tiny(), Settings(prompts=1, samples=4))
    rollout = roll(policy, Luck.of(policy.worlds, Settings(prompts=1, samples=4, steps=1)), 0)
    rollout.rewards = torch.tensor([[[1.0, 2.0, 3.0, 6.0]], [[1.0, 2.0, 3.0, 6.0]]])
    counts = torch.tensor([[[0.5, 0.0, 0.0, 0.5]]]).expand(2, -1, -1)

    def of(baseline: str, whiten: bool = False) -> list[float]:
        trainer = Trainer(policy)
        policy.settings = replace(policy.settings, baseline=baseline, whiten=whiten)
        return trainer.advantages(rollout, counts)[0, 0].tolist()

    assert of("group") == [-2, -1, 0, 3]  # mean 3
    assert of("kept") == of("batch") == [-2.5, -1.5, -0.5, 2.5]  # mean of 1 and 6: 3.5
    assert of("critic") == [1, 2, 3, 6]  # it knows nothing yet
    assert [of("group", True)[i] for i in (0, 3)] == pytest.approx([-1, 1])  # two values, whitened


def test_the_critic_learns_the_mean_reward() -> None:
    worlds = tiny()
    worlds.reward += 5.0
    settings = Settings(baseline="critic", samples=4, steps=300)
    trainer, luck = Trainer(Policy(worlds, settings)), Luck.of(worlds, settings)
    sizes = []
    for step in range(300):
        rollout = roll(trainer.policy, luck, step)
        sizes.append(trainer.advantages(rollout, torch.full((2, 32, 4), 0.25)).mean((1, 2)).square().mean())
    assert sizes[0] > 20 and torch.stack(sizes[-20:]).mean() < 0.1  # from 5 squared to what a rollout's luck leaves


def test_without_errors_every_way_learns() -> None:
    worlds = stack([world("none", seed, n_contexts=100) for seed in range(4)])
    best = float(worlds.value.max(-1).values.mean())
    for arm in ("none", "best_worst"):
        settings = Settings()
        value = train(Policy(worlds, settings), [ARMS[arm]], Luck.of(worlds, settings), [150])["value"]
        assert float(value.mean()) > 0.7 * best


def test_names_of_actions_do_not_matter() -> None:
    """A permutation of the actions, of tables and of nothing else, leaves a policy's exact gradient in place."""
    worlds, order = tiny(start="peaked"), torch.tensor([3, 1, 5, 0, 2, 4])
    other = replace_actions(worlds, order)
    for settings in WAYS:
        one, two = (measured_target(Policy(w, settings)) for w in (worlds, other))
        assert torch.allclose(one[..., order] if settings.policy == "tabular" else one, two, atol=1e-5)


def replace_actions(worlds: Worlds, order: torch.Tensor) -> Worlds:
    tables = {n: getattr(worlds, n)[..., order] for n in ("value", "reward", "noise", "start")}
    return Worlds(context=worlds.context, action=worlds.action[:, order], seeds=worlds.seeds, **tables)


def measured_target(policy: Policy) -> torch.Tensor:
    chances, value = policy.everywhere(), policy.worlds.value
    truth = chances * (value - (chances * value).sum(-1, keepdim=True))
    return policy.gradient(torch.arange(value.shape[1]).expand(len(value), -1), truth)


def test_more_minibatches_are_more_updates() -> None:
    worlds = tiny()
    for split, n_updates in ((None, 1), (2, 4), (4, 2)):
        settings = Settings(optimizer="adam", split=split, prompts=8, samples=8, steps=3)
        policy = Policy(worlds, settings)
        train(policy, [ARMS["none"]], Luck.of(worlds, settings), [3])
        assert policy.updates == 3 * n_updates


def test_the_same_seed_is_the_same_run_and_a_fork_goes_on() -> None:
    worlds, settings = tiny(frozen=False), Settings("shared", "adam", 0.05, prompts=8, steps=6)
    luck = Luck.of(worlds, settings)
    whole, again = (train(Policy(worlds, settings), [ARMS["best_worst"]], luck, [3, 6])["value"] for _ in range(2))
    assert torch.equal(whole, again)
    policy = Policy(worlds, settings)
    train(policy, [ARMS["best_worst"]], luck, [3])
    fork = policy.copy()
    train(policy, [ARMS["none"]], luck, [6], first=3)
    assert torch.equal(train(fork, [ARMS["best_worst"]], luck, [6], first=3)["value"][0], whole[1])


def test_each_world_can_have_an_arm_of_its_own_and_a_filter_that_learns() -> None:
    worlds, settings = tiny(), Settings(prompts=8, steps=4)
    luck, arms = Luck.of(worlds, settings), [ARMS["none"], ARMS["best_worst"]]
    mixed = train(Policy(worlds, settings), arms, luck, [4], lambda step, policy: torch.tensor([0, 1]))["value"][0]
    alone = [train(Policy(worlds, settings), [arm], luck, [4])["value"][0] for arm in arms]
    assert mixed.tolist() == pytest.approx([float(alone[0][0]), float(alone[1][1])], abs=1e-6)
    learning = train(Policy(worlds, settings), [Arm("adaptive", learns=True)], luck, [4])["value"][0]
    assert learning.tolist() == pytest.approx(alone[1].tolist(), abs=1e-6)  # it starts as best_worst


# ── Criteria and comparisons ──


def test_criteria_by_hand() -> None:
    """One context, four actions in a row: rewards and values are known."""
    worlds, settings = tiny("none"), Settings(prompts=30, steps=2, samples=4)
    found = measures.measure(Policy(worlds, settings), Luck.of(worlds, settings), {"none": ARMS["none"]})
    # Rewards are the values: every correlation is 1, and the gain is their standard deviation within prompts.
    for name in ("within_r2", "within_spearman", "pairwise_accuracy", "spearman"):
        assert found[name][:, 0].tolist() == pytest.approx([1.0, 1.0])
    assert found["signal_to_noise"][:, 0].tolist() == pytest.approx((2 * found["gain"][:, 0]).tolist())
    assert found["gain_root_k"][:, 0].tolist() == pytest.approx((2 * found["gain"][:, 0]).tolist())
    assert (found["cosine"] > 0.5).all() and (found["cosine"] <= 1).all()


def test_rank_correlation_regret_and_interval() -> None:
    result = np.array([[0.1, 0.4, 0.2], [0.5, 0.5, 0.5]])
    criterion = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    assert measures.rank_correlation(criterion, result).tolist() == [1.0, 0.0]
    assert measures.rank_correlation(-criterion, result)[0] == -1.0
    assert measures.regret(-criterion, result).tolist() == pytest.approx([0.3, 0.0])
    assert measures.mean_interval(np.full(5, 0.25)) == [0.25, 0.25, 0.25]
    mean, low, high = measures.mean_interval(np.arange(100) / 100)
    # standard error of the mean of 0 ... .99: .2887 / 10
    assert (mean, low, high) == (0.495, pytest.approx(0.495 - 0.0566, abs=0.005), pytest.approx(0.5516, abs=0.005))


def test_value_at_equal_reward() -> None:
    run = {"reward": np.array([[0.0], [1.0], [0.5], [2.0]]), "value": np.array([[0.0], [0.4], [0.9], [0.8]])}
    assert bandit.at_reward(run, np.array([0.5])).tolist() == pytest.approx([0.2])


# ── The commands, tiny ──


def test_bandit_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandit, "Settings", lambda: Settings(steps=20, prompts=8))
    bandit.main(["--seeds", "2", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "bandit.json").read_text())
    assert results["flat, frozen"]["random"]["end"]["difference"] == [0.0, 0.0, 0.0]
    assert "`best_worst`" in (tmp_path / "bandit.md").read_text()
    assert (tmp_path / "bandit.svg").read_text().startswith("<?xml")


def test_criteria_run_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "WAYS", {"shared, adam": Settings("shared", "adam", 0.02, whiten=True)})
    for name, small in (("BRANCHES", (2,)), ("FOLLOWED", ("gain",)), ("PROBE", 2), ("N_SAMPLES", (4,))):
        monkeypatch.setattr(criteria, name, small)
    first = criteria.run(2, at=(2, 4), kept=tmp_path)
    assert first["all"]["worlds"] == 4 and first["all"]["spearman"] == first["shared, adam"]["spearman"]
    monkeypatch.setattr(criteria, "study", None)  # all parts are there
    assert criteria.run(2, at=(2, 4), kept=tmp_path) == first
    assert "always best_worst" in criteria.tables(first)


def test_reversal_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reversal, "OTHER", {"optimizer": ("sgd",), "policy": ("tabular",), "baseline": ("kept",)})
    monkeypatch.setattr(reversal, "TOGETHER", ("optimizer", "policy"))
    monkeypatch.setitem(reversal.BASE, "prompts", 8)
    one = reversal.one_change(range(2), (1, 2, 4))
    assert one["criteria"]["gain"]["none"] == one["criteria"]["gain"]["random"]
    monkeypatch.setattr(reversal, "PAIRS", ())
    both = reversal.together(range(2), (1, 2))
    assert both["combinations"] == 8
    assert "optimizer: sgd" in reversal.tables({"one change": one, "together": both})


def test_sizes_run_and_compare_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "ERRORS", ("flat",))
    monkeypatch.setattr(sizes, "AT", (1, 3))
    monkeypatch.setattr(sizes, "SAMPLES", (3, 8))
    monkeypatch.setattr(sizes, "KEPT", (2, 4))
    found = sizes.run(range(2))
    assert list(found) == ["flat, sgd", "flat, adam"]
    tables = found["flat, sgd"]
    assert list(tables["by_samples"]) == ["2 of 3", "2 of 8"] and list(tables["by_kept"]) == ["2 of 8", "4 of 8"]
    again = tables["by_kept"]["2 of 8"], tables["by_samples"]["2 of 8"]
    assert again[0]["to none"] == again[1]["to none"] and again[0]["to random"] == again[1]["to random"]
    text = sizes.markdown(found)
    assert "| flat, adam | to none, 1 steps | to none, 3 steps | to random, 1 steps | to random, 3 steps |" in text


def test_scaled_samples_count_as_much_as_drawn_ones() -> None:
    """Mean counts of ``resample`` over many draws are those of ``reweight``."""
    rewards = torch.rand(1, 2000, 4).argsort(-1).float()
    generator = torch.Generator().manual_seed(0)
    seen = {}
    for mode in ("select", "resample", "reweight"):
        arm = Arm("best_random", mode=mode)
        counts = arm.counts(arm.build(4), rewards, rewards, 0, generator)
        assert counts.sum(-1).mean() == pytest.approx(1)
        seen[mode] = torch.stack([counts[rewards == rank].mean() for rank in range(4)])
    assert seen["reweight"].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    for mode in ("select", "resample"):
        assert seen[mode].tolist() == pytest.approx(seen["reweight"].tolist(), abs=0.03)
