"""Read files and folders of samples into tables with the file's own columns.

The format is recognised by the first bytes (Parquet, Arrow, JSON), else by the file's ending (CSV). PyArrow reads all
of them, also compressed (.gz, .bz2, .zst, .lz4).
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.json as pj
import pyarrow.parquet as pq

COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
#: Endings by format. Of a folder, the files of the first format found are read: JSON next to others is settings.
KINDS = {
    "Parquet": (".parquet",),
    "Arrow": (".arrow", ".feather", ".ipc"),
    "JSONL": (".jsonl", ".ndjson"),
    "CSV": (".csv", ".tsv"),
    "JSON": (".json",),
}
SUFFIXES = tuple(suffix for suffixes in KINDS.values() for suffix in suffixes)
T = TypeVar("T")
#: Marks a column of mixed types that was converted to text.
MIXED = b"openrlhf_pf.mixed"
GIVE = "give a Parquet, Arrow, JSON, JSONL or CSV file."


@dataclass
class Source:
    """An open file: its columns, its rows, and how to read some of the columns."""

    schema: pa.Schema
    rows: int
    read: Callable[[Sequence[str]], pa.Table]


def suffix_of(file: Path) -> str:
    """Return the ending that names the format: of ``a.csv.gz``, ``.csv``."""
    return (file.with_suffix("") if file.suffix in COMPRESSED else file).suffix.lower()


def find_files(path: Path, notes: list[str]) -> list[Path]:
    """Return the file, or the files of a folder and its subfolders; what is not read goes into ``notes``.

    Raises:
        ValueError: there is no such path, or nothing in it that could hold samples.
    """
    if not os.path.exists(path):
        raise ValueError(f"there is no file or directory {str(path)!r}: check the path.")
    if not path.is_dir():
        return [path]
    visible = (f for f in path.rglob("*") if not any(part.startswith(".") for part in f.relative_to(path).parts))
    there = sorted(file for file in visible if os.path.isfile(file))  # False too where it must not be known
    # A folder of ``datasets`` names its files in state.json; others next to them are its cache.
    saved = {}
    for file in there:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if file.name == "state.json":
                saved[file.parent] = {part["filename"] for part in json.loads(file.read_bytes())["_data_files"]}
    there = [file for file in there if not saved.get(file.parent) or file.name in saved[file.parent]]
    for suffixes in KINDS.values():
        files = [file for file in there if suffix_of(file) in suffixes]
        if files:
            break
    else:
        found = ", ".join(file.name for file in there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise ValueError(
            f"the directory {str(path)!r} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, it holds "
            f"{found or 'nothing'}: give the directory of a rollout log whose first step is finished, or files of "
            "samples."
        )
    others = [f.name for f in there if f not in files and suffix_of(f) in SUFFIXES and suffix_of(f) != ".json"]
    if others:
        notes.append(_left_out(others, f"the folder's {suffix_of(files[0])} files are read"))
    folders = sorted({str(file.parent.relative_to(path)) for file in files})
    if len(folders) > 1:
        names = ", ".join(folders[:4]) + (" ..." if len(folders) > 4 else "")
        notes.append(f"{path}: the files of {len(folders)} folders ({names}) are read as one set of samples.")
    return files


def read_files(path: Path, notes: list[str], read: Callable[[Path], T]) -> dict[Path, T]:
    """Return what ``read`` makes of a file or of each file of a folder; what is not read goes into ``notes``.

    Raises:
        ValueError: there is no such path, or nothing in it that can be read; the message is one sentence.
    """
    files, found, lost, misfit = find_files(path, notes), {}, {}, None
    for file in files:
        try:
            found[file] = read(file)
        except (OSError, pa.ArrowException) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            if len(files) == 1:
                raise ValueError(f"{str(file)!r} cannot be read ({cause}): {GIVE}") from error
            lost.setdefault(f"it cannot be read ({cause})", []).append(file.name)
        except ValueError as error:
            misfit = misfit or error
            lost.setdefault(str(error).replace(str(file), "it", 1), []).append(file.name)
    if not found:
        raise misfit or ValueError(
            f"no file in {str(path)!r} can be read: all {len(files)} are damaged or unfinished."
        )
    notes += [_left_out(names, why) for why, names in lost.items()]
    return found


def read_table(path: Path, notes: list[str], names: Sequence[str], check: Callable[[pa.Schema], None]) -> pa.Table:
    """Read some columns of a file or of a folder's files, each of which passes ``check``; see :func:`read_files`."""

    def read(file: Path) -> pa.Table:
        source = open_file(file, notes)
        check(source.schema)
        return source.read([name for name in names if name in source.schema.names])

    return pa.concat_tables(read_files(path, notes, read).values(), promote_options="permissive")


def _left_out(names: Sequence[str], why: str) -> str:
    """Return a sentence about files that are not read."""
    more = f" and {len(names) - 1} more were" if len(names) > 1 else " was"
    return f"{names[0]}{more} left out: {why}."


def open_file(file: Path, notes: list[str]) -> Source:
    """Open a file of any format; what of it cannot be read goes into ``notes``.

    Raises:
        OSError, pyarrow.ArrowException: it is damaged, or its format is not recognised.
    """
    if file.stat().st_size == 0:
        raise pa.ArrowInvalid("it is empty")
    with pa.input_stream(str(file), compression="detect") as stream:
        start = stream.read(64)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise pa.ArrowInvalid("it is UTF-16 and must be UTF-8")
    if start.startswith(b"PAR1"):
        return _parquet(file)
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        source = pa.BufferReader(_content(file)) if file.suffix in COMPRESSED else pa.memory_map(str(file))
        return _whole((pa.ipc.open_file if start.startswith(b"ARROW1") else pa.ipc.open_stream)(source).read_all())
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return _whole(_json(_content(file), file, notes))
    if suffix_of(file) in KINDS["CSV"]:
        return _whole(_csv(_content(file)))
    if suffix_of(file) in KINDS["JSON"] + KINDS["JSONL"]:
        return _whole(_lines(_content(file), file, notes))
    raise pa.ArrowInvalid("it is damaged" if suffix_of(file) in SUFFIXES else "its format is not recognised")


