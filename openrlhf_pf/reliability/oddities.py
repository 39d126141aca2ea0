"""What limits what the samples of one policy can say: a sentence for each thing.

Notation used for shapes: G groups (one prompt in one rollout), N samples a group at most.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Groups with different rewards in which every sample must have a copy before copies are no chance.
FEWEST_COPIED = 10
#: Groups that are looked at before all are.
LOOK = 100
#: The share of samples, at least one, that may not make up more than half of the spread.
DOMINATE = 0.001


def oddities(name: str, reward: Floats, score: Floats, sizes: NDArray[np.int64]) -> list[str]:
    """Look at the samples of one policy, of which at least one has a reward and a score.

    Args:
        name: what to call them.
        reward, score: (G, N), NaN for what is missing.
        sizes: (G,) samples of each group.

    Returns:
        One sentence for each thing that limits what can be said.
    """
    notes = []
    n_samples, known = int(sizes.sum()), np.isfinite(reward) & np.isfinite(score)
    for what, values, then in (
        ("reward", reward, "they rank nowhere and count nowhere"),
        ("score", score, "they rank, but no metric counts them"),
    ):
        if lost := n_samples - int(np.isfinite(values).sum()):
            notes.append(f"{name}: {lost} of {n_samples} samples have no finite {what}; {then}.")
    notes += _sizes(name, sizes)
    r, s = reward[known], score[known]
    if np.ptp(s) == 0:
        notes.append(f"{name}: all scores are {s[0]:g}, so no reward can be right or wrong.")
    if np.ptp(r) <= 1e-9 * np.abs(r).max():
        notes.append(f"{name}: all rewards are {r[0]:g}, so they tell nothing.")
    elif np.array_equal(r, s):
        notes.append(
            f"{name}: reward and score are equal in all {len(r):,} samples, so the reward is measured by itself; "
            "name a true score of another source with --columns score=NAME."
        )
    notes += [*_dominated(name, "rewards", r), *_dominated(name, "scores", s)]
    if times := _copies(reward, score, sizes):
        often = "twice" if times == 2 else f"{times} times"
        notes.append(
            f"{name}: every sample is there {often}, so groups are too large and "
            f"intervals too narrow; leave the copies out, of a file that was read {often} for instance."
        )
    return notes


def _sizes(name: str, sizes: NDArray[np.int64]) -> list[str]:
    if sizes.max() == 1:
        return [f"{name}: every prompt has one sample, so there is nothing to choose from but 'none'."]
    if sizes.min() == sizes.max():
        return []
    several = int((sizes > 1).sum())
    few = f" Only {several:,} of {len(sizes):,} have more than one: they alone carry the answer."
    return [
        f"{name}: prompts have {sizes.min()} to {sizes.max()} samples; where one has fewer than a strategy keeps, "
        f"the strategy leaves it out.{few if several < len(sizes) else ''}"
    ]


def _dominated(name: str, what: str, values: Floats) -> list[str]:
    """A few values far from all others decide every mean, correlation and R²."""
    if len(values) < 20:
        return []
    few = max(1, int(DOMINATE * len(values)))
    away = _away(values, values.mean())
    if few <= 0.5 * (away @ away):  # the furthest is 1 away: not even so many of them would do
        return []
    # From the middle of the others, which a mean is not.
    away = _away(values, np.median(values))
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


def _away(values: Floats, centre: float) -> Floats:
    """Distances from a centre, the furthest 1."""
    away = np.abs(values - centre)
    return away / max(away.max(), 1e-300)


def _copies(reward: Floats, score: Floats, sizes: NDArray[np.int64]) -> int:
    """2 or 3 if every sample is there so many times, beyond chance; else 0."""
    for times in (2, 3):
        if reward.shape[1] % times or (sizes % times).any():
            continue
        if len(reward) > LOOK and not _equal(np.sort(reward[:LOOK], axis=1).reshape(LOOK, -1, times)).all():
            continue
        ranked = np.sort(reward, axis=1).reshape(len(reward), -1, times)
        # A quick look at rewards alone; NaN, and with it padding, comes last.
        if not _equal(ranked).all() or ((ranked[:, 1:, 0] > ranked[:, :-1, 0]).any(axis=1)).sum() < FEWEST_COPIED:
            continue
        order = np.lexsort((score, reward), axis=1)
        pairs = [np.take_along_axis(x, order, axis=1).reshape(ranked.shape) for x in (reward, score)]
        if all(_equal(x).all() for x in pairs):
            return times
    return 0


def _equal(values: Floats) -> NDArray[np.bool_]:
    """(G, N / times, times) to whether the last axis holds equal values, NaN being equal to NaN."""
    return (values == values[..., :1]) | (np.isnan(values) & np.isnan(values[..., :1]))
