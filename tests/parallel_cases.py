"""The parallel modes that tests/end_to_end/test_parallel.py runs: each value of each factor with each of any other.

allpairspy found the rows (its AllPairs, with ``refused`` as the filter, the shortest of 300 shuffled tries); that they
do bring every pair together is what tests/training/test_parallel.py checks.
"""

from typing import NamedTuple


class Case(NamedTuple):
    ranks: int  #: data-parallel ranks of the actor
    zero: int  #: ZeRO stage
    place: str  #: which models share GPUs
    mode: str  #: when is generated
    engines: int  #: of vLLM
    generate: int  #: prompts that are generated at once, for rollouts of 8
    epochs: int  #: of PPO over a rollout
    prompts: int  #: in the data set: the second rollout of 13 has 5
    turns: int  #: 1: a reward model, 2: an agent of several turns
    nodes: int  #: of the Ray cluster


FACTORS = {
    "ranks": (1, 2, 4),
    "zero": (0, 2, 3),
    "place": ("apart", "all", "actor_ref", "critic_reward"),
    "mode": ("sync", "async", "partial"),
    "engines": (1, 2),
    "generate": (8, 12),
    "epochs": (1, 2),
    "prompts": (16, 13),
    "turns": (1, 2),
    "nodes": (1, 2),
}


def refused(case: Case) -> bool:
    """Whether OpenRLHF does not start it: it generates more than it trains only asynchronously, and where engines
    share GPUs with all models, there are as many of them as ranks.
    """
    sync = case.mode == "sync"
    return sync and (case.generate > 8 or (case.place == "all" and case.ranks != case.engines))


CASES = [
    Case(1, 0, "actor_ref", "async", 1, 12, 1, 13, 2, 2),
    Case(1, 2, "apart", "async", 2, 8, 2, 13, 1, 1),
    Case(1, 2, "all", "sync", 1, 8, 2, 16, 1, 1),
    Case(1, 3, "critic_reward", "partial", 2, 12, 2, 13, 1, 1),
    Case(2, 0, "apart", "sync", 2, 8, 1, 13, 1, 1),
    Case(2, 0, "all", "partial", 2, 12, 2, 16, 1, 2),
    Case(2, 0, "critic_reward", "async", 1, 8, 1, 16, 1, 2),
    Case(2, 2, "actor_ref", "sync", 2, 8, 1, 13, 1, 1),
    Case(2, 2, "critic_reward", "sync", 2, 8, 1, 16, 1, 2),
    Case(2, 3, "apart", "sync", 2, 8, 1, 16, 1, 2),
    Case(2, 3, "actor_ref", "sync", 2, 8, 2, 16, 2, 2),
    Case(4, 0, "actor_ref", "partial", 2, 8, 1, 16, 1, 2),
    Case(4, 2, "apart", "partial", 1, 12, 2, 16, 2, 2),
    Case(4, 3, "all", "async", 2, 8, 1, 13, 2, 2),
    Case(4, 3, "critic_reward", "sync", 1, 8, 1, 16, 2, 1),
]
