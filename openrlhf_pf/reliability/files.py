"""Parquet and JSONL files to tables of the columns that an analysis reads."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from openrlhf_pf import rollouts

#: Columns of a rollout log that are read, and what else a file may call them.
COLUMNS = {
    "prompt_id": ("prompt_id", "prompt"),
    "reward": ("reward",),
    "score": ("score",),
    "checkpoint": ("checkpoint",),
    "step": ("step",),
    "group": ("group",),
    "length": ("response_tokens", "response_length", "length"),
    "model_rewards": ("model_rewards",),
}
SUFFIXES = (".parquet", ".jsonl", ".json")
Columns = Mapping[str, Sequence[str]]


def read_table(path: Path, notes: list[str], columns: Columns = COLUMNS) -> pa.Table:
    """Read a file, or all files of a directory that are finished; what had to be left out is put into ``notes``.

    Args:
        path: of a file or directory.
        notes: is added to.
        columns: what is to be read, in the form of ``COLUMNS``.

    Raises:
        ValueError: there is no such path, or nothing in it that can be read; the message is one sentence.
    """
    if not path.exists():
        raise ValueError(f"there is no file or directory {str(path)!r}: check the path.")
    files = [path]
    if path.is_dir():
        there = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
        # Beside Parquet files, as collecting and training write them, JSON holds settings, not samples.
        files = [file for file in there if file.suffix == ".parquet"] or there
        if not files:
            raise ValueError(
                f"the directory {str(path)!r} holds no .parquet or .jsonl file: give the directory of a rollout log "
                "whose first step is finished."
            )
    tables = []
    for file in files:
        try:
            tables.append(_read_file(file, notes, columns))
        except (OSError, pa.ArrowException) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            if len(files) == 1:
                raise ValueError(f"{str(file)!r} cannot be read ({cause}): give a Parquet or JSONL file.") from error
            notes.append(f"{file.name} was left out, it cannot be read ({cause}).")
    if not tables:
        raise ValueError(f"no file in {str(path)!r} can be read: all {len(files)} are damaged or unfinished.")
    return pa.concat_tables(tables, promote_options="permissive")


def _read_file(file: Path, notes: list[str], columns: Columns) -> pa.Table:
    if file.stat().st_size == 0:
        raise pa.ArrowInvalid("it is empty")
    if file.suffix != ".parquet":
        return _read_json(file, notes, columns)
    schema = pq.read_schema(file)
    wanted = [name for others in columns.values() for name in others if name in schema.names]
    if rollouts.FORMAT.keys() <= {key.decode() for key in schema.metadata or {}}:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return rollouts.read(file, _without_prompt(wanted, columns))
            except ValueError as error:
                cause = str(caught[0].message) if caught else str(error)
                raise pa.ArrowInvalid(cause.rpartition("rollout log: ")[2]) from error
    return pq.read_table(file, columns=_without_prompt(wanted, columns))


def _without_prompt(names: list[str], columns: Columns) -> list[str]:
    """Texts of prompts are long, and of no use beside their ids unless they are asked for."""
    return [name for name in names if name != "prompt" or "prompt" in columns or "prompt_id" not in names]


def _read_json(file: Path, notes: list[str], columns: Columns) -> pa.Table:
    content = file.read_bytes()
    try:
        table = pj.read_json(io.BytesIO(content), parse_options=pj.ParseOptions(newlines_in_values=False))
    except pa.ArrowInvalid:
        # NaN, a line that is not finished, or numbers and nulls in an order that Arrow does not follow.
        table = _read_json_lines(content, file, notes, columns)
    wanted = [name for others in columns.values() for name in others if name in table.column_names]
    return table.select(_without_prompt(wanted, columns))


def _read_json_lines(content: bytes, file: Path, notes: list[str], columns: Columns) -> pa.Table:
    wanted = {name for others in columns.values() for name in others}
    rows, lines = [], content.splitlines()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            assert isinstance(row, dict)
        except (ValueError, AssertionError):
            if number < len(lines) - 1:
                raise pa.ArrowInvalid(f"line {number + 1} is not a JSON object") from None
            notes.append(f"the last line of {file.name} was left out: it is not finished.")
            continue
        rows.append({name: row[name] for name in wanted & row.keys()})
    names = set().union(*rows) if rows else set()
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
