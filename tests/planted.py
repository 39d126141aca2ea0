"""Simulated reward models with a known flaw: the demo's, and more."""

import numpy as np

from openrlhf_pf.reliability import Checkpoint
from openrlhf_pf.reliability.demo import Draft, noisy_middle, wrong_at


def difficulty_only(draft):
    return draft.ease + draft.quality.std() * draft.rng.normal(size=draft.worth.shape)


#: A setting's name to the rewards that it gives a draft; some change its scores.
SETTINGS = {
    "right everywhere": lambda draft: draft.worth,
    "noise in the middle": noisy_middle,
    "wrong at the top": lambda draft: wrong_at(draft, 1.0),
    "wrong at the bottom": lambda draft: wrong_at(draft, -1.0),
    "difficulty only": difficulty_only,
    "offsets": lambda draft: draft.quality + 2 * draft.rng.normal(size=draft.ease.shape),
    "offsets against difficulty": lambda draft: draft.quality - 2 * draft.ease,
    "useless": lambda draft: draft.rng.normal(size=draft.worth.shape),
}


def plant(setting, n_prompts, n_samples, seed=0, score_rate=0.5):
    """Scored samples of a simulated reward model; ``score_rate`` is the share of correct responses."""
    draft = Draft.of(n_prompts, n_samples, seed, score_rate)
    reward = SETTINGS[setting](draft)
    return Checkpoint(setting, reward, draft.score, np.arange(n_prompts))
