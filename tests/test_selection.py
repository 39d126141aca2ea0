"""Prompt selection: the posterior in closed form, what is selected how often, and what state is worth."""

import numpy as np
import pytest
from scipy import stats

from openrlhf_pf.selection import Posterior, build_selection, expected_gain

EXACT = {"abs": 1e-12, "rel": 0}


def generator(seed=0):
    return np.random.default_rng(seed)


def with_counts(posterior, a, b):
    """A posterior with these counts, by its own way in: a rollout that leaves nothing of what was there."""
    posterior.load_state_dict({"counts": np.array([a, b], dtype=float), "scale": 1.0})


def test_the_worked_example_of_the_paper_s_figure():
    posterior = Posterior(3, (0.2, 0.999))
    with_counts(posterior, [0.1, 2.7, 9.0], [8.4, 5.3, 0.2])
    posterior.observe(np.array([1, 0]), np.array([4, 1]), np.array([8, 8]))
    a, b = posterior.counts()
    assert a.tolist() == pytest.approx([1.02, 4.54, 8.991], **EXACT)
    assert b.tolist() == pytest.approx([8.68, 5.06, 0.1998], **EXACT)


def test_the_expected_gain_in_closed_form_and_by_drawing():
    right, wrong = np.array([1, 2, 3.7, 10]), np.array([1, 9.4, 6.3, 1.2])
    found = expected_gain(right - 1, wrong - 1)
    assert found.tolist() == pytest.approx([0.083333, 0.103219, 0.128911, 0.014637], abs=1e-6)
    posterior, source = Posterior(4), generator()
    with_counts(posterior, (right - 1).tolist(), (wrong - 1).tolist())
    p = np.stack([posterior.draw(source) for _ in range(30_000)])
    for gain, values in (("hard", p * (1 - p) ** 2), ("variance", p * (1 - p))):
        error = values.std(axis=0) / len(p) ** 0.5
        assert (np.abs(values.mean(axis=0) - expected_gain(right - 1, wrong - 1, gain)) < 4 * error).all()


@pytest.mark.parametrize("decay", [(0.2, 0.999), (0.5, 0.3), (1.0, 1.0), (0.0, 0.9), (0.7, 0.0)])
def test_one_common_factor_does_what_a_sweep_does(decay):
    rng = np.random.default_rng(0)
    posterior, a, b = Posterior(20, decay), np.zeros(20), np.zeros(20)
    for _ in range(1000):
        chosen = rng.choice(20, 5, replace=False)
        counts = rng.integers(0, 9, 5)  # a prompt without a usable reward counts as not observed
        right = rng.random(5) * counts
        observed = chosen[counts > 0]
        for values, new in ((a, right), (b, counts - right)):
            kept = decay[0] * values[observed] + new[counts > 0]
            values *= decay[1]
            values[observed] = kept
        posterior.observe(chosen, right, counts)
        assert posterior.counts() == pytest.approx(np.stack([a, b]), abs=1e-9)


@pytest.mark.parametrize(
    "prompts, right, counts, sentence",
    [
        ([1, 1], [0, 0], [4, 4], "a prompt occurs twice"),
        ([1, 2], [5, 0], [4, 4], "successes must lie between"),
        ([1, 2], [float("nan"), 0], [4, 4], "successes must lie between"),
    ],
)
def test_what_cannot_be_observed(prompts, right, counts, sentence):
    selection = build_selection("vade", 5)
    with pytest.raises(ValueError, match=sentence):
        selection.observe(np.array(prompts), np.array(right), np.array(counts))
    assert not selection.posterior.counts().any()


# ── What is selected ──


def test_how_often_each_of_three_is_selected():
    """Against the chance that its gain is the largest, by integration over a grid."""
    a, b = [2.0, 0.0, 8.0], [6.0, 0.0, 1.0]
    p = (np.arange(200_000) + 0.5) / 200_000
    gain = p * (1 - p) ** 2
    levels = np.linspace(0, 4 / 27, 20_001)
    below = []  # the distribution function of each one's gain
    for right, wrong in zip(a, b):
        weight = stats.beta.pdf(p, right + 1, wrong + 1)
        order = gain.argsort()
        cumulative = np.concatenate([[0], np.cumsum(weight[order])]) / weight.sum()
        below.append(cumulative[np.searchsorted(gain[order], levels, side="right")])
    steps = [np.diff(f) for f in below]
    middle = [(f[1:] + f[:-1]) / 2 for f in below]
    chances = [float((steps[i] * middle[(i + 1) % 3] * middle[(i + 2) % 3]).sum()) for i in range(3)]
    assert sum(chances) == pytest.approx(1, abs=1e-3)

    selection = build_selection("vade", 3)
    with_counts(selection.posterior, a, b)
    source = generator()
    found = np.bincount([int(selection.select(1, source)) for _ in range(20_000)], minlength=3)
    assert stats.chisquare(found, 20_000 * np.array(chances) / sum(chances)).pvalue > 0.001


def test_equal_priorities_are_selected_at_random():
    selection = build_selection("vade", 10, ["explore=mean"])
    source = generator()
    found = np.bincount(np.concatenate([selection.select(3, source) for _ in range(3000)]), minlength=10)
    assert stats.chisquare(found).pvalue > 0.001


def test_uniform_makes_shuffled_passes():
    selection = build_selection("uniform", 12)
    source = generator()
    passes = [np.concatenate([selection.select(4, source) for _ in range(3)]).tolist() for _ in range(5)]
    assert all(sorted(taken) == list(range(12)) for taken in passes)
    assert len(set(map(tuple, passes))) == 5
    assert selection.visits.tolist() == [5] * 12


