"""The three questions that a reader has, answered: right within the prompt? which filter? how many more prompts?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openrlhf_pf.reliability import within
from openrlhf_pf.reliability.bootstrap import Bootstrap
from openrlhf_pf.reliability.choose import Recommendation
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.ends import ends_of
from openrlhf_pf.reliability.evaluate import Result, evaluate, summary
from openrlhf_pf.reliability.strategies import Strategy

#: Share of pairs that are right, from which on a reward model is called so.
RIGHT, MOSTLY = 0.9, 0.7
#: R² of the paper from which on it looks good.
GOOD_R2 = 0.8
#: A lead over guessing, in share of pairs, that is worth finding.
CLOSE = 0.05


@dataclass
class Answers:
    """What a page opens with.

    Attributes:
        verdict: "right", "mostly right", "slightly right", "no better than guessing", "wrong way round" or "unknown".
        accuracy: share of pairs that are right, ``{estimate, low, high}``; None each where there are no pairs.
        right: the first answer in a word or two, and in a sentence.
        filter: the second likewise.
        more: the third.
        remarks: sentences on where this and R² over all samples disagree.
        split: within and between prompts.
    """

    verdict: str
    accuracy: dict[str, float | None]
    right: tuple[str, str]
    filter: tuple[str, str]
    more: tuple[str, str]
    remarks: list[str]
    split: within.Split | None


def answer(checkpoint: Checkpoint, bootstrap: Bootstrap, recommendation: Recommendation, level: float) -> Answers:
    """Answer for one checkpoint.

    Args:
        checkpoint: the samples.
        bootstrap: the repetitions, for this checkpoint's prompts.
        recommendation: what :func:`choose` says of it.
        level: of the intervals.
    """
    everything = Strategy("none", checkpoint.reward.shape[1])
    only = ("pairwise_accuracy", "binned_r2")
    (whole,) = evaluate(checkpoint, [everything], bootstrap, only=only)
    accuracy = summary(whole, bootstrap, level)["pairwise_accuracy"]
    verdict = verdict_of(accuracy)
    parts = within.split(checkpoint, within.deviations_of(checkpoint), bootstrap, level)
    ends = ends_of(checkpoint, bootstrap, level)
    headline = recommendation.headline
    return Answers(
        verdict,
        accuracy,
        _right(verdict, accuracy, level),
        (headline.rstrip("."), recommendation.text.removeprefix(headline).strip()),
        _more(whole, accuracy, recommendation, checkpoint.n_prompts),
        _remarks(verdict, whole, parts) + ([] if ends is None else ends.words()),
        parts,
    )


def verdict_of(accuracy: dict[str, float | None]) -> str:
    """In a few words, from ``{estimate, low, high}`` of the share of right pairs."""
    if accuracy["estimate"] is None or accuracy["low"] is None:
        return "unknown"
    if accuracy["high"] < 0.5:
        return "wrong way round"
    if accuracy["low"] <= 0.5:
        return "no better than guessing"
    for least, word in ((RIGHT, "right"), (MOSTLY, "mostly right")):
        if accuracy["estimate"] >= least:
            return word
    return "slightly right"


WORDS = {
    "right": "Yes, nearly always",
    "mostly right": "Mostly",
    "slightly right": "A little more often than not",
    "no better than guessing": "Not that these data show",
    "wrong way round": "No: the wrong way round",
    "unknown": "It cannot be told",
}


def _right(verdict: str, accuracy: dict[str, float | None], level: float) -> tuple[str, str]:
    if verdict == "unknown":
        return WORDS[verdict], "There are too few prompts that have responses with different true scores to compare."
    low, high = accuracy["low"], accuracy["high"]
    sentence = (
        "Of two responses to one prompt, the one with the better true score has the higher reward in"
        f" {_percent(accuracy['estimate'])} of pairs ({level:.0%} interval {_percent(low)} to {_percent(high)};"
        " guessing would be 50%)."
    )
    return WORDS[verdict], sentence


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if 0.02 < share < 0.98 else f"{100 * share:.1f}%"


def _more(
    whole: Result, accuracy: dict[str, float | None], recommendation: Recommendation, n_prompts: int
) -> tuple[str, str]:
    if recommendation.decided:
        return "None", "The question of the filter is settled; more prompts would only narrow the intervals."
    if recommendation.prompts_needed is not None:
        total = recommendation.prompts_needed
        more = max(total - n_prompts, 1)
        return (
            f"About {more:,} more",
            (
                f"If what is seen so far is so, {total:,} prompts in all would settle which filter; an interval's"
                " width falls with the root of the number of prompts."
            ),
        )
    if accuracy["low"] is not None and recommendation.answer in ("no help", "wrong way"):
        half = (accuracy["high"] - accuracy["low"]) / 2
        total = int(np.ceil(n_prompts * (half / CLOSE) ** 2))
        if total > n_prompts:
            return (
                f"About {total - n_prompts:,} more",
                (
                    f"With {total:,} prompts in all, a reward model that is right in {0.5 + CLOSE:.0%} of pairs would"
                    " be told from guessing."
                ),
            )
        return (
            "None",
            f"A reward model that is right in {0.5 + CLOSE:.0%} of pairs would have been told from guessing.",
        )
    return "No number", "What differences there are, are too small for any reasonable number of prompts to settle."


def _remarks(verdict: str, whole: Result, parts: within.Split | None) -> list[str]:
    notes = []
    r = whole.estimates.get("binned_r2", np.nan)
    r2 = r * abs(r)
    if verdict == "right" and r2 < GOOD_R2:
        notes.append(
            f"It ranks well within prompts although R² over all samples looks bad ({r2:.2f}): R² also counts how"
            " rewards differ between prompts, which neither a filter within a prompt nor a baseline per prompt sees."
        )
    if verdict in ("no better than guessing", "wrong way round") and r2 >= GOOD_R2:
        notes.append(
            f"R² over all samples looks good ({r2:.2f}) only because the reward knows which prompts are easy: of the"
            " responses to one prompt it does not know the better one, and that is all that a filter within a prompt"
            " can use."
        )
    if parts is not None and np.isfinite(parts.reward_between["estimate"]):
        reward, score = parts.reward_between["estimate"], parts.score_between["estimate"]
        outer, inner = parts.correlation_between["estimate"], parts.correlation_within["estimate"]
        text = f"{reward:.0%} of the variance of rewards lies between prompts"
        text += f" and {score:.0%} of that of scores" if np.isfinite(score) else ""
        if np.isfinite(outer) and np.isfinite(inner):
            text += f"; reward and score correlate at {outer:.2f} between prompts and {inner:.2f} within"
        notes.append(text + ".")
    return notes


def questions_of(answers: Answers) -> Sequence[tuple[str, str, str]]:
    """The three questions, each with its answer in a word or two and in a sentence."""
    questions = ("Right within the prompt?", "Which filter, if any?", "How many more prompts would settle it?")
    return [
        (question, short, long)
        for question, (short, long) in zip(questions, (answers.right, answers.filter, answers.more))
    ]
