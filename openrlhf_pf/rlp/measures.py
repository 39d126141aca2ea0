"""What pairs are like: how many, how sure, how long, and, where true scores are there, how often right.

Notation used for shapes: P prompts, K pairs.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from openrlhf_pf.rlp.clusters import Groups
from openrlhf_pf.rlp.pairs import REASONS, USED, Choice, choose, different
from openrlhf_pf.rlp.samples import Prompt

BINS = 11  # of confidence: from 0, 0.1, ... and 1 by itself


@dataclass
class Ordered:
    """How pairs of some kind agree with true scores, prompt by prompt.

    Attributes:
        prompt: (K,) number of the prompt text that each row is of: the unit that intervals resample.
        right, wrong, equal: (K,) weight of pairs whose winner has the higher, the lower, the same true score.
    """

    prompt: list[int]
    right: list[float]
    wrong: list[float]
    equal: list[float]

    @classmethod
    def nothing(cls) -> "Ordered":
        """To be added to."""
        return cls([], [], [], [])

    def add(self, prompt: int, difference: float, weight: float = 1.0) -> None:
        """A pair whose winner's true score is larger by ``difference``; one that is not known is left out."""
        if math.isnan(difference):
            return
        self.prompt.append(prompt)
        for name, holds in (("right", difference > 0), ("wrong", difference < 0), ("equal", difference == 0)):
            getattr(self, name).append(weight * holds)


def measure(
    prompts: Sequence[Prompt], groups: Sequence[Groups], choices: Sequence[Choice], pairs: int, seed: int
) -> dict[str, Any]:
    """Everything but what needs statistics: counts, the histogram of confidence, lengths, orders.

    Args:
        prompts: (P,).
        groups: (P,) their clusters.
        choices: (P,) what became of them.
        pairs: at most so many of a prompt.
        seed: of what is drawn.

    Returns:
        ``prompts``, ``texts``, ``samples``, ``used``, ``pairs``: a prompt text may be that of several prompts, whose
        equal pairs count once; ``skipped``, reason to number; ``confidence``, a row a tenth; ``lengths``, in
        characters and tokens; ``orders``, name to :class:`Ordered`, empty without true scores.
    """
    reasons = Counter(choice.reason for choice in choices)
    return {
        "prompts": len(prompts),
        "texts": len({prompt.text for prompt in prompts}),
        "samples": sum(len(prompt.responses) for prompt in prompts),
        "used": reasons[USED],
        "pairs": len(different(prompts, choices)),
        "skipped": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "confidence": _histogram(choices),
        "lengths": _lengths(prompts, choices),
        "orders": _orders(prompts, groups, choices, pairs, seed),
    }


def _histogram(choices: Iterable[Choice]) -> list[dict[str, float]]:
    known = [choice for choice in choices if choice.reason != "not_clustered"]
    of = [min(int(10 * choice.confidence + 1e-9), BINS - 1) for choice in known]
    every, used = Counter(of), Counter(bin for bin, choice in zip(of, known) if choice.reason == USED)
    return [{"from": bin / 10, "prompts": every[bin], "used": used[bin]} for bin in range(BINS)]


def _lengths(prompts: Sequence[Prompt], choices: Sequence[Choice]) -> dict[str, dict[str, float | None]]:
    pairs = different(prompts, choices)
    sets = {
        "chosen": [(prompts[number], winner) for number, winner, _ in pairs],
        "rejected": [(prompts[number], loser) for number, _, loser in pairs],
        "all samples": [(p, place) for p in prompts for place in range(len(p.responses))],
    }

    def mean(some: list, length: Callable[[Prompt, int], float]) -> float | None:
        values = [value for p, place in some if math.isfinite(value := length(p, place))]
        return math.fsum(values) / len(values) if values else None

    return {
        name: {
            "characters": mean(some, lambda p, place: float(len(p.responses[place]))),
            "tokens": mean(some, lambda p, place: p.tokens[place]),
        }
        for name, some in sets.items()
    }


def _orders(
    prompts: Sequence[Prompt], groups: Sequence[Groups], choices: Sequence[Choice], pairs: int, seed: int
) -> dict[str, Ordered]:
    """The paper's Table 5: SPG, the same without a threshold, and two samples ranked by the reward."""
    if all(math.isnan(score) for prompt in prompts for score in prompt.scores):
        return {}
    everything = [choose(prompt, found, 0.0, pairs, seed) for prompt, found in zip(prompts, groups)]
    ranked, number = Ordered.nothing(), _numbers(prompts)
    for prompt in prompts:
        _rank_two(ranked, number[prompt.text], prompt)
    return {"spg": _order(prompts, choices), "select_all": _order(prompts, everything), "ranked": ranked}


def _order(prompts: Sequence[Prompt], choices: Sequence[Choice]) -> Ordered:
    found, number = Ordered.nothing(), _numbers(prompts)
    for place, winner, loser in different(prompts, choices):
        prompt = prompts[place]
        found.add(number[prompt.text], prompt.scores[winner] - prompt.scores[loser])
    return found


def _numbers(prompts: Iterable[Prompt]) -> dict[str, int]:
    return {text: number for number, text in enumerate(dict.fromkeys(prompt.text for prompt in prompts))}


def _rank_two(found: Ordered, number: int, prompt: Prompt) -> None:
    """What two random samples of the prompt, of which the one with the higher reward wins, are on average."""
    some = [place for place, reward in enumerate(prompt.rewards) if math.isfinite(reward)]
    two = [pair for pair in combinations(some, 2) if prompt.responses[pair[0]] != prompt.responses[pair[1]]]
    for one, other in two:
        difference = prompt.scores[one] - prompt.scores[other]
        ahead = prompt.rewards[one] - prompt.rewards[other]
        if ahead:
            found.add(number, difference if ahead > 0 else -difference, 1 / len(two))
        else:  # a coin decides
            found.add(number, difference, 0.5 / len(two))
            found.add(number, -difference, 0.5 / len(two))
