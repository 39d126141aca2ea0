"""The recommendation in words: headline, reasons and next step."""

import numpy as np

from openrlhf_pf.reliability import recommend as decisions
from openrlhf_pf.reliability.analysis import REDRAWN, REPEATED, Analysed
from openrlhf_pf.reliability.measures.evaluate import summarize_metric
from openrlhf_pf.reliability.measures.metrics import METRICS
from openrlhf_pf.reliability.read.columns import join_words
from openrlhf_pf.reliability.recommend import FEWEST_PROMPTS, GOOD, SAME, Recommendation, measure_huge_rewards

#: A lead over guessing, in share of pairs, that is worth detecting.
WORTH_FINDING = 0.05
LIMITS = (
    "Another reward model, another k or a later policy may change this. The gain is that of the first step and does"
    " not say how training ends."
)


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.0f}%" if 0.02 < share < 0.98 else f"{100 * share:.1f}%"


def label_of(r: Recommendation) -> str:
    """Return the recommended strategy's name in a sentence."""
    if r.strategy != "rank_weights":
        return r.best
    ranks = [rank for rank, weight in enumerate(r.options["weights"], 1) if weight]
    return f"rank_weights on rank{'s' * (len(ranks) > 1)} {join_words(ranks)}"


def text_of(r: Recommendation, a: Analysed) -> str:
    """Return headline and reasons as one text."""
    return " ".join([headline_of(r, a), *why_of(r, a)])


def headline_of(r: Recommendation, a: Analysed) -> str:
    """Return the recommendation in one sentence."""
    if r.answer == decisions.FILTER:
        use = f"Use {label_of(r)}, k = {r.keep}"
        if r.lead is None:
            return f"{use}."
        if r.lead < 0:
            return f"{use}, to save training time; otherwise use no filter."
        if a.errors == REDRAWN:
            return f"{use}: the reward's errors are redrawn on every scoring."
        if a.errors == REPEATED:
            return f"{use}, to save training time: the reward's errors repeat."
        return f"{use}, if the reward is noisy between scorings; with a deterministic reward model it only saves time."
    if r.reason == decisions.DISAGREE:
        return f"No filter yet: {_disagreement(a)}."
    return {
        decisions.NO_FILTER: "Use no filter.",
        decisions.TIME_ONLY: "Filtering only saves time.",
        decisions.NO_HELP: "Use no filter: these rewards are not shown to rank the responses to a prompt.",
        decisions.WRONG_WAY: "Do not train with this reward: the ranking is reversed.",
        decisions.NOTHING_KNOWN: "No strategy can be judged.",
        decisions.FEW_PROMPTS: "There are too few prompts.",
        decisions.FEW_INFORMATIVE: "There are too few informative prompts.",
        decisions.NOTHING_TO_COMPARE: "There is nothing to compare.",
        decisions.CHECKPOINTS: "The checkpoints do not agree.",
        decisions.PAIRS: "Not from these data: preference pairs are not samples of a policy.",
        SAME: "Not from these data: the reward is its own true score.",
    }[r.reason or r.answer]


def _disagreement(a: Analysed) -> str:
    good, kind = a.ranking in GOOD, a.causes[0]
    if kind == "one prompt":
        return "one prompt carries the result"
    if kind == "huge rewards":
        return "a few huge rewards outweigh the ranking" if good else "the gain comes from a few huge rewards"
    if kind == "hacked top":
        return "the highest rewards are hacked"
    return "the gain is too small to be measured" if good else "the ranking is not shown to be right"


def why_of(r: Recommendation, a: Analysed) -> list[str]:
    """Return the reasons for the headline, a sentence each, and whether the reward's errors repeat."""
    return [*_reasons(r, a), *_describe_errors(a)]


