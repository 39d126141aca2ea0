"""Sentences on the samples, the extremes, length and calibration, and warnings on the numbers."""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis, Settings
from openrlhf_pf.reliability.read.columns import join_words
from openrlhf_pf.reliability.recommend.verdict import FEWEST_PROMPTS, GUESSING, RIGHT, WRONG
from openrlhf_pf.reliability.report.reasons import describe_informative, percent

#: R² of the paper from which on it looks good.
GOOD_R2 = 0.8


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
    if a.extremes is not None and a.extremes.top_is_wrong and a.ranking != WRONG:
        notes.append(
            "The responses with the highest reward of their prompt are worse than the second choices, by"
            f" {_range(a.extremes.top)} in true score: best_of_n would teach what fools the reward model."
        )
    if a.extremes is not None and a.extremes.bottom_is_wrong and a.ranking != WRONG:
        notes.append(
            "The responses with the lowest reward of their prompt are better than the rank above, by"
            f" {_range(a.extremes.bottom)} in true score: the reward model misjudges some of them."
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