def _content(file: Path) -> bytes:
    with pa.input_stream(str(file), compression="detect") as stream:
        return stream.read()


def _reader(content: bytes) -> pa.BufferReader:
    """Return a reader of a copy that Arrow owns.

    After an error, Arrow's threads may still hold the buffer at exit. If it belonged to Python, releasing it would
    need an interpreter that is being shut down: abort, status 134.
    """
    sink = pa.BufferOutputStream()
    sink.write(content)
    return pa.BufferReader(sink.getvalue())


def _whole(table: pa.Table) -> Source:
    return Source(table.schema, table.num_rows, table.select)


def _parquet(file: Path) -> Source:
    if file.suffix in COMPRESSED:
        return _whole(pq.read_table(pa.BufferReader(_content(file))))
    with pq.ParquetFile(file) as opened:
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    # Without partitioning, a folder called step=3 does not become a column.
    options = {"partitioning": None, "page_checksum_verification": True}
    return Source(schema, rows, lambda names: pq.read_table(file, columns=list(names), **options))


def _csv(content: bytes) -> pa.Table:
    header = content[: content.find(b"\n") + 1 or None]
    delimiter = max(",;\t|", key=lambda sign: header.count(sign.encode()))
    options = pv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        table = pv.read_csv(_reader(content), parse_options=options)
    except pa.ArrowInvalid:
        # A column that turns from numbers to text: read all as text and convert value by value later.
        first = pv.read_csv(_reader(header), parse_options=options)
        convert = pv.ConvertOptions(column_types=dict.fromkeys(first.column_names, pa.string()))
        table = pv.read_csv(_reader(content), parse_options=options, convert_options=convert)
    return table.rename_columns([name.strip() for name in table.column_names])


def _json(content: bytes, file: Path, notes: list[str]) -> pa.Table:
    content = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if content.startswith(b"{"):
        try:
            table = pj.read_json(_reader(content), parse_options=pj.ParseOptions(newlines_in_values=False))
            # JSON has no dates: keep them as text.
            if dates := [(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)]:
                options = pj.ParseOptions(pa.schema(dates), newlines_in_values=False)
                table = pj.read_json(_reader(content), parse_options=options)
            if table.num_rows > 1:
                return table
        except pa.ArrowInvalid:
            # NaN, an unfinished line, a column whose type changes, or one document over several lines.
            if not (b"\n" in content and _object(content[: content.find(b"\n")]) is None):
                return _lines(content, file, notes)
    try:
        return _table(_rows(json.loads(content)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, pa.ArrowException):
            raise
        if content.startswith(b"{"):
            return _lines(content, file, notes)
        raise pa.ArrowInvalid(f"it is no JSON: {error}") from error


def _object(line: bytes) -> dict | None:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(line)
        return found if isinstance(found, dict) else None
    return None


def _lines(content: bytes, file: Path, notes: list[str]) -> pa.Table:
    rows, lines = [], content.splitlines()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        row = _object(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines) - 1 or not rows:
            raise pa.ArrowInvalid(f"line {number + 1} is not a JSON object")
        else:
            notes.append(f"the last line of {file.name} was left out: it is not finished.")
    return _table(rows)


def _rows(document: object) -> list[dict]:
    """Return the rows of a JSON document: a list of objects, an object of columns, or a list of objects within one."""
    if isinstance(document, list):
        if not all(isinstance(row, dict) for row in document):
            raise pa.ArrowInvalid("it is a JSON list whose entries are no objects")
        return document

    def is_column(values: object) -> bool:
        """Return whether it is a column as pandas writes one: {"0": ..., "1": ...}."""
        return isinstance(values, dict) and bool(values) and all(name.isdigit() for name in values)

    columns = {name: list(v.values()) if is_column(v) else v for name, v in document.items()}
    lists = [values for values in columns.values() if isinstance(values, list)]
    if len(lists) == 1 and lists[0] and all(isinstance(row, dict) for row in lists[0]):
        return lists[0]
    rows = len(lists[0]) if len(lists) > 1 else 0
    if any(len(values) != rows for values in lists) or not rows:
        return [document]
    return [{n: v[i] if isinstance(v, list) else v for n, v in columns.items()} for i in range(rows)]


def _table(rows: list[dict]) -> pa.Table:
    """Return rows as columns; values of several types become JSON, texts stay as they are."""
    arrays, fields = [], []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        metadata = None
        try:
            arrays.append(pa.array(values))
        except (ValueError, TypeError, OverflowError):
            texts = (v if v is None or isinstance(v, str) else json.dumps(v, sort_keys=True) for v in values)
            # Half a character, as tokenizers leave it, is not UTF-8.
            texts = [v if v is None else v.encode("utf-8", "replace").decode() for v in texts]
            arrays.append(pa.array(texts, pa.string()))
            metadata = {MIXED: b""} if len({isinstance(v, str) for v in values if v is not None}) > 1 else None
        fields.append(pa.field(name, arrays[-1].type, metadata=metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
