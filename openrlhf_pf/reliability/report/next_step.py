"""The next step after a report, and the flags to type."""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed
from openrlhf_pf.reliability.recommend import choose as decisions
from openrlhf_pf.reliability.recommend.choose import Recommendation
from openrlhf_pf.reliability.recommend.verdict import SAME

#: A lead over guessing, in share of pairs, that is worth detecting.
WORTH_FINDING = 0.05


def next_step(a: Analysed) -> tuple[str, list[str]]:
    """Return the next step in a few words and in sentences."""
    r = a.recommendation
    if r.answer == decisions.FILTER:
        add = f"Add {flags_of(r)} to the training command."
        if a.length is not None and a.length.dominates:
            return "Train, but control the length first", [add, "Give the reward a length penalty and analyse again."]
        return "Train", [add, "Analyse later checkpoints too."]
    if r.answer == decisions.NO_FILTER:
        return "Train without a filter", ["Leave --sample_filter out.", "Analyse later checkpoints too."]
    if r.answer == decisions.WRONG_WAY:
        return "Check the reward", ["Check that higher rewards and higher scores mean better; else change the reward."]
    if r.reason == SAME:
        return _name_score(a)
    if r.reason == decisions.PAIRS:
        return "Sample from the policy", ["Use openrlhf-pf collect to sample and score responses, then analyse them."]
    if r.reason == decisions.DISAGREE:
        return _cure(a)
    if r.reason == decisions.FEW_INFORMATIVE:
        return "Score other prompts", [
            "Choose prompts that the policy solves sometimes: those it always or never solves show nothing.",
            "More responses per prompt help too.",
        ]
    if r.reason in (decisions.NOTHING_KNOWN, decisions.NOTHING_TO_COMPARE):
        return "Sample more responses", ["Sample at least three responses per prompt and score them."]
    if r.reason == decisions.CHECKPOINTS:
        return "Choose a checkpoint", ["Analyse the checkpoint that training starts from by itself."]
    if r.answer == decisions.NO_HELP:
        return _next_without_ranking(a)
    return _next_by_prompts(r)


def _name_score(a: Analysed) -> tuple[str, list[str]]:
    others = [name for name in a.checkpoint.others][:8]
    if not others:
        return "Add a true score", [
            "Score the responses by another source, unit tests for instance, and analyse again."
        ]
    return "Name the true score", [
        f"If one of these columns is the true score, name it: {', '.join(others)}; for instance by --columns"
        f" score={others[0]}."
    ]


def flags_of(r: Recommendation) -> str:
    """Return the flags that train with the recommended strategy."""
    flags = f"--sample_filter {r.strategy} --sample_filter_keep {r.keep}"
    options = {key: ",".join(f"{x:g}" for x in v) if isinstance(v, list) else f"{v:g}" for key, v in r.options.items()}
    return flags + "".join([" --sample_filter_options"] * bool(options) + [f" {k}={v}" for k, v in options.items()])


def _cure(a: Analysed) -> tuple[str, list[str]]:
    kinds = [cause.kind for cause in a.causes]
    if "huge rewards" in kinds:
        return "Look at the extreme rewards", [
            "Read the responses with the highest and lowest rewards; clip or transform these rewards, and analyse"
            " again."
        ]
    if "hacked top" in kinds:
        return "Read the favourites", [
            "Read the responses with the highest reward of their prompt, fix the reward model, and analyse again."
        ]
    if "one prompt" in kinds:
        return "Score more prompts", ["Give every prompt about the same number of responses, and analyse again."]
    return "Score more prompts", ["Train on all responses until more prompts settle it."]


def _next_without_ranking(a: Analysed) -> tuple[str, list[str]]:
    low, high, n = a.accuracy["low"], a.accuracy["high"], a.checkpoint.n_prompts
    known, reward = a.checkpoint.known, a.checkpoint.reward
    spread = np.where(known, reward, -np.inf).max(axis=1) - np.where(known, reward, np.inf).min(axis=1)
    if not (spread > 0).any():
        return "Use another reward model", ["All responses to a prompt have the same reward: nothing is ranked."]
    if low is None:
        return "Score other prompts", ["Choose prompts whose responses differ in true score."]
    total = int(np.ceil(n * ((high - low) / 2 / WORTH_FINDING) ** 2))
    if total > n:
        return f"Score about {total - n:,} more prompts", [
            f"With {total:,} prompts in all, a reward model that is right in {0.5 + WORTH_FINDING:.0%} of pairs would"
            " be distinguished from guessing."
        ]
    return "Use another reward model", [
        f"A reward model that is right in {0.5 + WORTH_FINDING:.0%} of pairs would have been recognised with these"
        " prompts."
    ]


def _next_by_prompts(r: Recommendation) -> tuple[str, list[str]]:
    until = "Until then, train on all responses."
    if r.prompts_needed is None:
        return "Train on all responses", [
            "The differences between the strategies are too small for any reasonable number of prompts."
        ]
    more = max(r.prompts_needed - r.n_prompts, 1)
    return f"Score about {more:,} more prompts", [
        f"If the differences are as estimated, {r.n_prompts + more:,} prompts in all would settle which filter.",
        until,
    ]
