"""The demo: two simulated reward models with a known flaw, and what to see in their analysis.

A response is worth the sum of how easy its prompt is and how good it is among the responses of its prompt, both
normal; it is correct above a threshold. The reward is its worth, spoiled in one way.

Notation used for shapes: G prompts, N samples a prompt.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from openrlhf_pf.reliability.analysis import Analysis
from openrlhf_pf.reliability.read.checkpoints import Checkpoint, Rollouts

Floats = NDArray[np.float64]

N_PROMPTS, N_SAMPLES = 1500, 8
#: Share of responses that the second reward model is wrong about.
SPOILED = 0.12
#: Half the width of the band around the threshold in which the first is random, in standard deviations of the worth.
BAND = 0.8
#: The strategies compared unless the user names others.
STRATEGIES = ("none", "best_of_n", "best_random", "best_worst", "rank_weights")
#: Rewards are squeezed into (-1, 1); between -MIDDLE and MIDDLE the first reward model guesses.
MIDDLE = float(np.tanh(BAND))
EXTREMES, HACKED = "accurate at the extremes", "hacked at the top"


@dataclass
class Draft:
    """Responses before a reward model scores them.

    Attributes:
        rng: source of all randomness.
        ease: (G, 1) how easy the prompt is.
        quality: (G, N) how good the response is among those of its prompt.
        threshold: of ``ease + quality``, above which a response is correct.
        score: (G, N) 0 or 1.
    """

    rng: np.random.Generator
    ease: Floats
    quality: Floats
    threshold: float
    score: Floats

    @classmethod
    def of(cls, n_prompts: int, n_samples: int, seed: int, score_rate: float = 0.5) -> "Draft":
        """Draw responses, of which ``score_rate`` are correct; half of the variance lies between prompts."""
        rng = np.random.default_rng(seed)
        ease = np.sqrt(0.5) * rng.normal(size=(n_prompts, 1))
        quality = np.sqrt(0.5) * rng.normal(size=(n_prompts, n_samples))
        threshold = float(-special.ndtri(score_rate))
        return cls(rng, ease, quality, threshold, (ease + quality > threshold).astype(float))

    @property
    def worth(self) -> Floats:
        """(G, N) ease plus quality."""
        return self.ease + self.quality


def noisy_middle(draft: Draft) -> Floats:
    """Return rewards that are right about very good and very bad responses, and random between."""
    middle = np.abs(draft.worth - draft.threshold) < BAND
    return np.where(middle, draft.threshold + draft.rng.uniform(-BAND, BAND, middle.shape), draft.worth)


def wrong_at(draft: Draft, side: float) -> Floats:
    """Give some wrong responses the highest rewards (side 1), or some correct ones the lowest (-1)."""
    spoiled = draft.rng.random(draft.worth.shape) < SPOILED
    draft.score = np.where(spoiled, 0.0 if side > 0 else 1.0, draft.score)
    beyond = draft.threshold + side * (2.0 + 0.5 * draft.rng.random(draft.worth.shape))
    return np.where(spoiled, beyond, draft.worth)


def make_samples() -> Rollouts:
    """Return samples of a reward model that is accurate at the extremes, and of one that is hacked at the top."""
    first, second = (Draft.of(N_PROMPTS, N_SAMPLES, seed) for seed in (0, 1))
    rewards = {EXTREMES: noisy_middle(first), HACKED: wrong_at(second, 1.0)}
    prompt = np.arange(N_PROMPTS)
    drafts = zip(rewards.items(), (first, second))
    return Rollouts(
        [Checkpoint(name, np.tanh(reward), draft.score, prompt) for (name, reward), draft in drafts], separate=True
    )


def describe(analysis: Analysis) -> list[str]:
    """Return three sentences on what to see, with the numbers of this analysis."""
    extremes, hacked = (a.checkpoint for a in analysis.analysed)
    middle = np.abs(extremes.reward) < MIDDLE
    order = np.argsort(-hacked.reward, axis=1)
    of_rank = np.take_along_axis(hacked.score, order, axis=1).mean(axis=0)  # best first
    high, low = extremes.score[extremes.reward >= MIDDLE], extremes.score[extremes.reward <= -MIDDLE]
    upper, lower = extremes.score[middle & (extremes.reward > 0)], extremes.score[middle & (extremes.reward < 0)]
    return [
        f"Two made-up reward models have each judged {extremes.reward.size:,} responses to {extremes.n_prompts:,} "
        f"prompts: one is {EXTREMES} and guesses in the middle, the other is {HACKED}, where wrong ones please it.",
        f"The first: of the responses with high rewards {high.mean():.0%} are correct, of those with low rewards "
        f"{low.mean():.0%}, and in the middle the reward says nothing ({upper.mean():.0%} of its upper half, "
        f"{lower.mean():.0%} of its lower half), so the best and the worst response of each prompt (best_worst) "
        "teach most per trained response.",
        f"The second: of its favourite responses {of_rank[0]:.0%} are correct and of its third choices "
        f"{of_rank[2]:.0%}, so training on the favourite of each prompt (best_of_n) would teach the hack, and the "
        "second and the last rank (rank_weights) teach most: see where the figure of rank against score bends down.",
    ]
