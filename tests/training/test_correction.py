"""Few true scores correct the reward model: who is judged, what the head learns, when it is trusted."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

pytest.importorskip("openrlhf")

from openrlhf.models.model import _get_reward_model
from rollouts import Maker, make_maker, namespace, rollout_of, trained_tokens, without_a_cluster  # noqa: F401
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel

from openrlhf_pf.reliability.measures.metrics import count_pairs
from openrlhf_pf.training import flags as all_flags
from openrlhf_pf.training.correction import workers
from openrlhf_pf.training.correction.correction import NEEDED, WINDOW, Correction, Labelled
from openrlhf_pf.training.correction.head import (
    FOLDS,
    PENALTY,
    PENALTY_OF_REWARD,
    Head,
    cross_validate,
    fit_head,
    in_logits,
    log_loss,
    pairs_of,
    scale_to,
    slope_within,
    spread,
)
from openrlhf_pf.training.flags import sample_filter, true_scores
from openrlhf_pf.training.flags.true_scores import check_correction
from openrlhf_pf.training.rollout import Rollout

NAN = math.nan
TOKENIZER = SimpleNamespace(decode=lambda tokens, **_: " ".join(map(str, tokens)))
N = 4


@pytest.fixture
def judge(tmp_path):
    """A file whose true score is 1 where a response's first token is even, and fails where it is 13."""
    file = tmp_path / "judge.py"
    file.write_text(
        "def reward_func(queries, prompts, labels):\n"
        "    token = int(queries[0].split()[0])\n"
        "    if token == 13:\n"
        "        raise RuntimeError('no judge for 13')\n"
        "    return {'rewards': [float(token % 2 == 0)]}\n"
    )
    return str(file)


def flags(judge, **flat):
    given = {
        "sample_filter": "none",
        "sample_filter_correct": "head",
        "sample_filter_true_share": 0.5,
        "sample_filter_probe_score": judge,
        "ds.load_in_4bit": False,
    }
    return given | flat


def correction(judge, **flat):
    return Correction(namespace(**flags(judge, **flat)), seed=3)


def planted(prompts, seed=0, wrong=0.0, size=6, responses=5):
    """Rewards, states and 0/1 true scores, which the states tell linearly; ``wrong`` is what the reward gets wrong."""
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(prompts, responses, size)).astype(np.float32)
    truth, error = states[..., 0], states[..., 1]
    rewards = (truth - wrong * error).astype(np.float32)
    scores = (truth > np.median(truth, axis=1, keepdims=True)).astype(float)
    return rewards, states, scores


def accuracy(rewards, scores):
    right, total = count_pairs(rewards, scores)[0]
    return right.sum() / total.sum()


# ── The head ──


def test_the_loss_of_a_prompt_is_the_mean_over_its_pairs():
    rewards, scores = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 0.0], [1.0, 0.0, NAN]])
    pair = lambda margin: math.log(1 + math.exp(-margin))  # noqa: E731
    assert log_loss(rewards, scores).tolist() == pytest.approx([(pair(1) + pair(2)) / 2, pair(-1)])
    assert pairs_of(scores).sum(axis=(1, 2)).tolist() == [2, 1]


def test_the_head_is_the_minimum_of_the_penalised_bradley_terry_loss():
    rewards, states, scores = planted(12, wrong=1.0, size=2, responses=3)
    scores[0, 0] = NAN
    usable = pairs_of(scores).any(axis=(1, 2))
    rewards, states, scores = rewards[usable], states[usable], scores[usable]
    state_unit, reward_unit = spread(states) * math.sqrt(2), spread(rewards)

    def loss(x):
        found = rewards * (x[0] / reward_unit) + states @ (x[1:] / state_unit)
        return log_loss(found, scores).sum() + (PENALTY_OF_REWARD * x[0] ** 2 + PENALTY * (x[1:] ** 2).sum()) / 2

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 9999})
    head = fit_head(rewards, states, scores)
    assert head.gain == pytest.approx(best.x[0] / reward_unit, abs=2e-3)
    assert head.direction == pytest.approx(best.x[1:] / state_unit, abs=2e-3)


