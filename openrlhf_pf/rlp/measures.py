"""Measures of preference pairs: how many, how long, and how often right if true scores are known.

Notation used for shapes: P prompts, K pairs.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from openrlhf_pf.rlp.clusters import Groups
from openrlhf_pf.rlp.pairs import REASONS, USED, Choice, choose, list_unique_pairs
from openrlhf_pf.rlp.samples import Prompt

#: (K,) rows of the number of the prompt text, and the weight of the pair in the column that its true scores put it
#: in: the winner's is higher, lower, equal.
Order = list[tuple[int, float, float, float]]


def measure(
    prompts: Sequence[Prompt], groups: Sequence[Groups], choices: Sequence[Choice], pairs: int, seed: int
) -> dict[str, Any]:
    """Return counts, lengths and orders of the pairs, ``pairs`` a prompt at most.

    Returns:
        ``prompts``, ``texts``, ``samples``, ``used``, ``pairs``: several prompts may have one text, and their equal
        pairs count once. ``skipped``: reason to number. ``lengths``: in characters and tokens. ``orders``: kind of
        pairs to :data:`Order`, empty without true scores.
    """
    reasons = Counter(choice.reason for choice in choices)
    return {
        "prompts": len(prompts),
        "texts": len({prompt.text for prompt in prompts}),
        "samples": sum(len(prompt.responses) for prompt in prompts),
        "used": reasons[USED],
        "pairs": len(list_unique_pairs(prompts, choices)),
        "skipped": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "lengths": _average_lengths(prompts, choices),
        "orders": _compare_orders(prompts, groups, choices, pairs, seed),
    }


def _average_lengths(prompts: Sequence[Prompt], choices: Sequence[Choice]) -> dict[str, dict[str, float | None]]:
    pairs = list_unique_pairs(prompts, choices)
    sets = {
        "chosen": [(prompts[number], winner) for number, winner, _ in pairs],
        "rejected": [(prompts[number], loser) for number, _, loser in pairs],
        "all samples": [(p, place) for p in prompts for place in range(len(p.responses))],
    }

    def average(lengths: Iterable[float]) -> float | None:
        known = [length for length in lengths if math.isfinite(length)]
        return math.fsum(known) / len(known) if known else None

    return {
        name: {
            "characters": average(len(p.responses[place]) for p, place in samples),
            "tokens": average(p.tokens[place] for p, place in samples),
        }
        for name, samples in sets.items()
    }


def _compare_orders(
    prompts: Sequence[Prompt], groups: Sequence[Groups], choices: Sequence[Choice], pairs: int, seed: int
) -> dict[str, Order]:
    """Return the orders of the paper's Table 5: SPG, SPG without a threshold, two samples ranked by the reward."""
    if all(math.isnan(score) for prompt in prompts for score in prompt.scores):
        return {}
    number = {text: place for place, text in enumerate(dict.fromkeys(prompt.text for prompt in prompts))}

    def order(some: Sequence[Choice]) -> Order:
        found = []
        for place, winner, loser in list_unique_pairs(prompts, some):
            prompt = prompts[place]
            found += _compare(number[prompt.text], prompt.scores[winner] - prompt.scores[loser])
        return found

    everything = [choose(prompt, found, 0.0, pairs, seed) for prompt, found in zip(prompts, groups)]
    ranked = [row for prompt in prompts for row in _rank_two(number[prompt.text], prompt)]
    return {"spg": order(choices), "select_all": order(everything), "ranked": ranked}


def _compare(number: int, difference: float, weight: float = 1.0) -> Order:
    """Return the row of a pair whose winner's true score is larger by ``difference``; none if that is NaN."""
    if math.isnan(difference):
        return []
    return [(number, weight * (difference > 0), weight * (difference < 0), weight * (difference == 0))]


def _rank_two(number: int, prompt: Prompt) -> Order:
    """Return the expected order of two random samples of the prompt, of which the one with the higher reward wins."""
    usable = [place for place, reward in enumerate(prompt.rewards) if math.isfinite(reward)]
    two = [pair for pair in combinations(usable, 2) if prompt.responses[pair[0]] != prompt.responses[pair[1]]]
    found: Order = []
    for one, other in two:
        difference = prompt.scores[one] - prompt.scores[other]
        lead = prompt.rewards[one] - prompt.rewards[other]
        if lead:
            found += _compare(number, difference if lead > 0 else -difference, 1 / len(two))
        else:  # each wins with chance 1/2
            found += _compare(number, difference, 0.5 / len(two)) + _compare(number, -difference, 0.5 / len(two))
    return found
