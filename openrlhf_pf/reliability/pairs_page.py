"""The report on preference pairs as a page, in the look of the reliability report: one file, nothing to fetch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from openrlhf_pf.reliability import pairs, svg
from openrlhf_pf.reliability.svg import LIGHT, SERIES
from openrlhf_pf.reliability.template import STYLE, filled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pairs from the policy's own answers</title>
<style>"""
    + STYLE
    + """</style>
</head>
<body>
{%- macro table(label, heads, rows) %}<div class="scroll" tabindex="0" role="region" aria-label="{{ label }}"><table>
<thead><tr>{% for head in heads %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead><tbody>
{% for name, meaning, cells in rows %}<tr><th scope="row">{{ name }}{% if meaning %}<small>{{ meaning }}</small>
{%- endif %}</th>{% for value, more in cells %}<td>{{ value }}{% if more %}<small>{{ more }}</small>{% endif %}</td>
{%- endfor %}</tr>
{% endfor %}</tbody></table></div>{% endmacro %}
<header data-block>
<h1>Pairs from the policy's own answers</h1>
<p>A <strong>policy</strong>, the model that is trained, has answered prompts several times. Answers of one meaning
form a <strong>cluster</strong>. Where the largest cluster holds enough of a prompt's answers (its share of them is the
<strong>confidence</strong>), its member with the highest reward wins against a random answer outside of it: a
<strong>pair</strong> to train the reward model on. Nobody has said which answer is better; that most answers agree
stands for it.</p>
</header>
<main>
<h2>Three answers</h2>
<div class="cards">
{% for question, short, long, state in answers %}<section class="card {{ state }}" data-block>
<h3>{{ question }}</h3><p class="short">{{ short }}.</p><p>{{ long }}</p></section>
{% endfor %}</div>
{% if warnings %}<h2>What to keep in mind</h2>
<div data-block class="text"><ul class="notes">{% for line in warnings %}<li>{{ line }}</li>{% endfor %}</ul></div>
{% endif %}
<h2>How sure, and how right</h2>
<div class="figures">
{% for title, picture, caption in figures %}<figure data-block><h3>{{ title }}</h3>
{{ picture }}
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% if accuracy %}<div class="panel" data-block><h3>How often the winner has the higher true score</h3>
{{ table("Accuracy of pairs", ["pairs", "right", "equal", "prompts"], accuracy) }}
<p class="hint">Right: of the pairs whose answers differ in true score; small numbers are {{ level }} intervals from
resampled prompts. Equal: pairs whose answers have the same true score. Prompts: those with a pair that differs.</p>
</div>{% endif %}
<div class="panel" data-block><h3>What became of the prompts</h3>
{{ table("What became of the prompts", ["", "prompts", "share"], reasons) }}</div>
<div class="panel" data-block><h3>Lengths</h3>
{{ table("Lengths", ["mean of", "characters", "tokens"], lengths) }}
<p class="hint">Winners are chosen by the old reward model: what it likes, length for instance, goes into the
pairs.</p>
</div>
</div>
</main>
<footer data-block><h2>Settings</h2>
<p class="text">{{ settings }}</p></footer>
</body>
</html>
"""
)


def html(found: Mapping[str, Any], reasons: Mapping[str, str]) -> str:
    """The page; nothing in it refers to anything outside.

    Args:
        found: what :func:`pairs.report` returns.
        reasons: what each reason to give no pair means.
    """
    from markupsafe import Markup

    settings = "; ".join(f"{name} {value}" for name, value in found["settings"].items())
    return filled(
        PAGE,
        answers=pairs.short_answers(found),
        warnings=found["warnings"],
        figures=[(title, Markup(picture), caption) for title, picture, caption in _figures(found)],
        accuracy=_accuracy_rows(found),
        reasons=_reason_rows(found, reasons),
        lengths=_length_rows(found),
        level=f"{pairs.LEVEL:.0%}",
        settings=f"{settings}.",
    )


def _accuracy_rows(found: Mapping[str, Any]) -> list[tuple]:
    return [
        (
            *pairs.KINDS[name],
            [
                (pairs.percent(values["accuracy"]["estimate"]), pairs.between(values["accuracy"])),
                (pairs.percent(values["equal"]), ""),
                (f"{values['prompts']:,}", ""),
            ],
        )
        for name, values in (found["accuracy"] or {}).items()
    ]