def test_a_constant_of_a_prompt_changes_nothing():
    rewards, states, scores = planted(20, wrong=1.0)
    constants = np.random.default_rng(1).normal(size=(20, 1)).astype(np.float32) * 3
    one, other = fit_head(rewards, states, scores), fit_head(
        rewards + constants, states + constants[..., None], scores
    )
    assert other.direction == pytest.approx(one.direction, abs=2e-3)
    assert other.gain == pytest.approx(one.gain, abs=2e-3)


def test_a_head_from_few_prompts_repairs_what_the_states_tell():
    train, test = planted(30, seed=1, wrong=2.0, size=16), planted(200, seed=2, wrong=2.0, size=16)
    plain = accuracy(test[0], test[2])
    assert plain < 0.7 < 0.9 < accuracy(fit_head(*train)(*test[:2]), test[2])


def test_the_scale_of_rewards_does_not_decide_what_is_learned():
    rewards, states, scores = planted(60, wrong=2.0)
    for scale in (0.01, 100.0):
        held_out = cross_validate(rewards * scale, states, scores, np.arange(60))
        assert accuracy(held_out, scores) > 0.85


def test_a_factor_brings_rewards_to_the_scale_of_the_loss():
    rewards, _, scores = planted(50)
    best = in_logits(rewards, scores)
    for factor in (0.001, 1000.0):
        np.testing.assert_allclose(in_logits(rewards * factor, scores), best, rtol=1e-3)
    assert log_loss(best, scores).sum() <= min(log_loss(rewards * f, scores).sum() for f in (0.1, 0.5, 1, 2, 5, 10))
    assert np.abs(in_logits(-rewards, scores)).max() < 1e-3, "rewards the wrong way round are worth nothing"


def test_cross_validation_leaves_equal_prompts_out_together():
    # A state tells which response it is and nothing else: only a head that has seen it orders the prompt right.
    states = np.eye(80, dtype=np.float32).reshape(20, 4, 80)
    scores = np.array([np.random.default_rng(i).permutation([0.0, 0.0, 1.0, 1.0]) for i in range(20)])
    twice = [np.concatenate([x, x]) for x in (np.zeros((20, 4)), states, scores)]
    numbers = np.arange(20)
    apart = accuracy(cross_validate(*twice, np.concatenate([numbers, numbers])), twice[2])
    leaking = accuracy(cross_validate(*twice, np.concatenate([numbers, 20 + np.roll(numbers, 1)])), twice[2])
    assert apart == pytest.approx(0.5, abs=0.05) and leaking == 1
    assert FOLDS == 5


def test_corrected_rewards_get_the_mean_and_the_spread_within_prompts_of_the_given_ones():
    rewards, states, scores = planted(30, wrong=2.0)
    rewards = rewards * 3 + 7
    head = fit_head(rewards, states, scores)
    corrected = head.scaled(*scale_to(head(rewards, states), rewards))(rewards, states)
    assert spread(corrected) == pytest.approx(spread(rewards), rel=1e-4)
    assert corrected.mean() == pytest.approx(rewards.mean(), rel=1e-4)
    assert scale_to(corrected, rewards) == pytest.approx((1, 0), abs=1e-4)
    whole = scale_to(head(rewards[1:], states[1:]), rewards[1:])
    rewards[0, 0] = NAN
    assert scale_to(head(rewards, states), rewards) == whole, "a prompt with NaN does not count"
    assert scale_to(np.zeros((3, 5)), rewards[1:4]) == (1, 0), "no spread to scale"


def test_the_slope_is_the_regression_of_true_scores_on_rewards_within_prompts():
    rewards = np.array([[0.0, 1.0, 2.0, 9.0], [5.0, 5.0, 7.0, 7.0]])
    scores = np.array([[0.0, 0.0, 1.0, NAN], [1.0, 0.0, 1.0, 1.0]])
    apart, true = [-1, 0, 1, -1, -1, 1, 1], [-1 / 3, -1 / 3, 2 / 3, 0.25, -0.75, 0.25, 0.25]
    expected = np.dot(apart, true) / np.dot(apart, apart)
    ratio = (np.dot(true, true) / np.dot(apart, apart)) ** 0.5
    assert slope_within(rewards, scores, 0.1) == pytest.approx((expected, expected / ratio))
    assert slope_within(-rewards, scores, 0.1) == pytest.approx((0.1 * ratio, 0.1)), "the correlation is at least that"
    assert slope_within(np.zeros((2, 4)), scores, 0.1) == slope_within(rewards, np.zeros((2, 4)), 0.1) == (0, 0.1)