def _describe_errors(a: Analysed) -> list[str]:
    share = a.redrawn
    if share is None or share["low"] is None or a.ranking == SAME:
        return []
    start = {REDRAWN: "The errors are redrawn", REPEATED: "The errors repeat"}
    return [
        f"{start.get(a.errors, 'Part of the error is redrawn')}: scoring the same responses again changes"
        f" {percent(share['estimate'])} of the error ({a.recommendation.level:.0%} interval {percent(share['low'])} to"
        f" {percent(share['high'])}). Beyond saving time, best_worst pays only where errors change."
    ]


def _reasons(r: Recommendation, a: Analysed) -> list[str]:
    name = METRICS[decisions.CRITERION].title
    if r.answer == decisions.FILTER:
        return _why_filter(r, a)
    if r.answer == decisions.NO_FILTER:
        return [
            f"Training on all responses has a {name} of {r.values[r.best]:.3f}, and every filter compared has"
            " significantly less.",
            *_limits(r),
        ]
    if r.answer == decisions.TIME_ONLY:
        close = [r.best, *(label for label in r.not_told_apart if label != r.best)]
        filters = join_words([label for label in close if label != "none"])
        return [
            f"No filter's {name} is significantly above that of training on all responses ({r.values['none']:.3f}).",
            f"{filters} may be as good: keeping k of N responses saves the training passes of the others, as a random"
            " k of N would.",
        ]
    if r.answer == decisions.WRONG_WAY:
        return [
            "Higher rewards go with lower true scores within a prompt. Training would lower the true score.",
            "Check the sign of reward and score first.",
        ]
    if r.answer == decisions.NO_HELP:
        return [
            "These data do not show that the better of two responses to a prompt has the higher reward, so no choice"
            " by reward is better than a random choice.",
        ]
    return _why_open(r, a)


def price_of_time(lead: float, n_samples: int, keep: int) -> float | None:
    """Return how many times as long as making a response training it must take, for k of N to be ahead per second.

    A step makes N responses of a prompt and trains N or k of them; what it achieves goes with the square of gain times
    the root of their number.

    Args:
        lead: in gain times that root, over no filter, minus 1.
        n_samples, keep: N and k.

    Returns:
        None if no price of training is high enough.
    """
    achieved = (1 + lead) ** 2 * n_samples
    return (n_samples - achieved) / (achieved - keep) if achieved > keep else None


def _why_filter(r: Recommendation, a: Analysed) -> list[str]:
    name = METRICS[decisions.CRITERION].title
    gap = next(c["difference"] for c in r.comparisons if c["strategy"] == "none")
    close = join_words(r.not_told_apart)
    found = [
        f"{label_of(r)} has a {name} of {r.values[r.best]:.3f}, {gap['estimate']:.3f} more than training on all"
        f" responses (joint {r.level:.0%} interval {gap['low']:.3f} to {gap['high']:.3f}).",
        f"{close} may be as good." if close else "It is significantly ahead of every other strategy.",
    ]
    if larger := [label for label, value in r.values.items() if value > r.values[r.best]]:
        found.append(
            f"The gain of {join_words(larger)} is larger, but not significantly, and leaves prompts with unequal"
            " numbers of responses."
        )
    if a.ranking not in GOOD:
        share = percent(summarize_metric(a.result_of(r.best), "pairwise_accuracy", a.bootstrap, r.level)["estimate"])
        found.append(
            f"Over all responses the ranking is not right, but among those that it keeps, {share} of pairs are ordered"
            " correctly."
        )
    if r.lead is not None and r.lead < 0:
        found.append(
            "This compares equal numbers of trained responses. At equal rollouts, no filter trains on more of them and"
            f" is ahead by {1 / (1 + r.lead) - 1:.0%} in gain times the root of their number, which counts with Adam."
        )
        price = price_of_time(r.lead, a.checkpoint.reward.shape[1], r.keep)
        if price is not None:
            found.append(
                f"Per second, it is ahead where training a response takes more than {price:.2f} times as long as"
                " generating and scoring it."
            )
    elif r.lead is not None:
        found.append(
            "It is ahead at equal rollouts too (gain times the root of the number of responses, which counts with"
            " Adam). On the small task that lead lasted only where scoring a response again may give another reward."
        )
    return [*found, *_limits(r)]


