"""Read files into one table with a row per sample and our columns: numbers as float64, ids of one flat type.

Notation used for shapes: S samples; L rows of a file with lists, which become samples; N responses a row.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openrlhf_pf.reliability.read.columns import COLUMNS, PAIR, SUGGESTED, Plan, is_list, listed, plan_columns
from openrlhf_pf.reliability.read.files import MIXED, open_file, read_files

NUMBERS = ("reward", "reward_again", "score", "step", "group", "length")
#: Rows that show whether an id identifies a prompt.
ENOUGH_ROWS = 20
#: Columns that differ between the responses of a prompt: a list in a row has one value per response.
PER_RESPONSE = ("reward", "reward_again", "score", "length")


def read_samples(path: Path, named: Mapping[str, str], notes: list[str]) -> tuple[pa.Table, list[Plan]]:
    """Read a file or a folder.

    Returns:
        (S,) rows: ``prompt_id`` without nulls, ``reward`` and ``score`` as float64, those of ``reward_again``,
        ``step``, ``group``, ``length`` (float64), ``checkpoint`` (string) and ``model_rewards`` (as it is) that the
        files have, and ``file``, which counts them; and how each file was read.

    Raises:
        ValueError: nothing can be read; the message is one sentence.
    """
    found = read_files(path, notes, lambda file: _read_file(file, named, notes))
    tables = []
    for number, (file, (table, plan)) in enumerate(found.items()):
        tables.append(table.append_column("file", pa.repeat(pa.scalar(number, pa.int32()), len(table))))
        plan.line = plan.line.replace(str(file), str(path), 1)
    table = _together(tables, notes)
    _check_prompts(table, str(path), [file.name for file in found])
    return table, [plan for _, plan in found.values()]


def _check_prompts(table: pa.Table, path: str, files: list[str]) -> None:
    """Refuse samples whose ids do not identify prompts."""
    if not len(table) or "checkpoint" in table.column_names:
        return
    ids = _one(table["prompt_id"])
    counts = pc.value_counts(ids)
    if len(counts) == 1 and len(table) > 1:
        shown = _text(ids)[0].as_py()
        raise ValueError(
            f"all {len(table):,} rows of {path} belong to one prompt ({shown[:40]!r}): name the column that identifies"
            " the prompt with --columns prompt_id=NAME, or score many prompts."
        )
    by = {"step", "group"} & set(table.column_names)
    if len(files) > 1 and not by:
        pairs = pa.table({"id": ids, "file": table["file"]}).group_by(["id", "file"]).aggregate([("id", "count")])
        several = pairs.filter(pc.greater(pairs["id_count"], 1))
        if len(several) > 1.5 * len(pc.unique(several["id"])):
            raise ValueError(
                f"files of {path} ({files[0]}, {files[1]}) have several responses to the same prompts and no"
                " step: give them as separate PATHs to compare them, or add a column step."
            )


def _read_file(file: Path, named: Mapping[str, str], notes: list[str]) -> tuple[pa.Table, Plan]:
    """Return the samples of a file and how its columns were read."""
    source = open_file(file, notes)
    if not source.rows:
        empty = {"prompt_id": pa.string(), "reward": pa.float64(), "score": pa.float64()}
        return pa.schema(empty).empty_table(), Plan({})
    how = plan_columns(source.schema, named, str(file), source.rows)
    names = {name for names in how.columns.values() for name in ([names] if isinstance(names, str) else names)}
    table = source.read(sorted({name if name in source.schema.names else name.split(".")[0] for name in names}))
    found = _samples(table, how, str(file), notes)
    if len(found) >= ENOUGH_ROWS and len(pc.unique(found["prompt_id"])) == len(found):
        _refuse_single_rows(table, source.schema, how, str(file), source.read)
    if (reward := how.columns.get("reward")) in source.schema.names:  # a copy of the reward is no true score
        kind = source.schema.field(reward).type
        same = [name for name in how.others if name in source.schema.names and source.schema.field(name).type == kind]
        copies = [name for name in same if source.read([name])[name].equals(table[reward])]
        how.others = tuple(name for name in how.others if name not in copies)
    return found, how


def _refuse_single_rows(table: pa.Table, schema: pa.Schema, how: Plan, path: str, read: Callable) -> None:
    """Refuse a file in which every row is a prompt of its own although another column groups the rows."""
    ours = how.columns.get("prompt_id")
    known = [*COLUMNS["prompt_id"], *SUGGESTED["prompt_id"].split()]
    known += [] if ours else [name for name, kind in zip(schema.names, schema.types) if pa.types.is_nested(kind)]
    found = f"it has {listed(schema.names)}; name the column that identifies the prompt with --columns prompt_id=NAME."
    for name in [name for name in known if name in schema.names and name not in how.columns.values()]:
        count = len(pc.unique(_flat(_one(read([name])[name]))))
        if 1 < count <= len(table) / 2:
            found = (
                f"{name} has {count:,} different values; if it identifies the prompt, give --columns prompt_id={name}."
            )
            break
    else:
        if ours:
            return
    start = f"column {ours} of {path} is different in" if ours else f"{path} has no prompt_id and one response in"
    raise ValueError(f"{start} each of {len(table):,} rows, so responses to one prompt cannot be compared: {found}")


def _samples(table: pa.Table, how: Plan, path: str, notes: list[str]) -> pa.Table:
    """Return a file's columns as ours, a row per sample."""
    found = {ours: _column(table, names) for ours, names in how.columns.items()}
    shown = {ours: n if isinstance(n, str) else f"{n[0]} to {n[-1]}" for ours, n in how.columns.items()}
    if PAIR[0] in found:
        found = _join_sides(found, path)
    found |= {ours: _parsed(found[ours]) for ours in ("reward", "reward_again", "score") if ours in found}
    if PAIR[0] in shown:
        shown |= dict.fromkeys(("reward", "score", "group"), " and ".join(shown[name] for name in PAIR))
    if how.right_first or any(is_list(found[ours].type) for ours in ("reward", "score")):
        found = _unrolled(found, how, shown, path, notes)
    for ours in NUMBERS:
        if ours in found:
            found[ours] = _numbers(found[ours], ours, shown[ours], path, how, notes)
    name = how.columns.get("prompt_id")
    if name in table.column_names and MIXED in (table.schema.field(name).metadata or {}):
        notes.append(f"{path}: prompt_id holds numbers and text, compared as text: 1 and '1' are one prompt.")
    ids = _flat(_filled(found["prompt_id"]))
    if len(ids) and ids.null_count == len(ids):
        raise ValueError(
            f"column {shown['prompt_id']} of {path} is empty in all {len(ids):,} rows, so all samples would be of one "
            "prompt: name the column that identifies the prompt with --columns prompt_id=NAME."
        )
    found["prompt_id"] = ids
    for name in {"checkpoint", "subset"} & found.keys():
        found[name] = _text(_filled(found[name]))
    result = pa.table({ours: values for ours, values in found.items() if values is not None})
    if ids.null_count:
        notes.append(f"{path}: {ids.null_count:,} of {len(ids):,} rows have no prompt_id and were left out.")
        result = result.filter(pc.is_valid(ids))
    return result