# ── Who is judged ──


@pytest.mark.parametrize("share, prompts, number", [(0.5, 8, 4), (0.05, 64, 3), (0.01, 8, 1), (1.0, 8, 8)])
def test_a_share_of_the_prompts_is_labelled_at_least_one(judge, share, prompts, number):
    found = correction(judge, sample_filter_true_share=share)
    steps = [found.choose(prompts, step) for step in range(20)]
    assert {len(chosen) for chosen in steps} == {number} and all(len(set(c)) == number for c in steps)
    assert steps == [correction(judge, sample_filter_true_share=share).choose(prompts, step) for step in range(20)]
    if number < prompts:
        assert len({tuple(chosen) for chosen in steps}) > 1, "other prompts in other steps"


def observed(judge, rewards=None, states=None, tokens=None, share=1.0, prompts=2):
    """A correction that has learned from one rollout, and the rollout."""
    found = correction(judge, sample_filter_true_share=share)
    samples = rollout_of([[1.0] * N] * prompts)  # tokens 1 to 4, 101 to 104, ...
    for place, token in (tokens or {}).items():
        samples[place].sequences[0, 0] = token
    rollout = Rollout(samples, N)
    rewards = np.tile(np.arange(N, dtype=np.float32), (prompts, 1)) if rewards is None else rewards
    states = np.random.default_rng(0).normal(size=(prompts, N, 3)).astype(np.float32) if states is None else states
    found.learn(rollout, rewards, states, 0, TOKENIZER)
    return found, rollout


def test_whole_groups_are_judged(judge):
    found, rollout = observed(judge, share=0.5, prompts=4)
    judged = rollout.scores
    assert np.isfinite(judged).sum(axis=1).tolist().count(N) == 2 and np.isfinite(judged).sum() == 2 * N
    assert found.labels == 2 * N and len(found.labelled) == 2


def test_a_judge_that_fails_costs_its_sample_alone(judge):
    found, _ = observed(judge, tokens={0: 13}, prompts=1)
    assert found.labels == 3
    (prompt,) = found.labelled
    assert pairs_of(prompt.scores[None]).sum() == 2, "2 and 4 before 3"


def test_prompts_without_pairs_teach_nothing(judge):
    found, _ = observed(judge, tokens={place: 2 for place in range(N)}, prompts=1)
    assert not found.labelled and not found.trusted and found.head is None
    assert found.metrics() == {"filter/true_scores": 4, "filter/correct_trusted": 0}


@pytest.mark.parametrize("where", ["reward", "state"])
def test_a_response_without_a_finite_reward_or_state_is_in_no_pair(judge, where):
    rewards, states = np.ones((1, N), np.float32), np.ones((1, N, 3), np.float32)
    (rewards if where == "reward" else states[..., 0])[0, 1] = NAN
    found, _ = observed(judge, rewards, states, prompts=1)
    (prompt,) = found.labelled
    assert pairs_of(prompt.scores[None]).sum() == 2, "4 before 1 and 3"
    assert np.isfinite(found.head.direction).all()


# ── When it is trusted ──


def taught(judge, prompts, wrong, seed=0, shuffle=False, found=None):
    """A correction that has labels of planted prompts."""
    found = found or correction(judge)
    rewards, states, scores = planted(prompts, seed, wrong)
    if shuffle:
        scores = np.random.default_rng(seed).permuted(scores, axis=1)
    for row in zip(np.arange(prompts) + 1000 * seed, rewards, states, scores):
        found.labelled.append(Labelled(*row))
    found._fit()
    return found


