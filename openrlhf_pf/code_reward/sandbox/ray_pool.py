"""A pool over the nodes of a Ray cluster: on each node, actors that hold a local pool.

Ray places, restarts and shares the actors. They are named, so that all processes of a job that compute rewards share
them, and by default reserve none of Ray's CPUs: where training has reserved all of them, they would wait for ever.
"""

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from openrlhf_pf.code_reward.results import Limits, Problem, Result, Verdict
from openrlhf_pf.code_reward.sandbox.pool import AnyPool, Pool, label_at_fault
from openrlhf_pf.code_reward.sandbox.worker import Unavailable

logger = logging.getLogger(__name__)

_WORKERS_PER_ACTOR = 8  # one process that drives more of them is limited by Python's global lock
_PROGRAMS_PER_WORKER = 4  # sent to an actor at a time: one runs, the others hide the way there
_POLL_SECONDS = 5.0  # between two queries for nodes that have joined
_START_SECONDS = 180.0
_NO_NODE = "no node of the cluster runs programs; the last reason: {}"
_RETRY_SECONDS = 60.0  # before a node whose sandbox did not start is tried again


class Place(NamedTuple):
    """A part of a node: one actor."""

    address: str
    node: str
    part: int
    workers: int

    def __str__(self) -> str:
        return f"part {self.part} of the node {self.address} ({self.node[:8]})"


class _EncodedProblem(NamedTuple):
    """A problem that another process has read: all that a pool needs of it."""

    encoded: bytes

    def limited(self, limits: Limits) -> Limits:
        return limits


class _Sandboxes:
    """The actor."""

    def __init__(self, workers: int, limits: Limits, require_isolation: bool, packages: Sequence[str]) -> None:
        self._why = ""
        try:
            # The senders bound the queue.
            self._pool = Pool(workers, limits, require_isolation, packages, queue_size=1 << 20)
        except (Unavailable, ValueError, OSError) as error:
            self._why = str(error)

    async def start(self) -> tuple[str, tuple[str, ...]]:
        """Why there are no sandboxes, and what they lack."""
        return (self._why, ()) if self._why else ("", self._pool.weaknesses)

    async def run(self, source: str, encoded: bytes, limits: Limits) -> Result:
        return await asyncio.wrap_future(self._pool.submit(source, _EncodedProblem(encoded), limits))


@dataclass(eq=False)
class _Job:
    program: tuple[str, bytes, Limits]
    tries: int  # left after this one
    future: "Future[Result]" = field(default_factory=Future)


@dataclass(eq=False)
class _Actor:
    handle: Any
    workers: int
    running: int = 0  # programs that it was sent and has not answered


