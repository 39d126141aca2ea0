"""Sentences on the samples, the extremes, length, calibration, ranks and drift, and warnings on the numbers."""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis, Settings
from openrlhf_pf.reliability.measures.drift import MEASURES
from openrlhf_pf.reliability.measures.metrics import METRICS
from openrlhf_pf.reliability.read.columns import join_words
from openrlhf_pf.reliability.recommend.verdict import FEWEST_PROMPTS, GUESSING, RIGHT, WRONG
from openrlhf_pf.reliability.report.reasons import percent

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
    if a.between is not None and np.isfinite(a.between[0]):
        text = f"{a.between[0]:.0%} of the variance of rewards lies between prompts"
        text += f", and {a.between[1]:.0%} of that of scores" if np.isfinite(a.between[1]) else ""
        notes.append(f"{text}.")
    return notes


def _range(difference: dict[str, float]) -> str:
    estimate, high, low = (-difference[key] for key in ("estimate", "low", "high"))
    return f"{estimate:.3f} (interval {low:.3f} to {high:.3f})"


def sentences_of(analysis: Analysis) -> list[str]:
    """Return the sentences on over-confidence, ranks and drift."""
    lines = [_describe_calibration(a) for a in analysis.analysed if a.calibration is not None]
    lines += [_describe_ranks(a) for a in analysis.analysed if a.ranks is not None]
    return lines + [
        describe_drift(a)
        for a in analysis.analysed
        if a.checkpoint.step is not None and len(np.unique(a.checkpoint.step)) > 1
    ]


def _describe_calibration(a: Analysed) -> str:
    c, name = a.calibration, a.checkpoint.name
    if not c.top:
        return f"{name}: true scores do not fall significantly where rewards are highest."
    return (
        f"{name}: the reward model is over-confident at rewards from {c.edges[-c.top, 0]:.3g} to {c.edges[-1, 1]:.3g}:"
        f" true scores there are {c.fall:.3f} lower than just below."
    )


def _describe_ranks(a: Analysed) -> str:
    found, gain = a.ranks, a.result_of("learned ranks").estimates.get("gain", np.nan)
    return (
        f"{a.checkpoint.name}: of {len(found.c)} ranks by reward, {join_words(found.chosen)} have the largest gain"
        f" with k = {found.keep}: {found.gain:.3f} on their own prompts, {gain:.3f} on others;"
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
    for result in [] if constant else a.results:
        if not result.kept:
            notes.append(f"{name}: {result.strategy.label} keeps nothing: no sample passes it.")
        elif not result.twin and np.isnan(result.estimates.get("binned_r2", np.nan)):
            notes.append(
                f"{name}: {result.strategy.label} has no binned R², because it keeps fewer than "
                f"{2 * settings.bins} samples or fewer than 3 different rewards, or its scores are all equal."
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
    often = f"only about {about}" if about else "none"
    return [
        f"{a.checkpoint.name}: in {often} of {n_prompts:,} prompts do responses have different true scores; only these"
        " carry the numbers within prompts."
    ]