def test_the_head_is_trusted_once_it_has_enough_prompts_and_is_ahead(judge):
    assert not taught(judge, NEEDED - 1, wrong=3.0).trusted
    found = taught(judge, 20, wrong=3.0)
    assert found.trusted
    given, corrected = found.accuracy
    assert found.metrics()["filter/plain_accuracy"] == given < corrected == found.metrics()["filter/correct_accuracy"]


def test_known_scores_are_the_rewards_and_weigh_as_much_as_rewards_tell_little(judge):
    found = correction(judge)
    rewards = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 8.0]], np.float32)
    states = np.zeros((3, N, 2), np.float32)
    found.known = {0: np.array([1.0, 0.0, 0.0, 1.0]), 2: np.array([1.0, 0.0, NAN, 1.0])}
    assert found.estimate(rewards, states) is rewards, "there is no slope yet"
    found.slope = 0.25
    estimate = found.estimate(rewards, states).astype(float)
    within = estimate - estimate.mean(axis=1, keepdims=True)
    apart = np.array([[2.0, -2.0, -2.0, 2.0], [-0.5, -0.5, 0.5, 0.5], [-1.0, -1.0, 0.0, 2.0]])  # as if never scaled
    np.testing.assert_allclose(within, apart * spread(rewards) / spread(apart), atol=1e-5)
    assert estimate.mean() == pytest.approx(rewards.mean()) and spread(estimate) == pytest.approx(spread(rewards))


@pytest.mark.parametrize("wrong", [0.0, 3.0], ids=["reward", "head"])
def test_true_scores_make_what_trains_more_correlated_with_them(judge, wrong):
    """More than as rewards on the scale of the others, and more than no labels."""
    found = taught(judge, 60, wrong)
    assert found.trusted == (wrong == 3.0)
    rewards, states, scores = planted(64, seed=9, wrong=wrong)
    scores = np.where(np.random.default_rng(1).random(scores.shape) < 0.3, 1 - scores, scores)  # not to be learned
    factor, shift = scale_to(found.head(rewards, states), rewards)
    found.head, found.known = found.head.scaled(factor, shift), dict(enumerate(scores[:10]))

    def correlation(x):
        apart, true = (y - y.mean(axis=1, keepdims=True) for y in (x, scores))
        return (apart * true).sum() / np.sqrt((apart**2).sum() * (true**2).sum())

    found.slope, _ = slope_within(found.corrected(rewards, states)[10:], scores[10:], 0.1)
    predicted = found.corrected(rewards, states)
    plain = np.concatenate([scores[:10] * spread(predicted) / spread(scores[:10]), predicted[10:]])
    assert correlation(predicted) < correlation(plain) < correlation(found.estimate(rewards, states)) - 0.005


def test_shuffled_scores_are_hardly_ever_trusted(judge):
    trusted = [taught(judge, 30, wrong=0.0, seed=seed, shuffle=True).trusted for seed in range(20)]
    assert sum(trusted) <= 2


def test_a_head_that_is_no_longer_ahead_is_not_trusted(judge):
    found = taught(judge, 40, wrong=3.0)
    assert found.trusted
    taught(judge, 64, wrong=0.0, seed=1, found=found, shuffle=True)
    assert not found.trusted


def test_the_newest_prompts_are_kept(judge):
    assert len(taught(judge, WINDOW + 10, wrong=1.0).labelled) == WINDOW


def test_a_resumed_correction_equals_the_unbroken_one(judge):
    found = taught(judge, 20, wrong=2.0)
    found.labels = 100
    again = correction(judge)
    again.load_state_dict(found.state_dict())
    assert again.metrics() == found.metrics() and again.trusted
    rewards, states, _ = planted(5, seed=9)
    np.testing.assert_array_equal(again.corrected(rewards, states), found.corrected(rewards, states))
    for one in (found, again):
        taught(judge, 10, wrong=2.0, seed=1, found=one)
    np.testing.assert_array_equal(again.head.direction, found.head.direction)


# ── The worker ──


