"""Two planted reward models, and what to see in their analysis: a minute to the point, without any data."""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysis
from openrlhf_pf.reliability.data import Checkpoint, Rollouts
from openrlhf_pf.reliability.planted import BAND, plant

N_PROMPTS, N_SAMPLES = 1500, 8
#: What is compared unless the user names others.
STRATEGIES = ("none", "best_of_n", "best_random", "best_worst", "learned_weights")
#: Rewards are squeezed into (-1, 1); in between these two, the first reward model guesses.
MIDDLE = float(np.tanh(BAND))
ENDS, HACKED = "right at both ends", "hacked at the top"


def samples() -> Rollouts:
    """Samples of a reward model that is right at both ends and noisy between, and of one that is hacked at the top."""
    worlds = {ENDS: "noise in the middle", HACKED: "wrong at the top"}
    drawn = [plant(world, N_PROMPTS, N_SAMPLES, seed) for seed, world in enumerate(worlds.values())]
    for checkpoint, name in zip(drawn, worlds):
        checkpoint.name, checkpoint.reward = name, np.tanh(checkpoint.reward)
    return Rollouts(drawn, apart=True)


def sentences(analysis: Analysis) -> list[str]:
    """Three sentences that say what to see, with the numbers of this analysis."""
    ends, hacked = (a.checkpoint for a in analysis.analysed)
    middle = np.abs(ends.reward) < MIDDLE
    of_rank = _score_by_rank(hacked)
    high, low = ends.score[ends.reward >= MIDDLE], ends.score[ends.reward <= -MIDDLE]
    upper, lower = ends.score[middle & (ends.reward > 0)], ends.score[middle & (ends.reward < 0)]
    return [
        f"Two made-up reward models have each judged {ends.reward.size:,} responses to {ends.n_prompts:,} prompts: "
        f"one is {ENDS} of its rewards and guesses in the middle, the other is {HACKED}, where wrong responses please "
        "it.",
        f"The first: of the responses with high rewards {high.mean():.0%} are correct, of those with low rewards "
        f"{low.mean():.0%}, and in the middle the reward says nothing ({upper.mean():.0%} of its upper half, "
        f"{lower.mean():.0%} of its lower half), so the best and the worst response of each prompt (best_worst) teach "
        "most for what training on them costs.",
        f"The second: of its favourite responses {of_rank[0]:.0%} are correct and of its third choices "
        f"{of_rank[2]:.0%}, so training on the favourite of each prompt (best_of_n) would teach the hack: look for "
        "the ranks that the report names instead, and for where the figure of rank against score bends down.",
    ]


def _score_by_rank(checkpoint: Checkpoint) -> np.ndarray:
    """(N,) mean score at each rank by reward, best first."""
    order = np.argsort(-checkpoint.reward, axis=1)
    return np.take_along_axis(checkpoint.score, order, axis=1).mean(axis=0)
