"""Warnings on the numbers of a report: one sentence for everything a reader must know before using one."""

import numpy as np

from openrlhf_pf.reliability.analysis import Analysed, Analysis, Settings
from openrlhf_pf.reliability.recommend.verdict import FEWEST_PROMPTS


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
