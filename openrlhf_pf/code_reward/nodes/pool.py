"""Programs in, results out, over many nodes: a queue, and one thread that hands its programs to nodes.

What a node is, is for a :class:`Cluster` to say: Ray's is in :mod:`cluster`, and nothing here knows Ray.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from openrlhf_pf.code_reward.judge.results import Limits, Problem, Result, Verdict
from openrlhf_pf.code_reward.nodes.schedule import Job, Schedule
from openrlhf_pf.code_reward.sandbox.control import Unavailable
from openrlhf_pf.code_reward.sandbox.pool import AnyPool, label_at_fault

logger = logging.getLogger(__name__)
_TICK_SECONDS = 1.0
_LOOK_SECONDS = 5.0  # from one look at the cluster's nodes, and from one sign of life of each, to the next
_START_SECONDS = 180.0  # for a node to start; and for any node to be there while programs wait
_SILENT_SECONDS = 60.0  # a node that answers nothing for so long is lost


class Cluster(Protocol):
    """Nodes that can run programs. A node's name is a text when it is printed; no method waits."""

    def nodes(self) -> Mapping[Hashable, int]:
        """Those that are alive now, and how many programs each is to run at a time."""

    def start(self, node: Hashable, workers: int) -> "Future[tuple[str, ...]]":
        """Start the sandboxes there; what they lack, a sentence each."""

    def run(self, node: Hashable, programs: list[tuple[str, bytes, Limits]]) -> "Future[list[Result]]":
        """Results in the order of the programs: source, encoded problem, limits."""

    def ping(self, node: Hashable) -> "Future[Any]":
        """A sign of life."""

    def drop(self, node: Hashable) -> None:
        """End the sandboxes there, if there is anything to end."""

    def close(self) -> None:
        """Leave; what others use too goes on."""


