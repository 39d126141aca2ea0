"""Load scored samples as tables of prompts x responses: a rollout log, or any file with prompts, rewards and scores.

Unusable samples are left out with one sentence in ``Rollouts.warnings``; a file without usable samples is a
``ValueError``.

Notation used for shapes: S samples (rows), G groups (one prompt in one rollout), N samples a group at most, M reward
models.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from openrlhf_pf.reliability.read.columns import NEEDED, PAIR
from openrlhf_pf.reliability.read.files import COMPRESSED, SUFFIXES, suffix_of
from openrlhf_pf.reliability.read.samples import read_samples

Floats = NDArray[np.float64]

#: Larger numbers count as infinite, as in training, which computes in float32.
LARGEST = float(np.finfo(np.float32).max)
#: Groups of very different sizes are padded to the largest; more padding than this for each sample is refused.
MOST_PADDING = 50
#: Groups with different rewards that must consist of copies before copies are not a coincidence.
FEWEST_COPIED = 10
#: Groups that are checked for copies before all are.
FIRST_GROUPS = 100
#: The share of samples, at least one, that may not make up more than half of the spread.
DOMINATE = 0.001


@dataclass
class Checkpoint:
    """The scored samples of one policy, as a table with a row per group; NaN marks a missing value.

    Attributes:
        name: its name in the report.
        reward: (G, N) rewards.
        score: (G, N) true scores.
        prompt: (G,) number of the prompt, 0 to ``n_prompts - 1``; the same prompt may have several groups.
        length: (G, N) int64 tokens of the responses, or None.
        model_rewards: (M, G, N), or None.
        subset: (G,) names of parts of a benchmark, or None.
        has_pairs: the groups are preference pairs and not samples of a policy.
        others: the files' further columns of numbers, any of which might be the true score.
        reward_again: (G, N) rewards of a second scoring, or None.
    """

    name: str
    reward: Floats
    score: Floats
    prompt: NDArray[np.int64]
    length: NDArray[np.int64] | None = None
    model_rewards: Floats | None = None
    subset: NDArray | None = None
    has_pairs: bool = False
    others: tuple[str, ...] = ()
    reward_again: Floats | None = None

    @property
    def n_prompts(self) -> int:
        """Number of different prompts."""
        return int(self.prompt.max()) + 1 if len(self.prompt) else 0

    @property
    def known(self) -> NDArray[np.bool_]:
        """(G, N) bool: both reward and score are finite."""
        return np.isfinite(self.reward) & np.isfinite(self.score)


@dataclass
class Rollouts:
    """The checkpoints in the order given, and sentences on what was left out.

    ``separate``: they are different reward models, so none contradicts another. ``n_files`` were read.
    """

    checkpoints: list[Checkpoint]
    warnings: list[str] = field(default_factory=list)
    separate: bool = False
    n_files: int = 0


def load(
    paths: Sequence[str | os.PathLike[str]],
    columns: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Rollouts:
    """Read files or directories.

    Args:
        paths: rollout-log directories, or files and folders in any format of ``files``. Samples without a
            ``checkpoint`` get the name of their path when there are several paths.
        columns: our names of columns to the files' own, where these are not read by themselves.
        say: called with a line on columns that are read by a preset.

    Raises:
        ValueError: a path does not exist, a column is missing, or no sample has both a reward and a score; the
            message is one sentence.
    """
    notes: list[str] = []
    parts: list[tuple[str, dict[str, NDArray]]] = []
    names, n_files, others, pairs = _names([Path(path) for path in paths]), 0, {}, False
    for path, name in zip(paths, names):
        table, plans = read_samples(Path(path), columns or {}, notes)
        for line in dict.fromkeys(plan.line for plan in plans if plan.line):
            say(line)
        pairs |= any(PAIR[0] in plan.columns for plan in plans)
        others |= dict.fromkeys(other for plan in plans for other in plan.others)
        found, n_files = _columns(table, notes), n_files + len(plans)
        for checkpoint, rows in _by_checkpoint(found, name if len(names) > 1 else "all samples"):
            parts.append((checkpoint, {key: values[rows] for key, values in found.items()}))
    if not any(len(found["reward"]) for _, found in parts):
        raise ValueError(f"there are no samples in {', '.join(map(str, paths))}: give files with at least one row.")
    checkpoints = [_checkpoint(name, found, notes) for name, found in parts if len(found["reward"])]
    for checkpoint in checkpoints:
        checkpoint.has_pairs, checkpoint.others = pairs, tuple(others)
    return Rollouts(checkpoints, notes, n_files=n_files)


def _names(paths: list[Path]) -> list[str]:
    stems = [Path(path.stem) if path.suffix in COMPRESSED else path for path in paths]
    short = [s.stem if suffix_of(p) in SUFFIXES else p.resolve().name for p, s in zip(paths, stems)]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


# ── Columns ──


def _columns(table: pa.Table, notes: list[str]) -> dict[str, NDArray]:
    """Return (S,) arrays by our names, of the columns that are not empty; ids as numbers in ``prompt_id``."""
    # A score column without values has a message of its own later.
    given = {n: table[n] for n in table.column_names if n in NEEDED or table[n].null_count < len(table)}
    columns = {"prompt_id": pc.dictionary_encode(table["prompt_id"].combine_chunks()).indices.to_numpy()}
    for name in {"reward", "reward_again", "score", "step", "group", "length", "file"} & given.keys():
        numbers = given[name].to_numpy()
        columns[name] = np.where(np.abs(numbers) <= LARGEST, numbers, np.nan)
    if "checkpoint" in given:
        columns["checkpoint"] = np.asarray(given["checkpoint"].to_pylist(), dtype=object)
    if "subset" in given:
        columns["subset"] = np.asarray(given["subset"].fill_null("").to_pylist(), dtype=object)
    if "model_rewards" in given:
        models = _ensemble(given["model_rewards"].combine_chunks(), notes)
        columns |= {} if models is None else {"model_rewards": models}
    return columns


def _ensemble(array: pa.Array, notes: list[str]) -> Floats | None:
    """Return (S, M) rewards by model from maps, structs or lists; None unless several models scored every sample."""
    rows = [row or () for row in array.to_pylist()]
    if pa.types.is_map(array.type) or pa.types.is_struct(array.type):
        named = [dict(row) for row in rows]
        names = dict.fromkeys(name for row in named for name in row)
        rows = [[row.get(name, np.nan) for name in names] for row in named]
    counts = sorted({len(row) for row in rows})
    if len(counts) != 1:
        notes.append(
            f"model_rewards were left out: their lists hold {counts[0]} to {counts[-1]} numbers, and must hold one"
            " for each model."
        )
        return None
    try:
        scores = np.array([[np.nan if value is None else float(value) for value in row] for row in rows])
    except (TypeError, ValueError):
        notes.append(f"model_rewards were left out: they hold {array.type}, and must hold a number for each model.")
        return None
    return scores if scores.shape[1] >= 2 and np.isfinite(scores).all() else None


def _by_checkpoint(columns: dict[str, NDArray | None], default: str) -> list[tuple[str, NDArray | slice]]:
    names = columns.pop("checkpoint", None)
    if names is None:
        return [(default, slice(None))]
    names = np.where(names == None, default, names)  # noqa: E711 (elementwise)
    return [(str(name), names == name) for name in dict.fromkeys(names)]


# ── Groups ──


def _checkpoint(name: str, columns: dict[str, NDArray], notes: list[str]) -> Checkpoint:
    """Arrange the samples of one policy as a table with a row per group, and add warnings on them."""
    reward, score = columns["reward"], columns["score"]
    if not np.isfinite(score).any():
        raise ValueError(
            f"no sample of {name!r} has a score, and rewards cannot be checked without true scores: have the reward "
            "function return them, or run the unit tests of the responses."
        )
    if not (np.isfinite(reward) & np.isfinite(score)).any():
        raise ValueError(f"no sample of {name!r} has both a reward and a score: check the columns reward and score.")
    steps = columns.get("step")
    steps = None if steps is None or np.isnan(steps).any() else steps
    # Groups are counted from 0 in each step, or in each file where there are no steps.
    by = [columns["prompt_id"]] + ([] if steps is None else [steps])
    if "group" in columns:
        by += [columns["group"]] + ([columns["file"]] if steps is None and "file" in columns else [])
    group, sizes = _group_numbers(by)
    n_groups, n_samples = len(sizes), int(sizes.max())
    if n_groups * n_samples > MOST_PADDING * len(reward):
        raise ValueError(
            f"a prompt of {name!r} has {n_samples} responses and most have far fewer (median "
            f"{int(np.median(sizes))}): split the file, or give every prompt a prompt_id of its own."
        )
    order = np.argsort(group, kind="stable")
    start = np.concatenate([[0], sizes.cumsum()[:-1]])
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(start, sizes)
    slot = group * n_samples + place

    def table(values: NDArray, blank: float) -> NDArray:
        filled = np.full(n_groups * n_samples, blank, dtype=values.dtype)
        filled[slot] = values
        return filled.reshape(n_groups, n_samples)

    first = order[start]
    length, models, again = (columns.get(name) for name in ("length", "model_rewards", "reward_again"))
    result = Checkpoint(
        name,
        table(reward, np.nan),
        table(score, np.nan),
        np.unique(columns["prompt_id"][first], return_inverse=True)[1],
        None if length is None or np.isnan(length).any() else table(length.astype(np.int64), 0),
        None if models is None else np.stack([table(model, np.nan) for model in models.T]),
        None if "subset" not in columns else columns["subset"][first],
        reward_again=None if again is None else table(again, np.nan),
    )
    notes += _find_warnings(name, result.reward, result.score, sizes)
    return result


def _group_numbers(by: list[NDArray]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (S,) the group of each sample, and (G,) the number of samples of each group."""
    key = np.zeros(len(by[0]), np.int64)
    for values in by:
        values = np.unique(values, return_inverse=True)[1]
        key = key * (int(values.max()) + 1) + values
    _, group, sizes = np.unique(key, return_inverse=True, return_counts=True)
    return group, sizes


# ── Warnings ──


def _find_warnings(name: str, reward: Floats, score: Floats, sizes: NDArray[np.int64]) -> list[str]:
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
