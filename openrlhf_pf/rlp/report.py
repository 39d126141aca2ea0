"""The report on preference pairs: how many prompts give pairs, whether the pairs are right, which lengths win.

Notation used for shapes: P prompts, K pairs.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from openrlhf_pf.rlp.clusters import Groups
from openrlhf_pf.rlp.pairs import REASONS, USED, Choice, choose, list_unique_pairs
from openrlhf_pf.rlp.samples import Prompt

if TYPE_CHECKING:
    from rich.console import Console


FORMAT = 1
#: Kind of pairs to its name. In the paper's Table 5, 59, 55 and 56% are right.
KINDS = {"spg": "these pairs", "select_all": "without a threshold", "ranked": "ranked by the reward"}
#: The smallest lead of winners in mean length, as a share of the losers' length, that is worth a warning.
LONGER = 0.1
#: The smallest share of pairs with equal true scores that is worth a warning.
MANY_EQUAL = 0.5
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


# ── The report ──


def make_report(
    numbers: Mapping[str, Any], accuracies: Mapping[str, Any], settings: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """Return the content of the report's JSON.

    Args:
        numbers: what :func:`measure` returns, without ``orders``.
        accuracies: ``accuracy``, kind of pairs to ``accuracy`` (``estimate``, ``low``, ``high``), ``right``,
            ``wrong``, ``equal`` and ``prompts``, or None without true scores; ``lead``, how far these pairs lead those
            ranked by the reward; ``verdict`` in a few words.
        settings: everything that decided the pairs.
        warnings: sentences on what went wrong.
    """
    found = {**numbers, **accuracies}
    unit, won, lost = _average(found)
    lengths = f"Winners have {won:,.0f} {unit} on average, losers {lost:,.0f}."
    return {
        "format": FORMAT,
        "settings": dict(settings),
        **found,
        "sentences": [_describe_amount(found), _describe_accuracy(found), lengths],
        "warnings": [*warnings, *_list_warnings(found)],
    }


def show(report: Mapping[str, Any], console: "Console") -> None:
    """Print the sentences, the prompts by reason, the accuracy of pairs and the warnings."""
    from rich.markup import escape
    from rich.table import Table

    for line in report["sentences"]:
        console.print(escape(line), soft_wrap=True, highlight=False)
    table = Table("", title="Prompts by result", title_justify="left")
    table.add_column("prompts", justify="right")
    table.add_column("")
    table.add_row("used", f"{report['used']:,}", "")
    for reason, count in report["skipped"].items():
        table.add_row(reason, f"{count:,}", REASONS[reason])
    console.print(table)
    if report["accuracy"]:
        table = Table("pairs", title="How often the winner has the higher true score", title_justify="left")
        for name in ("right of decided", "interval", "equal", "prompts"):
            table.add_column(name, justify="right")
        for name, values in report["accuracy"].items():
            share = values["accuracy"]
            interval = "" if share["low"] is None else f"{100 * share['low']:.1f}–{100 * share['high']:.1f}%"
            cells = _percent(share["estimate"]), interval, _percent(values["equal"]), f"{values['prompts']:,}"
            table.add_row(KINDS[name], *cells)
        console.print(table)
    for line in report["warnings"]:
        console.print("[yellow]warning:[/yellow] " + escape(line), soft_wrap=True, highlight=False)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _describe_amount(found: Mapping[str, Any]) -> str:
    texts, different = "", ""
    if found["texts"] < found["prompts"]:
        texts, different = f", which are {found['texts']:,} different texts,", " different"
    return (
        f"{found['used']:,} of {found['prompts']:,} prompts{texts} give {found['pairs']:,}{different} pairs"
        f" ({found['used'] / found['prompts']:.0%})."
    )


def _describe_accuracy(found: Mapping[str, Any]) -> str:
    if not found["accuracy"]:
        return "Whether the pairs are right is unknown: the samples have no true scores."
    share = found["accuracy"]["spg"]["accuracy"]
    if share["estimate"] is None:
        return "Whether the pairs are right is unknown: in no pair do the true scores of the responses differ."
    interval = "" if share["low"] is None else f"95% interval {share['low']:.1%} to {share['high']:.1%}; "
    names = {"select_all": "without a threshold it would be", "ranked": "of two responses ranked by the reward it is"}
    others = [
        f"; {name} {found['accuracy'][kind]['accuracy']['estimate']:.1%}"
        for kind, name in names.items()
        if found["accuracy"][kind]["accuracy"]["estimate"] is not None
    ]
    return (
        f"The winner is the better response in {share['estimate']:.1%} of the pairs that differ in true score "
        f"({interval}guessing would be 50%){''.join(others)}."
    )


def _average(found: Mapping[str, Any]) -> tuple[str, float, float]:
    """Return the unit, tokens if known, and the mean lengths of winners and losers."""
    unit = "characters" if found["lengths"]["chosen"]["tokens"] is None else "tokens"
    return unit, found["lengths"]["chosen"][unit], found["lengths"]["rejected"][unit]


def _list_warnings(found: Mapping[str, Any]) -> Iterator[str]:
    _, won, lost = _average(found)
    if lost and won / lost > 1 + LONGER:
        yield (
            f"Winners are {won / lost - 1:.0%} longer than losers: the old reward model chose them, and if it prefers"
            " long responses, the new one learns to."
        )
    if not found["accuracy"]:
        return
    share, lead, equal = found["accuracy"]["spg"]["accuracy"], found["lead"], found["accuracy"]["spg"]["equal"]
    if share["high"] is not None and share["high"] < 0.5:
        yield (
            "The pairs are mostly wrong: the response that most samples agree on is not the right one here, and"
            " training on these pairs would teach the reward model the policy's error."
        )
    elif share["low"] is not None and share["low"] <= 0.5:
        yield "With this many prompts, the pairs are not significantly better than guessing."
    if lead["high"] is not None and lead["high"] < 0:
        yield "Two random responses ranked by the old reward are right more often than these pairs."
    if equal is not None and equal > MANY_EQUAL:
        yield f"In {equal:.0%} of the pairs both responses have the same true score: these pairs are noise."