def _reason_rows(found: Mapping[str, Any], reasons: Mapping[str, str]) -> list[tuple]:
    rows = [("used", "they give pairs", found["used"])]
    rows += [(reason.replace("_", " "), reasons[reason], count) for reason, count in found["skipped"].items()]
    return [
        (name, meaning, [(f"{count:,}", ""), (pairs.percent(count / found["prompts"]), "")])
        for name, meaning, count in rows
    ]


def _length_rows(found: Mapping[str, Any]) -> list[tuple]:
    names = {"chosen": "winners", "rejected": "losers", "all samples": "all samples"}

    def text(value: float | None) -> tuple[str, str]:
        return ("–" if value is None else f"{value:,.1f}"), ""

    return [(names[name], "", [text(v["characters"]), text(v["tokens"])]) for name, v in found["lengths"].items()]


def _figures(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Title, picture and caption of each."""
    import matplotlib

    drawn = []
    with matplotlib.rc_context(svg.STYLE):
        figure, alt = _confidence(found)
        caption = (
            "How large a share of a prompt's answers its largest cluster holds. Prompts that give pairs are"
            f" filled; the dashed line is the threshold, {found['settings']['threshold']:g}."
        )
        drawn.append(("Confidence", figure, alt, caption))
        if found["accuracy"] and any(v["accuracy"]["estimate"] is not None for v in found["accuracy"].values()):
            figure, alt = _accuracy(found)
            caption = "Pairs whose winner is the better answer. The dashed line is guessing, and bars are intervals."
            drawn.append(("Right pairs", figure, alt, caption))
        return [
            (title, svg.inline(*svg.drawing(figure, title.split()[0].lower()), alt), caption)
            for title, figure, alt, caption in drawn
        ]


def _confidence(found: Mapping[str, Any]) -> "tuple[Figure, str]":
    rows = found["confidence"]
    edges = np.array([row["from"] for row in rows] + [1.1]) - 0.05
    figure, ax = svg.new()
    for name, colour, label in (("prompts", SERIES[1], "all prompts"), ("used", SERIES[0], "used")):
        counts = [row[name] for row in rows]
        ax.stairs(counts, edges, fill=name == "used", color=colour, alpha=0.4 if name == "used" else 1, linewidth=1.4)
        ax.stairs(counts, edges, color=colour, linewidth=1.4, label=f"{label} ({sum(counts):,})")
    ax.axvline(found["settings"]["threshold"], color=LIGHT["muted"], linestyle="--", linewidth=0.8)
    ax.set_xlabel("confidence: share of the largest cluster")
    ax.set_ylabel("number of prompts")
    svg.legend(figure)
    most = max(rows, key=lambda row: row["prompts"])
    total = sum(row["prompts"] for row in rows)
    return figure, (
        f"Histogram of the confidence of {total:,} prompts: most often, {most['prompts']:,} times, it is"
        f" {most['from']:g} or a little more; {found['used']:,} are used."
    )


def _accuracy(found: Mapping[str, Any]) -> "tuple[Figure, str]":
    rows = [
        (pairs.KINDS[name][0], v["accuracy"])
        for name, v in found["accuracy"].items()
        if v["accuracy"]["estimate"] is not None
    ]
    figure, ax = svg.new(1.6)
    for place, (_, share) in enumerate(rows):
        at = share["estimate"]
        ends = [abs(at - (at if share[end] is None else share[end])) for end in ("low", "high")]
        colour = SERIES[0] if place == 0 else LIGHT["muted"]
        ax.errorbar([100 * at], [place], xerr=100 * np.array([ends]).T, fmt="o", markersize=4, color=colour)
    ax.axvline(50, color=LIGHT["muted"], linestyle="--", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows], color=LIGHT["ink"])
    ax.invert_yaxis()
    ax.margins(y=0.25)
    ax.set_xlabel("right pairs, %")
    texts = [f"{name} {pairs.percent(share['estimate'])} ({pairs.between(share)})" for name, share in rows]
    return figure, f"Share of right pairs: {'; '.join(texts)}."
