"""Intervals by resampling prompts.

Samples of a prompt depend on each other, so prompts are drawn, with all their samples. Four things differ from the
textbook bootstrap:

* **Twice as many draws.** A repetition draws 2 G of G prompts and counts each draw half; deviations from the estimate
  are then stretched by the root of 2. For anything close to linear in the counts that changes nothing. For the binned
  R² it matters: its bins are noisy already, and a usual repetition adds the same noise once more, which makes its
  spread wrong in relation (too narrow by up to an eighth in the logarithm of 1 - R², by a short calculation); half the
  noise leaves an error of a twentieth at most.
* **Deviations only.** The repetitions' median is moved onto the estimate, on a scale where the metric is close to
  normal (Fisher's z, log odds, logarithm). The binned R² falls with noise in the bins, and repetitions have more
  noise. So an interval speaks of what the same procedure gives on average for this many prompts.
* **Blocks.** Beyond 2,000 prompts, each is put into one of 2,000 blocks at random and blocks are drawn. Blocks of
  independent prompts are independent and alike, so the standard error is the same; it is known to 1.6% of itself.
  Then a repetition is one row of a matrix product with sums over blocks, which is why a million samples take seconds.
* **Few that know.** Where few prompts carry a metric, for only their scores differ or their rewards lie far apart, its
  variance is as uncertain as that of so few. Intervals are stretched by Student's t for the number of equal prompts
  that would know as much, and there is none where that number is 1.

Notation used for shapes: S samples, J blocks (prompts, when there are few), R repetitions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

MAX_BLOCKS = 2000
#: Draws for each prompt in a repetition, see above.
DRAWS = 2
#: A metric that more repetitions than this share cannot compute has no interval.
MOST_MISSING = 0.1

_EDGE = 1e-9


class Bootstrap:
    """The repetitions: how often each block counts. All metrics and strategies share them, so differences are paired.

    Args:
        n_prompts: G.
        repetitions: R.
        seed: seed of the blocks and of the draws.

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

    def halves(self, number: int, seed: int = 0) -> Floats:
        """(number, J) 0 or 1: random halves of the blocks, as ``counts`` of :meth:`sums`."""
        rng = np.random.default_rng(seed)
        return np.stack([rng.permutation(self.n_blocks) % 2 for _ in range(number)]).astype(float)

    def sums(
        self,
        block: NDArray,
        columns: Sequence[Floats],
        cell: NDArray | None = None,
        n_cells: int = 1,
        counts: Floats | None = None,
    ) -> Floats:
        """Sums over the samples of each repetition.

        Args:
            block: (S,) the block of each sample.
            columns: (S,) values each, to be summed.
            cell: (S,) sum each cell by itself; None for a single one.
            n_cells: number of cells.
            counts: (R, J) how much each block counts; None for the repetitions.

        Returns:
            (R, cells, columns).
        """
        counts = self.counts if counts is None else counts
        place = block if cell is None else block * n_cells + cell
        tables = [np.bincount(place, c, minlength=self.n_blocks * n_cells) for c in columns]
        table = np.stack(tables, axis=-1).reshape(self.n_blocks, -1)
        return (counts @ table).reshape(len(counts), n_cells, len(columns))


def deviations(estimate: float, draws: Floats, kind: str, n_units: float) -> Floats:
    """Deviations of the repetitions from the estimate, on the metric's scale, of the size that the estimate has.

    Args:
        estimate: the metric of the data.
        draws: (R,) the metric of each repetition; NaN where it is not defined.
        kind: see :class:`openrlhf_pf.reliability.metrics.Metric`; for "r2", ``draws`` and ``estimate`` are signed
            correlations.
        n_units: J, what was drawn from.

    Returns:
        (R,) with median 0.
    """
    moved = to_scale(draws, kind)
    if not np.isfinite(moved).any():
        return moved
    with np.errstate(invalid="ignore"):
        return (moved - np.nanmedian(moved)) * np.sqrt(DRAWS) * _wider(n_units, 0.975)


