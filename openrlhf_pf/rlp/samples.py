"""The samples of a policy grouped by prompt, in an order that depends only on their content."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

#: Columns that are read, and what a file may call them.
REQUIRED = ("prompt", "response", "reward")
COLUMNS = {name: (name,) for name in (*REQUIRED, "label", "score", "truncated", "checkpoint", "step", "group")}
COLUMNS["tokens"] = ("response_tokens", "response_length", "length")
COLUMN_NAMES = tuple(name for names in COLUMNS.values() for name in names)
MIN_SAMPLES = 2  # of a prompt: one response alone has nothing to agree or disagree with
_FLAGS = {"": False, "false": False, "0": False, "true": True, "1": True}


@dataclass(frozen=True)
class Prompt:
    """An instruction x with its N samples Y (the paper's Section 3.2), ordered by text.

    Attributes:
        text: as the policy saw it, with its chat template.
        label: its tests or its reference, if known.
        responses: (N,) texts without an end token and without a space before it, which OpenRLHF's SFT teaches a
            policy to write and ``train_rm`` adds again.
        rewards: (N,) of the old reward model; NaN if missing, as in ``scores`` and ``tokens``.
        scores: (N,) true scores.
        truncated: (N,) whether the response was cut off.
        tokens: (N,) lengths.
    """

    text: str
    label: str | None
    responses: tuple[str, ...]
    rewards: tuple[float, ...]
    scores: tuple[float, ...]
    truncated: tuple[bool, ...]
    tokens: tuple[float, ...]

    @cached_property
    def digest(self) -> str:
        """Return 32 hex digits that identify prompt, label and responses."""
        found = hashlib.blake2b(digest_size=16)
        for text in (self.text, self.label or "", *self.responses):
            data = text.encode("utf-8", "surrogatepass")
            found.update(len(data).to_bytes(8, "little") + data)
        return found.hexdigest()


def group_by_prompt(table: pa.Table, checkpoint: str | None = None) -> list[Prompt]:
    """Return the prompts of a table with their samples; the order of rows and files does not matter.

    Samples belong together if prompt, label and, if given, ``step`` and ``group`` are equal: a data set may hold a
    prompt twice.

    Args:
        table: columns of :data:`COLUMNS`, one row per sample.
        checkpoint: the policy whose samples to use, if there are several.

    Raises:
        ValueError: one sentence: a column is missing or has values of the wrong type, samples are of several
            checkpoints, there are none, or a prompt has only one.
    """
    columns = _read_columns(table)
    rows = _select_checkpoint(columns["checkpoint"], checkpoint)
    if missing := [row for row in rows if columns["prompt"][row] is None or columns["response"][row] is None]:
        raise ValueError(
            f"{len(missing)} of {len(rows)} samples have no prompt or no response, the first in row {missing[0]}: "
            "leave such rows out."
        )
    if not rows:
        raise ValueError("there are no samples: give a directory that collecting has written files to.")
    groups: dict[tuple, list[int]] = {}
    for row in rows:
        groups.setdefault(tuple(columns[name][row] for name in ("step", "group", "prompt", "label")), []).append(row)
    few = sorted(key[2] for key, members in groups.items() if len(members) < MIN_SAMPLES)
    if few:
        raise ValueError(
            f"{len(few)} of {len(groups)} prompts have fewer than {MIN_SAMPLES} samples, the first is {few[0]!r:.60}: "
            "collect several responses per prompt (--rollout.n_samples_per_prompt 10)."
        )
    found = [
        (_sort_key(step), _sort_key(group), _make_prompt(columns, members, text, label))
        for (step, group, text, label), members in groups.items()
    ]
    return [prompt for *_, prompt in sorted(found, key=lambda item: (item[0], item[1], item[2].digest))]


def check_columns(names: Sequence[str]) -> None:
    """Raise ValueError, one sentence, if a column is missing among those of a file."""
    if missing := [name for name in REQUIRED if name not in names]:
        is_reward = "reward" in missing and "score" in names
        raise ValueError(
            f"there is no column {' and no column '.join(missing)} among {', '.join(names) or 'none'}: a sample needs "
            f"{', '.join(REQUIRED)}, so rename yours; openrlhf-pf collect writes them"
            + ("; is 'score' your reward? Then rename it to reward." if is_reward else ".")
        )


def _read_columns(table: pa.Table) -> dict[str, list]:
    """Return name to one value per row; None if it is missing."""
    check_columns(table.column_names)
    given = {name: next((n for n in names if n in table.column_names), None) for name, names in COLUMNS.items()}
    empty = [None] * table.num_rows
    return {
        name: [_convert(name, column, value) for value in (table[column].to_pylist() if column else empty)]
        for name, column in given.items()
    }


def _convert(name: str, column: str | None, value: Any) -> Any:
    """Return the value in the type of its column; None if it is missing or NaN, False for ``truncated``."""
    if value is None or value != value:
        return False if name == "truncated" else None
    if name == "label":
        return value if isinstance(value, str) else json.dumps(value, default=str)
    if name == "checkpoint":
        return str(value) if str(value).strip() else None
    if name == "truncated":
        if isinstance(value, str):  # as CSV has it
            value = _FLAGS.get(value.strip().lower(), value)
        types, allowed = (bool, int, float), "true or false"
    elif name in ("prompt", "response"):
        types, allowed = str, "texts"
    else:
        types, allowed = (int, float), "numbers"
    if not isinstance(value, types):
        raise ValueError(f"column {column} holds {value!r:.40}: it must hold {allowed}.")
    return bool(value) if name == "truncated" else value


def _select_checkpoint(names: Sequence[str | None], checkpoint: str | None) -> list[int]:
    """Return the rows of one policy."""
    counts = Counter(name for name in names if name is not None)
    listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items()))
    if checkpoint is None and len(counts) > 1:
        raise ValueError(
            f"these are samples of several checkpoints, {listed}: pairs are made of one policy's responses, so name "
            "it with --checkpoint."
        )
    if checkpoint is not None and checkpoint not in counts:
        raise ValueError(f"there are no samples of the checkpoint {checkpoint!r}: there are {listed or 'none named'}.")
    return [row for row, name in enumerate(names) if checkpoint is None or name == checkpoint]


def _make_prompt(columns: dict[str, list], members: list[int], text: str, label: str | None) -> Prompt:
    names = ("response", "reward", "score", "truncated", "tokens")
    rows = [[columns[name][row] for name in names] for row in members]
    rows.sort(key=lambda row: (row[0], *map(_sort_key, row[1:])))
    responses, *numbers, truncated, tokens = zip(*rows)
    rewards, scores, tokens = (tuple(math.nan if x is None else float(x) for x in v) for v in (*numbers, tokens))
    return Prompt(text, label, tuple(r.removesuffix(" ") for r in responses), rewards, scores, truncated, tokens)


def _sort_key(value: float | None) -> float:
    """Return what to sort by: missing values come first."""
    return -math.inf if value is None else float(value)
