"""Warnings on the samples of one policy: a sentence for everything that limits what they can show.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Groups with different rewards that must consist of copies before copies are not a coincidence.
FEWEST_COPIED = 10
#: Groups that are checked for copies before all are.
FIRST_GROUPS = 100
#: The share of samples, at least one, that may not make up more than half of the spread.
DOMINATE = 0.001


def find_data_warnings(name: str, reward: Floats, score: Floats, sizes: NDArray[np.int64]) -> list[str]:
    """Return one sentence for everything that limits what the samples (G, N) can show, at least one of them complete;
    ``sizes`` (G,) are the groups' numbers of samples.
    """
    notes = []
    n_samples, known = int(sizes.sum()), np.isfinite(reward) & np.isfinite(score)
    for what, values, then in (
        ("reward", reward, "they are excluded from ranking and from all metrics"),
        ("score", score, "they are ranked but excluded from all metrics"),
    ):
        if lost := n_samples - int(np.isfinite(values).sum()):
            notes.append(
                f"{name}: {lost} of {n_samples} samples have no finite {what} (or one beyond 3.4e38); {then}."
            )
    notes += _describe_sizes(name, sizes)
    r, s = reward[known], score[known]
    if np.ptp(s) == 0:
        notes.append(f"{name}: all scores are {s[0]:g}, so no reward can be right or wrong.")
    if np.ptp(r) <= 1e-9 * np.abs(r).max():
        notes.append(f"{name}: all rewards are {r[0]:g}, so they carry no information.")
    notes += [*_find_dominating(name, "rewards", r), *_find_dominating(name, "scores", s)]
    if times := _count_copies(reward, score, sizes):
        often = "twice" if times == 2 else f"{times} times"
        notes.append(
            f"{name}: every sample is there {often}, so groups are too large and intervals too narrow; remove the "
            f"copies (was a file read {often}?)."
        )
    return notes


def _describe_sizes(name: str, sizes: NDArray[np.int64]) -> list[str]:
    if sizes.max() == 1:
        return [f"{name}: every prompt has one sample, so there is nothing to choose from but 'none'."]
    if sizes.min() == sizes.max():
        return []
    several = int((sizes > 1).sum())
    few = f" Only {several:,} of {len(sizes):,} have more than one: only they are compared within prompts."
    return [
        f"{name}: prompts have {sizes.min()} to {sizes.max()} samples; a strategy leaves out prompts with fewer than"
        f" it keeps.{few if several < len(sizes) else ''}"
    ]


def _find_dominating(name: str, what: str, values: Floats) -> list[str]:
    """Return a warning if a few values far from all others decide every mean, correlation and R²."""
    few = max(1, int(DOMINATE * len(values)))
    if len(values) < 20:
        return []
    # Distances from the median, not from the mean, which the few move; scaled against overflow.
    size = max(float(np.abs(values).max()), 1e-300)
    away = np.abs(values / size - np.median(values / size))
    away /= max(away.max(), 1e-300)
    far = np.argpartition(away, -few)[-few:]
    share = away[far] @ away[far] / max(away @ away, 1e-300)
    if share <= 0.5:
        return []
    furthest = values[far[np.argmax(away[far])]]
    return [
        f"{name}: {few} of {len(values):,} {what}, {'' if few == 1 else 'the furthest '}{furthest:g}, "
        f"make{'s' * (few == 1)} up {share:.0%} of their spread, so means, R² and correlations say little else; check "
        "them, or leave them out."
    ]


def _count_copies(reward: Floats, score: Floats, sizes: NDArray[np.int64]) -> int:
    """Return 2 or 3 if every sample is there this many times and not by coincidence; else 0."""
    for times in (2, 3):
        if reward.shape[1] % times or (sizes % times).any():
            continue
        if all(_are_copies(reward[rows], score[rows], times) for rows in (slice(FIRST_GROUPS), slice(None))):
            distinct = np.sort(reward, axis=1)[:, ::times]
            if (distinct[:, 1:] > distinct[:, :-1]).any(axis=1).sum() >= FEWEST_COPIED:
                return times
    return 0


def _are_copies(reward: Floats, score: Floats, times: int) -> bool:
    order = np.lexsort((score, reward), axis=1)
    ranked = [np.take_along_axis(x, order, axis=1).reshape(len(x), -1, times) for x in (reward, score)]
    return all(((x == x[..., :1]) | (np.isnan(x) & np.isnan(x[..., :1]))).all() for x in ranked)
