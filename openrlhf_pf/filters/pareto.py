"""A filter by several objectives at once, and how different the responses of a prompt are.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M
objectives, R responses, T tokens of all of them, B bins.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters.base import SampleFilter
from openrlhf_pf.filters.batch import FilterBatch, put_in_columns

#: Default number of tokens of an n-gram.
NGRAM = 3
#: What samples can be compared by; more is better.
OBJECTIVES: dict[str, Callable[["Pareto", FilterBatch], ndarray]] = {
    "reward": lambda self, batch: batch.rewards.astype(np.float64),
    "length": lambda self, batch: -batch.response_lengths.astype(np.float64),
    "diversity": lambda self, batch: mean_distances(batch.response_tokens, batch.usable, self.ngram),
}
#: Comparisons per chunk, and tokens per chunk (about): chunks of this size stay in the processor's cache.
_COMPARISONS, _TOKENS = 1 << 22, 1 << 19
#: Bins of a signature: the standard error of a distance d is sqrt(d (1 - d) / 128), 0.044 at most.
BINS = 128
_EMPTY = np.iinfo(np.int32).max
_FACTORS = (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85)


class Pareto(SampleFilter):
    """``pareto``: the k best samples of a prompt by non-dominated sorting, as in NSGA-II (Deb et al. 2002). Ours.

    A sample dominates another one that is better in no objective and worse in one. The first front are the samples
    that none dominates, the second those that only samples of the first one dominate, and so on. Whole fronts are kept
    while they fit; of the front that has too many, those with the largest crowding distance: the ends of each
    objective first, then those furthest from their neighbours. Equal crowding distances are decided by the first
    objective, and ties there by the seed.

    Args:
        objectives: two or more of ``reward`` (high), ``length`` (short) and ``diversity`` (far from the other
            responses of the prompt, see :func:`mean_distances`).
        ngram: tokens of an n-gram that ``diversity`` compares (3).

    Raises:
        ValueError: an objective is unknown or given twice, there is one only, or ``ngram`` is out of range or without
            ``diversity``.
    """

    def __init__(
        self,
        n_samples: int,
        keep: int,
        objectives: Sequence[str] = ("reward", "length"),
        ngram: int | None = None,
    ) -> None:
        super().__init__(n_samples, keep)
        if len(objectives) < 2 or len(set(objectives)) < len(objectives) or not set(objectives) <= OBJECTIVES.keys():
            raise ValueError(
                f"objectives must be two or more different ones of {', '.join(OBJECTIVES)}, got "
                f"{','.join(objectives)}: choose among those."
            )
        if ngram is not None and "diversity" not in objectives:
            raise ValueError("ngram has no effect without the objective diversity: add it or leave ngram out.")
        if ngram is not None and not 1 <= ngram <= 100:
            raise ValueError(f"ngram must be 1 to 100 tokens, got {ngram}: {NGRAM} is the default.")
        self.objectives, self.ngram = tuple(objectives), NGRAM if ngram is None else ngram

    @property
    def max_kept_per_prompt(self) -> int:
        return self.keep

    def weigh(self, batch: FilterBatch) -> ndarray:
        values = np.stack([OBJECTIVES[name](self, batch) for name in self.objectives], axis=2)
        # By the first objective, equal ones shuffled, so that positions decide nothing after this.
        order = batch.ranking(values[:, :, 0])
        ranked = np.take_along_axis(values, order[:, :, None], axis=1)
        front = fronts(ranked, np.take_along_axis(batch.usable, order, axis=1), self.keep)
        last = np.sort(front, axis=1)[:, self.keep - 1 : self.keep]
        distance = crowding(ranked, front == last)
        best = np.lexsort((-distance, front), axis=1)[:, : self.keep]
        return put_in_columns(np.take_along_axis(order, best, axis=1), 1.0 / self.keep, self.n_samples)


def fronts(values: ndarray, usable: ndarray, keep: int) -> ndarray:
    """Return the front of each sample, as far as k samples of each prompt need them.

    Args:
        values: (G, N, M), more is better.
        usable: (G, N) bool; others are in no front.
        keep: k.

    Returns:
        (G, N) int64 from 0; N for samples of no front, or of one that is not needed.
    """
    n = usable.shape[1]
    found = np.full(usable.shape, n)
    size = max(_COMPARISONS // n**2, 1)
    for start in range(0, len(found), size):
        rows = slice(start, start + size)
        _number_fronts(found[rows], values[rows], usable[rows], keep)
    return found


def _number_fronts(found: ndarray, values: ndarray, usable: ndarray, keep: int) -> None:
    """Write the front of each sample of some prompts into ``found`` (G, N)."""
    shape = (*usable.shape, usable.shape[1])
    never_worse, once_better = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for value in np.moveaxis(values, 2, 0):
        never_worse &= value[:, :, None] >= value[:, None, :]
        once_better |= value[:, :, None] > value[:, None, :]
    dominates = never_worse & once_better  # (G, N, N): the sample of the row that of the column
    left, wanted = usable.copy(), usable.sum(axis=1).clip(max=keep)
    for number in range(usable.shape[1]):
        front = left & ~(dominates & left[:, :, None]).any(axis=1)
        found[front] = number
        left &= ~front
        if ((usable & ~left).sum(axis=1) >= wanted).all():
            break


def crowding(values: ndarray, members: ndarray) -> ndarray:
    """Return the crowding distance of the members of one front (NSGA-II).

    It is the sum over objectives of the distance between a member's neighbours by the range of the front; infinite for
    its ends. An objective in which all are equal adds 0.

    Args:
        values: (G, N, M).
        members: (G, N) bool.

    Returns:
        (G, N) float64; only that of members has a meaning.
    """
    total = np.zeros(members.shape)
    last = (members.sum(axis=1, keepdims=True) - 1).clip(min=0)
    place = np.arange(members.shape[1])
    for value in np.moveaxis(values, 2, 0):
        value = np.where(members, value, np.inf)
        order = np.argsort(value, axis=1, kind="stable")
        ordered = np.take_along_axis(value, order, axis=1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # of others than members
            extent = np.take_along_axis(ordered, last, axis=1) - ordered[:, :1]
            gap = np.pad(ordered[:, 2:] - ordered[:, :-2], ((0, 0), (1, 1))) / extent
        gap = np.where((place == 0) | (place == last), np.inf, gap)
        total += put_in_columns(order, np.where((extent > 0) & (place <= last), gap, 0.0))
    return total


# ── Diversity ──


def mean_distances(responses: Sequence[Sequence[ndarray]], usable: ndarray, ngram: int) -> ndarray:
    """Return the mean Jaccard distance of each response to the other usable ones of its prompt.

    The Jaccard distance is the share, of all different n-grams that two responses have, that only one of them has. It
    is estimated by one-permutation hashing (Li, Owen and Zhang 2012, arXiv 1208.1259): each different n-gram falls
    into one of B bins by its hash, and a response's signature is the least hash of each bin; the distance is the share
    of differing bins among those that are not empty in both. Equal responses have distance 0 and those without a
    common n-gram exactly 1. It is deterministic.

    Args:
        responses: G x N tokens of each response, (tokens,) int64; one shorter than ``ngram`` is a single n-gram.
        usable: (G, N) bool: the others that count.
        ngram: n.

    Returns:
        (G, N) float64, between 0 and 1; 0 where there is no other.
    """
    distances = np.zeros(usable.shape)
    for rows in _chunks(responses):
        found = signatures([tokens for row in responses[rows] for tokens in row], ngram)
        distances[rows] = _mean_distances(found.reshape(-1, usable.shape[1], BINS), usable[rows])
    return distances


def _chunks(responses: Sequence[Sequence[ndarray]]) -> Iterator[slice]:
    """Prompts with about ``_TOKENS`` tokens together."""
    start = tokens = 0
    for row, texts in enumerate(responses):
        tokens += sum(map(len, texts))
        if tokens >= _TOKENS or row + 1 == len(responses):
            yield slice(start, row + 1)
            start, tokens = row + 1, 0


def signatures(responses: Sequence[ndarray], ngram: int) -> ndarray:
    """Return (R, B) int32: the least hash in each bin of a response, the largest number if it is empty."""
    padded = [
        tokens if len(tokens) >= ngram else np.append(tokens, [-1] * (ngram - len(tokens))) for tokens in responses
    ]
    hashes = _hashes(np.concatenate(padded).astype(np.int64), ngram)
    row = np.repeat(np.arange(len(padded)), [len(tokens) for tokens in padded])
    # An n-gram that begins in the last n - 1 tokens of a response ends in the next one.
    inside = row[: len(hashes)] == row[ngram - 1 :]
    place = row[: len(hashes)] * BINS + (hashes & (BINS - 1))
    least = np.where(inside, (hashes >> 7) & (_EMPTY >> 1), _EMPTY).astype(np.int32)
    found = np.full(len(padded) * BINS, _EMPTY, dtype=np.int32)
    np.minimum.at(found, place, least)
    return found.reshape(-1, BINS)


def _hashes(tokens: ndarray, ngram: int) -> ndarray:
    """(T - n + 1,) int64 hashes of the n-grams of (T,) int64."""
    found = np.zeros(len(tokens) - ngram + 1, dtype=np.int64)
    for start in range(ngram):
        found += tokens[start : start + len(found)]
        found += 1
        found *= _FACTORS[0]  # modulo 2 ** 64, as int64 does
        found ^= found >> 29
        found *= _FACTORS[1]
    return found ^ (found >> 32)


def _mean_distances(found: ndarray, usable: ndarray) -> ndarray:
    """(G, N) of signatures (G, N, B)."""
    total = np.zeros(usable.shape)
    empty = (found == _EMPTY).astype(np.float32)
    both_empty = empty @ empty.transpose(0, 2, 1)
    for other in range(usable.shape[1]):
        equal = np.count_nonzero(found == found[:, other : other + 1], axis=2).astype(np.float32)
        neither = both_empty[:, :, other]
        total += (1 - (equal - neither) / (BINS - neither)) * usable[:, other : other + 1]
    return total / (usable.sum(axis=1, keepdims=True) - usable).clip(min=1)
