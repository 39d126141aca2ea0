"""A report on preference pairs made of a policy's samples: are they right, how sure are they, who wins?

Takes the numbers of ``openrlhf_pf.rlp.measure`` as they are, and imports nothing of that room.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openrlhf_pf.reliability.answers import WORDS, verdict_of
from openrlhf_pf.reliability.bootstrap import Bootstrap, interval

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
REPETITIONS, LEVEL = 1000, 0.95
#: Kind of pairs to what people call them, and what they are. The paper's Table 5 has 59, 55 and 56%.
KINDS = {
    "spg": ("these pairs", "the best answer of the largest cluster against a random one outside of it"),
    "select_all": ("without a threshold", "the same of every prompt, however small its largest cluster"),
    "ranked": ("ranked by the reward", "two random answers, of which the one with the higher reward wins"),
}
#: A difference in mean length, as a share of the losers', that is worth a word.
LONGER = 0.1
#: A share of pairs whose two answers are equally good that is worth a word.
MANY_EQUAL = 0.5
Share = dict[str, float | None]


class Ordered(Protocol):
    """Pairs of some kind: (K,) their prompts, and weights of those that are right, wrong, and neither."""

    prompt: Sequence[int]
    right: Sequence[float]
    wrong: Sequence[float]
    equal: Sequence[float]


def report(numbers: Mapping[str, Any], settings: Mapping[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """What the report's JSON holds.

    Args:
        numbers: what ``openrlhf_pf.rlp.measure`` returns.
        settings: all that decided the pairs.
        warnings: what went wrong on the way, a sentence each.
    """
    found = {name: value for name, value in numbers.items() if name != "orders"}
    found |= _accuracies(numbers["orders"], numbers["texts"])
    verdict = verdict_of(found["accuracy"]["spg"]["accuracy"]) if found["accuracy"] else "unknown"
    return {
        "format": FORMAT,
        "settings": dict(settings),
        **found,
        "verdict": verdict,
        "sentences": [_amount(found), _rightness(found), _length(found)],
        "warnings": [*warnings, *_cautions(found)],
    }


def _accuracies(orders: Mapping[str, Ordered], n_prompts: int) -> dict[str, Any]:
    """Per kind of pairs, and how far these lead those ranked by the reward; None without true scores."""
    if not orders:
        return {"accuracy": None, "lead": None}
    bootstrap = Bootstrap(n_prompts, REPETITIONS)
    found, draws = {}, {}
    for name, order in orders.items():
        found[name], draws[name] = _accuracy(order, bootstrap)
    one, other = (found[name]["accuracy"]["estimate"] for name in ("spg", "ranked"))
    lead: Share = {"estimate": None, "low": None, "high": None}
    if one is not None and other is not None:
        low, high = interval(one - other, draws["spg"] - draws["ranked"], "plain", bootstrap.n_blocks, LEVEL)
        lead = {"estimate": one - other, "low": _known(low), "high": _known(high)}
    return {"accuracy": found, "lead": lead}


def _accuracy(order: Ordered, bootstrap: Bootstrap) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """The share that is right of those that are right or wrong, and its repetitions."""
    prompt = np.asarray(order.prompt, np.int64)
    right, wrong, equal = (np.asarray(values, float) for values in (order.right, order.wrong, order.equal))
    decided, total = (right + wrong).sum(), (right + wrong + equal).sum()
    sums = bootstrap.sums(bootstrap.block[prompt], [right, wrong])[:, 0]
    with np.errstate(invalid="ignore"):
        draws = sums[:, 0] / sums.sum(axis=1)
    accuracy: Share = {"estimate": None, "low": None, "high": None}
    weights = np.bincount(prompt, right + wrong, minlength=1)
    if decided:
        share = float(right.sum() / decided)
        units = float(weights.sum() ** 2 / (weights**2).sum())
        low, high = interval(share, draws, "share", bootstrap.n_blocks, LEVEL, units)
        accuracy = {"estimate": share, "low": _known(low), "high": _known(high)}
    shares = {
        name: float(values.sum() / total) if total else None
        for name, values in (("right", right), ("wrong", wrong), ("equal", equal))
    }
    return {"accuracy": accuracy, **shares, "prompts": int((weights > 0).sum())}, draws


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# ── Words ──


def _amount(found: Mapping[str, Any]) -> str:
    texts, different = "", ""
    if found["texts"] < found["prompts"]:
        texts, different = f", which are {found['texts']:,} different texts,", " different"
    return (
        f"{found['used']:,} of {found['prompts']:,} prompts{texts} give {found['pairs']:,}{different} pairs"
        f" ({found['used'] / found['prompts']:.0%})."
    )


def _rightness(found: Mapping[str, Any]) -> str:
    if not found["accuracy"]:
        return "Whether the pairs are right cannot be told: the samples have no true scores."
    own = found["accuracy"]["spg"]
    share = own["accuracy"]
    if share["estimate"] is None:
        return "Whether the pairs are right cannot be told: in no pair do the true scores of the answers differ."
    known = "" if share["low"] is None else f"{LEVEL:.0%} interval {share['low']:.1%} to {share['high']:.1%}; "
    named = {"select_all": "without a threshold it would be", "ranked": "of two answers ranked by the reward it is"}
    others = [
        f"; {words} {found['accuracy'][name]['accuracy']['estimate']:.1%}"
        for name, words in named.items()
        if found["accuracy"][name]["accuracy"]["estimate"] is not None
    ]
    return (
        f"The winner is the better answer in {share['estimate']:.1%} of the pairs that differ in true score ({known}"
        f"guessing would be 50%){''.join(others)}."
    )


def _length(found: Mapping[str, Any]) -> str:
    unit = unit_of(found)
    won, lost = (found["lengths"][name][unit] for name in ("chosen", "rejected"))
    return f"Winners have {won:,.0f} {unit} on average, losers {lost:,.0f}."


def unit_of(found: Mapping[str, Any]) -> str:
    """Tokens where their numbers are known."""
    return "characters" if found["lengths"]["chosen"]["tokens"] is None else "tokens"


def _cautions(found: Mapping[str, Any]) -> list[str]:
    notes, unit = [], unit_of(found)
    won, lost = (found["lengths"][name][unit] for name in ("chosen", "rejected"))
    if lost and won / lost > 1 + LONGER:
        notes.append(
            f"Winners are {won / lost - 1:.0%} longer than losers: the old reward model chose them, and where it likes"
            " length, the new one learns to."
        )
    if not found["accuracy"]:
        return notes
    own = found["accuracy"]["spg"]
    share, lead = own["accuracy"], found["lead"]
    if share["high"] is not None and share["high"] < 0.5:
        notes.append(
            "The pairs are mostly wrong: the answer that most samples agree on is not the right one here, and training"
            " on these pairs would teach the reward model the policy's error."
        )
    elif share["low"] is not None and share["low"] <= 0.5:
        notes.append("The pairs cannot be told from guessing by this many prompts.")
    if lead["high"] is not None and lead["high"] < 0:
        notes.append("Two random answers ranked by the old reward are right more often than these pairs.")
    if own["equal"] is not None and own["equal"] > MANY_EQUAL:
        notes.append(f"In {own['equal']:.0%} of the pairs both answers have the same true score: they teach noise.")
    return notes


def short_answers(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The page's three questions, each with its answer in a few words, a sentence, and a state."""
    state = {"right": "", "mostly right": "", "wrong way round": "bad"}.get(found["verdict"], "open")
    amount, rightness, length = found["sentences"]
    unit = unit_of(found)
    won, lost = (found["lengths"][name][unit] for name in ("chosen", "rejected"))
    longer = won / lost - 1 if lost else 0.0
    word = "No" if abs(longer) <= LONGER else "Longer" if longer > 0 else "Shorter"
    size = "" if word == "No" else f", by {abs(longer):.0%}"
    share = f"{found['used'] / found['prompts']:.0%}"
    return [
        ("Are the pairs right?", WORDS[found["verdict"]], rightness, state),
        ("How many prompts give pairs?", share, amount, ""),
        ("Are winners longer or shorter?", f"{word}{size}", length, "" if word == "No" else "open"),
    ]