def _column(table: pa.Table, names: str | tuple[str, ...]) -> pa.Array:
    """Return a column, a field by its dotted name, or numbered columns as (L, N) lists."""
    if isinstance(names, str):
        if names in table.column_names:
            return _one(table[names])
        top, *inner = names.split(".")
        return _one(pc.struct_field(table[top], inner))
    arrays = [_one(table[name]) for name in names]
    try:
        arrays = [pc.cast(array, pa.float64()) for array in arrays]
    except pa.ArrowException:
        arrays = [_text(array) for array in arrays]
    order = np.arange(len(table) * len(names)).reshape(len(names), -1).T.ravel()
    offsets = np.arange(0, len(order) + 1, len(names), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.concat_arrays(arrays).take(pa.array(order)))


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as a single array; categories become their values."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _parsed(array: pa.Array) -> pa.Array:
    """Return a CSV's lists, which are text, as lists; anything else unchanged."""
    if not pa.types.is_string(array.type) or not len(array) or not str(array[0].as_py()).startswith("["):
        return array
    try:
        # Numbers beyond 64 bits fit a float.
        return pa.array([text if text is None else json.loads(text, parse_int=float) for text in array.to_pylist()])
    except (ValueError, TypeError):
        return array


# ── One row a prompt ──


def _join_sides(found: dict, path: str) -> dict:
    """Turn preference pairs into rows of lists: the chosen responses with score 1, the rejected ones with score 0.

    Every row is a group of its own, so that only responses of one row are compared.
    """
    sides = [[v if isinstance(v, list) else [v] for v in _parsed(found[name]).to_pylist()] for name in PAIR]
    rewards = [[*chosen, *rejected] for chosen, rejected in zip(*sides)]
    scores = [[1.0] * len(chosen) + [0.0] * len(rejected) for chosen, rejected in zip(*sides)]
    joined = {ours: values for ours, values in found.items() if ours not in PAIR}
    rows = pa.array(range(len(rewards)))
    joined |= {"prompt_id": found.get("prompt_id", pa.array([f"{path}:{row}" for row in range(len(rewards))]))}
    return {**joined, "reward": pa.array(rewards), "score": pa.array(scores), "group": rows}