def worker_of(normalized):
    """A worker with a small reward model of OpenRLHF's."""
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    config.normalize_reward, config.mean, config.std = normalized, 0.5, 2.0
    torch.manual_seed(0)
    model = _get_reward_model(LlamaPreTrainedModel, LlamaModel, "score")(config).eval()
    worker = workers.CorrectedRewardModelActor.__new__(workers.CorrectedRewardModelActor)
    values = {"ds.value_head_prefix": "score", "ds.packing_samples": False, "ds.zero_stage": 0}
    values |= {"reward.normalize_enable": normalized, "data.disable_fast_tokenizer": False, "ckpt.output_dir": "out"}
    worker.strategy = SimpleNamespace(args=namespace(**values), ring_attn_group=None)
    worker.main, worker.models, worker.model, worker.one_at_a_time = "main", {"main": model}, model, False
    return worker


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_states_are_those_that_the_rewards_are_read_from(padding, normalized):
    worker, width = worker_of(normalized), 7
    ones = [([1] * n, [0] * (width - n)) for n in (7, 3, 5)]
    mask = torch.tensor([read + out if padding == "right" else out + read for read, out in ones])
    tokens = torch.randint(1, 32, mask.shape)
    found = worker.forward(tokens, mask, pad_sequence=True)
    assert found.shape == (3, 9)
    torch.testing.assert_close(found[:, 0], worker.model(tokens, mask).detach(), rtol=0, atol=0)
    read = found[:, 1:] @ worker.model.score.weight[0]
    torch.testing.assert_close((read - 0.5) / 2 if normalized else read, found[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalized", [False, True])
def test_the_saved_model_gives_the_corrected_rewards_up_to_a_constant(normalized, monkeypatch):
    worker, saved = worker_of(normalized), []
    worker.strategy.save_model = lambda model, tokenizer, path: saved.append((model, path))
    monkeypatch.setattr(workers, "get_tokenizer", lambda *_, **__: None)
    tokens = torch.randint(1, 32, (6, 5))
    found = worker.forward(tokens, torch.ones_like(tokens)).numpy()
    head = Head(-0.5, np.linspace(-1, 1, 8), 3.0)
    worker.save_corrected(head.gain, torch.from_numpy(head.direction))
    ((model, path),) = saved
    assert path == "out_reward"
    away = model(tokens, torch.ones_like(tokens)).detach().numpy() - head(found[:, 0], found[:, 1:])
    assert away == pytest.approx(away[0], abs=1e-5)


def test_the_states_of_packed_samples_are_those_of_their_last_tokens():
    packed = torch.arange(6.0).reshape(1, 6, 1)
    mask = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    assert workers.last_states(packed, mask, True).flatten().tolist() == [2, 3, 5]


# ── In the experience maker ──


class CorrectedMaker(Maker):
    """The reward is the token; the state's first number tells whether it is even."""

    def _dispatch_forward(self, group, sync_condition, **kwargs):
        answers = super()._dispatch_forward(group, sync_condition, **kwargs)
        if group is not self.reward_model_group or "model" in kwargs:
            return answers
        even = [batch[:, 0] % 2 == 0 for batch in kwargs["sequences"]]
        return [torch.stack([a, e.to(a), -e.to(a)], 1) for a, e in zip(answers, even)]


def make_corrected(judge, **flat):
    found = make_maker(**flags(judge, **{"sample_filter_true_share": 1.0, **flat}))
    if flat.get("sample_filter_correct") != "scores":
        found.__class__ = CorrectedMaker
    return found


def unscored(prompts=4):
    rollout = rollout_of([[0.0] * N] * prompts)
    for sample in rollout:
        sample.rewards, sample.info = None, {}
    return rollout


def test_the_given_rewards_train_bit_for_bit_until_the_correction_is_trusted(judge):
    maker = make_corrected(judge)
    trained = maker.make_experience_batch(unscored())
    assert maker.metrics["filter/correct_trusted"] == 0, "4 prompts are too few"
    assert sorted(torch.cat([e.info["reward"] for e in trained]).tolist()) == trained_tokens(trained)


def test_given_rewards_keep_their_type(judge):
    maker = make_corrected(judge)
    given, states = torch.tensor([0.1, 0.3] * N).to(torch.bfloat16), torch.ones(2 * N, 2, dtype=torch.bfloat16)
    for learns in (False, True):
        rewards = maker._correct(Rollout(unscored(2), N), torch.cat([given[:, None], states], 1), learns)
        assert rewards.equal(given) and rewards.dtype == given.dtype


def test_corrected_rewards_train_in_the_rollout_that_made_the_correction_trusted(judge):
    maker = make_corrected(judge)
    trained = maker.make_experience_batch(unscored(prompts=12))
    assert maker.metrics["filter/correct_trusted"] == 1
    assert maker.metrics["filter/plain_accuracy"] == pytest.approx(0.75), "2 > 1, 4 > 1 and 4 > 3, but 3 > 2"
    assert maker.metrics["filter/correct_accuracy"] > 0.95
    rewards = maker.rollout.rewards
    assert accuracy(rewards, maker.rollout.scores) == 1, "the true scores are the rewards"
    assert sorted(torch.cat([e.info["reward"] for e in trained]).tolist()) == pytest.approx(sorted(rewards.ravel()))
    maker.make_experience_batch(unscored(prompts=12))
    assert maker.metrics["filter/reward_correlation"] > 0.9


def test_rewards_that_are_true_scores_are_not_compared_with_them(judge):
    """Not in the log, the metrics, the stop rule, or a filter that learns: reward and score would agree always."""
    maker = make_corrected(judge, sample_filter_correct="scores", sample_filter_stop_below=0.9)
    for _ in range(2):
        maker.make_experience_batch(unscored(prompts=12))
    rollout = maker.rollout
    assert accuracy(rollout.rewards, rollout.scores) == 1
    assert accuracy(rollout.measured_rewards, rollout.scores) == pytest.approx(0.75), "of the tokens as rewards"
    assert maker.metrics["filter/r2_all"] < 0.5
    assert maker.metrics["filter/pairwise_accuracy"] == pytest.approx(0.75)
    batch = maker._filter_batch(rollout)
    assert batch.scores is None
    drawn = SimpleNamespace(counts=np.ones(rollout.rewards.shape, int))
    logged = rollout.log_rows(np.ones(rollout.rewards.shape), drawn, batch, TOKENIZER)["reward"]
    assert logged == rollout.measured_rewards.ravel().tolist()


def test_rewards_of_a_function_are_replaced_by_true_scores(judge):
    """``scores`` needs no reward model of its own; the function's own scores are not true ones."""
    maker = make_corrected(judge, sample_filter_correct="scores", sample_filter_true_share=0.75)
    samples = unscored(prompts=16)
    for sample in samples:
        sample.rewards = sample.scores = sample.info["reward"] = sample.sequences[:, 0].float()
    maker.make_experience_batch(samples)
    rollout = maker.rollout
    judged = np.isfinite(rollout.scores).all(axis=1)
    assert judged.sum() == 12 and np.isnan(rollout.scores[~judged]).all()
    assert maker.correction.head is None and maker.metrics["filter/correct_trusted"] == 0
    assert accuracy(rollout.rewards[judged], rollout.scores[judged]) == 1
    order = rollout.measured_rewards[~judged].argsort(axis=1)
    np.testing.assert_array_equal(rollout.rewards[~judged].argsort(axis=1), order)
    assert spread(rollout.rewards) == pytest.approx(spread(rollout.measured_rewards), rel=1e-4)


def test_a_response_without_a_reward_is_left_out_and_loses_nothing_else(judge):
    """A reward function fails for it; its prompt is judged, too."""
    maker = make_corrected(judge, sample_filter_correct="scores", local_reward=False)
    for _ in range(2):
        samples = unscored(prompts=12)
        for sample in samples[1:]:
            sample.rewards = sample.info["reward"] = sample.sequences[:, 0].float()
        maker.make_experience_batch(samples)
        assert maker.metrics["filter/unusable_rewards"] == 1
        rewards, scores = maker.rollout.rewards, maker.rollout.scores
        failed = np.isnan(rewards).any(axis=1)
        assert failed.sum() == 1 and np.isfinite(scores).all()
        assert accuracy(rewards[~failed], scores[~failed]) == 1
    assert maker.metrics["filter/true_scores"] == 2 * 12 * N


def test_the_log_of_several_models_has_the_rewards_as_given(judge):
    maker = make_corrected(judge, sample_filter_reward_models="main,upside")
    maker.make_experience_batch(unscored(prompts=12))
    main, _ = maker.rollout.model_rewards
    assert maker.reward_model_group.models == [None, "upside"], "each model scores once"
    tokens = np.array([float(sample.sequences[0, 0]) for sample in maker.rollout.samples]).reshape(-1, N)
    np.testing.assert_allclose(main, tokens, rtol=0.01)
    assert maker.correction.trusted and not np.allclose(maker.rollout.rewards, main, rtol=0.01)


def test_samples_of_a_probe_are_corrected_and_teach_nothing(judge):
    maker = make_corrected(judge)
    maker.make_experience_batch(unscored(prompts=12))
    labels = maker.correction.labels
    rollout = Rollout(unscored(), N)
    maker.score(rollout)
    assert maker.correction.labels == labels and rollout.scores is None
    even = np.array([int(sample.sequences[0, 0]) % 2 == 0 for sample in rollout.samples]).reshape(-1, N)
    assert accuracy(rollout.rewards, even.astype(float)) > 0.95


# ── Flags ──


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sample_filter_true_share": 0.0}, "above 0 and at most 1, got 0"),
        ({"sample_filter_true_share": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"sample_filter_probe_score": None}, "name a reward_func that gives them"),
        ({"sample_filter_probe_score": "absent.py"}, "--sample_filter_probe_score absent.py gives no reward_func"),
        ({"reward.remote_url": "mine.py"}, "take --sample_filter_correct scores"),
        ({"train.agent_func_path": "agent.py"}, "rewards come from --reward.remote_url or an agent"),
        ({"reward.model_name_or_path": None}, "give --reward.model_name_or_path"),
        ({"sample_filter_drop": "band"}, "leave one of the two out"),
        ({"ds.ring_attn_size": 2}, "--ds.ring_attn_size"),
        ({"ds.load_in_4bit": True}, "--ds.load_in_4bit"),
        ({"rollout.n_samples_per_prompt": 1}, "give 2 or more"),
        ({"sample_filter_correct": "scores", "sample_filter_drop": "band"}, "leave one of the two out"),
        ({"sample_filter_correct": None}, "--sample_filter_true_share has no effect without --sample_filter_correct"),
    ],
)
def test_what_cannot_be_corrected_is_refused_in_one_sentence(judge, change, words):
    with pytest.raises(ValueError) as refused:
        check_correction(namespace(**flags(judge, **change)))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_good_flags_pass(judge):
    check_correction(namespace(**flags(judge, sample_filter_true_share=None)))
    of_a_function = {"sample_filter_correct": "scores", "reward.remote_url": "mine.py", "ds.ring_attn_size": 2}
    check_correction(namespace(**flags(judge, **of_a_function)))


