"""Which node runs which programs: bookkeeping alone, without Ray, threads or a clock."""

import itertools
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

_LEAST, _MOST = 2, 64  # programs handed out for each worker of a node: one runs and one is at hand; and what is enough
_QUICK_SECONDS = 1.0  # on a busy machine it takes a good part of that to wake all who take part
_LARGEST_BATCH = 16


@dataclass(eq=False)
class Job:
    """A program on its way: what a node is sent, and who waits for the result."""

    program: Any
    future: "Future[Any]" = field(default_factory=Future)
    losses: int = 0


class _Node:
    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.window = _LEAST  # programs handed out for each worker
        self.batches: dict[int, tuple[list[Job], float]] = {}
        self.running = 0

    @property
    def room(self) -> int:
        return self.workers * self.window - self.running


class Schedule:
    """Programs that wait, and those that each node has been handed.

    A node is handed only so many programs as keep its workers busy, for a program that it has been handed cannot go to
    one that is idle: twice its workers at first, one more for each of them after every quick batch, half of that after
    a slow one (additive increase, multiplicative decrease, as TCP finds its window).

    Args:
        retries: how often a program is handed out again after the node that had it was lost.
    """

    def __init__(self, retries: int = 2) -> None:
        self.waiting: deque[Job] = deque()
        self._retries = retries
        self._nodes: dict[Hashable, _Node] = {}
        self._numbers = itertools.count()

    @property
    def nodes(self) -> list[Hashable]:
        """Those that take part."""
        return list(self._nodes)

    @property
    def busy(self) -> bool:
        """Whether a program waits or runs."""
        return bool(self.waiting) or any(node.batches for node in self._nodes.values())

    def running(self, name: Hashable) -> int:
        """How many programs a node has been handed and not given back."""
        return self._nodes[name].running

    @property
    def ready(self) -> bool:
        """Whether a program waits and a node has room."""
        return bool(self.waiting) and any(node.room > 0 for node in self._nodes.values())

    def runs(self, name: Hashable, number: int) -> bool:
        """Whether a node still has this batch."""
        return name in self._nodes and number in self._nodes[name].batches

    def join(self, name: Hashable, workers: int) -> None:
        """A node that takes part from now on, with so many programs at a time."""
        self._nodes[name] = _Node(workers)

    def next_batch(self, now: float) -> tuple[Hashable, int, list[Job]] | None:
        """The programs to be sent next, the node to send them to, and the number to come back with; None while no node
        has room or nothing waits. ``now`` is in seconds of any clock.
        """
        if not self.ready:
            return None
        name, node = max(self._nodes.items(), key=lambda item: item[1].room / item[1].workers)
        # A batch returns when its last program has ended: none is made larger than the queue calls for.
        share = -(-len(self.waiting) // len(self._nodes))
        size = max(1, min(node.window // 2, _LARGEST_BATCH, share, node.room))
        batch = [self.waiting.popleft()]
        while len(batch) < size and not batch[0].losses and self.waiting and not self.waiting[0].losses:
            batch.append(self.waiting.popleft())  # one that a node was lost with goes alone: it may be why
        number = next(self._numbers)
        node.batches[number] = batch, now
        node.running += len(batch)
        return name, number, batch

    def finish(self, name: Hashable, number: int, now: float) -> list[Job]:
        """The programs of a batch that has come back; none if its node has been lost since."""
        if not self.runs(name, number):
            return []
        node = self._nodes[name]
        batch, sent = node.batches.pop(number)
        node.running -= len(batch)
        quick = now - sent <= _QUICK_SECONDS
        node.window = min(_MOST, node.window + 1) if quick else max(_LEAST, node.window // 2)
        return batch

    def lose(self, name: Hashable) -> list[Job]:
        """A node that takes no part any more: what it had waits again, before all else, but for the programs that are
        returned, which have had their retries.
        """
        node = self._nodes.pop(name, None)
        jobs = [job for batch, _ in node.batches.values() for job in batch] if node else []
        for job in jobs:
            job.losses += 1
        self.waiting.extendleft(job for job in reversed(jobs) if job.losses <= self._retries)
        return [job for job in jobs if job.losses > self._retries]

    def give_up(self) -> list[Job]:
        """All that waits and all that runs, which do so no longer."""
        jobs = [job for node in self._nodes.values() for batch, _ in node.batches.values() for job in batch]
        self._nodes.clear()
        jobs += self.waiting
        self.waiting.clear()
        return jobs