class NodePool(AnyPool):
    """Checks programs in sandboxes on the nodes of a cluster. Thread-safe; to be closed, or used in a ``with``.

    Nodes are looked for while there is something to do, and take part as soon as they have started. What a lost node
    had been handed runs again elsewhere.

    Args:
        cluster: the nodes.
        limits: what one program may use.
        queue_size: programs that wait before :meth:`submit` does.
        retries: how often a program is run again after its node was lost; then its result is ``INFRASTRUCTURE``.

    Raises:
        ValueError: an argument is out of its range.
        Unavailable: no node starts.
    """

    def __init__(
        self, cluster: Cluster, limits: Limits | None = None, queue_size: int = 1024, retries: int = 2
    ) -> None:
        if queue_size < 1 or retries < 0:
            raise ValueError("a pool needs queue_size >= 1 and retries >= 0.")
        self.limits = limits or Limits()
        self.weaknesses: tuple[str, ...] = ()
        self._cluster, self._queue_size = cluster, queue_size
        self._schedule = Schedule(retries)
        self._changed = threading.Condition()  # guards the schedule, the news and whether it is closed
        self._news: list[Callable[[], None]] = []
        self._closed = False
        self._starting: dict[Hashable, float] = {}  # since when
        self._not_before: dict[Hashable, float] = {}
        self._pinged: dict[Hashable, tuple[float, Future]] = {}
        self._next_care = 0.0
        self._next_look = 0.0
        self._last_seen = time.monotonic()  # when a node was ready
        self._why = "the cluster has no node with CPUs"
        self._first: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="code-reward-nodes", daemon=True)
        self._thread.start()
        try:
            self._first.result()
        except Unavailable:
            cluster.close()
            raise

    def submit(self, source: str, problem: Problem, limits: Limits | None = None) -> "Future[Result]":
        """As in the base class."""
        if fault := label_at_fault(problem):
            known: Future[Result] = Future()
            known.set_result(fault)
            return known
        job = Job((source, problem.encoded, problem.limited(limits or self.limits)))
        job.future.set_running_or_notify_cancel()  # nobody can take back what may run elsewhere
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._schedule.waiting) < self._queue_size)
            if self._closed:
                raise ValueError("the pool is closed: open a new one.")
            self._schedule.waiting.append(job)
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Finish what is queued, then leave the nodes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._cluster.close()

    # ── The thread ──

    def _work(self) -> None:
        try:
            while self._wait():
                self._look_after(time.monotonic())
                self._hand_out()
        except BaseException as error:  # nobody is to wait for a thread that is gone
            logger.exception("the code reward's pool of nodes fails")
            self._end(f"the pool of nodes failed: {type(error).__name__}: {error}")

    def _wait(self) -> bool:
        """Until there is something to do, or time has passed; False at the end."""
        with self._changed:
            idle = not (self._schedule.busy or self._starting) and self._first.done()
            if not (self._news or self._schedule.ready or (idle and self._closed)):
                self._changed.wait(None if idle else max(0.0, self._next_care - time.monotonic()))
            news, self._news = self._news, []
            over = self._closed and not news and not self._schedule.busy
        for tell in news:
            tell()
        return not over

    def _when_done(self, call: Callable[..., Future], *arguments: Any, then: Callable[[Future], None]) -> Future:
        """Call the cluster, which answers in a thread of its own, and have this thread deal with the answer."""
        try:
            future = call(*arguments)
        except Exception as error:
            future = Future()
            future.set_exception(error)

        def post(done: Future) -> None:
            with self._changed:
                self._news.append(partial(then, done))
                self._changed.notify_all()

        future.add_done_callback(post)
        return future

    def _hand_out(self) -> None:
        while True:
            with self._changed:
                found = self._schedule.next_batch(time.monotonic())
                if not found:
                    return
                self._changed.notify_all()  # there is room in the queue
            node, number, batch = found
            programs = [job.program for job in batch]
            self._when_done(self._cluster.run, node, programs, then=partial(self._ran, node, number))

    def _ran(self, node: Hashable, number: int, answer: "Future[list[Result]]") -> None:
        if error := answer.exception():
            self._lose(node, f"{type(error).__name__}: {error}", number)
            return
        with self._changed:
            batch = self._schedule.finish(node, number, time.monotonic())
        for job, result in zip(batch, answer.result()):
            job.future.set_result(result)

    def _lose(self, node: Hashable, why: str, number: int | None = None) -> None:
        with self._changed:
            if number is not None and not self._schedule.runs(node, number):
                return  # of a node that was lost before, and may have come back
            given_up = self._schedule.lose(node)
        logger.warning("the code reward lost %s, whose programs run again: %s", node, _short(why))
        self._why = f"{node} was lost: {_short(why)}"
        self._pinged.pop(node, None)
        self._cluster.drop(node)
        self._next_look = self._next_care = 0.0
        self._fail(given_up, self._why)

    @staticmethod
    def _fail(jobs: list[Job], why: str) -> None:
        for job in jobs:
            job.future.set_result(Result(Verdict.INFRASTRUCTURE, detail=why))

    # ── Nodes that come, go and fall silent ──

    def _look_after(self, now: float) -> None:
        if now < self._next_care:
            return
        self._next_care = now + _TICK_SECONDS
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._look_for_nodes(now)
        for node in [node for node, since in self._starting.items() if now - since > _START_SECONDS]:
            self._not_started(node, f"it does not start within {_START_SECONDS:.0f} seconds")
        for node in self._schedule.nodes:
            self._look_for_life(node, now)
        if self._schedule.nodes:
            self._last_seen = now
        elif now - self._last_seen > _START_SECONDS or (not self._starting and not self._first.done()):
            self._without_nodes()

    def _look_for_nodes(self, now: float) -> None:
        try:
            alive = self._cluster.nodes()
        except Exception as error:  # the cluster may be gone, or have lost its memory for a moment
            self._why = f"the cluster does not tell its nodes: {_short(f'{type(error).__name__}: {error}')}"
            return
        known = {*self._schedule.nodes, *self._starting}
        for node, workers in alive.items():
            if node not in known and now >= self._not_before.get(node, 0.0):
                self._starting[node] = now
                self._when_done(self._cluster.start, node, workers, then=partial(self._started, node, workers, now))

    def _started(self, node: Hashable, workers: int, since: float, answer: "Future[tuple[str, ...]]") -> None:
        if self._starting.get(node) != since:
            return  # it was given up
        if error := answer.exception():
            self._not_started(node, str(error))
            return
        del self._starting[node]
        self.weaknesses = tuple(sorted({*self.weaknesses, *answer.result()}))
        self._last_seen = time.monotonic()
        with self._changed:
            self._schedule.join(node, workers)
        if not self._first.done():
            self._first.set_result(None)

    def _not_started(self, node: Hashable, why: str) -> None:
        del self._starting[node]
        self._not_before[node] = time.monotonic() + _LOOK_SECONDS
        self._why = f"{node} runs no programs: {_short(why)}"
        logger.warning("the code reward does without a node: %s", self._why)
        self._cluster.drop(node)
        self._next_care = 0.0

    def _look_for_life(self, node: Hashable, now: float) -> None:
        since, answer = self._pinged.get(node, (0.0, None))
        if answer is not None and not answer.done():
            if now - since > _SILENT_SECONDS:
                self._lose(node, f"it has not answered for {_SILENT_SECONDS:.0f} seconds")
        elif now - since > _LOOK_SECONDS and self._schedule.running(node):
            self._pinged[node] = now, self._when_done(self._cluster.ping, node, then=partial(self._pong, node, now))

    def _pong(self, node: Hashable, since: float, answer: Future) -> None:
        current = self._pinged.get(node, (0.0, None))[0] == since
        if current and (error := answer.exception()):
            self._lose(node, f"{type(error).__name__}: {error}")

    def _without_nodes(self) -> None:
        if not self._first.done():
            self._end(f"no node of the cluster runs programs; the last reason: {self._why}")
            return
        with self._changed:
            jobs = self._schedule.give_up()
            self._changed.notify_all()
        self._fail(jobs, f"no node of the cluster runs programs; the last reason: {self._why}")

    def _end(self, why: str) -> None:
        """Take nothing any more, and let nobody wait."""
        with self._changed:
            self._closed = True
            jobs = self._schedule.give_up()
            self._changed.notify_all()
        self._fail(jobs, why)
        if not self._first.done():
            self._first.set_exception(Unavailable(why))


def _short(why: str) -> str:
    return " ".join(why.split())[:500]
