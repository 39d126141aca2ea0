"""Does the reward follow the length of a response more than its true score?

Within prompts: partial correlations of reward with length at equal score, and of reward with score at equal length.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group, R rows (estimate and repetitions).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.measures.bootstrap import Bootstrap, as_values, interval
from openrlhf_pf.reliability.measures.within import Deviations
from openrlhf_pf.reliability.read.checkpoints import Checkpoint

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LengthEffect:
    """Partial correlations within prompts, ``{estimate, low, high}`` each.

    Attributes:
        length: of reward and length at equal score.
        score: of reward and score at equal length.
        difference: size of the first minus that of the second.
    """

    length: dict[str, float | None]
    score: dict[str, float | None]
    difference: dict[str, float | None]

    @property
    def dominates(self) -> bool:
        """Whether the reward follows length significantly more than the true score."""
        return self.difference["low"] is not None and self.difference["low"] > 0


def measure_length(
    checkpoint: Checkpoint, away: Deviations, bootstrap: Bootstrap, level: float = 0.95
) -> LengthEffect | None:
    """Compute the partial correlations; None without lengths or where any of the three does not vary.

    Args:
        checkpoint: the samples.
        away: their deviations from the prompts' means.
        bootstrap: the repetitions, for this checkpoint's prompts.
        level: of the intervals.
    """
    if checkpoint.length is None or not away.known.any():
        return None
    count = np.maximum(away.known.sum(axis=1, keepdims=True), 1)
    lengths = np.where(away.known, checkpoint.length, 0.0)
    lengths = np.where(away.known, lengths - lengths.sum(axis=1, keepdims=True) / count, 0.0)
    columns = (away.reward / max(np.abs(away.reward).max(), 1e-300), away.score, lengths)
    products = [(columns[i] * columns[j]).sum(axis=1) for i in range(3) for j in range(i, 3)]
    sums = bootstrap.resample(bootstrap.table(bootstrap.block[checkpoint.prompt], products))[:, 0]
    rr, rs, rl, ss, sl, ll = sums.T
    if min(rr[0], ss[0], ll[0]) <= 0:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        r_s, r_l, s_l = rs / np.sqrt(rr * ss), rl / np.sqrt(rr * ll), sl / np.sqrt(ss * ll)
        length = (r_l - r_s * s_l) / np.sqrt((1 - r_s**2) * (1 - s_l**2))
        score = (r_s - r_l * s_l) / np.sqrt((1 - r_l**2) * (1 - s_l**2))
    found = []
    for values, kind in ((length, "correlation"), (score, "correlation"), (np.abs(length) - np.abs(score), "plain")):
        found.append(as_values(values[0], *interval(float(values[0]), values[1:], kind, bootstrap.n_blocks, level)))
    return LengthEffect(*found)
