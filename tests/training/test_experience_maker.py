"""The experience maker's own logic on OpenRLHF's own Experience class, with the models' answers computed in place."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openrlhf")

from openrlhf.models import PolicyLoss
from openrlhf.trainer.ppo_utils.experience import split_experience_batch
from rollouts import without_a_cluster  # noqa: F401 (a fixture)
from rollouts import HAS_FLASH_REINFORCE, make_maker, rollout_of, sample, trained_tokens

from openrlhf_pf import rollout_log
from openrlhf_pf.training.experience_maker import NothingToTrain
from openrlhf_pf.training.flags.sample_filter import BASELINE_ESTIMATORS
from openrlhf_pf.training.rewards import center_rewards

NAN = float("nan")
CORRECTION = [f"is_correction_{name}" for name in ("level", "mode", "gating", "threshold")]


# ── Who sees what ──


@pytest.mark.parametrize("dynamic", [False, True])
def test_scores_come_back_in_the_order_of_the_samples(dynamic):
    settings = {"actor.num_nodes": 1, "actor.num_gpus_per_node": 1, "rollout.max_tokens_per_gpu": 6}
    maker = make_maker(**{"train.dynamic_batch_enable": dynamic} | settings)
    samples = [sample(g, None, token=10 * g + t) for g in range(2) for t in (3, 1, 4, 2)]
    assert maker.forward_rewards(samples).tolist() == [3, 1, 4, 2, 13, 11, 14, 12]
    assert all(s.index is None for s in samples), "a sample gets its place when it is kept"


def test_the_filter_acts_on_the_reward_models_score_not_on_the_penalised_one():
    # The best response is truncated and would be worth -5 after OpenRLHF's penalty; it is still the best.
    maker = make_maker(local_reward=False, **{"reward.stop_properly_penalty_coef": -5.0, "sample_filter": "best_of_n"})
    samples = rollout_of([[1.0, 9.0, 2.0, 3.0]] * 4)
    for s in samples:
        s.truncated = torch.tensor([float(s.rewards) == 9.0])
    experiences = maker.make_experience_batch(samples)
    assert trained_tokens(experiences) == [2, 102, 202, 302]
    assert torch.cat([e.rewards for e in experiences]).tolist() == [-5.0] * 4
    assert [float(s.rewards) for s in samples[:4]] == [1.0, 9.0, 2.0, 3.0]


@pytest.mark.parametrize("ranks, prompts, forwarded", [(1, 2, [[2, 2]]), (4, 1, [[1], [1], [1], [1]])])
def test_a_sample_drawn_twice_is_forwarded_once_and_trains_twice(ranks, prompts, forwarded):
    """Best and worst are drawn twice. Those of one prompt go forward as 4 for 4 ranks; the copies do not train."""
    weights = {"sample_filter_options": ["weights=0.5,0,0,0.5"], "sample_filter_keep": 4}
    maker = make_maker(ranks, local_reward=False, sample_filter="rank_weights", **weights)
    experiences = maker.make_experience_batch(rollout_of([[1.0, 2.0, 3.0, 4.0]] * prompts))
    assert maker.actor_model_group.calls == [forwarded]
    assert trained_tokens(experiences) == [1, 1, 4, 4, 101, 101, 104, 104][: 4 * prompts]
    assert maker.metrics["filter/kept_rank_1"] == maker.metrics["filter/kept_rank_4"] == 2.0


def test_no_field_of_a_kept_sample_is_left_behind_or_changed():
    samples = rollout_of([[1.0, 2.0, 3.0, 4.0]] * 2, scores=[[0.0, 1.0, 0.0, 1.0]] * 2)
    for place, s in enumerate(samples):
        s.info |= {"place": torch.tensor([float(place)]), "score": s.scores}
        s.labels, s.response_length = [f"label {place}"], torch.tensor([place])
    before = {int(s.sequences[0, 0]): s for s in samples}
    for experience in make_maker(local_reward=False).make_experience_batch(samples):
        for row, token in enumerate(experience.sequences[:, 0].tolist()):
            origin = before[token]
            assert torch.equal(experience.sequences[row], origin.sequences[0])
            assert torch.equal(experience.action_mask[row], origin.action_mask[0])
            assert experience.rewards[row] == origin.rewards[0] and experience.scores[row] == origin.scores[0]
            assert experience.labels[row] == origin.labels[0] and experience.prompts[row] == origin.prompts[0]
            assert experience.response_length[row] == origin.response_length[0]
            assert experience.info["place"][row] == origin.info["place"][0]
        sizes = {len(value) for value in vars(experience).values() if isinstance(value, torch.Tensor | list)}
        assert sizes == {len(experience.sequences)}


# ── Rewards that are missing ──


def test_missing_and_nan_rewards_are_dropped_and_counted():
    maker = make_maker(local_reward=False)
    experiences = maker.make_experience_batch(
        rollout_of([[None, 2.0, NAN, 4.0], [1.0, None, None, NAN], [1.0, 2.0, 3.0, 4.0]])
    )
    assert trained_tokens(experiences) == [2, 4, 201, 204]
    assert maker.metrics["filter/unusable_rewards"] == 5
    assert maker.metrics["filter/dropped_prompts"] == 1


def test_extra_logs_that_some_samples_lack_do_not_train_and_stay_in_the_rollout():
    maker = make_maker(local_reward=False)
    samples = rollout_of([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]], scores=[[1.0] * 4] * 2)
    for place, one in enumerate(samples):
        one.info |= {"all": torch.tensor([float(place)])} | ({"some": torch.tensor([5.0])} if place % 4 == 0 else {})
    samples[0].scores, samples[0].info = None, {k: v for k, v in samples[0].info.items() if k != "score"}
    experiences = maker.make_experience_batch(samples)
    for experience in experiences:
        split_experience_batch(experience)  # as OpenRLHF's buffer does
        assert "all" in experience.info and "some" not in experience.info and "score" not in experience.info
    assert set(maker.rollout.extra_logs) == {"all", "some"} and maker.rollout.scores is not None


# ── Groups ──


def test_a_prompt_that_the_data_set_holds_twice_stays_two_groups():
    samples = rollout_of([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    for s in samples:
        s.prompts = ["the same"]
    assert trained_tokens(make_maker(local_reward=False).make_experience_batch(samples)) == [1, 4, 101, 104]


@pytest.mark.parametrize("cut", [slice(1, None), slice(None, -1)])
def test_samples_of_a_prompt_that_are_not_side_by_side_are_an_error(cut):
    with pytest.raises(RuntimeError, match="side by side"):
        make_maker(local_reward=False).make_experience_batch(rollout_of([[1.0, 2.0, 3.0, 4.0]] * 2)[cut])


def test_the_choice_depends_neither_on_arrival_order_nor_on_the_number_of_ranks():
    rewards = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).tolist()

    def chosen(order, ranks, step=3):
        maker = make_maker(ranks, local_reward=False, sample_filter="best_random")
        maker.step = step
        samples = rollout_of(rewards)
        return trained_tokens(maker.make_experience_batch([s for g in order for s in samples[4 * g : 4 * g + 4]]))

    unbroken = chosen(range(8), ranks=1)
    assert unbroken == chosen([5, 2, 7, 0, 1, 6, 3, 4], ranks=1) == chosen(range(8), ranks=4)
    assert unbroken != chosen(range(8), ranks=1, step=4)


def test_more_ranks_drop_more_of_the_same_choice():
    # Of 7 prompts x 2, in micro-batches of 2, one rank trains 7 prompts, two 6, five 5 and four 4.
    rewards = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).tolist()

    def chosen(ranks):
        settings = {"sample_filter": "best_random", "train.micro_batch_size": 2}
        maker = make_maker(ranks, local_reward=False, **settings)
        return set(trained_tokens(maker.make_experience_batch(rollout_of(rewards))))

    four, five, two, one = map(chosen, (4, 5, 2, 1))
    assert four < five < two < one


# ── Ranks ──


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_rank_of_every_model_gets_the_same_whole_number_of_micro_batches(data):
    n = data.draw(st.integers(2, 5))
    keep = data.draw(st.integers(1, n))
    ranks, critic_ranks, reward_ranks = (data.draw(st.sampled_from([1, 2, 3, 4])) for _ in range(3))
    micro_train, micro_rollout = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    prompts = data.draw(st.integers(1, 13))
    sizes = {"rollout.n_samples_per_prompt": n, "rollout.micro_batch_size": micro_rollout}
    chosen = {"sample_filter": "best_random", "sample_filter_keep": keep, "train.micro_batch_size": micro_train}
    maker = make_maker(ranks, critic_ranks, reward_ranks, **sizes, **chosen)
    samples = [sample(g, None, token=data.draw(st.integers(1, 50))) for g in range(prompts) for _ in range(n)]
    unit = math.lcm(ranks, critic_ranks) * micro_train
    expected = max(g * keep for g in range(prompts + 1) if g * keep % unit == 0)
    try:
        experiences = maker.make_experience_batch(samples)
    except NothingToTrain:
        assert expected == 0
        return
    sizes = [len(experience.sequences) for experience in experiences]
    assert sum(sizes) == expected
    for model, its_ranks in ((maker.actor_model_group, ranks), (maker.critic_model_group, critic_ranks)):
        (call,) = model.calls
        assert len({len(share) for share in call}) == 1, "forward passes differ between ranks"
        share = math.ceil(len(sizes) / its_ranks)  # what append hands to each rank's replay buffer
        per_rank = [sum(sizes[r * share : (r + 1) * share]) for r in range(its_ranks)]
        assert len(set(per_rank)) == 1 and per_rank[0] % micro_train == 0
    (call,) = maker.reward_model_group.calls
    assert len({len(share) for share in call}) == 1 and call[0]
    assert all(s.rewards is not None for s in samples)


def test_dynamic_batches_train_whole_optimizer_steps_and_leave_the_split_to_openrlhf():
    dynamic = {"train.dynamic_batch_enable": True, "train.batch_size": 6, "rollout.max_tokens_per_gpu": 6}
    maker = make_maker(ranks=2, critic_ranks=2, **dynamic, **{"actor.num_nodes": 1, "actor.num_gpus_per_node": 2})
    samples = [sample(g, None, token=1 + 10 * g + n) for g in range(5) for n in range(4)]
    experiences = maker.make_experience_batch(samples)
    # Of 5 prompts x 2 kept = 10 samples, 6 make one optimizer step of both ranks; two samples fill 6 tokens.
    assert sum(len(e.sequences) for e in experiences) == 6 and len(experiences) % 2 == 0
    assert maker.metrics["filter/dropped_prompts"] == 2
    assert sum(map(sum, maker.reward_model_group.calls[0])) == 20


# ── Draws and scopes ──


def test_the_batch_keeps_what_passes_however_it_falls_on_prompts():
    # Above 3.5: 4 9 8 of the first prompt, none of the second, 5 of the third; G k = 6 may train, 2 x 2 share 4.
    top = {"sample_filter": "top", "sample_filter_options": ["high=3.5"], "train.micro_batch_size": 2}
    maker = make_maker(2, local_reward=False, **top)
    rewards = [[4.0, 9.0, 8.0, 1.0], [0.0, 1.0, 2.0, 3.0], [5.0, 1.0, 1.0, 1.0]]
    experiences = maker.make_experience_batch(rollout_of(rewards))
    assert trained_tokens(experiences) == [1, 2, 3, 201]
    assert maker.metrics["filter/dropped_prompts"] == 1 and maker.metrics["filter/kept_fraction"] == 4 / 12


def test_in_batch_scope_as_few_samples_as_possible_are_trimmed_and_at_random():
    trained = set()
    for step in range(40):
        maker = make_maker(2, local_reward=False, sample_filter="top", sample_filter_options=["high=0.5"])
        maker.step = step
        kept = trained_tokens(maker.make_experience_batch(rollout_of([[1.0, 1.0, 1.0, 0.0], [0.0] * 4])))
        assert len(kept) == 2 and set(kept) < {1, 2, 3}
        trained |= set(kept)
    assert trained == {1, 2, 3}


def test_thresholds_that_no_sample_passes_train_nothing_and_say_so():
    maker = make_maker(local_reward=False, sample_filter="top", sample_filter_options=["high=5.0"])
    words = "--sample_filter top keeps no sample among rewards from 1 to 4: check its options"
    with pytest.raises(NothingToTrain, match=words):
        maker.make_experience_batch(rollout_of([[1.0, 2.0, 3.0, 4.0]]))


def test_reweighted_advantages_follow_the_weights_after_whitening():
    settings = {"sample_filter": "rank_weights", "sample_filter_options": ["weights=6,3,1,0"]}
    whitened = {"algo.advantage.no_std_norm": False, "train.batch_size": 3, "rollout.micro_batch_size": 3}
    rewards = [[1.0, 2.0, 3.0, 4.0]]
    plain = make_maker(
        local_reward=False, sample_filter="top", sample_filter_options=["high=1.5"], sample_filter_keep=3, **whitened
    )
    scaled = make_maker(local_reward=False, sample_filter_mode="reweight", **settings, **whitened)
    (before,) = plain.make_experience_batch(rollout_of(rewards))
    (after,) = scaled.make_experience_batch(rollout_of(rewards))
    assert before.sequences[:, 0].tolist() == after.sequences[:, 0].tolist() == [4, 3, 2]
    # The mean weight of the three is 1/3: scales 1.8, .9, .3.
    expected = before.advantages[:, -1] * torch.tensor([1.8, 0.9, 0.3])
    assert after.advantages[:, -1].tolist() == pytest.approx(expected.tolist())
    assert before.advantages[:, -1].std(unbiased=False) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(before.returns, after.returns), "the critic's target has no weight in it"


# ── What OpenRLHF masks after the draw ──


def correction(level, mode="mask"):
    flags = {"level": level, "mode": mode, "gating": "ratio", "threshold": [0.5, 5.0]}
    flags = {f"algo.advantage.is_correction_{name}": value for name, value in flags.items()}
    return {"train.batch_size": 8, "actor.policy_loss_type": "ppo", **flags}


def off_policy(log_probs):
    """One prompt a row of rewards 1 2 3 4, each with what vLLM's log-probability was; the actor's are 0."""
    samples = rollout_of([[1.0, 2.0, 3.0, 4.0]] * len(log_probs))
    for s, log_prob in zip(samples, [value for row in log_probs for value in row]):
        s.rollout_log_probs = torch.tensor([[0.0, log_prob]])
    return samples


@pytest.mark.skipif(not HAS_FLASH_REINFORCE, reason="this OpenRLHF has other flags for it")
@pytest.mark.parametrize("level, name", [("seq", "masked_samples"), ("token", "masked_tokens")])
def test_samples_that_openrlhf_masks_after_the_draw_are_counted(level, name):
    # Drawn twice each are best and worst. Ratios e^2 and e^-1 are outside of [.5, 5], e is inside; the middle ones are
    # not drawn. In the second prompt the worst is outside: two samples x two draws.
    twice = {"sample_filter_options": ["weights=0.5,0,0,0.5"], "sample_filter_keep": 4}
    maker = make_maker(local_reward=False, sample_filter="rank_weights", **twice, **correction(level))
    experiences = maker.make_experience_batch(off_policy([[-1.0, -9.0, -9.0, -2.0], [1.0, -9.0, -9.0, 0.0]]))
    assert maker.metrics[f"filter/{name}"] == 4
    loss = PolicyLoss(**{flag: getattr(maker.given.algo.advantage, flag) for flag in CORRECTION})
    still = 0  # samples that OpenRLHF's own loss gives no gradient
    for e in experiences:
        log_probs = e.action_log_probs.clone().requires_grad_()
        ones = torch.ones_like(log_probs)
        loss(log_probs, e.action_log_probs, ones, e.action_mask, e.rollout_log_probs)[0].backward()
        still += int((log_probs.grad.abs().sum(dim=1) == 0).sum())
    assert still == 4


@pytest.mark.parametrize(
    "settings",
    [{}, correction("off"), correction("token", "clip"), {**correction("seq"), "actor.policy_loss_type": "gspo"}],
)
def test_where_openrlhf_masks_nothing_there_is_no_count_of_it(settings):
    maker = make_maker(local_reward=False, **settings)
    maker.make_experience_batch(off_policy([[-9.0] * 4] * 4))
    assert not [name for name in maker.metrics if "masked" in name]


@pytest.mark.parametrize(
    "drop, settings, kept",
    [
        ("flat", {}, [0, 1, 3]),
        ("flat", {"sample_filter_drop_tolerance": 0.25}, [0, 3]),
        # Variances 3, .01, 0 and 1: the first holds 75%, the first and the last 99.8%. Means 1, 1.1, 2 and 6.
        ("variance_top_p", {}, [0, 3]),
        ("variance_top_p", {"sample_filter_drop_share": 0.7}, [0]),
        ("variance_top_p", {"sample_filter_drop_share": 1.0}, [0, 1, 3]),
        ("band", {"sample_filter_drop_band": [1.05, 2.0]}, [1, 2]),
    ],
)
def test_prompts_are_dropped_where_asked_and_counted(drop, settings, kept):
    rewards = [[0.0, 0.0, 0.0, 4.0], [1.0, 1.2, 1.0, 1.2], [2.0, 2.0, 2.0, 2.0], [5.0, 7.0, 5.0, 7.0]]
    maker = make_maker(2, local_reward=False, sample_filter="none", sample_filter_drop=drop, **settings)
    trained = trained_tokens(maker.make_experience_batch(rollout_of(rewards)))
    assert sorted(trained) == [100 * prompt + place + 1 for prompt in kept for place in range(4)]
    assert maker.metrics[f"filter/dropped_{drop}_prompts"] == maker.metrics["filter/dropped_prompts"] == 4 - len(kept)
    assert maker.metrics["filter/flat_groups"] == 1, "a metric of its own, without the tolerance"


def test_in_batch_scope_a_flat_prompt_gives_its_share_to_the_others():
    top = {"sample_filter": "top", "sample_filter_options": ["high=0.5"], "sample_filter_drop": "flat"}
    maker = make_maker(local_reward=False, **top)
    experiences = maker.make_experience_batch(rollout_of([[1.0] * 4, [1.0, 2.0, 3.0, 4.0]]))
    assert trained_tokens(experiences) == [101, 102, 103, 104]


# ── What a filter reports, several reward models ──


def test_what_a_filter_reports_is_logged_beside_our_metrics(caplog):
    maker = make_maker(local_reward=False, sample_filter="adaptive", sample_filter_options=["patience=1"])
    maker.make_experience_batch(rollout_of([[1.0, 2.0, 3.0, 4.0]] * 2, scores=[[0.0, 0.0, 1.0, 1.0]] * 2))
    assert maker.metrics["filter/gain_best_worst"] == pytest.approx(0.5) and maker.metrics["filter/strategy"] == 0
    maker.filter.log_message = "a message for the log"
    assert "filter/strategy" in maker._metrics_of_filter()
    assert "a message for the log" in caplog.text


ENSEMBLE = {"sample_filter_reward_models": "main,upside", "sample_filter_keep": 1, "train.batch_size": 1}


def test_every_reward_model_scores_every_sample_and_the_filter_sees_them():
    # The stand-in scores by the token; model "upside" turns the order of the tens around.
    maker = make_maker(sample_filter="ensemble_agreement", **ENSEMBLE)
    samples = [sample(0, None, token=token) for token in (10, 25, 30, 45)]
    experiences = maker.make_experience_batch(samples)
    assert maker.reward_model_group.models == [None, "upside"], "the main model scores once"
    models = maker.rollout.model_rewards
    assert models.shape == (2, 1, 4) and sorted(models[0, 0].tolist()) == [10, 25, 30, 45]
    # Ranks by main 0 1 2 3, by -|token - 28|: -18 -3 -2 -17: 0 2 3 1: both agree on sample 10 alone.
    assert trained_tokens(experiences) == [10]
    assert [float(s.rewards) for s in samples] == [10, 25, 30, 45]
    assert maker.metrics["filter/ensemble_spread"] > 0


def test_a_filter_may_rank_by_the_lower_bound_while_the_reward_trains():
    maker = make_maker(sample_filter="best_of_n", sample_filter_rank_by="lower_bound", **ENSEMBLE)
    experiences = maker.make_experience_batch([sample(0, None, token=token) for token in (10, 25, 30, 45)])
    # Means less deviations: (10, -18) -4 - 19.8, (25, -3) 11 - 19.8, (30, -2) 14 - 22.6, (45, -17) 14 - 43.8.
    assert trained_tokens(experiences) == [30]
    assert float(experiences[0].rewards) == 30.0
    assert maker.metrics["filter/kept_reward_mean"] == 30.0 and maker.metrics["filter/kept_rank_1"] == 1.0


# ── The rollout log ──


def test_the_log_records_every_sample_and_what_became_of_it(tmp_path):
    maker = make_maker(local_reward=False, sample_filter_log=str(tmp_path / "log"))
    for step in (0, 1):
        maker.step = step
        maker.make_experience_batch(rollout_of([[1.0, 2.0, float("nan"), 4.0], [5.0, 6.0, 7.0, 8.0]]))
    maker.log.close()
    table = rollout_log.read(tmp_path / "log").to_pandas()
    assert table.step.tolist() == [1] * 8 + [2] * 8
    first = table[table.step == 1].sort_values(["prompt", "reward"])
    assert first.reward.tolist() == pytest.approx([1.0, 2.0, 4.0, NAN, 5.0, 6.0, 7.0, 8.0], nan_ok=True)
    assert first.kept.tolist() == [True, False, True, False, True, False, False, True]
    assert first["rank"].fillna(0).tolist() == [3, 2, 1, 0, 4, 3, 2, 1]


# ── Metrics ──


def test_metrics_of_two_prompts_by_hand():
    maker = make_maker(local_reward=False)
    rewards, scores = [[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]], [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    maker.make_experience_batch(rollout_of(rewards, scores))
    metrics = maker.metrics
    assert metrics["filter/kept_fraction"] == 0.5
    assert metrics["filter/kept_reward_mean"] == 3.75  # (4 + 1 + 5 + 5) / 4
    assert metrics["filter/reward_gap"] == 1.5  # (3 + 0) / 2
    assert metrics["filter/flat_groups"] == 1
    assert [metrics[f"filter/kept_rank_{r}"] for r in (1, 2, 3, 4)] == [1.0, 0.0, 0.0, 1.0]
    # All: rewards minus 3.75 against scores minus .75: sxy = 4.5, sxx = 17.5, syy = 1.5.
    assert metrics["filter/r2_all"] == pytest.approx(4.5**2 / (17.5 * 1.5))
    # Kept rewards 4 1 5 5, scores 1 0 1 1: sxy = 2.75, sxx = 10.75, syy = .75.
    assert metrics["filter/r2_kept"] == pytest.approx(2.75**2 / (10.75 * 0.75))


def test_scores_that_openrlhf_copied_from_the_rewards_make_no_r2():
    maker = make_maker(local_reward=False)
    rewards = [[1.0, 2.0, 3.0, 4.0]] * 2
    maker.make_experience_batch(rollout_of(rewards, scores=rewards))
    assert "filter/r2_all" not in maker.metrics


def test_a_stop_rule_without_true_scores_says_once_that_it_cannot_act(caplog):
    maker = make_maker(local_reward=False, sample_filter_stop_below=0.5)
    for _ in range(2):
        maker.make_experience_batch(rollout_of([[1.0, 2.0, 3.0, 4.0]] * 2))
    said = [record.getMessage() for record in caplog.records if "--sample_filter_stop_below" in record.getMessage()]
    assert len(said) == 1 and "no true scores" in said[0]
    assert not [name for name in maker.metrics if "pairwise" in name]
    maker.make_experience_batch(rollout_of([[1.0, 2.0, 3.0, 4.0]] * 2, scores=[[0.0, 0.0, 1.0, 1.0]] * 2))
    assert maker.metrics["filter/pairwise_accuracy"] == 1.0


# ── Baselines of group estimators: by hand, and against OpenRLHF's own arithmetic ──

# Kept by best_worst: 10 and 0. The group: mean 6, n = 4, squares 16 + 1 + 1 + 36 = 54, n - 1 variance 18.
GROUP, OTHER, EIGHT = [10.0, 7.0, 7.0, 0.0], [2.0, 1.5, 1.0, -5.0], [4.0, 2.0, 1.0, -3.0]
FLASH = pytest.mark.skipif(not HAS_FLASH_REINFORCE, reason="this OpenRLHF has no flash_reinforce")
OVER_ALL = {"sample_filter_baseline": "group"}
BEST_OF_N = {"sample_filter": "best_of_n"}
REWEIGHTED = {"sample_filter": "best_random", "sample_filter_mode": "reweight"}
BY_SIZE = {"sample_filter": "reward_power", "sample_filter_options": ["power=1"], "sample_filter_mode": "reweight"}


def advantages(estimator, rewards=(GROUP,), in_lists=False, **flat):
    """The first token of each training sample, which names it, to its advantage."""
    flat = {"algo.advantage.estimator": estimator, "train.batch_size": 2, **flat}
    maker = make_maker(local_reward=False, **flat)
    samples = rollout_of(list(rewards))
    if in_lists:
        for sample in samples:
            sample.rewards = sample.rewards.unsqueeze(0)
    experiences = maker.make_experience_batch(samples)
    for experience in experiences:  # what is logged and what the next stage reads stays the reward
        assert sorted(experience.rewards.flatten().tolist()) == sorted(experience.info["reward"].flatten().tolist())
        assert set(experience.rewards.flatten().tolist()) <= {reward for group in rewards for reward in group}
    return {
        int(token): float(advantage)
        for experience in experiences
        for token, advantage in zip(experience.sequences[:, 0], experience.advantages[:, -1])
    }


def minus(mean, scales=(1, 1, 1, 1), *tokens):
    """The advantages of samples of GROUP and EIGHT over a mean, each scaled, by token."""
    of_token = {100 * g + n + 1: reward for g, group in enumerate((GROUP, EIGHT)) for n, reward in enumerate(group)}
    return {token: scale * (of_token[token] - mean) for token, scale in zip(tokens or of_token, scales)}


@pytest.mark.parametrize(
    "estimator, rewards, flags, expected",
    [
        ("rloo", [GROUP], {}, {1: 10, 4: -10}),
        # The mean of the other three: (7 + 7 + 0) / 3, (10 + 7 + 7) / 3.
        ("rloo", [GROUP], OVER_ALL, {1: 10 - 14 / 3, 4: 0 - 24 / 3}),
        ("dr_grpo", [GROUP], OVER_ALL, {1: 10 - 6, 4: 0 - 6}),
        ("group_norm", [GROUP], OVER_ALL, {1: 4 / 18**0.5, 4: -6 / 18**0.5}),
        # Whitened over the batch: less the mean of (5, -5), of (4, -6); no_std_norm leaves the size.
        ("reinforce_baseline", [GROUP], OVER_ALL, {1: 5, 4: -5}),
        # One kept sample has a baseline in its group.
        ("rloo", [GROUP, GROUP], OVER_ALL | BEST_OF_N, {1: 10 - 14 / 3, 101: 10 - 14 / 3}),
        # Usable 10 7 0: the others of 10 have the mean 3.5, those of 0 the mean 8.5.
        ("rloo", [[10.0, NAN, 7.0, 0.0]], OVER_ALL, {1: 6.5, 4: -8.5}),
        # best_random, k = 2: weights 1/2 1/6 1/6 1/6, mean 10/2 + 14/6 = 22/3; all train, scaled by 4 w.
        ("rloo", [GROUP], REWEIGHTED | {"train.batch_size": 4}, minus(22 / 3, (2, 2 / 3, 2 / 3, 2 / 3))),
    ],
)
def test_baselines_of_a_group_by_hand(estimator, rewards, flags, expected):
    assert advantages(estimator, rewards, **flags) == pytest.approx(expected, rel=1e-5, abs=1e-5)


KEPT, ALL = (10 + 0 + 2 - 5) / 4, (10 + 7 + 7 + 0 + 2 + 1.5 + 1 - 5) / 8


@FLASH
@pytest.mark.parametrize(
    "rewards, flags, expected",
    [
        ([GROUP, OTHER], {}, {1: 10 - KEPT, 4: 0 - KEPT, 101: 2 - KEPT, 104: -5 - KEPT}),
        ([GROUP, OTHER], OVER_ALL, {1: 10 - ALL, 4: 0 - ALL, 101: 2 - ALL, 104: -5 - ALL}),
        # What the baseline of the kept would hide: with best_of_n and equal bests it leaves no advantage at all.
        ([GROUP, GROUP], BEST_OF_N, {1: 0, 101: 0}),
        ([GROUP, GROUP], BEST_OF_N | OVER_ALL, {1: 4, 101: 4}),
        # The second prompt has one usable reward, too few for best_worst: it does not train, its reward counts.
        ([[10.0, NAN, 7.0, 0.0], [3.0, NAN, NAN, NAN]], OVER_ALL, {1: 10 - 5, 4: 0 - 5}),
        # best_random, k = 2: each prompt's weights are 1/2 1/6 1/6 1/6, and each prompt is half of the draws.
        (
            [GROUP, EIGHT],
            REWEIGHTED | {"train.batch_size": 8},
            minus(((10 / 2 + 14 / 6) + (4 / 2 + 0 / 6)) / 2, (2, 2 / 3, 2 / 3, 2 / 3) * 2),
        ),
        # reward_power 1: weights by size, 10 7 7 0 4 2 1 3 of 34; the one without weight does not train.
        (
            [GROUP, EIGHT],
            BY_SIZE | {"train.batch_size": 7},
            minus(210 / 34, [7 * w / 34 for w in (10, 7, 7, 4, 2, 1, 3)], 1, 2, 3, 101, 102, 103, 104),
        ),
    ],
)
def test_flash_reinforce_takes_one_baseline_for_the_whole_batch(rewards, flags, expected):
    """From the kept samples or from all of all prompts; reweighted, the mean that the draws would have."""
    found = advantages("flash_reinforce", rewards, **{"train.batch_size": len(expected), **flags})
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("flags", [{}, OVER_ALL])
def test_a_reward_function_may_answer_with_a_list(flags):
    """OpenRLHF makes a tensor of (1, 1) of ``{"rewards": [1.0]}``."""
    assert advantages("rloo", in_lists=True, **flags) == advantages("rloo", **flags)


def test_the_group_is_penalised_for_length_as_training_would_see_it():
    # The best is cut off and counts -5: the group is -5 7 7 0, and the others of 0 have the mean 3.
    penalty = {"algo.advantage.estimator": "rloo", "reward.stop_properly_penalty_coef": -5.0, "train.batch_size": 2}
    maker = make_maker(local_reward=False, **OVER_ALL, **penalty)
    samples = rollout_of([GROUP])
    samples[0].truncated = torch.tensor([True])
    (experience,) = maker.make_experience_batch(samples)
    found = dict(zip(experience.sequences[:, 0].tolist(), experience.advantages[:, -1].tolist()))
    assert found == {1: pytest.approx(-5 - 14 / 3), 4: pytest.approx(0 - 9 / 3)}
    assert sorted(experience.info["reward"].tolist()) == [-5.0, 0.0]


@pytest.mark.parametrize(
    "estimator", [pytest.param(e, marks=FLASH) if e == "flash_reinforce" else e for e in BASELINE_ESTIMATORS]
)
def test_over_the_kept_rectangle_our_arithmetic_is_openrlhfs(estimator):
    """`none` keeps all: the baseline of the kept is the baseline of the group, once by OpenRLHF and once by us."""
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).tolist()
    settings = {"sample_filter": "none", "train.batch_size": 4, "algo.advantage.no_std_norm": False}
    theirs, ours = (advantages(estimator, rewards, **settings, **flags) for flags in ({}, OVER_ALL))
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert len({round(value, 4) for value in ours.values()}) == 12


def test_a_prompt_without_shares_and_a_lonely_member_stay_finite():
    shares = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    result = center_rewards("group_norm", torch.tensor([[NAN, NAN], [3.0, NAN]]), shares, torch.tensor([0.0, 1.0]))
    assert result[1, 0] == 0
