"""Every scored sample of a step, kept or not, as Parquet; one file a step.

:class:`RolloutLog` writes while training runs, :func:`read` gives the files back as one table. Nothing here needs
OpenRLHF, Ray or torch, so that a rollout can be analysed where none of them is installed.
"""

import hashlib
import itertools
import logging
import os
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from openrlhf_pf.files import replace_file

logger = logging.getLogger(__name__)

FORMAT = {"openrlhf_pf.rollout_log": "1"}

Columns = Mapping[str, Sequence]
Rows = Callable[[], Columns | Iterable[Columns]]

_BY_NAME = pa.map_(pa.string(), pa.float64())

#: One row a sample. Nullable columns and the two maps may be left out when a step is written.
SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),  # the prompt's place in its step, which may hold it twice
        pa.field("prompt_id", pa.string(), nullable=False),  # the same in all steps and runs, see prompt_id()
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("response_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_()),
        pa.field("reward", pa.float64()),  # the training reward model's own; NaN and inf as it gave them
        pa.field("reward_again", pa.float64()),  # of a second scoring of the same response
        pa.field("model_rewards", _BY_NAME, nullable=False),  # by model of an ensemble
        pa.field("score", pa.float64()),  # the true score
        pa.field("extra_logs", _BY_NAME, nullable=False),
        pa.field("rank", pa.int32()),  # 1 = best of its prompt, null for an unusable reward
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("draws", pa.int32(), nullable=False),  # how often it trains
        pa.field("checkpoint", pa.string()),  # the policy that answered, for samples collected offline
    ]
)

_REQUIRED = {field.name for field in SCHEMA if not field.nullable and field.type != _BY_NAME}


def prompt_id(prompt: str) -> str:
    """Return 16 hex digits that stand for the prompt's text in all steps and runs."""
    return hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()


def check_directory(directory: str | os.PathLike[str]) -> Path:
    """Create the directory of a log and try to write there.

    Returns:
        The directory's absolute path.

    Raises:
        ValueError: it cannot be created or written.
    """
    path = Path(directory).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"the rollout log cannot be written to {str(path)!r} ({error.strerror}): it needs a directory that exists "
            "or can be created and that this process may write; give another path or free space for this one."
        ) from error
    return path


def _assemble(fields: list[pa.Field], columns: Mapping, rows: int, metadata: Mapping | None) -> pa.Table:
    """Put Arrow columns in order; nulls, or empty maps, stand in for those that are not there."""
    arrays = []
    for field in fields:
        blank = [None if field.nullable else []] * rows
        arrays.append(columns[field.name] if field.name in columns else pa.array(blank, field.type))
        if arrays[-1].null_count and not field.nullable:
            raise ValueError(f"column {field.name!r} must not have empty entries")
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata))


