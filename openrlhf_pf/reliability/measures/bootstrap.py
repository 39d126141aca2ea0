"""Bootstrap over prompts: resampled sums, and the interval of a metric computed from them.

The samples of a prompt are dependent, so whole prompts are drawn. Three things differ from the textbook bootstrap:

* **Twice as many draws.** A repetition draws 2 G of G prompts and counts each draw half; deviations are then stretched
  by the square root of 2. Metrics that are linear in the counts do not change. Binned R² does: its bins are noisy
  already, and an ordinary repetition adds the same noise a second time.
* **Centred.** The median of the repetitions is moved onto the estimate, on a scale where the metric is close to normal
  (Fisher's z, log odds, logarithm).
* **Few informative prompts.** Where few prompts carry a metric, intervals are stretched by Student's t for the number
  of equal prompts that carry as much information (below 100 prompts the normal quantile is too narrow); with one such
  prompt there is no interval.

Above 2,000 prompts, prompts are put into 2,000 random blocks, which have the same standard error and keep a million
samples fast: a repetition is one row of a matrix product with the table of sums per block.

Notation used for shapes: S samples, J blocks (prompts, when there are few), R repetitions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

MAX_BLOCKS = 2000
#: Draws per prompt in a repetition, see above.
DRAWS = 2
#: A metric that more repetitions than this share cannot compute has no interval.
MOST_MISSING = 0.1

_EDGE = 1e-9
#: Kind of a metric to the scale on which it is closest to normal, and the way back.
SCALES = {
    "plain": (np.asarray, np.asarray),
    "positive": (lambda x: np.log(np.maximum(x, np.finfo(float).tiny)), np.exp),
    "share": (lambda x: special.logit(np.clip(x, _EDGE, 1 - _EDGE)), special.expit),
    "correlation": (lambda x: np.arctanh(np.clip(x, _EDGE - 1, 1 - _EDGE)), np.tanh),
}
SCALES["r2"] = SCALES["correlation"]


class Bootstrap:
    """The repetitions: how often each block counts. All metrics and strategies share them: differences are paired.

    Attributes:
        block: (G,) the block of each prompt.
        counts: (R, J) how much each block counts, 1 on average.
    """

    def __init__(self, n_prompts: int, repetitions: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n_blocks = min(n_prompts, MAX_BLOCKS)
        self.block = rng.permutation(n_prompts) % self.n_blocks
        chances = np.full(self.n_blocks, 1.0 / self.n_blocks)
        self.counts = rng.multinomial(DRAWS * self.n_blocks, chances, size=repetitions) / DRAWS

    def table(
        self, block: NDArray, columns: Sequence[Floats], cell: NDArray | None = None, n_cells: int = 1
    ) -> Floats:
        """Return (J, cells, columns) sums of columns (S,) per block (S,) and cell (S,); None for a single cell."""
        place = block if cell is None else block * n_cells + cell
        sums = [np.bincount(place, column, minlength=self.n_blocks * n_cells) for column in columns]
        return np.stack(sums, axis=-1).reshape(self.n_blocks, n_cells, len(columns))

    def resample(self, table: Floats, counts: Floats | None = None) -> Floats:
        """Return (1 + R, ...) sums of a table (J, ...): of all data, then of each repetition; or of ``counts``."""
        counts = np.concatenate([np.ones((1, self.n_blocks)), self.counts]) if counts is None else counts
        return (counts @ table.reshape(self.n_blocks, -1)).reshape(len(counts), *table.shape[1:])

    def sum_up(self, block: NDArray, columns: Sequence[Floats]) -> Floats:
        """Return (1 + R, columns) sums of columns (S,): of all data, then of each repetition."""
        return self.resample(self.table(block, columns))[:, 0]

    def summarize(
        self, values: Floats, kind: str, level: float, units: float | None = None
    ) -> dict[str, float | None]:
        """Return ``{estimate, low, high}`` of a metric (1 + R,), the estimate first; see :func:`interval`."""
        return as_values(values[0], *interval(float(values[0]), values[1:], kind, self.n_blocks, level, units))


def deviations(draws: Floats, kind: str, n_units: float) -> Floats:
    """Return (R,) deviations of the repetitions from their median, on the scale of the metric's kind."""
    moved = SCALES[kind][0](draws)
    if not np.isfinite(moved).any():
        return moved
    with np.errstate(invalid="ignore"):
        return (moved - np.nanmedian(moved)) * np.sqrt(DRAWS) * _student_factor(n_units, 0.975)


def interval(
    estimate: float, draws: Floats, kind: str, n_units: int, level: float = 0.95, informative: float | None = None
) -> tuple[float, float]:
    """Return the low and high end of the interval around an estimate; for "r2" both carry the sign of the correlation.

    Args:
        estimate: the metric of the data.
        draws: (R,) the metric of each repetition; NaN where it is not defined.
        kind: see ``metrics.Metric``; for "r2", ``draws`` and ``estimate`` are signed correlations.
        n_units: J, the number of units that were drawn from.
        level: of the interval.
        informative: number of equal units that carry as much information on this metric; None if all count the same.

    Returns:
        NaN where the metric is not defined, in too few repetitions, or by one unit only.
    """
    units = n_units if informative is None else min(informative, n_units)
    if not np.isfinite(estimate) or np.isnan(draws).mean() > MOST_MISSING or units < 1 + _EDGE:
        return np.nan, np.nan
    if kind == "share" and informative is not None:
        return _interval_of_share(estimate, draws, units, level)
    away = np.nanquantile(deviations(draws, kind, units), [(1 - level) / 2, (1 + level) / 2])
    there, back = SCALES[kind]
    low, high = map(float, back(there(estimate) + away))
    if kind == "r2":
        return low * abs(low), high * abs(high)
    if kind == "share" and not _EDGE < estimate < 1 - _EDGE:
        # No repetition leaves an estimate of 0 or 1: n prompts without an exception rule out less than that.
        least = ((1 - level) / 2) ** (1 / n_units)
        low, high = (min(low, least), high) if estimate > 0.5 else (low, max(high, 1 - least))
    return low, high


def _interval_of_share(estimate: float, draws: Floats, units: float, level: float) -> tuple[float, float]:
    """Return Jeffreys' interval at the effective sample size (Korn and Graubard 1998).

    Repetitions of a share near 0 or 1, or of few units, are skewed.
    """
    variance = float(np.nanvar(draws)) * DRAWS
    spread = estimate * (1 - estimate)
    known = variance > _EDGE**2 and spread > _EDGE
    n = spread / variance / _student_factor(units, (1 + level) / 2) ** 2 if known else units
    low, high = special.betaincinv(n * estimate + 0.5, n * (1 - estimate) + 0.5, [(1 - level) / 2, (1 + level) / 2])
    return (0.0 if estimate <= _EDGE else float(low)), (1.0 if estimate >= 1 - _EDGE else float(high))


def _student_factor(n_units: float, share: float) -> float:
    """Return the stretch of the normal interval for few units: their variance is underestimated and uncertain."""
    degrees = max(n_units - 1, 1)
    return float(np.sqrt(n_units / degrees) * special.stdtrit(degrees, share) / special.ndtri(share))


def effective_units(per_block: Floats) -> float:
    """Return how many equal units carry as much as units of these sizes (J,) (Kish)."""
    squares = float((per_block**2).sum())
    return float(per_block.sum()) ** 2 / squares if squares > 0 else 0.0


def as_values(estimate: float, low: float, high: float) -> dict[str, float | None]:
    """Return ``{estimate, low, high}`` with None for what is not defined."""
    values = {"estimate": estimate, "low": low, "high": high}
    return {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
