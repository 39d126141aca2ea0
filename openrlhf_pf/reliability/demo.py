"""The demo: two simulated reward models with a known flaw, and what to see in their analysis.

A response is worth the sum of how easy its prompt is and how good it is among the responses of its prompt, both
normal; it is correct above 0. The reward is its worth, spoiled in one way.
"""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysis
from openrlhf_pf.reliability.read.checkpoints import Checkpoint, Rollouts

N_PROMPTS, N_SAMPLES = 1500, 8
#: Share of responses that the second reward model is wrong about.
SPOILED = 0.12
#: Half the width of the band around 0 in which the first is random, in standard deviations of the worth.
BAND = 0.8
#: The strategies compared unless the user names others.
STRATEGIES = ("none", "best_of_n", "best_random", "best_worst", "rank_weights")
#: Rewards are squeezed into (-1, 1); between -MIDDLE and MIDDLE the first reward model guesses.
MIDDLE = float(np.tanh(BAND))
EXTREMES, HACKED = "accurate at the extremes", "hacked at the top"


def make_samples() -> Rollouts:
    """Return samples of a reward model that is accurate at the extremes, and of one that is hacked at the top."""
    checkpoints = []
    for seed, name in enumerate((EXTREMES, HACKED)):
        rng = np.random.default_rng(seed)
        ease, quality = (np.sqrt(0.5) * rng.normal(size=(N_PROMPTS, n)) for n in (1, N_SAMPLES))
        worth = ease + quality
        score = (worth > 0).astype(float)
        if name == EXTREMES:
            middle = np.abs(worth) < BAND
            reward = np.where(middle, rng.uniform(-BAND, BAND, worth.shape), worth)
        else:
            spoiled = rng.random(worth.shape) < SPOILED
            score = np.where(spoiled, 0.0, score)
            reward = np.where(spoiled, 2.0 + 0.5 * rng.random(worth.shape), worth)
        checkpoints.append(Checkpoint(name, np.tanh(reward), score, np.arange(N_PROMPTS)))
    return Rollouts(checkpoints, separate=True)


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