def table_of(step: int, columns: Mapping[str, Sequence], metadata: Mapping[str, str] | None = None) -> pa.Table:
    """Return one step's samples as a table with ``SCHEMA``.

    Args:
        step: the step of all samples.
        columns: (samples,) values by column name, ``step`` excepted; None for a missing value, a mapping a sample for
            the two map columns.
        metadata: what to note in the file in addition to the format's version.

    Raises:
        ValueError: a column is unknown, missing or of another length, or a value is missing where there must be one.
        pyarrow.ArrowException: a value does not fit its column.
    """
    names = set(SCHEMA.names) - {"step"}
    if wrong := (columns.keys() - names) | (_REQUIRED - {"step"} - columns.keys()):
        raise ValueError(f"columns unknown or missing: {', '.join(sorted(wrong))}")
    rows = len(columns["prompt"])
    arrays = {"step": pa.repeat(pa.scalar(step, pa.int64()), rows)}
    for name, values in columns.items():
        kind = SCHEMA.field(name).type
        arrays[name] = pa.array([list(row.items()) for row in values] if kind == _BY_NAME else values, kind)
    return _assemble(list(SCHEMA), arrays, rows, {**(metadata or {}), **FORMAT})


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write a Parquet file that is there whole or not at all, whatever happens to this process.

    Args:
        path: the file.
        tables: its parts, of one schema; each is on disk before the next one is asked for.

    Raises:
        OSError: the file could not be written; what was there under its name still is.
        ValueError: there is no table.
    """
    remaining = iter(tables)
    if (first := next(remaining, None)) is None:
        raise ValueError("there are no samples to write")
    with (
        replace_file(path, "wb") as file,
        pq.ParquetWriter(file, first.schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in itertools.chain([first], remaining):
            writer.write_table(table)


class RolloutLog:
    """Writes steps in a thread of its own and never holds up or ends training: what it cannot write is lost.

    Args:
        directory: where the files go, see :func:`check_directory`.
        metadata: what to note in each file.
        buffer: how many steps may be held in memory, the one that is being written among them.
    """

    def __init__(
        self, directory: str | os.PathLike[str], metadata: Mapping[str, str] | None = None, buffer: int = 2
    ) -> None:
        self.directory = check_directory(directory)
        self.metadata = dict(metadata or {})
        self.buffer = buffer
        self.lost = 0  # steps that are not in the log
        self._pending: deque[tuple[int, Rows]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="rollout-log", daemon=True)

    def write(self, step: int, rows: Rows) -> None:
        """Have a step written; returns at once and never raises. A step that is there already is replaced.

        Args:
            step: the step's number.
            rows: called in the log's thread; returns the columns as for :func:`table_of`, of all samples or of one
                part of them after another, so that a large step is never there as Python objects at once.
        """
        with self._changed:
            if self._closing:
                reason = "the log is closed"
            elif len(self._pending) >= self.buffer:
                reason = f"{len(self._pending)} earlier steps are still being written"
            else:
                try:
                    if not self._thread.is_alive():
                        self._thread.start()
                    self._pending.append((step, rows))
                    self._changed.notify_all()
                    return
                except RuntimeError as error:
                    reason = str(error)
        self._lose(step, reason)

    def flush(self, timeout: float = 60) -> None:
        """Wait until what is held is written or lost; after ``timeout`` seconds, go on."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout)

    def close(self, timeout: float = 60) -> None:
        """Write what is held and stop. After ``timeout`` seconds, leave the rest to the thread and say so."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        with self._changed:
            steps = ", ".join(str(step) for step, _ in self._pending)
        if steps:
            message = "the rollout log %s was not finished after %s s: if the process ends now, steps %s are lost"
            logger.warning(message, self.directory, timeout, steps)

    def __enter__(self) -> "RolloutLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
            # No local name for the step's callable: it would keep the samples in memory until the next step.
            self._put(*self._pending[0])
            with self._changed:
                self._pending.popleft()
                self._changed.notify_all()

    def _put(self, step: int, rows: Rows) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            found = rows()
            parts = [found] if isinstance(found, Mapping) else found
            tables = (table_of(step, columns, self.metadata) for columns in parts)
            write_tables(self.directory / f"step-{step:06d}.parquet", tables)
        except Exception as error:  # whatever it is, it must not reach training
            self._lose(step, f"{type(error).__name__}: {error}")

    def _lose(self, step: int, reason: str) -> None:
        with self._changed:
            self.lost += 1
        logger.warning("step %s is not in the rollout log %s: %s", step, self.directory, reason)


def _read_file(path: Path, names: set[str]) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        found = file.schema_arrow
        there = set(SCHEMA.names) & set(found.names)
        if wrong := (_REQUIRED - there) | {n for n in there if found.field(n).type != SCHEMA.field(n).type}:
            raise ValueError(f"columns missing or of another type: {', '.join(sorted(wrong))}")
        table = file.read(columns=sorted(there & names))
    columns = dict(zip(table.column_names, table.columns))
    return _assemble([field for field in SCHEMA if field.name in names], columns, table.num_rows, found.metadata)


def read(directory: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read a log, in the order of steps. A file that cannot be read is skipped with a warning.

    Args:
        directory: a log's directory, or one of its files.
        columns: the columns wanted, in this order; all of ``SCHEMA`` without it.

    Returns:
        The samples, with ``SCHEMA`` (or its part) and the last step's metadata.

    Raises:
        ValueError: there is no such directory, nothing readable in it, or no such column.
    """
    wanted = SCHEMA.names if columns is None else list(columns)
    if unknown := [name for name in wanted if name not in SCHEMA.names]:
        raise ValueError(f"a rollout log has no column {unknown[0]!r}: ask for any of {', '.join(SCHEMA.names)}.")
    path = Path(directory)
    tables = []
    for file in [path] if path.is_file() else sorted(path.glob("*.parquet")):
        try:
            tables.append(_read_file(file, {"step", *wanted}))
        except (OSError, ValueError, pa.ArrowException) as error:
            warnings.warn(f"{file} is left out of the rollout log: {error}", stacklevel=2)
    if not tables:
        raise ValueError(
            f"no rollout log could be read from {str(path)!r}: give the directory that a run wrote its "
            "step-*.parquet files to, or one of these files."
        )
    # By content: names with more than six digits do not sort by step.
    tables.sort(key=lambda table: table["step"][0].as_py() if len(table) else -1)
    return pa.concat_tables(tables).replace_schema_metadata(tables[-1].schema.metadata).select(wanted)
