"""Are the top- and bottom-ranked responses of a prompt misranked?

A hacked reward model's favourites are worse than its second choices; a reward model that misjudges some good responses
has last choices that are better than the ranks above them.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group.
"""

from dataclasses import dataclass

import numpy as np

from openrlhf_pf.reliability.measures.bootstrap import Bootstrap, interval
from openrlhf_pf.reliability.measures.strategies import average_ties
from openrlhf_pf.reliability.read.checkpoints import Checkpoint


@dataclass(frozen=True)
class ExtremeRanks:
    """Differences in mean true score between neighbouring ranks by reward, ``{estimate, low, high}`` each.

    Attributes:
        top: first rank minus second: below 0, the favourites are worse than the second choices.
        bottom: last rank but one minus last: below 0, the last choices are better than the ones above.
        n_samples: N of the prompts that were compared.
    """

    top: dict[str, float]
    bottom: dict[str, float]
    n_samples: int

    @property
    def top_is_wrong(self) -> bool:
        """Whether the favourites are significantly worse than the second choices."""
        return self.top["high"] < 0

    @property
    def bottom_is_wrong(self) -> bool:
        """Whether the last choices are significantly better than the rank above."""
        return self.bottom["high"] < 0


def compare_extreme_ranks(checkpoint: Checkpoint, bootstrap: Bootstrap, level: float = 0.95) -> ExtremeRanks | None:
    """Compare neighbouring ranks at both ends, on prompts of the most common size; equal rewards share their ranks.

    Args:
        checkpoint: the samples.
        bootstrap: the repetitions, for this checkpoint's prompts.
        level: of the intervals.

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
        sums = bootstrap.resample(bootstrap.table(block, columns))[:, 0]
        means = sums[:, 1:] / sums[:, :1]
    found = []
    for column in means.T:
        low, high = interval(float(column[0]), column[1:], "plain", len(np.unique(block)), level)
        found.append({"estimate": float(column[0]), "low": low, "high": high})
    return ExtremeRanks(*found, most_common)