def _limits(r: Recommendation) -> list[str]:
    if r.values[r.best] < max(r.values.values()):
        return [LIMITS]
    share = r.confidence or 0.0
    often = "all" if share == 1 else "more than 99%" if share > 0.99 else f"{share:.0%}"
    return [
        f"It has the largest gain in {often} of the bootstrap repetitions.",
        LIMITS,
    ]


def _why_open(r: Recommendation, a: Analysed) -> list[str]:
    if r.reason == SAME:
        return ["Reward and score correlate at more than 0.999, so nothing independent measures the reward."]
    if r.reason == decisions.PAIRS:
        return ["A filter chooses among several responses that the policy gives to one prompt."]
    if r.reason == decisions.NOTHING_KNOWN:
        return ["The gain needs prompts with at least two responses whose reward and score are known."]
    if r.reason == decisions.FEW_PROMPTS:
        return [f"Intervals from {r.n_prompts} prompts are unreliable: score at least {FEWEST_PROMPTS}."]
    if r.reason == decisions.FEW_INFORMATIVE:
        return [
            describe_informative(a),
            f"Only these show how rewards rank; {FEWEST_PROMPTS} are needed.",
        ]
    if r.reason == decisions.NOTHING_TO_COMPARE:
        return ["All strategies that were asked for keep the same responses: name others, or sample more responses."]
    if r.reason == decisions.CHECKPOINTS:
        name, label = r.contradicted
        return [
            f"{r.best} has the largest gain at the first checkpoint, but at {name} {label} is significantly better."
        ]
    good = "The pairs say that the ranking is right, but no strategy's gain is significantly above 0."
    bad = "A strategy's gain is significantly above 0, but the pairs do not say that the ranking is right."
    return [good if a.ranking in GOOD else bad, *(describe_cause(cause, a) for cause in a.causes)]


def describe_informative(a: Analysed) -> str:
    """Return how many prompts have responses with different true scores."""
    count = f"Only in {a.informative}" if a.informative else "In none"
    return f"{count} of {a.checkpoint.n_prompts:,} prompts do responses have different true scores."


def describe_cause(cause: str, a: Analysed) -> str:
    """Return a sentence on a cause of ``find_causes``."""
    if cause == "one prompt":
        return "One prompt makes up most of the pairs."
    if cause == "few informative prompts":
        return describe_informative(a)
    if cause == "huge rewards":
        count, share = measure_huge_rewards(a.checkpoint)
        return (
            f"{count:,} responses, 5% of all, make up {share:.0%} of the spread of rewards within prompts:"
            " the gain follows these few, while each pair counts the same in the ranking."
        )
    if cause == "hacked top":
        return "The responses with the highest reward of their prompt are worse than the second choices."
    return "Both are close to the border of significance: more prompts would settle it."


# ── The next step ──


def next_step(a: Analysed) -> tuple[str, list[str]]:
    """Return the next step in a few words and in sentences."""
    r = a.recommendation
    if r.answer == decisions.FILTER:
        add = f"Add {flags_of(r)} to the training command."
        if a.follows_length:
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
    if r.reason == decisions.FEW_PROMPTS:
        return f"Score at least {FEWEST_PROMPTS - r.n_prompts} more prompts", [
            f"Fewer than {FEWEST_PROMPTS} prompts decide nothing; a few hundred are a good start."
        ]
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
    others = a.checkpoint.others[:8]
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
    if "huge rewards" in a.causes:
        return "Look at the extreme rewards", [
            "Read the responses with the highest and lowest rewards; clip or transform these rewards, and analyse"
            " again."
        ]
    if "hacked top" in a.causes:
        return "Read the favourites", [
            "Read the responses with the highest reward of their prompt, fix the reward model, and analyse again."
        ]
    if "one prompt" in a.causes:
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