def interval(
    estimate: float, draws: Floats, kind: str, n_units: int, level: float = 0.95, informative: float | None = None
) -> tuple[float, float]:
    """The interval around the estimate that holds ``level`` of the deviations.

    Args:
        estimate: the metric of the data.
        draws: (R,) the metric of each repetition; NaN where it is not defined.
        kind: as for :func:`deviations`.
        n_units: J, what was drawn from.
        level: of the interval.
        informative: how many equal units know as much as those that say anything about this metric: a prompt whose
            responses all have one score says nothing about pairs, and one of ten thousand responses outweighs others.
            None for all of them alike.

    Returns:
        Low and high; NaN where the metric is not defined, or in too few repetitions, or where no more than one unit
        says anything: how units differ cannot be seen then. For "r2" both carry the sign of the correlation: below 0,
        the line falls.
    """
    units = n_units if informative is None else min(informative, n_units)
    if not np.isfinite(estimate) or np.isnan(draws).mean() > MOST_MISSING or units < 1 + _EDGE:
        return np.nan, np.nan
    if kind == "share" and informative is not None:
        return _interval_of_share(estimate, draws, units, level)
    away = np.nanquantile(deviations(estimate, draws, kind, units), [(1 - level) / 2, (1 + level) / 2])
    low, high = (float(x) for x in from_scale(to_scale(np.array(estimate), kind) + away, kind))
    if kind == "r2":
        return low * abs(low), high * abs(high)
    if kind == "share" and not _EDGE < estimate < 1 - _EDGE:
        # No repetition leaves an estimate of 0 or 1: what n prompts without an exception rule out is wider.
        least = ((1 - level) / 2) ** (1 / n_units)
        low, high = (min(low, least), high) if estimate > 0.5 else (low, max(high, 1 - least))
    return low, high


def _interval_of_share(estimate: float, draws: Floats, units: float, level: float) -> tuple[float, float]:
    """Jeffreys' interval of a share from as many independent cases as have the repetitions' variance.

    Repetitions of a share near 0 or 1, or from few units, are skewed and lattice-like; the effective sample size of
    survey statistics (Korn and Graubard 1998) keeps their variance and takes the shape from the Beta distribution.
    """
    variance = float(np.nanvar(draws)) * DRAWS
    spread = estimate * (1 - estimate)
    known = variance > _EDGE**2 and spread > _EDGE
    n = spread / variance / _wider(units, (1 + level) / 2) ** 2 if known else units
    low, high = special.betaincinv(n * estimate + 0.5, n * (1 - estimate) + 0.5, [(1 - level) / 2, (1 + level) / 2])
    return (0.0 if estimate <= _EDGE else float(low)), (1.0 if estimate >= 1 - _EDGE else float(high))


def _wider(n_units: float, share: float) -> float:
    """By how much the normal's interval must be stretched for few units.

    Their variance is underestimated by (J - 1) / J, and itself uncertain, which Student's quantiles allow for.
    """
    degrees = max(n_units - 1, 1)
    return float(np.sqrt(n_units / degrees) * special.stdtrit(degrees, share) / special.ndtri(share))


def to_scale(values: Floats, kind: str) -> Floats:
    """The values on the scale of their kind."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if kind in ("r2", "correlation"):
            return np.arctanh(np.clip(values, -1 + _EDGE, 1 - _EDGE))
        if kind == "share":
            return special.logit(np.clip(values, _EDGE, 1 - _EDGE))
        if kind == "positive":
            return np.log(np.maximum(values, np.finfo(float).tiny))
        assert kind == "plain", kind
        return np.asarray(values, float)


def from_scale(values: Floats, kind: str) -> Floats:
    """The inverse of :func:`to_scale`."""
    if kind in ("r2", "correlation"):
        return np.tanh(values)
    if kind == "share":
        return special.expit(values)
    return np.exp(values) if kind == "positive" else values