def _unrolled(found: dict, how: Plan, shown: Mapping[str, str], path: str, notes: list[str]) -> dict:
    """Turn (L,) rows with lists into (S,) samples; single values are repeated."""
    lists = {ours: found[ours] for ours in PER_RESPONSE if ours in found and is_list(found[ours].type)}
    single = [ours for ours in ("reward", "score") if ours not in lists and not (how.right_first and ours == "score")]
    if single or not lists:
        other = "score" if single == ["reward"] else "reward"
        raise ValueError(
            f"{path} does not fit: column {shown[other]} holds several values in each row and column "
            f"{shown[single[0]]} one; each response needs a reward and a score, so name two such columns, or "
            "two without lists, with --columns."
        )
    sizes = {ours: pc.fill_null(pc.list_value_length(values), 0).to_numpy() for ours, values in lists.items()}
    for ours, size in sizes.items():
        if (wrong := np.flatnonzero(size != sizes["reward"])).size:
            row = wrong[0]
            raise ValueError(
                f"row {row + 1} of {path} has {sizes['reward'][row]} values of {shown['reward']} and {size[row]} of "
                f"{shown[ours]}: there must be one of each per response."
            )
    size = sizes["reward"]
    row = np.repeat(np.arange(len(size)), size)
    result = {ours: _values(values, shown[ours], path) for ours, values in lists.items()}
    if how.right_first:
        place = np.arange(len(row)) - np.repeat(size.cumsum() - size, size)
        right = _numbers(found["score"], "score", shown["score"], path, how, notes).to_numpy(zero_copy_only=False)
        result["score"] = pa.array((place < right[row]).astype(float))
    for ours, values in found.items():
        if ours == "model_rewards":
            notes.append(f"{path}: column {shown[ours]} was left out, because each row holds several responses.")
        elif ours not in result and _is_per_response(values, size):
            result[ours] = pc.list_flatten(values)
        elif ours not in result:
            result[ours] = _flat(values).take(pa.array(row)) if ours == "prompt_id" else values.take(pa.array(row))
    if "prompt_id" not in found:
        # Rows of different files are different prompts.
        result["prompt_id"] = pa.array([f"{path}:{number}" for number in range(len(size))]).take(pa.array(row))
    # Numbered columns have places for the most responses that any prompt has.
    empty = pc.and_(pc.is_null(result["reward"]), pc.is_null(result["score"]))
    return (
        {ours: values.filter(pc.invert(empty)) for ours, values in result.items()} if pc.any(empty).as_py() else result
    )


def _is_per_response(values: pa.Array, size: np.ndarray) -> bool:
    """Return whether a column has a text or number for each response: a row is then a batch of several prompts."""
    if not is_list(values.type) or pa.types.is_nested(values.type.value_type):
        return False
    sizes = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    return bool((sizes == size).all() and size.max(initial=0) > 1)


