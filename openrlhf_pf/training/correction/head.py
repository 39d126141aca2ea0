"""A second linear head on a reward model's last state, fitted on pairs of responses by their true scores.

Shapes: P prompts that have pairs, N responses to each, d dimensions of the state.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from openrlhf_pf.filters.batch import deviations

Floats = NDArray[np.floating[Any]]

#: Of the squared weights, where states have a mean square of 1: the standard deviation of a correction is about three
#: logits before there are labels. That of the reward's own weight is almost free, because its scale is anything.
PENALTY, PENALTY_OF_REWARD = 0.1, 0.001
FOLDS = 5


@dataclass(frozen=True)
class Head:
    """Corrects a reward: ``gain * reward + state @ direction + shift``.

    Attributes:
        gain: of the given reward.
        direction: (d,).
        shift: added to all rewards.
    """

    gain: float
    direction: Floats
    shift: float = 0.0

    def __call__(self, rewards: Floats, states: Floats) -> Floats:
        """Return corrected rewards of the shape of ``rewards``; ``states`` has d more."""
        return self.gain * rewards + states @ self.direction + self.shift

    def scaled(self, factor: float, shift: float) -> "Head":
        """Return the head whose rewards are ``factor`` times this one's, plus ``shift``."""
        return Head(self.gain * factor, self.direction * factor, self.shift * factor + shift)


def scale_to(rewards: Floats, wanted: Floats) -> tuple[float, float]:
    """Return the factor and the shift that give (G, N) rewards the spread within prompts, and the mean, of others.

    Prompts with a value that is not finite do not count. Rewards without spread stay as they are: (1, 0).
    """
    usable = np.isfinite(rewards).all(axis=1) & np.isfinite(wanted).all(axis=1)
    rewards, wanted = rewards[usable], wanted[usable]
    if not usable.any() or spread(rewards) == 0:
        return 1.0, 0.0
    factor = spread(wanted) / spread(rewards)
    return factor, float(wanted.mean() - factor * rewards.mean())


def spread(rewards: Floats) -> float:
    """Return the root mean square of (G, N) rewards, or (G, N, d) states, around their prompts' means."""
    return float(np.sqrt(np.mean((rewards - rewards.mean(axis=1, keepdims=True)) ** 2)))


def slope_within(rewards: Floats, scores: Floats, least: float) -> tuple[float, float]:
    """Return how far true scores are apart, in expectation, where (P, N) rewards of one prompt are 1 apart.

    It is their regression on rewards around the means of prompts: correlation times the ratio of spreads. Responses
    without a true score (NaN) do not count. The second value is the correlation; (0, ``least``) without any spread.

    Args:
        least: the correlation is taken to be at least that.
    """
    known = np.isfinite(scores)
    apart, scores_apart = (np.where(known, deviations(x, known), 0.0) for x in (rewards, scores))
    power, scores_power = (apart**2).sum(), (scores_apart**2).sum()
    if power == 0 or scores_power == 0:
        return 0.0, least
    ratio = np.sqrt(scores_power / power)
    correlation = max(float((apart * scores_apart).sum() / (power * ratio)), least)
    return float(correlation * ratio), correlation


def pairs_of(scores: Floats) -> NDArray[np.bool_]:
    """Return (P, N, N): whether the first response of a pair has the higher true score; NaN is in no pair."""
    return scores[:, :, None] > scores[:, None, :]


def log_loss(rewards: Floats, scores: Floats) -> Floats:
    """Return (P,) the Bradley-Terry loss of (P, N) rewards, the mean over the pairs of each prompt."""
    pairs = pairs_of(scores)
    losses = np.where(pairs, np.logaddexp(0.0, rewards[:, None, :] - rewards[:, :, None]), 0.0)
    return losses.sum(axis=(1, 2)) / pairs.sum(axis=(1, 2))


def in_logits(rewards: Floats, scores: Floats) -> Floats:
    """Return the rewards times the factor, zero or above, that explains the true scores best."""
    unit = spread(rewards) or 1.0
    found = minimize_scalar(
        lambda factor: log_loss(factor * rewards / unit, scores).sum(), bounds=(0, 100), method="bounded"
    )
    return rewards * max(found.x, 0.0) / unit


def fit_head(rewards: Floats, states: Floats, scores: Floats) -> Head:
    """Fit by the Bradley-Terry loss on the pairs within prompts, with a penalty on the weights of the states.

    Args:
        rewards: (P, N) of the reward model as given; finite.
        states: (P, N, d) its states; finite.
        scores: (P, N) true scores, NaN where one is missing; every prompt has a pair.
    """
    size = states.shape[-1]
    centred = states - states.mean(axis=1, keepdims=True)
    units = np.append(np.full(size, spread(states) * np.sqrt(size)), spread(rewards))
    units[units == 0] = 1.0
    inputs = np.concatenate([centred, (rewards - rewards.mean(axis=1, keepdims=True))[..., None]], axis=2)
    inputs = (inputs / units).astype(np.float32).reshape(-1, size + 1)
    penalties = np.append(np.full(size, PENALTY), PENALTY_OF_REWARD)
    pairs = pairs_of(scores)
    prompt, better, worse = np.nonzero(pairs)
    share = 1 / pairs.sum(axis=(1, 2))[prompt]  # each prompt has the same weight
    better, worse = (prompt * rewards.shape[1] + response for response in (better, worse))

    def loss(weights: NDArray) -> tuple[float, NDArray]:
        found = inputs @ weights.astype(np.float32)
        behind = found[worse] - found[better]
        slope = share * expit(behind)
        by_response = np.bincount(worse, slope, len(inputs)) - np.bincount(better, slope, len(inputs))
        value = float(share @ np.logaddexp(0.0, behind)) + float(penalties @ weights**2) / 2
        return value, (by_response.astype(np.float32) @ inputs).astype(float) + penalties * weights

    weights = (
        minimize(loss, np.zeros(size + 1), jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-6}).x
        / units
    )
    return Head(float(weights[-1]), weights[:-1])


def cross_validate(rewards: Floats, states: Floats, scores: Floats, prompts: NDArray[np.int64]) -> Floats:
    """Return (P, N) rewards, each corrected by a head that was fitted without that prompt.

    Args:
        rewards, states, scores: as ``fit_head``.
        prompts: (P,) equal numbers for equal prompts, which are left out together.
    """
    _, prompts = np.unique(prompts, return_inverse=True)
    corrected = np.array(rewards, dtype=float)
    for fold in range(FOLDS):
        out = prompts % FOLDS == fold
        if out.any() and not out.all():
            head = fit_head(rewards[~out], states[~out], scores[~out])
            corrected[out] = head(rewards[out], states[out])
    return corrected
