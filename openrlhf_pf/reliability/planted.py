"""Reward models whose flaw is known because it is planted: to demonstrate, to test, and to ask what could be found.

A response is worth ``z``, the sum of how easy its prompt is and how good it is among the responses of its prompt, both
normal; it is correct when ``z`` is above the threshold that leaves the wanted share of correct ones. The reward is
``z``, spoiled in one way (``WORLDS``).

Notation used for shapes: G prompts, N samples a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from openrlhf_pf.reliability.data import Checkpoint

Floats = NDArray[np.float64]

#: Share of responses that a planted hack, or a planted misjudgement, is about.
SPOILED = 0.12
#: Half the width of the band around the threshold in which a reward is a guess, in standard deviations of ``z``.
BAND = 0.8


@dataclass
class Draft:
    """Responses before a reward model has looked at them.

    Attributes:
        rng: source of all randomness.
        ease: (G, 1) how easy the prompt is.
        quality: (G, N) how good the response is among those of its prompt.
        threshold: of ``ease + quality``, above which a response is correct.
        score: (G, N) 0 or 1; a world may change it.
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
    """Some responses that are wrong get the highest rewards (side 1), or some that are correct the lowest (-1)."""

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
class World:
    """What is planted: ``meaning`` in words, and the rewards it makes of a draft."""

    meaning: str
    reward: Callable[[Draft], Floats]


WORLDS = {
    "right everywhere": World("the higher of two rewards is always the better response's", _right),
    "noise in the middle": World("right about very good and very bad responses, a guess between", _noisy_middle),
    "wrong at the top": World("the highest rewards go to wrong responses that please it", _wrong_at(1.0)),
    "wrong at the bottom": World("the lowest rewards go to correct responses that it misjudges", _wrong_at(-1.0)),
    "difficulty only": World("knows which prompts are easy and nothing about their responses", _difficulty_only),
    "offsets": World("right within every prompt, with an offset of its own for each prompt", _offsets),
    "offsets against difficulty": World("right within every prompt, and harder prompts get more", _offsets_against),
    "useless": World("has nothing to do with the score", _useless),
}


def plant(
    world: str,
    n_prompts: int,
    n_samples: int,
    seed: int = 0,
    score_rate: float = 0.5,
    between: float = 0.5,
) -> Checkpoint:
    """Scored samples of a planted reward model.

    Args:
        world: a key of ``WORLDS``.
        n_prompts: G.
        n_samples: N.
        seed: of all randomness.
        score_rate: share of correct responses, before a world that changes scores does so.
        between: share of the variance of a response's worth that lies between prompts.
    """
    return _plant(world, np.arange(n_prompts), n_samples, np.random.default_rng(seed), score_rate, between)


def plant_like(
    checkpoint: Checkpoint, world: str, seed: int = 0, threshold: float = 0.5, between: float = 0.5, times: int = 1
) -> Checkpoint:
    """Scored samples of a planted reward model, in the shape of a user's: prompts, responses that are there, share of
    correct ones, and the rewards themselves, which are handed out again in the order that the world gives.

    Args:
        checkpoint: the user's samples.
        world: a key of ``WORLDS``.
        seed: of all randomness.
        threshold: a score above it is correct.
        between: share of the variance of a response's worth that lies between prompts.
        times: how many times as many prompts.

    Returns:
        Samples with scores 0 and 1.
    """
    known = np.tile(checkpoint.known, (times, 1))
    prompt = np.concatenate([checkpoint.prompt + i * checkpoint.n_prompts for i in range(times)])
    rate = float((checkpoint.score[checkpoint.known] > threshold).mean())
    found = _plant(world, prompt, known.shape[1], np.random.default_rng(seed), rate, between)
    theirs = np.sort(checkpoint.reward[checkpoint.known])
    place = np.argsort(np.argsort(found.reward[known], kind="stable"), kind="stable")
    reward = np.full(known.shape, np.nan)
    reward[known] = theirs[place // times]
    return Checkpoint(world, reward, np.where(known, found.score, np.nan), prompt)


def _plant(
    world: str, prompt: NDArray[np.int64], n_samples: int, rng: np.random.Generator, rate: float, between: float
) -> Checkpoint:
    ease = np.sqrt(between) * rng.normal(size=(int(prompt.max()) + 1, 1))[prompt]
    quality = np.sqrt(1 - between) * rng.normal(size=(len(prompt), n_samples))
    threshold = float(-special.ndtri(rate))
    draft = Draft(rng, ease, quality, threshold, (ease + quality > threshold).astype(float))
    reward = WORLDS[world].reward(draft)
    return Checkpoint(world, reward, draft.score, prompt)
