"""The demo: two simulated reward models with a known flaw, and what to see in their analysis."""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysis
from openrlhf_pf.reliability.measures.strategies import LEARNED
from openrlhf_pf.reliability.planted import BAND, plant
from openrlhf_pf.reliability.read.checkpoints import Checkpoint, Rollouts

N_PROMPTS, N_SAMPLES = 1500, 8
#: The strategies compared unless the user names others.
STRATEGIES = ("none", "best_of_n", "best_random", "best_worst", LEARNED)
#: Rewards are squeezed into (-1, 1); between -MIDDLE and MIDDLE the first reward model guesses.
MIDDLE = float(np.tanh(BAND))
EXTREMES, HACKED = "accurate at the extremes", "hacked at the top"


def make_samples() -> Rollouts:
    """Return samples of a reward model that is accurate at the extremes, and of one that is hacked at the top."""
    settings = {EXTREMES: "noise in the middle", HACKED: "wrong at the top"}
    drawn = [plant(setting, N_PROMPTS, N_SAMPLES, seed) for seed, setting in enumerate(settings.values())]
    for checkpoint, name in zip(drawn, settings):
        checkpoint.name, checkpoint.reward = name, np.tanh(checkpoint.reward)
    return Rollouts(drawn, separate=True)


def describe(analysis: Analysis) -> list[str]:
    """Return three sentences on what to see, with the numbers of this analysis."""
    extremes, hacked = (a.checkpoint for a in analysis.analysed)
    middle = np.abs(extremes.reward) < MIDDLE
    of_rank = _score_by_rank(hacked)
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
        f"{of_rank[2]:.0%}, so training on the favourite of each prompt (best_of_n) would teach the hack: see the "
        "ranks that the report names instead, and where the figure of rank against score bends down.",
    ]


def _score_by_rank(checkpoint: Checkpoint) -> np.ndarray:
    """Return (N,) the mean score at each rank by reward, best first."""
    order = np.argsort(-checkpoint.reward, axis=1)
    return np.take_along_axis(checkpoint.score, order, axis=1).mean(axis=0)