def test_a_share_at_random_comes_from_everywhere():
    """The mean of the posterior picks the same four for ever; half of each rollout may be any of the others."""
    selection = build_selection("vade", 40, ["explore=mean", "decay=1,1", "random_share=0.5"])
    with_counts(selection.posterior, [30.0] * 4 + [0.0] * 36, [60.0] * 4 + [900.0] * 36)
    source = generator()
    found = np.bincount(np.concatenate([selection.select(4, source) for _ in range(500)]), minlength=40)
    assert (found[:4] > 230).all() and (found[4:] > 0).all() and found[4:].sum() == pytest.approx(900, abs=90)


def test_target_goes_to_its_rate():
    for rate, best in ((0.1, 0), (0.5, 1), (0.9, 2)):
        selection = build_selection("target", 3, [f"rate={rate}"])
        with_counts(selection.posterior, [100.0, 500.0, 900.0], [900.0, 500.0, 100.0])
        source = generator()
        assert {int(selection.select(1, source)) for _ in range(50)} == {best}


def test_prompts_in_flight_are_left_out_and_too_few_are_refused():
    selection = build_selection("vade", 6)
    assert sorted(selection.select(4, generator(), exclude=[1, 3]).tolist()) == [0, 2, 4, 5]
    with pytest.raises(ValueError, match="5 prompts are asked for and 4 of 6 can be selected"):
        selection.select(5, generator(), exclude=[1, 3])


def test_figures_of_a_rollout():
    selection = build_selection("vade", 4)
    chosen = selection.select(3, generator())
    figures = selection.metrics(chosen, np.array([0.0, 2.0, 0.0]), np.array([4, 4, 0]))
    assert figures["informative"] == 0.5 and figures["p_mean"] == 0.5 and figures["seen"] == 0.75
    assert figures["brier"] == pytest.approx((0.5**2 + 0) / 2) and figures["visits_max"] == 1
    assert figures["expected_gain"] == pytest.approx(1 / 12)


# ── Simulations ──

ARMS = {
    "uniform": ("uniform", ()),
    "vade": ("vade", ()),
    "variance": ("vade", ("gain=variance",)),
    "mean, no draw": ("vade", ("explore=mean",)),
    "last rollout only": ("vade", ("decay=0,0.999",)),
}


def informative(arm, rising, seed):
    """The share of selected prompts whose 8 responses are neither all right nor all wrong, in 240 steps of 64.

    Of 2,000 prompts, whose chances of success are drawn from Beta(.35, .35). "Rising": after a step the logit of a
    selected prompt grows by sqrt(q (1 - q)), q its observed share of successes, and every logit by .01.
    """
    chance = np.random.default_rng(seed).beta(0.35, 0.35, 2000).clip(1e-4, 1 - 1e-4)
    logit = np.log(chance / (1 - chance))
    name, options = ARMS[arm]
    selection, source = build_selection(name, 2000, options), generator(seed + 1000)
    shares = []
    for _ in range(240):
        chosen = selection.select(64, source)
        right = source.binomial(8, 1 / (1 + np.exp(-logit[chosen])))
        selection.observe(chosen, right, np.full(64, 8))
        shares.append(((right > 0) & (right < 8)).mean())
        if rising:
            logit[chosen] += np.sqrt(right / 8 * (1 - right / 8))
            logit += 0.01
    return np.mean(shares)


def test_where_chances_stay_the_middle_is_found():
    """Expected: uniform .498, VADE .711, p (1 - p) .824."""
    for seed in range(3):
        uniform, vade, variance = (informative(arm, False, seed) for arm in ("uniform", "vade", "variance"))
        assert vade - uniform > 0.15
        assert (uniform, vade, variance) == pytest.approx((0.498, 0.711, 0.824), abs=0.03)


def test_where_training_moves_chances_forgetting_and_drawing_pay():
    """Expected: uniform .374, VADE .487, greedy .452, the last rollout only .469."""
    found = {
        arm: np.array([informative(arm, True, seed) for seed in range(6)])
        for arm in ("uniform", "vade", "mean, no draw", "last rollout only")
    }
    means = [shares.mean() for shares in found.values()]
    assert means == pytest.approx([0.374, 0.487, 0.452, 0.469], abs=0.03)
    assert (found["vade"] - found["uniform"]).mean() > 0.08
    assert (found["vade"] - found["mean, no draw"]).mean() > 0
    assert (found["vade"] - found["last rollout only"]).mean() > 0


# ── Names, options, state ──


def test_a_checkpoint_of_other_data_is_refused():
    with pytest.raises(ValueError, match="has 5 prompts and the data set 6: resume with the data set"):
        build_selection("vade", 6).load_state_dict(build_selection("vade", 5).state_dict())


@pytest.mark.parametrize(
    "name, texts, sentence",
    [
        ("vad", [], "there is no prompt selection 'vad'; there are uniform, vade, target: did you mean 'vade'?"),
        ("vade", ["decay=1.2,1"], "decay must be two numbers between 0 and 1"),
        ("vade", ["gain=easy"], "option gain of prompt selection 'vade' must be Literal"),
        ("vade", ["rate=.5"], "prompt selection 'vade' takes no rate; it takes decay, gain, explore, random_share"),
        ("target", ["rate=2"], "rate must lie between 0 and 1, got 2"),
        ("uniform", ["random_share=-1"], "random_share must lie between 0 and 1, got -1"),
        ("openrlhf_pf.selection:Posterior", [], "must be a subclass of openrlhf_pf.PromptSelection"),
        ("openrlhf_pf.selection:PromptSelection", [], "has no priorities: write priorities"),
    ],
)
def test_bad_names_and_options_end_in_a_sentence(name, texts, sentence):
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?").replace("(", r"\(")):
        build_selection(name, 10, texts)
