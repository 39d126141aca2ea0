"""The three answers of a report, the one caveat that could overturn them, remarks and warnings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openrlhf_pf.reliability import recommend as decisions
from openrlhf_pf.reliability.analysis import Analysed, Analysis, Settings
from openrlhf_pf.reliability.read.columns import join_words
from openrlhf_pf.reliability.recommend import (
    FEWEST_PROMPTS,
    GOOD,
    GUESSING,
    MOSTLY,
    RIGHT,
    SAME,
    SLIGHTLY,
    UNKNOWN,
    WRONG,
)
from openrlhf_pf.reliability.report.reasons import (
    describe_cause,
    describe_informative,
    headline_of,
    next_step,
    percent,
    why_of,
)

#: R² of the paper from which on it looks good.
GOOD_R2 = 0.8
#: The filters: their choice among the responses of a prompt, of which k train.
FILTER_MEANINGS = {
    "none": "no filter: all responses train",
    "best_of_n": "the k highest rewards of each prompt",
    "best_random": "the highest rewards of each prompt (half of k), and random others",
    "best_worst": "the highest and the lowest rewards of each prompt (half of k each)",
    "rank_weights": "ranks of a prompt's rewards by given weights (by default the second and the last)",
    "max_variance": "the k rewards of each prompt with the largest variance",
    "top": "rewards above a threshold",
    "top_random": "rewards above a threshold, and half of the others",
    "top_bottom": "rewards above one threshold or below another",
    "reward_power": "responses in proportion to a power of |reward|",
    "shortest": "the k shortest responses of each prompt",
    "reward_per_token": "the k responses of each prompt with the most reward per token",
    "pareto": "the k responses of each prompt with the best trade-off of reward and length",
    "ensemble_agreement": "the k responses of each prompt that several reward models rank the same",
}

RANKING_ANSWERS = {
    RIGHT: "Yes, nearly always",
    MOSTLY: "Mostly",
    SLIGHTLY: "A little more often than not",
    GUESSING: "Not shown by these data",
    WRONG: "No, the ranking is reversed",
    UNKNOWN: "Unknown",
    SAME: "Not measured",
}


@dataclass
class Answer:
    """A question, its answer in a few words, and sentences, the first of which matters most.

    ``state`` is "", "open" or "bad".
    """

    question: str
    short: str
    sentences: list[str]
    state: str = ""


def answers_of(a: Analysed) -> list[Answer]:
    """Return the three answers on one checkpoint."""
    headline, why = headline_of(a.recommendation, a), why_of(a.recommendation, a)
    short, action = next_step(a)
    decided, bad = a.recommendation.decided, a.recommendation.answer == decisions.WRONG_WAY
    return [
        Answer("Does the reward rank responses correctly?", *_describe_ranking(a)),
        Answer("Which filter, if any?", headline.rstrip("."), why, "bad" if bad else "" if decided else "open"),
        Answer("What to do next?", short, action, "" if decided else "open"),
    ]


def _describe_ranking(a: Analysed) -> tuple[str, list[str], str]:
    short, accuracy = RANKING_ANSWERS[a.ranking], a.accuracy
    if a.ranking == SAME:
        return short, ["Reward and score are the same up to scale, so the reward would be measured by itself."], "open"
    if a.ranking == UNKNOWN:
        return short, [_describe_unknown(a)], "open"
    level = f"{a.recommendation.level:.0%}"
    subject = "Of two responses to one prompt, the one with the better true score"
    subject = "The chosen response" if a.checkpoint.has_pairs else subject
    sentence = (
        f"{subject} has the higher reward in {percent(accuracy['estimate'])} of pairs ({level} interval"
        f" {percent(accuracy['low'])} to {percent(accuracy['high'])}; guessing would be 50%)."
    )
    return short, [sentence, *remarks_of(a)], {RIGHT: "", MOSTLY: "", WRONG: "bad"}.get(a.ranking, "open")


def _describe_unknown(a: Analysed) -> str:
    known = a.checkpoint.known
    if known.sum(axis=1).max(initial=0) < 2:
        return "Every prompt has one response, so there are no responses to one prompt to compare."
    if not a.informative:
        return "The responses to each prompt all have the same true score."
    return describe_informative(a)


def caveat_of(a: Analysed, warnings: Sequence[str]) -> str:
    """Return the one caveat that could overturn the answers, or the first of the further warnings."""
    if a.same:
        return "All numbers of this report compare the reward with itself."
    if a.follows_length:
        return describe_length(a)
    if a.ranking in GOOD and a.causes[0] != "close":
        return describe_cause(a.causes[0], a)
    if "top" in a.misranked and a.ranking != WRONG:
        return describe_cause("hacked top", a)
    name = f"{a.checkpoint.name}: "
    serious = ("there twice", "there 3 times", "too few", "carry", "spread", "different weights")
    for line in warnings:
        if any(word in line for word in serious) and (line.startswith(name) or ": " not in line[:60]):
            return line.removeprefix(name)
    return "Intervals do not cover prompts of another kind than these, nor a later policy."


# ── Remarks ──


def describe_data(analysis: Analysis) -> list[str]:
    """Return what was read, a sentence per checkpoint: the first line of every report."""
    if len(analysis.analysed) > 1:
        return [f"{a.checkpoint.name}: {describe_samples(a)}." for a in analysis.analysed]
    files = f", from {analysis.n_files:,} file{'s' * (analysis.n_files != 1)}" if analysis.n_files else ""
    return [f"{describe_samples(analysis.analysed[0])}{files}."]


def describe_samples(a: Analysed) -> str:
    """Return the amount of samples: 120 prompts of 6 responses."""
    c = a.checkpoint
    sizes = np.isfinite(c.reward).sum(axis=1)
    if c.has_pairs:
        return f"{len(c.reward):,} preference pairs" if c.reward.shape[1] == 2 else f"{len(c.reward):,} rows of pairs"
    low, high = int(sizes.min()), int(sizes.max())
    size = f"{high} response{'s' * (high != 1)}" if low == high else f"{low} to {high} responses"
    groups = f" in {len(c.reward):,} rollouts" if len(c.reward) > c.n_prompts else ""
    return f"{c.n_prompts:,} prompt{'s' * (c.n_prompts != 1)}{groups} of {size}"


def describe_length(a: Analysed) -> str:
    """Return how the reward follows length."""
    values = [(v["estimate"], v["low"], v["high"]) for v in (a.length["length"], a.length["score"])]
    texts = [f"{x:.2f} ({low:.2f} to {high:.2f})" for x, low, high in values]
    return (
        f"The reward follows response length more than the true score: within prompts it correlates {texts[0]} with"
        f" length at equal score and {texts[1]} with score at equal length."
    )


def remarks_of(a: Analysed) -> list[str]:
    """Return sentences on misranked extremes and on where the ranking and R² over all samples disagree."""
    notes = [describe_length(a)] if a.follows_length else []
    notes += [
        f"{name}: {percent(v['estimate'])}"
        + ("" if v["low"] is None else f" ({percent(v['low'])} to {percent(v['high'])})")
        + f" of {v['groups']:,}."
        for name, v in a.subsets.items()
        if v["estimate"] is not None
    ]
    r = a.everything.estimates.get("binned_r2", np.nan)
    r2 = r * abs(r)
    if a.ranking == RIGHT and r2 < GOOD_R2:
        notes.append(
            f"R² over all samples looks bad ({r2:.2f}) because it includes differences between prompts, which neither"
            " a filter within a prompt nor a baseline per prompt uses."
        )
    if a.ranking in (GUESSING, WRONG) and r2 >= GOOD_R2:
        notes.append(
            f"R² over all samples looks good ({r2:.2f}) only because the reward knows which prompts are easy; it does"
            " not know which of the responses to one prompt is better."
        )
    if "top" in a.misranked and a.ranking != WRONG:
        notes.append(
            "The responses with the highest reward of their prompt are worse than the second choices, by"
            f" {_range(a.misranked['top'])} in true score: best_of_n would teach what fools the reward model."
        )
    if "bottom" in a.misranked and a.ranking != WRONG:
        notes.append(
            "The responses with the lowest reward of their prompt are better than the rank above, by"
            f" {_range(a.misranked['bottom'])} in true score: the reward model misjudges some of them."
        )
    return notes


def _range(difference: dict[str, float]) -> str:
    estimate, high, low = (-difference[key] for key in ("estimate", "low", "high"))
    return f"{estimate:.3f} (interval {low:.3f} to {high:.3f})"


def sentences_of(analysis: Analysis) -> list[str]:
    """Return the sentences on over-confidence."""
    measured = [a for a in analysis.analysed if not (a.same or a.checkpoint.has_pairs)]
    return [_describe_calibration(a) for a in measured if a.calibration is not None]


def _describe_calibration(a: Analysed) -> str:
    c, name = a.calibration, a.checkpoint.name
    if not c.top:
        return f"{name}: true scores do not fall significantly where rewards are highest."
    return (
        f"{name}: the reward model is over-confident at rewards from {c.edges[-c.top, 0]:.3g} to {c.edges[-1, 1]:.3g}:"
        f" true scores there are {c.fall:.3f} lower than just below."
    )


def settings_line(analysis: Analysis) -> str:
    """Return all settings that the numbers depend on."""
    s = analysis.settings
    options = [
        f"; {x.label} " + ", ".join(f"{key} {value:.4g}" for key, value in x.options.items())
        for x in analysis.strategies
        if x.options.keys() & {"high", "low"}
    ]
    return (
        f"{s.bins} groups of equal count; {s.repetitions} bootstrap repetitions over prompts, seed {s.seed}; "
        f"intervals of {s.level:.0%}; a score above {s.threshold:g} is correct{''.join(options)}."
    )


# ── Warnings ──


def warnings_of(analysis: Analysis) -> list[str]:
    """Return the warnings of reading and those on the numbers of all checkpoints."""
    notes = analysis.warnings + [note for a in analysis.analysed for note in _warn_of(a, analysis)]
    twins = {r.strategy.label: r.twin for r in analysis.analysed[0].results if r.twin}
    return notes + [f"{label} and {twin} give all samples the same weights here." for label, twin in twins.items()]


def _warn_of(a: Analysed, analysis: Analysis) -> list[str]:
    notes, name, known, settings = [], a.checkpoint.name, a.checkpoint.known, analysis.settings
    if a.checkpoint.n_prompts < FEWEST_PROMPTS:
        notes.append(
            f"{name}: {a.checkpoint.n_prompts} prompts are too few for reliable intervals; score at least "
            f"{FEWEST_PROMPTS}."
        )
    elif not a.checkpoint.has_pairs:
        notes += _warn_of_few_carriers(a)
    correct = a.checkpoint.score[known] > settings.threshold
    if correct.all() or not correct.any():
        notes.append(
            f"{name}: {'all' if correct.all() else 'no'} scores are above {settings.threshold:g}, so there is no "
            "ROC-AUC; choose another --threshold."
        )
    return notes if a.checkpoint.has_pairs or a.same else notes + _warn_of_strategies(a, settings)


def _warn_of_strategies(a: Analysed, settings: Settings) -> list[str]:
    notes, name, known = [], a.checkpoint.name, a.checkpoint.known
    constant = any(np.ptp(x[known]) == 0 for x in (a.checkpoint.reward, a.checkpoint.score))
    compared = [] if constant else [r for r in a.results if not r.twin]
    if empty := [r.strategy.label for r in compared if not r.kept]:
        notes.append(f"{name}: no sample passes {join_words(empty)}.")
    if unknown := [r.strategy.label for r in compared if r.kept and np.isnan(r.estimates.get("binned_r2", np.nan))]:
        notes.append(
            f"{name}: there is no binned R² of {join_words(unknown)}, for want of {2 * settings.bins} samples, of 3"
            " different rewards, or of different scores."
        )
    if any(r.strategy.name == "reward_power" for r in a.results) and np.nanmax(np.abs(a.checkpoint.reward)) > 1:
        notes.append(
            f"{name}: some rewards lie outside [-1, 1], for which reward_power is meant; its numbers hold only "
            "if 0 is between good and bad."
        )
    return notes


def _warn_of_few_carriers(a: Analysed) -> list[str]:
    """Return a warning where few of the prompts carry the numbers within prompts."""
    units, n_prompts = a.everything.units, a.checkpoint.n_prompts
    if not units or units["gain"] >= min(FEWEST_PROMPTS, n_prompts / 5):
        return []
    about = round(units["gain"])
    # Ranks ignore how far apart rewards lie.
    if units["gain"] < units["within_spearman"] / 2:
        return [
            f"{a.checkpoint.name}: the rewards of about {about} of {n_prompts:,} prompts lie so far apart that these"
            " carry most of gain, signal to noise and R² within prompts; pairwise accuracy and Spearman count all"
            " prompts the same."
        ]
    if a.informative < min(FEWEST_PROMPTS, n_prompts / 5):
        return [f"{a.checkpoint.name}: {describe_informative(a)} Only these carry the numbers within prompts."]
    return [
        f"{a.checkpoint.name}: about {about} of {n_prompts:,} prompts carry most of the numbers within prompts: they"
        " have far more responses than the others, or true scores that lie further apart."
    ]
