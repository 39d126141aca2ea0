"""The report on preference pairs: how many prompts give pairs, whether the pairs are right, which lengths win."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openrlhf_pf.rlp.pairs import REASONS

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
#: Kind of pairs to its name. In the paper's Table 5, 59, 55 and 56% are right.
KINDS = {"spg": "these pairs", "select_all": "without a threshold", "ranked": "ranked by the reward"}
#: The smallest lead of winners in mean length, as a share of the losers' length, that is worth a warning.
LONGER = 0.1
#: The smallest share of pairs with equal true scores that is worth a warning.
MANY_EQUAL = 0.5


def make_report(
    numbers: Mapping[str, Any], accuracies: Mapping[str, Any], settings: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """Return the content of the report's JSON.

    Args:
        numbers: what :func:`openrlhf_pf.rlp.measures.measure` returns, without ``orders``.
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
