"""Ray's nodes as those of a :class:`~.pool.NodePool`: on each, actors that hold a local pool.

An actor has a name, so that all processes of a job that compute rewards share it. It ends with the process that was
the first to ask for it, or with the job, and whoever else used it starts another one. Actors are placed by node, and
by default reserve no CPUs of Ray's: where training has reserved them all, they would wait for ever.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from openrlhf_pf.code_reward.judge.results import Limits, Result
from openrlhf_pf.code_reward.nodes.pool import NodePool
from openrlhf_pf.code_reward.sandbox.control import Unavailable
from openrlhf_pf.code_reward.sandbox.pool import Pool

_WORKERS_AN_ACTOR = 8  # a process that drives more of them is short of Python's one lock at a time


class Place(NamedTuple):
    """A part of a node: one actor."""

    address: str
    node: str
    part: int

    def __str__(self) -> str:
        return f"part {self.part} of the node {self.address} ({self.node[:8]})"


class _EncodedProblem(NamedTuple):
    """What a pool needs of a problem that has been read elsewhere."""

    encoded: bytes

    def limited(self, limits: Limits) -> Limits:
        return limits


class _Sandboxes:
    """The actor."""

    def __init__(self, workers: int, limits: Limits, require_isolation: bool, packages: Sequence[str]) -> None:
        self._why = ""
        try:
            # How much waits here, those who send it have bounded already.
            self._pool = Pool(workers, limits, require_isolation, packages, queue_size=1 << 20)
        except (Unavailable, ValueError, OSError) as error:
            self._why = str(error)

    async def start(self) -> tuple[str, tuple[str, ...]]:
        """Why there are no sandboxes, and what they lack."""
        return (self._why, ()) if self._why else ("", self._pool.weaknesses)

    async def run(self, programs: list[tuple[str, bytes, Limits]]) -> list[Result]:
        futures = [self._pool.submit(source, _EncodedProblem(encoded), limits) for source, encoded, limits in programs]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    async def ping(self) -> None:
        pass


class RayCluster:
    """As in the protocol. Joins the cluster that this process belongs to, or that ``ray.init("auto")`` finds.

    Raises:
        ValueError: an argument is out of its range, or there is no cluster.
    """

    def __init__(
        self,
        workers: int | None,
        limits: Limits,
        require_isolation: bool,
        packages: Sequence[str],
        num_cpus: float = 0.0,
    ) -> None:
        if (workers is not None and workers < 1) or num_cpus < 0:
            raise ValueError("a pool over Ray's nodes needs workers >= 1 and num_cpus >= 0.")
        self._workers, self._num_cpus = workers, num_cpus
        self._settings = limits, require_isolation, tuple(packages)
        self._actors: dict[Place, Any] = {}
        if not ray.is_initialized():
            try:
                ray.init("auto", logging_level=logging.ERROR)
            except ConnectionError as error:
                raise ValueError(
                    "no Ray cluster is to be found: start one (ray start --head) or name it in RAY_ADDRESS, or run "
                    "programs on this machine alone (without OPENRLHF_PF_CODE_RAY, without --ray)."
                ) from error

    def nodes(self) -> dict[Place, int]:
        """Those with CPUs, in parts."""
        found = {}
        for node in ray.nodes():
            cpus = int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
            workers = min(cpus, 1) and (self._workers or cpus)
            parts = -(-workers // _WORKERS_AN_ACTOR)
            for part in range(parts):
                share = workers // parts + (part < workers % parts)
                found[Place(node["NodeManagerAddress"], node["NodeID"], part)] = share
        return found

    def start(self, place: Place, workers: int) -> "Future[tuple[str, ...]]":
        """As in the protocol."""
        limits, require_isolation, packages = self._settings
        identity = repr((place, workers, *self._settings, self._num_cpus))
        self._actors[place] = _actor_class.options(
            name=f"openrlhf_pf code reward {hashlib.sha256(identity.encode()).hexdigest()[:16]}",
            get_if_exists=True,
            num_cpus=self._num_cpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote(workers, limits, require_isolation, packages)
        started: Future[tuple[str, ...]] = Future()

        def tell(answer: Future) -> None:
            if error := answer.exception():
                started.set_exception(error)
            elif (found := answer.result())[0]:
                started.set_exception(Unavailable(found[0]))
            else:
                started.set_result(found[1])

        self._actors[place].start.remote().future().add_done_callback(tell)
        return started

    def run(self, place: Place, programs: list[tuple[str, bytes, Limits]]) -> "Future[list[Result]]":
        """As in the protocol."""
        return self._actors[place].run.remote(programs).future()

    def ping(self, place: Place) -> Future:
        """As in the protocol."""
        return self._actors[place].ping.remote().future()

    def drop(self, place: Place) -> None:
        """As in the protocol."""
        actor = self._actors.pop(place, None)
        if actor is not None and ray.is_initialized():
            with contextlib.suppress(Exception):  # whatever has become of it
                ray.kill(actor)

    def close(self) -> None:
        """Let go of the actors: those that this process was the first to ask for end."""
        self._actors.clear()


_actor_class = ray.remote(_Sandboxes)


def ray_pool(
    workers: int | None = None,
    limits: Limits | None = None,
    require_isolation: bool = False,
    packages: Sequence[str] = ("numpy",),
    queue_size: int = 1024,
    retries: int = 2,
    num_cpus: float = 0.0,
) -> NodePool:
    """A pool over the nodes of the Ray cluster that have CPUs; used as :class:`~openrlhf_pf.code_reward.Pool` is.

    Args:
        workers: programs at a time on each node; as many as the node has CPUs without it.
        limits: what one program may use.
        require_isolation: do without nodes whose kernel grants less than the whole jail.
        packages: what programs may import beside the standard library.
        queue_size: programs that wait, here, before ``submit`` does.
        retries: how often a program is run again after its node was lost.
        num_cpus: Ray's CPUs that each actor, of at most 8 workers, reserves on its node.

    Raises:
        ValueError: an argument is out of its range, or there is no cluster.
        Unavailable: no node starts.
    """
    limits = limits or Limits()
    return NodePool(RayCluster(workers, limits, require_isolation, packages, num_cpus), limits, queue_size, retries)
