"""The samples of a policy, prompt by prompt, in an order that depends on nothing but what they are."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

#: Columns of a rollout log that are read, and what else a file may call them.
COLUMNS = {
    "prompt": ("prompt",),
    "response": ("response",),
    "reward": ("reward",),
    "label": ("label",),
    "score": ("score",),
    "truncated": ("truncated",),
    "checkpoint": ("checkpoint",),
    "step": ("step",),
    "group": ("group",),
    "tokens": ("response_tokens", "response_length", "length"),
}
#: All of these names: what to read of a file.
NAMES = tuple(name for others in COLUMNS.values() for name in others)
NEEDED = ("prompt", "response", "reward")
FEWEST = 2  # samples of a prompt: one answer alone has nothing to agree or disagree with


@dataclass(frozen=True)
class Prompt:
    """An instruction x with its samples Y (the paper's Section 3.2), by text, N of them.

    Attributes:
        text: as the policy saw it, chat template and all.
        label: what its tests or its reference are, if known.
        responses: (N,) texts without an end token, and without a blank before it: OpenRLHF's SFT teaches a policy to
            write one, and ``train_rm`` puts its own there.
        rewards: (N,) of the old reward model; NaN where there is none.
        scores: (N,) true scores; NaN where there is none.
        truncated: (N,) whether the answer was cut off.
        tokens: (N,) lengths; NaN where they are not known.
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
        """32 hex digits that stand for prompt, label and responses."""
        return _digest(self.text, self.label or "", *self.responses)


def _digest(*texts: str) -> str:
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def prompts_of(table: pa.Table, checkpoint: str | None = None) -> list[Prompt]:
    """Put the samples of each prompt together.

    Samples belong together if prompt, label and, where they are there, ``step`` and ``group`` are the same: a data set
    may hold a prompt twice. The order of rows and files plays no part.

    Args:
        table: the columns of ``COLUMNS`` that there are, a row a sample.
        checkpoint: the policy whose samples are meant, where there are several.

    Raises:
        ValueError: in one sentence: a column is missing, samples are of several checkpoints, there are none, or a
            prompt has one alone.
    """
    columns = _columns(table)
    rows = list(range(table.num_rows))
    rows = _of_checkpoint(columns, rows, checkpoint)
    if missing := [row for row in rows if columns["prompt"][row] is None or columns["response"][row] is None]:
        raise ValueError(
            f"{len(missing)} of {len(rows)} samples have no prompt or no response, the first in row {missing[0]}: "
            "leave such rows out."
        )
    if not rows:
        raise ValueError("there are no samples: give a directory that collecting has written files to.")
    groups: dict[tuple, list[int]] = {}
    for row in rows:
        key = tuple(columns[name][row] for name in ("step", "group", "prompt", "label"))
        groups.setdefault(key, []).append(row)
    few = sorted(key[2] for key, found in groups.items() if len(found) < FEWEST)
    if few:
        raise ValueError(
            f"{len(few)} of {len(groups)} prompts have fewer than {FEWEST} samples, the first is {few[0]!r:.60}: "
            "collect several answers of each prompt (--rollout.n_samples_per_prompt 10)."
        )
    found = {(_number(step), _number(group)): [] for step, group, *_ in groups}
    for (step, group, text, label), members in groups.items():
        found[_number(step), _number(group)].append(_prompt(columns, members, text, label))
    return [prompt for place in sorted(found) for prompt in sorted(found[place], key=lambda prompt: prompt.digest)]


def _columns(table: pa.Table) -> dict[str, Sequence[Any]]:
    """Name to a value a row, None for a missing one."""
    there = {name: next((n for n in others if n in table.column_names), None) for name, others in COLUMNS.items()}
    if missing := [name for name in NEEDED if there[name] is None]:
        raise ValueError(
            f"there is no column {' and no column '.join(missing)} among {', '.join(table.column_names) or 'none'}: "
            f"a sample needs {', '.join(NEEDED)}; python -m openrlhf_pf.cli.collect writes them."
        )
    columns = {
        name: [None] * table.num_rows if column is None else table[column].to_pylist()
        for name, column in there.items()
    }
    columns["label"] = [_label(value) for value in columns["label"]]
    columns["checkpoint"] = [_name(value) for value in columns["checkpoint"]]
    columns["truncated"] = [_flag(value, there["truncated"]) for value in columns["truncated"]]
    for name in ("reward", "score", "tokens", "step", "group"):
        if wrong := [value for value in columns[name] if not isinstance(value, (int, float, type(None)))]:
            raise ValueError(f"column {there[name]} holds {wrong[0]!r:.40}: it must hold numbers.")
    for name in ("step", "group"):
        # NaN is not equal to itself: each would tell a prompt apart.
        columns[name] = [None if value != value else value for value in columns[name]]
    for name in ("prompt", "response"):
        if wrong := [value for value in columns[name] if not isinstance(value, (str, type(None)))]:
            raise ValueError(f"column {there[name]} holds {wrong[0]!r:.40}: it must hold texts.")
    return columns


def _of_checkpoint(columns: dict[str, Sequence[Any]], rows: list[int], checkpoint: str | None) -> list[int]:
    counts = Counter(name for name in columns["checkpoint"] if name is not None)
    names = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items()))
    if checkpoint is not None:
        if checkpoint not in counts:
            raise ValueError(
                f"there are no samples of the checkpoint {checkpoint!r}: there are {names or 'none named'}."
            )
        return [row for row in rows if columns["checkpoint"][row] == checkpoint]
    if len(counts) > 1:
        raise ValueError(
            f"these are samples of several checkpoints, {names}: pairs are made of one policy's answers, so name it "
            "with --checkpoint."
        )
    return rows


def _prompt(columns: dict[str, Sequence[Any]], members: list[int], text: str, label: str | None) -> Prompt:
    def order(row: int) -> tuple:
        known = (columns[name][row] for name in ("reward", "score", "truncated", "tokens"))
        return columns["response"][row], *map(_number, known)

    members = sorted(members, key=order)
    numbers = {name: tuple(_float(columns[name][row]) for row in members) for name in ("reward", "score", "tokens")}
    return Prompt(
        text,
        label,
        tuple(columns["response"][row].removesuffix(" ") for row in members),
        numbers["reward"],
        numbers["score"],
        tuple(columns["truncated"][row] for row in members),
        numbers["tokens"],
    )


def _label(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def _name(value: Any) -> str | None:
    return None if value is None or value != value or not str(value).strip() else str(value)


def _flag(value: Any, name: str | None) -> bool:
    """Also from text, as CSV has it; what is missing is false."""
    words = {"": False, "false": False, "0": False, "true": True, "1": True}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if not isinstance(value, (bool, int, float, type(None))):
        raise ValueError(f"column {name} holds {value!r:.40}: it must hold true or false.")
    return bool(value) and value == value


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _number(value: Any) -> float:
    """To sort by: what is missing or no number comes first."""
    return -math.inf if value is None or value != value else float(value)
