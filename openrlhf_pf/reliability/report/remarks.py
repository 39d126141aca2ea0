"""Sentences on the samples, the extremes, length, calibration, ranks and drift."""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis
from openrlhf_pf.reliability.measures.drift import MEASURES
from openrlhf_pf.reliability.measures.metrics import METRICS
from openrlhf_pf.reliability.recommend.verdict import GUESSING, RIGHT, WRONG
from openrlhf_pf.reliability.report.reasons import join_words, percent

#: R² of the paper from which on it looks good.
GOOD_R2 = 0.8


def describe_data(analysis: Analysis) -> list[str]:
    """Return what was read, a sentence per checkpoint: the first line of every report."""
    files = f", from {analysis.n_files:,} file{'s' * (analysis.n_files != 1)}" if analysis.n_files else ""
    return [
        (f"{a.checkpoint.name}: " if len(analysis.analysed) > 1 else "") + f"{describe_samples(a)}{files}."
        for a in analysis.analysed
    ]


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
    values = [(v["estimate"], v["low"], v["high"]) for v in (a.length.length, a.length.score)]
    texts = [f"{x:.2f} ({low:.2f} to {high:.2f})" for x, low, high in values]
    return (
        f"The reward follows response length more than the true score: within prompts it correlates {texts[0]} with"
        f" length at equal score and {texts[1]} with score at equal length."
    )


def remarks_of(a: Analysed) -> list[str]:
    """Return sentences on misranked extremes and on where the ranking and R² over all samples disagree."""
    notes = [describe_length(a)] if a.length is not None and a.length.dominates else []
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
    if a.extremes is not None and a.extremes.top_is_wrong:
        notes.append(
            "The responses with the highest reward of their prompt are worse than the second choices, by"
            f" {_range(a.extremes.top)} in true score: best_of_n would teach what fools the reward model."
        )
    if a.extremes is not None and a.extremes.bottom_is_wrong:
        notes.append(
            "The responses with the lowest reward of their prompt are better than the rank above, by"
            f" {_range(a.extremes.bottom)} in true score: the reward model misjudges some of them."
        )
    if a.split is not None and np.isfinite(a.split.reward_between):
        text = f"{a.split.reward_between:.0%} of the variance of rewards lies between prompts"
        text += f", and {a.split.score_between:.0%} of that of scores" if np.isfinite(a.split.score_between) else ""
        notes.append(f"{text}.")
    return notes


def _range(difference: dict[str, float]) -> str:
    estimate, high, low = (-difference[key] for key in ("estimate", "low", "high"))
    return f"{estimate:.3f} (interval {low:.3f} to {high:.3f})"


def sentences_of(analysis: Analysis) -> list[str]:
    """Return the sentences on over-confidence, ranks and drift."""
    lines = [_describe_calibration(a) for a in analysis.analysed if a.calibration is not None]
    lines += [_describe_ranks(a) for a in analysis.analysed if a.ranks is not None]
    return lines + [describe_drift(a) for a in analysis.analysed if _has_steps(a)]


def _has_steps(a: Analysed) -> bool:
    return a.checkpoint.step is not None and len(np.unique(a.checkpoint.step)) > 1


def _describe_calibration(a: Analysed) -> str:
    c, name = a.calibration, a.checkpoint.name
    if not c.top:
        return f"{name}: true scores do not fall significantly where rewards are highest."
    return (
        f"{name}: the reward model is over-confident at rewards from {c.edges[-c.top, 0]:.3g} to {c.edges[-1, 1]:.3g}:"
        f" true scores there are {c.fall:.3f} lower than just below."
    )


def _describe_ranks(a: Analysed) -> str:
    found = a.ranks
    return (
        f"{a.checkpoint.name}: of {len(found.c)} ranks by reward, {join_words(found.chosen)} have the largest gain"
        f" with k = {found.keep}: {found.gain:.3f} on their own prompts, {a.gain_of_ranks:.3f} on others;"
        f" {found.stability:.0%} of random halves of the prompts give the same ranks. Where weights scale advantages"
        f" (reweight), the best by rank are {' '.join(f'{w:.2f}' for w in found.scaled_weights)}."
    )


def describe_drift(a: Analysed) -> str:
    """Return the verdict on the reliability over the steps."""
    name = a.checkpoint.name
    if not a.trends:
        return f"{name}: there are too few steps to see a trend."
    trend = next(a.trends[measure] for measure in MEASURES if measure in a.trends)
    first, last = trend.windows[0]["first"], trend.windows[-1]["last"]
    by = f"{trend.change['estimate']:+.3f} (interval {trend.change['low']:+.3f} to {trend.change['high']:+.3f})"
    if trend.verdict == "no evidence of change":
        start = f"no significant change of the reward model's reliability from step {first} to {last}"
    else:
        start = f"the reward model's reliability is {trend.verdict} from step {first} to {last}"
    return f"{name}: {start}; the fitted change of the {METRICS[trend.measure].title} is {by}."


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
