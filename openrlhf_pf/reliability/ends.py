"""Do the highest and the lowest rewards of a prompt keep their word?

Where a reward model is hacked, its favourites are worse than its second choices; where it misjudges, its last choices
are better than the last but one.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.bootstrap import Bootstrap, interval
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.strategies import average_ties

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ends:
    """Differences in mean true score between neighbouring ranks by reward, ``{estimate, low, high}`` each.

    Attributes:
        top: first rank less second: below 0, the favourites are worse than the second choices.
        bottom: last rank but one less last: below 0, the last choices are better than those before them.
        n_samples: N of the prompts that were looked at.
    """

    top: dict[str, float]
    bottom: dict[str, float]
    n_samples: int

    @property
    def verdict(self) -> str:
        """``"wrong at the top"``, ``"wrong at the bottom"``, ``"wrong at both ends"`` beyond doubt, or ``""``."""
        top, bottom = self.top["high"] < 0, self.bottom["high"] < 0
        return {
            (True, True): "wrong at both ends",
            (True, False): "wrong at the top",
            (False, True): "wrong at the bottom",
        }.get((top, bottom), "")

    def words(self) -> list[str]:
        """A sentence for each end that is wrong beyond doubt."""
        found = []
        if self.top["high"] < 0:
            found.append(
                "The responses with the highest reward of their prompt are worse than the second choices, by"
                f" {_range(self.top)} in true score: training on favourites alone (best_of_n) would teach what fools"
                " the reward model."
            )
        if self.bottom["high"] < 0:
            found.append(
                "The responses with the lowest reward of their prompt are better than the last but one, by"
                f" {_range(self.bottom)} in true score: using them as bad examples (best_worst) would teach what the"
                " reward model misjudges."
            )
        return found


def _range(difference: dict[str, float]) -> str:
    estimate, high, low = (-difference[key] for key in ("estimate", "low", "high"))
    return f"{estimate:.3f} (interval {low:.3f} to {high:.3f})"


def ends_of(checkpoint: Checkpoint, bootstrap: Bootstrap, level: float = 0.95) -> Ends | None:
    """Compare neighbouring ranks at both ends, on prompts of the most common size; equal rewards share their ranks.

    Args:
        checkpoint: the samples.
        bootstrap: the repetitions, for this checkpoint's prompts.
        level: of the intervals.

    Returns:
        None where the most common size is below 3, for then both ends are one pair.
    """
    size = checkpoint.known.sum(axis=1)
    sizes = np.bincount(size)
    sizes[:2] = 0
    most_common = int(sizes.argmax()) if len(sizes) else 0
    if most_common < 3:
        return None
    rows = size == most_common
    reward = np.where(checkpoint.known, checkpoint.reward, np.nan)[rows]
    score = average_ties(np.where(checkpoint.known, checkpoint.score, 0.0)[rows], reward)
    ranked = np.take_along_axis(score, np.argsort(-reward, axis=1, kind="stable")[:, :most_common], axis=1)
    columns = [ranked[:, 0] - ranked[:, 1], ranked[:, -2] - ranked[:, -1]]
    block = bootstrap.block[checkpoint.prompt[rows]]
    sums = bootstrap.sums(block, [np.ones(len(block)), *columns])[:, 0]
    found = []
    for number, column in enumerate(columns, 1):
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = sums[:, number] / sums[:, 0]
        low, high = interval(float(column.mean()), draws, "plain", len(np.unique(block)), level)
        found.append({"estimate": float(column.mean()), "low": low, "high": high})
    return Ends(*found, most_common)
