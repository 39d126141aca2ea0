"""Three ways in which a reward goes wrong within prompts: at the first and last ranks, by following length, and by
errors that repeat when the same responses are scored again.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group, R rows (estimate and repetitions).
"""

from dataclasses import dataclass

import numpy as np

from openrlhf_pf.reliability.measures.bootstrap import Bootstrap, effective_units
from openrlhf_pf.reliability.measures.strategies import average_ties
from openrlhf_pf.reliability.measures.within import Deviations, center
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Interval = dict[str, float | None]


@dataclass(frozen=True)
class ExtremeRanks:
    """Differences in mean true score between neighbouring ranks by reward, ``{estimate, low, high}`` each.

    Attributes:
        top: first rank minus second: below 0, the favourites are worse, as those of a hacked reward model.
        bottom: last rank but one minus last: below 0, the reward model misjudges some good responses.
    """

    top: Interval
    bottom: Interval

    @property
    def top_is_wrong(self) -> bool:
        """Whether the favourites are significantly worse than the second choices."""
        return self.top["high"] is not None and self.top["high"] < 0

    @property
    def bottom_is_wrong(self) -> bool:
        """Whether the last choices are significantly better than the rank above."""
        return self.bottom["high"] is not None and self.bottom["high"] < 0


def compare_extreme_ranks(checkpoint: Checkpoint, bootstrap: Bootstrap, level: float = 0.95) -> ExtremeRanks | None:
    """Compare neighbouring ranks at both ends, on prompts of the most common size; equal rewards share their ranks.

    Returns:
        None where the most common size is below 3, for then both ends are one pair.
    """
    size = checkpoint.known.sum(axis=1)
    sizes = np.bincount(size, minlength=3)
    sizes[:2] = 0
    most_common = int(sizes.argmax())
    if most_common < 3:
        return None
    rows = size == most_common
    reward = np.where(checkpoint.known, checkpoint.reward, np.nan)[rows]
    score = average_ties(np.where(checkpoint.known, checkpoint.score, 0.0)[rows], reward)
    ranked = np.take_along_axis(score, np.argsort(-reward, axis=1, kind="stable")[:, :most_common], axis=1)
    columns = [np.ones(len(ranked)), ranked[:, 0] - ranked[:, 1], ranked[:, -2] - ranked[:, -1]]
    block = bootstrap.block[checkpoint.prompt[rows]]
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = bootstrap.sum_up(block, columns)
        means = sums[:, 1:] / sums[:, :1]
    return ExtremeRanks(*(bootstrap.summarize(m, "plain", level, len(np.unique(block))) for m in means.T))


@dataclass(frozen=True)
class LengthEffect:
    """Partial correlations within prompts, ``{estimate, low, high}`` each.

    Attributes:
        length: of reward and length at equal score.
        score: of reward and score at equal length.
        difference: size of the first minus that of the second.
    """

    length: Interval
    score: Interval
    difference: Interval

    @property
    def dominates(self) -> bool:
        """Whether the reward follows length significantly more than the true score."""
        return self.difference["low"] is not None and self.difference["low"] > 0


def measure_length(
    checkpoint: Checkpoint, away: Deviations, bootstrap: Bootstrap, level: float = 0.95
) -> LengthEffect | None:
    """Compute the partial correlations; None without lengths or where any of the three does not vary."""
    if checkpoint.length is None or not away.known.any():
        return None
    count = np.maximum(away.known.sum(axis=1, keepdims=True), 1)
    lengths = np.where(away.known, checkpoint.length, 0.0)
    lengths = np.where(away.known, lengths - lengths.sum(axis=1, keepdims=True) / count, 0.0)
    columns = (away.reward / max(np.abs(away.reward).max(), 1e-300), away.score, lengths)
    products = [(columns[i] * columns[j]).sum(axis=1) for i in range(3) for j in range(i, 3)]
    rr, rs, rl, ss, sl, ll = bootstrap.sum_up(bootstrap.block[checkpoint.prompt], products).T
    if min(rr[0], ss[0], ll[0]) <= 0:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        r_s, r_l, s_l = rs / np.sqrt(rr * ss), rl / np.sqrt(rr * ll), sl / np.sqrt(ss * ll)
        length = (r_l - r_s * s_l) / np.sqrt((1 - r_s**2) * (1 - s_l**2))
        score = (r_s - r_l * s_l) / np.sqrt((1 - r_l**2) * (1 - s_l**2))
    return LengthEffect(
        bootstrap.summarize(length, "correlation", level),
        bootstrap.summarize(score, "correlation", level),
        bootstrap.summarize(np.abs(length) - np.abs(score), "plain", level),
    )


def measure_redrawn(checkpoint: Checkpoint, bootstrap: Bootstrap, level: float = 0.95) -> Interval | None:
    """Compute the share of the reward's error that scoring the same responses again redraws, from 0 to 1.

    Half the mean square of the differences between both scorings, divided by the mean square error: what the best
    line through the true scores leaves of a scoring. All values are deviations from their prompt's mean; both have the
    same N - 1 degrees of freedom per prompt, which cancel. The errors are those of both scorings, so that the share is
    1 minus their correlation.

    Returns:
        ``{estimate, low, high}``; None without second rewards, different true scores in a prompt, or errors.
    """
    if checkpoint.reward_again is None:
        return None
    known = checkpoint.known & np.isfinite(checkpoint.reward_again)
    known &= known.sum(axis=1, keepdims=True) > 1
    rewards = np.stack([center(x, known) for x in (checkpoint.reward, checkpoint.reward_again)])
    rewards /= max(np.abs(rewards).max(initial=0.0), 1e-300)
    score = center(checkpoint.score, known)
    block = bootstrap.block[checkpoint.prompt]
    columns = [(rewards[0] - rewards[1]) ** 2 / 2, (rewards**2).mean(axis=0), *(rewards * score), score**2]
    fresh, square, first, second, ss = bootstrap.sum_up(block, [x.sum(axis=1) for x in columns]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        error = square - (first**2 + second**2) / (2 * ss)
        share = fresh / error
    if ss[0] <= 0 or error[0] <= 1e-9 * square[0]:
        return None
    slopes = np.array([first[0], second[0]])[:, None, None] / ss[0]
    errors = ((rewards - slopes * score) ** 2).sum(axis=(0, 2))
    units = effective_units(np.bincount(block, errors, bootstrap.n_blocks))
    # On the scale of the share itself: a logarithm of 0 would widen the intervals of shares near 0 and 1.
    found = bootstrap.summarize(share, "plain", level, units)
    return {end: None if value is None else min(max(value, 0.0), 1.0) for end, value in found.items()}