def percent(share: float | None) -> str:
    """As text; a dash where it is not known."""
    return "–" if share is None else f"{100 * share:.1f}%"


def between(share: Share) -> str:
    """An interval as text, or nothing."""
    return "" if share["low"] is None else f"{100 * share['low']:.1f}–{100 * share['high']:.1f}%"


def show(found: Mapping[str, Any], reasons: Mapping[str, str], console: "Console") -> None:
    """Print the sentences, what became of the prompts, and how often pairs are right."""
    from rich.markup import escape
    from rich.table import Table

    for line in found["sentences"]:
        console.print(escape(line), soft_wrap=True, highlight=False)
    table = Table(title="What became of the prompts", title_justify="left")
    for name in ("", "prompts", ""):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("used", f"{found['used']:,}", "")
    for reason, count in found["skipped"].items():
        table.add_row(reason, f"{count:,}", reasons[reason])
    console.print(table)
    if found["accuracy"]:
        table = Table(title="How often the winner has the higher true score", title_justify="left")
        for name in ("pairs", "right of decided", "interval", "equal", "prompts"):
            table.add_column(name, justify="left" if name == "pairs" else "right")
        for name, values in found["accuracy"].items():
            share = values["accuracy"]
            cells = percent(share["estimate"]), between(share), percent(values["equal"]), f"{values['prompts']:,}"
            table.add_row(KINDS[name][0], *cells)
        console.print(table)
    for line in found["warnings"]:
        console.print("[yellow]warning:[/yellow] " + escape(line), soft_wrap=True, highlight=False)


def as_json(found: Mapping[str, Any]) -> str:
    """The report's JSON; a value that is not defined is null."""
    return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
