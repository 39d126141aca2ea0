"""Simulated reward models with a known flaw, and their analysis."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from scipy import special

from openrlhf_pf.reliability import Checkpoint, Rollouts, Settings, analyse_rollouts


def noisy_middle(draft):
    """Right about very good and very bad responses, and random between."""
    middle = np.abs(draft.worth - draft.threshold) < 0.8
    return np.where(middle, draft.threshold + draft.rng.uniform(-0.8, 0.8, middle.shape), draft.worth)


def wrong_at(draft, side):
    """Give some wrong responses the highest rewards (side 1), or some correct ones the lowest (-1)."""
    spoiled = draft.rng.random(draft.worth.shape) < 0.12
    draft.score = np.where(spoiled, 0.0 if side > 0 else 1.0, draft.score)
    beyond = draft.threshold + side * (2.0 + 0.5 * draft.rng.random(draft.worth.shape))
    return np.where(spoiled, beyond, draft.worth)


#: A setting's name to the rewards that it gives a draft; some change its scores.
SETTINGS = {
    "right everywhere": lambda draft: draft.worth,
    "noise in the middle": noisy_middle,
    "wrong at the top": lambda draft: wrong_at(draft, 1.0),
    "wrong at the bottom": lambda draft: wrong_at(draft, -1.0),
    "difficulty only": lambda d: d.ease + d.quality.std() * d.rng.normal(size=d.worth.shape),
    "offsets": lambda draft: draft.quality + 2 * draft.rng.normal(size=draft.ease.shape),
    "offsets against difficulty": lambda draft: draft.quality - 2 * draft.ease,
    "useless": lambda draft: draft.rng.normal(size=draft.worth.shape),
}


def checkpoint_of(reward, score, **more):
    """The samples of one policy, a row a prompt."""
    reward, score = np.asarray(reward, float), np.asarray(score, float)
    return Checkpoint("a", reward, score, np.arange(len(reward)), **more)


def plant(setting, n_prompts, n_samples, seed=0, score_rate=0.5):
    """Scored samples of a simulated reward model; ``score_rate`` is the share of correct responses."""
    rng = np.random.default_rng(seed)
    ease, quality = (np.sqrt(0.5) * rng.normal(size=(n_prompts, n)) for n in (1, n_samples))
    worth, threshold = ease + quality, -special.ndtri(score_rate)
    score = (worth > threshold).astype(float)
    draft = SimpleNamespace(rng=rng, ease=ease, quality=quality, worth=worth, threshold=threshold, score=score)
    return replace(checkpoint_of(SETTINGS[setting](draft), draft.score), name=setting)


def analysed(*checkpoints, names=(), repetitions=100):
    """The analysis of checkpoints by these strategies; all that the data allow without names."""
    return analyse_rollouts(Rollouts(list(checkpoints)), Settings(repetitions=repetitions, strategies=tuple(names)))
