"""Draws: each reproduces the weights, and reweighting gives the policy gradient of resampling."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from tiny_model import write_model

from openrlhf_pf.filters import draw, make_generator, resample, reweight, select
from openrlhf_pf.filters.draw import select_from_batch

NAN = float("nan")


def generator(seed: int = 0):
    return make_generator(seed)


# ── Each draw reproduces k w_i, over many seeded draws ──

WEIGHTS = {
    "best_worst": [0.5, 0.0, 0.0, 0.5],
    "best_random": [1 / 2, 1 / 6, 1 / 6, 1 / 6],
    "none": [0.25] * 4,
    "repeats": [0.7, 0.2, 0.1, 0.0],
    "nearly nothing": [0.998, 0.001, 0.001, 0.0],
}


def assert_means(counts, expected):
    """Each column's mean lies in its interval; 5 standard errors leave a chance of 6e-7 a column to fail."""
    error = counts.std(axis=0, ddof=1) / math.sqrt(len(counts))
    assert (np.abs(counts.mean(axis=0) - expected) <= 5 * error + 1e-12).all(), (counts.mean(axis=0), expected, error)


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", [select, resample])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_sample_is_drawn_k_w_times_in_expectation(name, mode, keep):
    weights = np.tile(WEIGHTS[name], (20_000, 1))
    counts = mode(weights, keep, generator=generator(keep))
    assert (counts.sum(axis=1) == keep).all()
    assert_means(counts, keep * weights[0])


def test_resampled_counts_are_multinomial():
    """All 6 outcomes of 2 draws from 3 samples, by a chi-square test: p = w_i^2, or 2 w_i w_j."""
    w = [0.5, 0.3, 0.2]
    counts = resample(np.tile(w, (50_000, 1)), 2, generator())
    outcomes = {(2, 0, 0): 0.25, (0, 2, 0): 0.09, (0, 0, 2): 0.04, (1, 1, 0): 0.3, (1, 0, 1): 0.2, (0, 1, 1): 0.12}
    found = {tuple(o): n for o, n in zip(*map(np.ndarray.tolist, np.unique(counts, axis=0, return_counts=True)))}
    assert found.keys() == outcomes.keys()
    chance = stats.chisquare([found[o] for o in outcomes], [50_000 * p for p in outcomes.values()]).pvalue
    assert chance > 1e-4, chance


def test_from_the_batch_a_sample_is_selected_in_proportion_until_it_is_certain():
    # 3 of 4 by weights 8 1 1 2 (of 12): 3 x 8/12 > 1, so the first is certain and 2 are left for 1 1 2 of 4.
    weights = np.tile([8 / 12, 1 / 12, 1 / 12, 2 / 12], (20_000, 1))
    counts = select_from_batch(weights, 3, generator())
    assert counts.max() == 1 and (counts.sum(axis=1) == 3).all()
    assert_means(counts, [1.0, 0.5, 0.5, 1.0])


def test_from_the_batch_all_are_taken_where_too_few_have_weight():
    weights = np.array([[0.9, 0.0], [0.1, 0.0]])
    assert draw("select", weights, 2, "batch").counts.tolist() == [[1, 0], [1, 0]]
    assert draw("resample", weights, 2, "batch", generator=generator()).counts.sum() == 4
    for mode in ("select", "resample", "reweight"):
        assert not draw(mode, np.zeros((2, 2)), 2, "batch").counts.any()


def test_resample_never_draws_a_weight_of_nothing():
    weights = np.array([[0.0, 1e-12, 0.0, 1.0 - 1e-12, 0.0], [0.0] * 5])
    for seed in range(200):
        counts = resample(weights, 50, generator(seed))
        assert counts[0, [0, 2, 4]].sum() == 0 and counts[1].sum() == 0 and counts[0].sum() == 50


def test_reweight_keeps_all_that_have_weight_with_mean_one():
    # Two prompts of sum 1, 3 + 2 samples with weight: mean weight 2/5.
    counts, scale = reweight([[0.5, 0.25, 0.25, 0.0], [0.9, 0.0, 0.0, 0.1], [0.0] * 4])
    assert counts.tolist() == [[1, 1, 1, 0], [1, 0, 0, 1], [0] * 4]
    assert scale[0].tolist() == pytest.approx([1.25, 0.625, 0.625, 0.0])
    assert scale[1].tolist() == pytest.approx([2.25, 0.0, 0.0, 0.25])


# ── select ──


def test_equal_weights_never_repeat_a_sample_by_rounding():
    # 7 equal weights of 1/7 do not add up to 1 in floats; k = 7 must still take each sample exactly once.
    for n in range(2, 65):
        weights = np.full((200, n), 1.0 / n)
        assert (select(weights, n, generator=generator(n)) == 1).all()


@pytest.mark.parametrize("weights", [[[0.5, 0.6]], [[-0.5, 1.5]], [[NAN, 1.0]]])
@pytest.mark.parametrize("mode", ["select", "resample", "reweight"])
def test_what_is_not_a_distribution_is_refused(mode, weights):
    with pytest.raises(ValueError, match="each row of weights"):
        draw(mode, weights, 1)


def test_an_unknown_draw_is_refused():
    with pytest.raises(ValueError, match="no draw 'importance'; there are select, resample, reweight"):
        draw("importance", [[1.0]], 1)


