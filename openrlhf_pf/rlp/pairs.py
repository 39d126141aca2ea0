"""Winners and losers from clusters: synthetic preference generation, SPG (the paper's Equation 4 and Section 3.3).

Confidence c is the size of the largest cluster by the number of samples. From threshold gamma on, the winner is the
cluster's member that the old reward model likes best, the loser a random sample outside of it.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openrlhf_pf.rlp.clusters import Groups
from openrlhf_pf.rlp.samples import Prompt

USED = "used"
#: Why a prompt gives no pair, and what that means. The first that holds.
REASONS = {
    "not_clustered": "its answers could not be put into clusters",
    "no_cluster": "every answer failed, and stands alone",
    "low_confidence": "the largest cluster is too small a part of the samples",
    "tie": "several clusters are the largest",
    "one_cluster": "all answers are in the largest cluster: there is nothing to lose",
    "unusable_reward": "no answer of the largest cluster has a usable reward",
    "truncated": "only answers that were cut off could win, or only such could lose",
}


@dataclass(frozen=True)
class Choice:
    """What becomes of one prompt.

    Attributes:
        reason: ``USED``, or a key of ``REASONS``.
        confidence: c, 0 without a cluster.
        winner: the place of y_w among the prompt's samples, or None.
        losers: the places of y_l, one for each pair.
    """

    reason: str
    confidence: float
    winner: int | None = None
    losers: tuple[int, ...] = ()


def check_settings(threshold: float, pairs: int) -> None:
    """Raises ``ValueError``, in one sentence, if gamma is no share or there is to be no pair."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, a share of a prompt's samples, got {threshold}.")
    if pairs < 1:
        raise ValueError(f"--pairs_per_prompt must be 1 or more, got {pairs}.")


def choose(prompt: Prompt, groups: Groups, threshold: float = 0.5, pairs: int = 1, seed: int = 0) -> Choice:
    """Choose winner and losers.

    Beyond the paper, which does not say: a tie for the largest cluster gives no pair; an answer that stands alone
    forms no cluster, counts among the samples, and may lose; an answer that was cut off counts, and neither wins nor
    loses, for ``train_rm`` would end it with an end token; of equal rewards a random one wins.

    Args:
        prompt: with its N samples.
        groups: (N,) their clusters, negative for those that stand alone; None if they are not known.
        threshold: gamma, the least confidence.
        pairs: at most so many, one winner against different losers.
        seed: of what is drawn, for each prompt by itself.
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
    return _ranked(prompt, inside, confidence, pairs, random.Random(f"{seed} {prompt.digest}"))


def _ranked(prompt: Prompt, inside: list[int], confidence: float, pairs: int, rng: random.Random) -> Choice:
    member = set(inside)
    texts = {prompt.responses[place] for place in inside}  # an equal text outside is the same answer
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
    different = {prompt.responses[place]: place for place in reversed(losers)}  # the first of equal texts
    drawn = [place for place in losers if different[prompt.responses[place]] == place]
    return Choice(USED, confidence, winner, tuple(drawn[:pairs]))


def different(prompts: Sequence[Prompt], choices: Iterable[Choice]) -> list[tuple[int, int, int]]:
    """(number of the prompt, place of the winner, place of the loser) of each pair, of equal ones the first."""
    found: dict[tuple[str, str, str], tuple[int, int, int]] = {}
    for number, (prompt, choice) in enumerate(zip(prompts, choices)):
        for loser in choice.losers:
            assert choice.winner is not None
            texts = prompt.text, prompt.responses[choice.winner], prompt.responses[loser]
            found.setdefault(texts, (number, choice.winner, loser))
    return list(found.values())


def pairs_of(prompts: Sequence[Prompt], choices: Iterable[Choice]) -> list[dict[str, str]]:
    """Rows ``prompt``, ``chosen``, ``rejected`` as OpenRLHF's ``train_rm`` reads them, none twice.

    Prompts are as the policy saw them: a chat template would be applied a second time.
    """
    return [
        {"prompt": prompts[n].text, "chosen": prompts[n].responses[winner], "rejected": prompts[n].responses[loser]}
        for n, winner, loser in different(prompts, choices)
    ]
