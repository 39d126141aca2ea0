"""Winners and losers from clusters: synthetic preference generation, SPG (the paper's Equation 4 and Section 3.3).

Confidence c is the size of the largest cluster divided by the number of samples. If it reaches the threshold gamma,
the winner is the cluster's member with the highest old reward, and the loser a random sample outside of the cluster.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openrlhf_pf.rlp.clusters import Groups
from openrlhf_pf.rlp.samples import Prompt

USED = "used"
#: Why a prompt gives no pair; the first reason that holds.
REASONS = {
    "not_clustered": "its responses could not be clustered",
    "no_cluster": "every response failed and is in no cluster",
    "low_confidence": "the largest cluster has too small a share of the samples",
    "tie": "several clusters are the largest",
    "one_cluster": "all responses are in the largest cluster, so none can lose",
    "unusable_reward": "no response of the largest cluster has a usable reward",
    "truncated": "all possible winners or all possible losers were cut off",
}


@dataclass(frozen=True)
class Choice:
    """The pairs of one prompt.

    Attributes:
        reason: ``USED``, or a key of ``REASONS`` if there are none.
        confidence: c, 0 without a cluster.
        winner: the place of y_w among the prompt's samples, or None.
        losers: the places of y_l, one per pair.
    """

    reason: str
    confidence: float
    winner: int | None = None
    losers: tuple[int, ...] = ()


def check_settings(threshold: float, pairs: int) -> None:
    """Raise ValueError, one sentence, if gamma is not a share or fewer than one pair is asked for."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, a share of a prompt's samples, got {threshold}.")
    if pairs < 1:
        raise ValueError(f"--pairs_per_prompt must be 1 or more, got {pairs}.")


def choose(prompt: Prompt, groups: Groups, threshold: float = 0.5, pairs: int = 1, seed: int = 0) -> Choice:
    """Choose the winner and the losers of a prompt.

    Where the paper leaves it open: a tie for the largest cluster gives no pair. A response in no cluster counts among
    the samples and may lose. A response that was cut off counts but neither wins nor loses, because ``train_rm`` would
    add an end token to it. Among equal rewards, a random response wins.

    Args:
        prompt: with its N samples.
        groups: (N,) their clusters, negative for responses in no cluster; None if unknown.
        threshold: gamma, the lowest confidence.
        pairs: the most pairs, one winner against different losers.
        seed: of the draws, independent between prompts.
    """
    if groups is None:
        return Choice("not_clustered", 0.0)
    sizes = Counter(group for group in groups if group >= 0)
    if not sizes:
        return Choice("no_cluster", 0.0)
    most = max(sizes.values())
    confidence = most / len(groups)
    if confidence < threshold:
        return Choice("low_confidence", confidence)
    largest, *others = [group for group, size in sizes.items() if size == most]
    if others:
        return Choice("tie", confidence)
    inside = [place for place, group in enumerate(groups) if group == largest]
    return _choose_from(prompt, inside, confidence, pairs, random.Random(f"{seed} {prompt.digest}"))


def _choose_from(prompt: Prompt, inside: list[int], confidence: float, pairs: int, rng: random.Random) -> Choice:
    member = set(inside)
    texts = {prompt.responses[place] for place in inside}  # an equal text outside is the same response
    outside = [p for p in range(len(prompt.responses)) if p not in member and prompt.responses[p] not in texts]
    if not outside:
        return Choice("one_cluster", confidence)
    usable = [place for place in inside if math.isfinite(prompt.rewards[place])]
    if not usable:
        return Choice("unusable_reward", confidence)
    winners = [place for place in usable if not prompt.truncated[place]]
    losers = [place for place in outside if not prompt.truncated[place]]
    if not winners or not losers:
        return Choice("truncated", confidence)
    best = max(prompt.rewards[place] for place in winners)
    winner = rng.choice([place for place in winners if prompt.rewards[place] == best])
    rng.shuffle(losers)
    first = {prompt.responses[place]: place for place in reversed(losers)}  # of equal texts
    drawn = [place for place in losers if first[prompt.responses[place]] == place]
    return Choice(USED, confidence, winner, tuple(drawn[:pairs]))


def list_unique_pairs(prompts: Sequence[Prompt], choices: Iterable[Choice]) -> list[tuple[int, int, int]]:
    """Return (number of the prompt, place of the winner, place of the loser) per pair; of equal pairs, the first."""
    found: dict[tuple[str, str, str], tuple[int, int, int]] = {}
    for number, (prompt, choice) in enumerate(zip(prompts, choices)):
        for loser in choice.losers:
            assert choice.winner is not None
            texts = prompt.text, prompt.responses[choice.winner], prompt.responses[loser]
            found.setdefault(texts, (number, choice.winner, loser))
    return list(found.values())


def make_pairs(prompts: Sequence[Prompt], choices: Iterable[Choice]) -> list[dict[str, str]]:
    """Return rows ``prompt``, ``chosen``, ``rejected`` as OpenRLHF's ``train_rm`` reads them, without duplicates.

    Prompts have their chat template already, so ``train_rm`` must not apply one.
    """
    return [
        {"prompt": prompts[n].text, "chosen": prompts[n].responses[winner], "rejected": prompts[n].responses[loser]}
        for n, winner, loser in list_unique_pairs(prompts, choices)
    ]
