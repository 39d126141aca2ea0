"""A filter by several objectives at once.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M
objectives.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from openrlhf_pf.filters.base import FilterBatch, SampleFilter
from openrlhf_pf.filters.diversity import mean_distances

#: Tokens of an n-gram, unless told.
NGRAM = 3
#: What samples can be compared by; more is better.
OBJECTIVES: dict[str, Callable[["Pareto", FilterBatch], Tensor]] = {
    "reward": lambda self, batch: batch.rewards.double(),
    "length": lambda self, batch: -batch.response_lengths.double(),
    "diversity": lambda self, batch: mean_distances(batch.response_tokens, batch.usable, self.ngram),
}
#: Comparisons that are made together: so many stay near the processor.
_NEAR = 1 << 22


class Pareto(SampleFilter):
    """``pareto``: the k best samples of a prompt by non-dominated sorting, as in NSGA-II (Deb et al. 2002). Ours.

    A sample dominates another one that is better in no objective and worse in one. The first front are the samples
    that none dominates, the second those that only samples of the first one dominate, and so on. Whole fronts are kept
    while there is room; of the front that has too many, those with the largest crowding distance: the ends of each
    objective first, then those with most room between their neighbours. Equal crowding distances are decided by the
    first objective, and what is equal there by the seed.

    Args:
        objectives: two or more of ``reward`` (high), ``length`` (short) and ``diversity`` (far from the other
            responses of the prompt, see :func:`mean_distances`).
        ngram: tokens of an n-gram that ``diversity`` compares (3).

    Raises:
        ValueError: an objective is unknown or given twice, there is one only, or ``ngram`` is below 1 or without
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
        if ngram is not None and ngram < 1:
            raise ValueError(f"ngram must be 1 or more tokens, got {ngram}: {NGRAM} is the default.")
        self.objectives, self.ngram = tuple(objectives), NGRAM if ngram is None else ngram

    @property
    def most_weighed(self) -> int:
        return self.keep

    def weigh(self, batch: FilterBatch) -> Tensor:
        values = torch.stack([OBJECTIVES[name](self, batch) for name in self.objectives], dim=2)
        # By the first objective, equal ones shuffled, so that positions decide nothing from here on.
        order = batch.ranking(values[:, :, 0])
        ranked = values.gather(1, order.unsqueeze(2).expand_as(values))
        front = fronts(ranked, batch.usable.gather(1, order), self.keep)
        last = front.sort(dim=1).values[:, self.keep - 1 : self.keep]
        crowded = crowding(ranked, front == last)
        best = crowded.argsort(dim=1, descending=True, stable=True)
        best = best.gather(1, front.gather(1, best).argsort(dim=1, stable=True))[:, : self.keep]
        weights = torch.zeros(batch.rewards.shape, dtype=torch.float64)
        return weights.scatter_(1, order.gather(1, best), 1.0 / self.keep)


def fronts(values: Tensor, usable: Tensor, keep: int) -> Tensor:
    """The front of each sample, as far as k samples of each prompt need them.

    Args:
        values: (G, N, M), more is better.
        usable: (G, N) bool; others are in no front.
        keep: k.

    Returns:
        (G, N) int64 from 0; N for samples of no front, or of one that is not needed.
    """
    n = values.shape[1]
    size = max(_NEAR // n**2, 1)
    chunks = zip(values.split(size), usable.split(size))
    return torch.cat([_fronts(v, u, keep) for v, u in chunks]) if len(values) else torch.empty(0, n, dtype=torch.long)


def _fronts(values: Tensor, usable: Tensor, keep: int) -> Tensor:
    shape = (*usable.shape, usable.shape[1])
    never_worse, once_better = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for value in values.unbind(dim=2):
        mine, theirs = value.unsqueeze(2), value.unsqueeze(1)
        never_worse &= mine >= theirs
        once_better |= mine > theirs
    dominates = never_worse & once_better  # (G, N, N): the sample of the row that of the column
    left, found = usable.clone(), torch.full(usable.shape, usable.shape[1])
    wanted = usable.sum(dim=1).clamp(max=keep)
    for number in range(usable.shape[1]):
        front = left & ~(dominates & left.unsqueeze(2)).any(dim=1)
        found[front] = number
        left &= ~front
        if ((usable & ~left).sum(dim=1) >= wanted).all():
            break
    return found


def crowding(values: Tensor, members: Tensor) -> Tensor:
    """The crowding distance of the members of one front (NSGA-II): over objectives, the sum of the distance between a
    member's neighbours by the range of the front; infinite for its ends. An objective in which all are equal adds 0.

    Args:
        values: (G, N, M).
        members: (G, N) bool.

    Returns:
        (G, N) float64; only that of members has a meaning.
    """
    total = torch.zeros(members.shape, dtype=torch.float64)
    last = (members.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    place = torch.arange(members.shape[1])
    for value in values.unbind(dim=2):
        ordered, order = value.masked_fill(~members, torch.inf).sort(dim=1, stable=True)
        low, high = ordered[:, :1], ordered.gather(1, last)
        extent = high - low
        room = torch.nn.functional.pad(ordered[:, 2:] - ordered[:, :-2], (1, 1)) / extent
        room = room.masked_fill((place == 0) | (place == last), torch.inf)
        total.scatter_add_(1, order, torch.where((extent > 0) & (place <= last), room, 0.0))
    return total
