"""The three answers of a report and the one caveat that could overturn them."""

from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_pf.reliability.analysis import Analysed
from openrlhf_pf.reliability.recommend import choose as decisions
from openrlhf_pf.reliability.recommend.verdict import GOOD, GUESSING, MOSTLY, RIGHT, SAME, SLIGHTLY, UNKNOWN, WRONG
from openrlhf_pf.reliability.report.reasons import (
    describe_cause,
    describe_informative,
    headline_of,
    next_step,
    percent,
    why_of,
)
from openrlhf_pf.reliability.report.remarks import describe_length, remarks_of

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
    if a.ranking in GOOD and a.causes[0].kind != "close":
        return describe_cause(a.causes[0], a)
    if a.extremes is not None and a.extremes.top_is_wrong and a.ranking != WRONG:
        return "The responses with the highest reward of their prompt are worse than the second choices."
    name = f"{a.checkpoint.name}: "
    serious = ("there twice", "there 3 times", "too few", "carry", "spread", "different weights")
    for line in warnings:
        if any(word in line for word in serious) and (line.startswith(name) or ": " not in line[:60]):
            return line.removeprefix(name)
    return "Intervals do not cover prompts of another kind than these, nor a later policy."