# ── reweight has the expected policy gradient of resample ──


def outcomes_of(weights, keep):
    """Every way to draw ``keep`` samples, and its chance."""
    for chosen in itertools.product(range(len(weights)), repeat=keep):
        yield chosen, math.prod(weights[i] for i in chosen)


def test_a_bandits_gradient_in_closed_form():
    """A softmax over 4 arms, loss -A log pi: the gradient of an arm is -A (e_arm - pi), and the weights mix them."""
    logits, advantages = np.array([0.3, -0.2, 0.5, 0.0]), np.array([1.0, -2.0, 0.5, 3.0])
    weights = np.array([[0.5, 0.25, 0.25, 0.0]])
    of_arm = -advantages[:, None] * (np.eye(4) - np.exp(logits) / np.exp(logits).sum())
    by_hand = weights @ of_arm

    resampled = sum(chance * of_arm[list(arms)].mean(axis=0) for arms, chance in outcomes_of(weights[0].tolist(), 3))
    counts, scale = reweight(weights)
    kept = counts[0] > 0
    reweighted = (scale[0, kept][:, None] * of_arm[kept]).mean(axis=0)
    assert resampled.tolist() == pytest.approx(by_hand[0].tolist())
    assert reweighted.tolist() == pytest.approx(by_hand[0].tolist())


#: Lengths of the four responses, --actor.loss_agg_mode, and whether the two gradients are one.
CLIPPED = [
    ((5, 5, 5, 5), "token-mean", True),
    ((5, 1, 3, 4), "token-mean", False),
    ((5, 1, 3, 4), "seq-mean-token-mean", True),
]


@pytest.mark.parametrize("lengths, aggregation, exact", CLIPPED)
def test_a_real_actors_clipped_gradient(tmp_path, lengths, aggregation, exact):
    """OpenRLHF's actor and PPO loss, off policy so that clipping bites: the mean over all 16 outcomes of 2 draws."""
    torch, models = pytest.importorskip("torch"), pytest.importorskip("openrlhf.models")
    source = torch.Generator().manual_seed(0)
    actor = models.Actor(str(write_model(tmp_path / "policy", seed=3)), attn_implementation="eager").double()
    sequences = torch.randint(2, 200, (4, 9), generator=source)
    attention, actions = torch.ones_like(sequences), torch.ones(4, 8)
    actions[:, :3] = 0  # the prompt
    for row, length in enumerate(lengths):
        actions[row, 3 + length :] = 0
    weights = np.array([[0.4, 0.3, 0.3, 0.0]])
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0]).double().unsqueeze(1).expand(4, 8)
    # What --actor.loss_agg_mode says, as OpenRLHF's actor puts it to the loss.
    loss = models.PolicyLoss(clip_eps_low=0.2, clip_eps_high=0.2, token_level_loss=aggregation == "token-mean")
    with torch.no_grad():
        old = actor(sequences, actions, attention).double()
    old = old + 0.4 * torch.randn(old.shape, generator=source, dtype=old.dtype)

    def gradient(samples, scale):
        actor.zero_grad()
        samples = list(samples)
        log_probs = actor(sequences[samples], actions[samples], attention[samples]).double()
        # The totals that OpenRLHF divides by, of all samples of an optimizer step.
        totals = {"batch_num_tokens": actions[samples].sum(), "global_batch_size": len(samples)}
        loss(log_probs, old[samples], advantages[samples] * scale.unsqueeze(1), actions[samples], **totals)[
            0
        ].backward()
        return torch.cat([p.grad.flatten() for p in actor.parameters() if p.grad is not None])

    resampled = sum(
        chance * gradient(samples, torch.ones(2)) for samples, chance in outcomes_of(weights[0].tolist(), 2) if chance
    )
    counts, scale = reweight(weights)
    kept = np.flatnonzero(counts[0])
    reweighted = gradient(kept.tolist(), torch.from_numpy(scale[0, kept]))
    assert resampled.norm() > 1e-3
    difference = float((resampled - reweighted).norm() / resampled.norm())
    assert difference < 1e-5 if exact else difference > 1e-2
    unweighted = gradient(kept.tolist(), torch.ones(len(kept)))
    assert float((resampled - unweighted).norm() / resampled.norm()) > 1e-2, "the weights made no difference"


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**62 + 12345])
def test_the_generator_has_the_numbers_of_torchs(seed):
    torch = pytest.importorskip("torch")
    ours, theirs = make_generator(seed), torch.Generator().manual_seed(seed)
    for shape in ((3, 5), (700,), ()):
        for dtype in ("float32", "float64"):
            expected = torch.rand(shape, generator=theirs, dtype=getattr(torch, dtype)).numpy()
            assert np.array_equal(ours.random(shape, dtype=dtype), expected)
    for n in (0, 1, 2, 1000):
        assert ours.permutation(n).tolist() == torch.randperm(n, generator=theirs).tolist()
    assert sorted(ours.permutation([5, 6, 7]).tolist()) == [5, 6, 7] and 0 <= ours.random() < 1


def test_draws_for_a_seed_are_those_of_earlier_releases():
    weights = np.tile([0.5, 0.25, 0.15, 0.1], (3, 1))
    assert select(weights, 2, generator=make_generator(7)).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1]]
    assert resample(weights, 2, generator=make_generator(7)).tolist() == [[2, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
