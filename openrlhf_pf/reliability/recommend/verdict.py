"""The verdict on the ranking within prompts, and why the gain may disagree with it.

The verdict comes from pairs alone: every prompt counts by its pairs, whatever the size of its rewards. The gain also
depends on how far apart rewards lie; where it disagrees, :func:`find_causes` names the reason.
"""

import numpy as np

from openrlhf_pf.reliability.measures.contrasts import Interval
from openrlhf_pf.reliability.measures.evaluate import Result
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

#: Shares of correctly ordered pairs from which on a reward model is called right and mostly right.
RIGHT_FROM, MOSTLY_FROM = 0.9, 0.7
RIGHT, MOSTLY, SLIGHTLY = "right", "mostly right", "slightly right"
GUESSING, WRONG, UNKNOWN = "no better than guessing", "wrong way round", "unknown"
SAME = "reward is the score"
#: Verdicts by which higher rewards mean better responses.
GOOD = (RIGHT, MOSTLY, SLIGHTLY)

#: Fewer prompts than this decide nothing: bootstrap intervals are unreliable.
FEWEST_PROMPTS = 30
#: A correlation of reward and score from which on they are the same up to scale.
SAME_FROM = 0.999
#: The share of responses that may not make up more than half of the spread of rewards within prompts.
FEW = 0.05


def verdict_of(accuracy: dict[str, float | None]) -> str:
    """Return the verdict by ``{estimate, low, high}`` of the share of correctly ordered pairs."""
    if accuracy["estimate"] is None or accuracy["low"] is None:
        return UNKNOWN
    if accuracy["high"] < 0.5:
        return WRONG
    if accuracy["low"] <= 0.5:
        return GUESSING
    return RIGHT if accuracy["estimate"] >= RIGHT_FROM else MOSTLY if accuracy["estimate"] >= MOSTLY_FROM else SLIGHTLY


def is_same(checkpoint: Checkpoint) -> bool:
    """Return whether reward and score are the same up to scale, or nearly: the reward is then measured by itself."""
    reward, score = (x[checkpoint.known] for x in (checkpoint.reward, checkpoint.score))
    reward, score = (x / max(np.abs(x).max(initial=0.0), np.finfo(float).tiny) for x in (reward, score))
    if len(reward) < 3 or min(np.ptp(reward), np.ptp(score)) <= 0:
        return False
    return bool(abs(np.corrcoef(reward, score)[0, 1]) > SAME_FROM)


def count_informative(checkpoint: Checkpoint) -> int:
    """Return the number of prompts that have responses with different true scores."""
    high = np.where(checkpoint.known, checkpoint.score, -np.inf).max(axis=1)
    low = np.where(checkpoint.known, checkpoint.score, np.inf).min(axis=1)
    return len(np.unique(checkpoint.prompt[high > low]))


def find_causes(checkpoint: Checkpoint, everything: Result, misranked: dict[str, Interval]) -> list[str]:
    """Return why ranking and gain may disagree, the likeliest first: "one prompt", "few informative prompts",
    "huge rewards", "hacked top", or "close" if nothing stands out.

    ``everything`` is the result of training on all samples, ``misranked`` of ``contrasts.find_misranked``.
    """
    causes, informative = [], count_informative(checkpoint)
    if informative and everything.units.get("pairwise_accuracy", np.inf) < 2:
        causes.append("one prompt")
    elif informative < FEWEST_PROMPTS <= checkpoint.n_prompts:
        causes.append("few informative prompts")
    if measure_huge_rewards(checkpoint)[1] > 0.5:
        causes.append("huge rewards")
    return [*causes, *["hacked top"] * ("top" in misranked)] or ["close"]


def measure_huge_rewards(checkpoint: Checkpoint) -> tuple[int, float]:
    """Return the number of the ``FEW`` furthest responses and their share of the spread of rewards within prompts."""
    known = checkpoint.known & (checkpoint.known.sum(axis=1, keepdims=True) > 1)
    if not known.any():
        return 0, 0.0
    filled = np.where(known, checkpoint.reward, np.nan)[known.any(axis=1)]
    filled = filled / max(np.nanmax(np.abs(filled)), np.finfo(float).tiny)
    away = (filled - np.nanmedian(filled, axis=1, keepdims=True)) ** 2
    away = np.sort(away[np.isfinite(away)])[::-1]
    few = max(1, int(FEW * len(away)))
    return few, float(away[:few].sum() / max(away.sum(), np.finfo(float).tiny))
