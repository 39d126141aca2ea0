"""Simulated reward models with a known flaw: for the demo and for tests.

A response is worth ``z``, the sum of how easy its prompt is and how good it is among the responses of its prompt, both
normal; it is correct when ``z`` is above the threshold that leaves the wanted share of correct ones. The reward is
``z``, spoiled in one way (``SETTINGS``).

Notation used for shapes: G prompts, N samples a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]

#: Share of responses that a planted hack, or a planted misjudgement, is about.
SPOILED = 0.12
#: Half the width of the band around the threshold in which a reward is random, in standard deviations of ``z``.
BAND = 0.8


@dataclass
class Draft:
    """Responses before a reward model scores them.

    Attributes:
        rng: source of all randomness.
        ease: (G, 1) how easy the prompt is.
        quality: (G, N) how good the response is among those of its prompt.
        threshold: of ``ease + quality``, above which a response is correct.
        score: (G, N) 0 or 1; a setting may change it.
    """

    rng: np.random.Generator
    ease: Floats
    quality: Floats
    threshold: float
    score: Floats

    @property
    def worth(self) -> Floats:
        """(G, N) z."""
        return self.ease + self.quality


def _right(draft: Draft) -> Floats:
    return draft.worth


def _noisy_middle(draft: Draft) -> Floats:
    middle = np.abs(draft.worth - draft.threshold) < BAND
    return np.where(middle, draft.threshold + draft.rng.uniform(-BAND, BAND, middle.shape), draft.worth)


def _wrong_at(side: float) -> Callable[[Draft], Floats]:
    """Give some wrong responses the highest rewards (side 1), or some correct ones the lowest (-1)."""

    def reward(draft: Draft) -> Floats:
        spoiled = draft.rng.random(draft.worth.shape) < SPOILED
        draft.score = np.where(spoiled, 0.0 if side > 0 else 1.0, draft.score)
        beyond = draft.threshold + side * (2.0 + 0.5 * draft.rng.random(draft.worth.shape))
        return np.where(spoiled, beyond, draft.worth)

    return reward


def _difficulty_only(draft: Draft) -> Floats:
    return draft.ease + draft.quality.std() * draft.rng.normal(size=draft.worth.shape)


def _offsets(draft: Draft) -> Floats:
    return draft.quality + 2 * draft.rng.normal(size=draft.ease.shape)


def _offsets_against(draft: Draft) -> Floats:
    return draft.quality - 2 * draft.ease


def _useless(draft: Draft) -> Floats:
    return draft.rng.normal(size=draft.worth.shape)


@dataclass(frozen=True)
class Setting:
    """A simulation setting: its meaning in words, and the rewards it gives a draft."""

    meaning: str
    reward: Callable[[Draft], Floats]


SETTINGS = {
    "right everywhere": Setting("the higher of two rewards is always the better response's", _right),
    "noise in the middle": Setting("right about very good and very bad responses, random between", _noisy_middle),
    "wrong at the top": Setting("the highest rewards go to wrong responses that please it", _wrong_at(1.0)),
    "wrong at the bottom": Setting("the lowest rewards go to correct responses that it misjudges", _wrong_at(-1.0)),
    "difficulty only": Setting("knows which prompts are easy and nothing about their responses", _difficulty_only),
    "offsets": Setting("right within every prompt, with an offset of its own for each prompt", _offsets),
    "offsets against difficulty": Setting("right within every prompt, and harder prompts get more", _offsets_against),
    "useless": Setting("has nothing to do with the score", _useless),
}


def plant(
    setting: str,
    n_prompts: int,
    n_samples: int,
    seed: int = 0,
    score_rate: float = 0.5,
    between: float = 0.5,
) -> Checkpoint:
    """Return scored samples of a simulated reward model.

    Args:
        setting: a key of ``SETTINGS``.
        n_prompts: G.
        n_samples: N.
        seed: of all randomness.
        score_rate: share of correct responses, before a setting that changes scores does so.
        between: share of the variance of a response's worth that lies between prompts.
    """
    rng, prompt = np.random.default_rng(seed), np.arange(n_prompts)
    ease = np.sqrt(between) * rng.normal(size=(n_prompts, 1))
    quality = np.sqrt(1 - between) * rng.normal(size=(n_prompts, n_samples))
    threshold = float(-special.ndtri(score_rate))
    draft = Draft(rng, ease, quality, threshold, (ease + quality > threshold).astype(float))
    reward = SETTINGS[setting].reward(draft)
    return Checkpoint(setting, reward, draft.score, prompt)