def test_a_filter_that_learns_needs_a_probe(judge):
    args = namespace(**flags(judge, sample_filter="adaptive", sample_filter_correct="scores"))
    args.reward.remote_url = "mine.py"
    with pytest.raises(ValueError, match="--sample_filter_correct makes them rewards: give prompts to learn from"):
        true_scores.check_probe(args, sample_filter.filter_from_args(args))


def test_a_correction_needs_no_filter_and_no_probe(judge):
    args = namespace(**flags(judge, sample_filter_stop_below=0.6))
    sample_filter.check_unused(args)
    true_scores.check_probe(args, sample_filter.filter_from_args(args))
    true_scores.check_stop(args)
    assert sample_filter.is_active(args)


@pytest.mark.parametrize(
    "given",
    [
        {"sample_filter_true_share": 0.1},
        {"sample_filter_correct": "none", "sample_filter_true_share": 0.1},
        {"sample_filter_correct": "none", "sample_filter_probe_score": "judge.py"},
    ],
)
def test_a_flag_of_a_correction_is_refused_where_nothing_is_corrected(given):
    args = namespace(
        sample_filter="none", **{"algo.dynamic_filtering_enable": False, "rollout.batch_size": 8, **given}
    )
    with pytest.raises(ValueError, match="has no effect"):
        all_flags.check_arguments(args)