class RayPool(AnyPool):
    """As :class:`~.pool.Pool`, over the nodes of the Ray cluster that have CPUs; see :func:`ray_pool`."""

    def __init__(self, workers: int | None, limits: Limits, retries: int, num_cpus: float, *settings: Any) -> None:
        self.limits = limits
        self.weaknesses: tuple[str, ...] = ()
        self._workers, self._retries, self._num_cpus = workers, retries, num_cpus
        self._settings = settings  # require_isolation, packages
        self._actors: dict[Place, _Actor] = {}
        self._left_out: dict[Place, float] = {}  # places without a sandbox, and when each is tried again
        self._why = "the cluster has no node with CPUs"
        self._changed = threading.Condition()
        self._closed = False
        self._unfinished = 0
        self._next_poll = 0.0
        self._helper = ThreadPoolExecutor(1, "code-reward-nodes")  # callbacks of Ray must not wait for Ray
        self._start_actors()
        if not self._actors:
            self._helper.shutdown()
            raise Unavailable(_NO_NODE.format(self._why))

    def submit(self, source: str, problem: Problem, limits: Limits | None = None) -> "Future[Result]":
        """As in the base class."""
        if fault := label_at_fault(problem):
            known: Future[Result] = Future()
            known.set_result(fault)
            return known
        if self._closed:
            raise ValueError("the pool is closed: open a new one.")
        if time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + _POLL_SECONDS
            self._helper.submit(self._start_actors)
        job = _Job((source, problem.encoded, problem.limited(limits or self.limits)), self._retries)
        job.future.set_running_or_notify_cancel()  # a program that was sent cannot be cancelled
        job.future.add_done_callback(self._finished)
        with self._changed:
            self._unfinished += 1
            self._changed.wait_for(lambda: self._least_loaded(_PROGRAMS_PER_WORKER) or not self._actors)
        self._send(job)
        return job.future

    def _finished(self, _: Future) -> None:
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    def _least_loaded(self, most: float) -> Place | None:
        """The place with the fewest programs per worker, if it has fewer than ``most``."""
        loads = {place: actor.running / actor.workers for place, actor in self._actors.items()}
        place = min(loads, key=loads.__getitem__, default=None)
        return place if place is not None and loads[place] < most else None

    def _send(self, job: _Job) -> None:
        with self._changed:
            place = self._least_loaded(float("inf"))
            if place is None:
                self._helper.submit(self._send_again, job)
                return
            actor = self._actors[place]
            actor.running += 1
        answer = actor.handle.run.remote(*job.program).future()
        answer.add_done_callback(partial(self._answered, job, place, actor))

    def _answered(self, job: _Job, place: Place, actor: _Actor, answer: Future) -> None:
        error = answer.exception()
        with self._changed:
            actor.running -= 1
            lost = error is not None and self._actors.get(place) is actor
            if lost:
                del self._actors[place]
                self._why = f"{place} was lost: {_one_line(error)}"
            self._changed.notify_all()
        if lost:
            logger.warning("the code reward lost %s, whose programs run again: %s", place, _one_line(error))
        if error is None:
            job.future.set_result(answer.result())
        else:
            self._helper.submit(self._send_again, job)

    def _send_again(self, job: _Job) -> None:
        """Run a program again whose actor was lost, or fail it after its retries."""
        job.tries -= 1
        if not self._actors:
            self._start_actors()
        if job.tries >= 0 and self._actors:
            self._send(job)
        else:
            reason = self._why if self._actors else _NO_NODE.format(self._why)
            job.future.set_result(Result(Verdict.INFRASTRUCTURE, detail=reason))

    def _places(self) -> list[Place]:
        """The parts of the nodes that have CPUs."""
        found = []
        for node in ray.nodes():
            cpus = int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
            workers = min(cpus, 1) and (self._workers or cpus)
            parts = -(-workers // _WORKERS_PER_ACTOR)
            for part in range(parts):
                share = workers // parts + (part < workers % parts)
                found.append(Place(node["NodeManagerAddress"], node["NodeID"], part, share))
        return found

    def _start_actors(self) -> None:
        """Start the actors of places that have none, and wait until they run or have failed."""
        try:
            places = self._places()
        except Exception as error:
            self._why = f"the cluster does not list its nodes: {_one_line(error)}"
            return
        now = time.monotonic()
        new = [place for place in places if place not in self._actors and now >= self._left_out.get(place, 0.0)]
        actors = {place: self._start_actor(place) for place in new}
        started = {actor.start.remote(): place for place, actor in actors.items()}
        deadline, waiting = now + _START_SECONDS, list(started)
        while waiting:
            done, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            for answer in done or waiting:
                place = started[answer]
                why, weaknesses = f"no start in {_START_SECONDS:.0f} seconds", ()
                try:
                    why, weaknesses = ray.get(answer) if done else (why, weaknesses)
                except Exception as error:
                    why = _one_line(error)
                self._take_in(place, actors[place], why, weaknesses)
            waiting = waiting if done else []

    def _take_in(self, place: Place, handle: Any, why: str, weaknesses: tuple[str, ...]) -> None:
        with self._changed:
            if why:
                self._why = f"{place} runs no programs: {why}"
                self._left_out[place] = time.monotonic() + _RETRY_SECONDS
                logger.warning("the code reward leaves out a node: %s", self._why)
                ray.kill(handle)
            else:
                self._actors[place] = _Actor(handle, place.workers)
                self.weaknesses = tuple(sorted({*self.weaknesses, *weaknesses}))
            self._changed.notify_all()

    def _start_actor(self, place: Place) -> Any:
        identity = repr((place, self.limits, *self._settings, self._num_cpus))
        return _actor_class.options(
            name=f"openrlhf_pf code reward {hashlib.sha256(identity.encode()).hexdigest()[:16]}",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=self._num_cpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote(place.workers, self.limits, *self._settings)

    def close(self) -> None:
        """Wait for the programs that were sent, then let go of the actors: those that this process started end."""
        self._closed = True
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished)
        self._helper.shutdown()
        self._actors.clear()


_actor_class = ray.remote(_Sandboxes)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def ray_pool(
    workers: int | None = None,
    limits: Limits | None = None,
    require_isolation: bool = False,
    packages: Sequence[str] = ("numpy",),
    retries: int = 2,
    num_cpus: float = 0.0,
) -> RayPool:
    """A pool over the nodes of the Ray cluster that this process belongs to, or that ``ray.init("auto")`` finds.

    Args:
        workers: programs at a time on each node; without it, one per CPU of the node.
        limits: what one program may use.
        require_isolation: leave out nodes whose kernel grants less than the whole jail.
        packages: what programs may import in addition to the standard library.
        retries: how often a program is run again after its actor was lost.
        num_cpus: Ray's CPUs that each actor, of at most 8 workers, reserves on its node.

    Raises:
        ValueError: an argument is out of its range, or there is no cluster.
        Unavailable: the sandbox starts on no node.
    """
    if (workers is not None and workers < 1) or num_cpus < 0:
        raise ValueError("a pool over Ray's nodes needs workers >= 1 and num_cpus >= 0.")
    if not ray.is_initialized():
        try:
            ray.init("auto", logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ValueError(
                "there is no Ray cluster: start one (ray start --head) or name it in RAY_ADDRESS, or run programs on "
                "this machine alone (without OPENRLHF_PF_CODE_RAY=1)."
            ) from error
    return RayPool(workers, limits or Limits(), retries, num_cpus, require_isolation, tuple(packages))