def _values(lists: pa.Array, name: str, path: str) -> pa.Array:
    """Return the values of all lists; a nested list of one value, as a reward head writes it, is that value."""
    values = pc.list_flatten(lists)
    if is_list(values.type):
        if len(values) and pc.min_max(pc.list_value_length(values)).as_py() != {"min": 1, "max": 1}:
            raise ValueError(
                f"column {name} of {path} holds lists of lists: it must hold a number for each response; give the "
                "column that does with --columns."
            )
        values = pc.list_flatten(values)
    return values


# ── Types ──


def _numbers(array: pa.Array, ours: str, name: str, path: str, how: Plan, notes: list[str]) -> pa.Array | None:
    """Return (S,) float64; None for an optional column without numbers."""
    try:
        # A whole number beyond 2^53 is rounded, not refused.
        return pc.cast(array, pa.float64(), safe=False)
    except pa.ArrowException:
        pass
    what = f"holds {array.type}"
    if pa.types.is_struct(array.type) and array.type.num_fields:
        what += f", of which --columns can name a field, {ours}={name}.{array.type[0].name} for instance"
    if _is_text(array.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(array))
        for word, number in (("true", "1"), ("false", "0"), ("", "nan"), ("none", "nan"), ("null", "nan")):
            text = pc.if_else(pc.equal(text, word), number, text)
        try:
            return pc.cast(text, pa.float64())
        except pa.ArrowException:
            what = f"holds text that is no number, such as {_no_number(array)!r}"
    if ours in ("reward", "score") or ours in how.named:
        raise ValueError(f"column {name} of {path} {what}: it must hold numbers.")
    notes.append(f"column {name} of {path} was left out: it {what}, and {ours} must be a number.")
    return None


def _no_number(array: pa.Array) -> str:
    for text in pc.unique(array).to_pylist():
        try:
            float(text or 0)
        except ValueError:
            if text.lower() not in ("true", "false", "none", "null"):
                return text if len(text) < 40 else text[:37] + "..."
    return ""


def _filled(array: pa.Array) -> pa.Array:
    """Return ids and names with null for what is empty: "" in a CSV, NaN as pandas writes it.

    pandas also writes whole numbers as floats where one is missing: these become whole numbers again.
    """
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid:  # some are not whole
            return array
    if _is_text(array.type):
        return pc.if_else(pc.equal(pc.utf8_trim_whitespace(array), ""), None, array)
    return array


def _flat(array: pa.Array) -> pa.Array:
    """Return ids that Arrow can compare; lists and objects, chat messages for instance, become JSON."""
    return _text(array) if pa.types.is_nested(array.type) else array


def _text(array: pa.Array) -> pa.Array:
    if pa.types.is_nested(array.type):
        values = (None if v is None else json.dumps(v, sort_keys=True, default=str) for v in array.to_pylist())
        return pa.array(values, pa.string())
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        return pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())


def _together(tables: list[pa.Table], notes: list[str]) -> pa.Table:
    """Return one table of all files, also where types of ids or models differ between them."""
    types = [table["prompt_id"].type for table in tables if len(table)]
    kinds = {
        "a whole number" if pa.types.is_integer(kind) else "text" if _is_text(kind) else str(kind) for kind in types
    }
    if len(kinds) > 1:
        notes.append(
            f"prompt_id is {' and '.join(sorted(kinds))} in the files, compared as text: 1 and '1' are one prompt."
        )
        places = [table.column_names.index("prompt_id") for table in tables]
        texts = [_text(_one(table["prompt_id"])) for table in tables]
        tables = [table.set_column(i, "prompt_id", ids) for table, i, ids in zip(tables, places, texts)]
    if len({table["model_rewards"].type for table in tables if "model_rewards" in table.column_names}) > 1:
        notes.append("model_rewards were left out: the files have them for different models.")
        tables = [t.drop_columns(["model_rewards"]) if "model_rewards" in t.column_names else t for t in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
