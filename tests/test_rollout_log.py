"""The rollout log on real files: what is written is read back, and what goes wrong is reported, not raised."""

import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openrlhf_pf.rollout_log import SCHEMA, RolloutLog, check_directory, prompt_id, read, table_of

# A process that logs 500 samples a step, and dies with half of step 3 written.
WRITER = """
import os, signal, sys
import pyarrow.parquet as pq
from openrlhf_pf.rollout_log import RolloutLog
class DyingWriter(pq.ParquetWriter):
    def write_table(self, table, *arguments, **options):
        super().write_table(table, *arguments, **options)
        if table["step"][0].as_py() == 3:
            os.kill(os.getpid(), signal.SIGKILL)
pq.ParquetWriter = DyingWriter
text = [f"{i} some words of a response " * 100 for i in range(500)]
columns = dict.fromkeys(("prompt_id", "prompt", "response"), text)
columns |= dict.fromkeys(("group", "prompt_tokens", "response_tokens", "draws"), [1] * 500)
columns |= {"weight": [0.5] * 500, "kept": [True] * 500}
log = RolloutLog(sys.argv[1], buffer=9)
for step in range(9):
    log.write(step, lambda: columns)
log.close(timeout=600)
"""


def rows_of(**changed):
    """The columns that a step must have, of two samples of one prompt, and any others given."""
    texts = {"prompt_id": [prompt_id("2+2?")] * 2, "prompt": ["2+2?"] * 2, "response": ["4", "5"]}
    numbers = {"group": [0] * 2, "prompt_tokens": [5] * 2, "response_tokens": [1] * 2, "draws": [1] * 2}
    return texts | numbers | {"weight": [0.75, 0.25], "kept": [True] * 2} | changed


def write_steps(directory, steps, **changed):
    with RolloutLog(directory, buffer=len(steps)) as log:
        for step in steps:
            log.write(step, lambda: rows_of(**changed))
    assert log.lost == 0


def steps_in(path):
    """The step of every sample that a reader finds, without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read(path, ["step"])["step"].to_pylist()


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.005)


@pytest.fixture
def gate():
    """Holds up the log's thread until it is set; its own timeout ends a write that waits for the thread."""
    gate = threading.Event()
    yield gate
    gate.set()


# ── What is written is read ──


def test_every_column_comes_back_as_it_was_given(tmp_path):
    given = {
        "group": [0, 0, 1],
        "prompt_id": ["0" * 16, "0" * 16, prompt_id("二")],
        "prompt": ["a", "a", "二"],
        "response": ["", "zwei\nZeilen", "\x00"],
        "label": ["4", None, ""],
        "prompt_tokens": [1, 1, 2],
        "response_tokens": [0, 2**31 - 1, 3],
        "truncated": [True, None, False],
        "reward": [None, math.inf, math.nan],
        "reward_again": [0.5, None, math.nan],
        "model_rewards": [{"large": 0.25, "small": -1.0}, {}, {"large": math.inf}],
        "score": [0.0, None, 1 / 3],
        "extra_logs": [{}, {"format": 1.0}, {"format": 0.0, "tests": 7.0}],
        "rank": [None, 2, 1],
        "weight": [0.0, 0.25, 0.75],
        "kept": [False, False, True],
        "draws": [0, 0, 3],
        "checkpoint": ["step-100", None, "base"],
    }
    with RolloutLog(tmp_path) as log:
        log.write(7, lambda: given)
    table = read(tmp_path)
    assert table.schema.equals(SCHEMA) and table.column_names == ["step", *given]
    found = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns)}
    for name in ("model_rewards", "extra_logs"):
        found[name] = [dict(row) for row in found[name]]
    assert str(found) == str({"step": [7, 7, 7]} | given), "as text, where NaN is NaN"


def test_a_prompts_id_is_the_same_in_every_run():
    assert prompt_id("2+2?") == "e3ca948e7ab0e337" != prompt_id("2+2? ")


def test_steps_are_read_in_their_order_from_a_directory_or_a_file(tmp_path):
    write_steps(tmp_path, [1_000_000, 10, 2, 999_999])
    assert steps_in(tmp_path)[::2] == [2, 10, 999_999, 1_000_000], "also where names sort otherwise"
    assert names_in(tmp_path)[0] == "step-000002.parquet" and steps_in(tmp_path / "step-000002.parquet") == [2, 2]
    columns = read(tmp_path, ["weight", "response"]).to_pydict()
    assert list(columns.items()) == [("weight", [0.75, 0.25] * 4), ("response", ["4", "5"] * 4)], "as asked for"


def test_a_file_notes_the_format_and_what_the_run_adds(tmp_path):
    with RolloutLog(tmp_path, metadata={"filter": "best_random"}) as log:
        log.write(1, rows_of)
    noted = {b"filter": b"best_random", b"openrlhf_pf.rollout_log": b"1"}
    assert pq.read_schema(tmp_path / "step-000001.parquet").metadata == read(tmp_path).schema.metadata == noted
    assert pq.read_metadata(tmp_path / "step-000001.parquet").row_group(0).column(0).compression == "ZSTD"


def test_a_resumed_run_replaces_the_step_that_it_writes_again(tmp_path):
    write_steps(tmp_path, [1, 2], reward=[1.0, 1.0])
    write_steps(tmp_path, [2, 3], reward=[2.0, 2.0])
    table = read(tmp_path)
    assert table["step"].to_pylist() == [1, 1, 2, 2, 3, 3]
    assert table["reward"].to_pylist() == [1.0] * 2 + [2.0] * 4


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = Mock()
    for name in ("fsync", "replace"):
        getattr(calls, name).side_effect = getattr(os, name)
        monkeypatch.setattr(os, name, getattr(calls, name))
    write_steps(tmp_path, [1])
    assert [name for name, _, _ in calls.mock_calls] == ["fsync", "replace"] and steps_in(tmp_path) == [1, 1]


def test_parts_of_a_step_make_one_file_and_are_let_go(tmp_path):
    class Part(dict):
        """What a weak reference can point at."""

        __hash__ = object.__hash__

    alive, most = weakref.WeakSet(), []

    def parts():
        for group in range(4):
            part = Part(rows_of(group=[group] * 2))
            alive.add(part)
            most.append(len(alive))
            yield part
            del part

    with RolloutLog(tmp_path, metadata={"filter": "best_worst"}) as log:
        log.write(7, parts)
    assert names_in(tmp_path) == ["step-000007.parquet"] and log.lost == 0
    table = read(tmp_path)
    assert table["group"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3] and set(steps_in(tmp_path)) == {7}
    assert table.schema.metadata[b"filter"] == b"best_worst"
    assert max(most) <= 2
    file = pq.ParquetFile(tmp_path / "step-000007.parquet")
    assert file.num_row_groups == 4, "each part went to disk by itself"


# ── What training sees when writing fails ──


def break_the_disk(monkeypatch):
    class FullDisk(pq.ParquetWriter):
        def write_table(self, table, *arguments, **options):
            super().write_table(table, *arguments, **options)
            if table["step"][0].as_py() == 1:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "ParquetWriter", FullDisk)
    return rows_of()


@pytest.mark.parametrize(
    "rows, named",
    [
        (break_the_disk, "No space left on device"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: rows_of(rewards=[1.0, 2.0]), "unknown or missing: rewards"),
        (lambda: rows_of(step=[9, 9]), "unknown or missing: step"),
        (lambda: {"prompt": []}, "unknown or missing: draws, group, kept"),
        (lambda: rows_of(weight=[1.0]), "weight"),
        (lambda: rows_of(weight=[1.0, None]), "weight"),
        (lambda: rows_of(draws=[1, 2**31]), "ArrowInvalid"),
    ],
)
def test_what_cannot_be_written_costs_one_step_and_one_warning(tmp_path, caplog, monkeypatch, rows, named):
    with RolloutLog(tmp_path) as log:
        log.write(1, lambda: rows(monkeypatch) if rows is break_the_disk else rows())
        log.flush()
        log.write(2, rows_of)
    (message,) = caplog.messages
    assert "step 1 " in message and str(tmp_path) in message and named in message
    assert log.lost == 1 and names_in(tmp_path) == ["step-000002.parquet"] and steps_in(tmp_path) == [2, 2]


def test_a_lost_directory_is_made_again_or_reported(tmp_path, caplog):
    directory = tmp_path / "log"
    with RolloutLog(directory, buffer=4) as log:
        log.write(1, rows_of)
        wait_for((directory / "step-000001.parquet").exists)
        shutil.rmtree(directory)
        log.write(2, rows_of)
        wait_for((directory / "step-000002.parquet").exists)
        assert steps_in(directory) == [2, 2] and log.lost == 0
        shutil.rmtree(directory)
        directory.write_text("in the way")
        log.write(3, rows_of)
        wait_for(lambda: log.lost)
        directory.unlink()
        log.write(4, rows_of)
    (message,) = caplog.messages
    assert "step 3 " in message and str(directory) in message and "FileExistsError" in message
    assert steps_in(directory) == [4, 4] and log.lost == 1


def test_no_thread_to_be_had_is_reported(tmp_path, monkeypatch, caplog):
    log = RolloutLog(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no new thread")))
        log.write(1, rows_of)
    log.write(2, rows_of)
    log.close()
    assert ["step 1 " in message and "no new thread" in message for message in caplog.messages] == [True]
    assert log.lost == 1 and steps_in(tmp_path) == [2, 2]


# ── What training never waits for ──


def test_a_full_buffer_loses_steps_names_them_and_holds_no_more_than_it_may(tmp_path, gate, caplog):
    class Samples:
        """Stands for the tensors that a step's rows are made of."""

        def rows(self):
            gate.wait(timeout=30)
            return rows_of()

    log = RolloutLog(tmp_path, buffer=2)
    alive = weakref.WeakSet()
    for step in range(5):
        samples = Samples()
        alive.add(samples)
        log.write(step, samples.rows)
    del samples
    assert len(alive) == 2 and log.lost == 3 and names_in(tmp_path) == []
    assert [message.split(" is ")[0] for message in caplog.messages] == ["step 2", "step 3", "step 4"]
    gate.set()
    wait_for(lambda: not alive)  # the thread waits for the next step and has let go of the last one
    log.write(5, rows_of)
    log.close()
    assert steps_in(tmp_path)[::2] == [0, 1, 5] and log.lost == 3


def test_close_waits_for_what_is_held_but_not_forever(tmp_path, gate, caplog):
    for end in (RolloutLog.flush, RolloutLog.close):
        end(RolloutLog(tmp_path))  # nothing was ever written
    log = RolloutLog(tmp_path)
    for step in (4, 5):
        log.write(step, lambda: rows_of() if gate.wait(timeout=30) else {})
    log.flush(timeout=0.01)
    assert names_in(tmp_path) == []
    log.close(timeout=0.01)
    log.write(6, rows_of)
    late, closed = caplog.messages
    assert "steps 4, 5 " in late and str(tmp_path) in late and "0.01 s" in late
    assert "step 6 " in closed and "closed" in closed and log.lost == 1
    threading.Timer(0.05, gate.set).start()
    log.flush()
    assert steps_in(tmp_path)[::2] == [4, 5]
    log.close()
    assert len(caplog.messages) == 2


# ── What a reader makes of damage ──


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "one bit":
        data[data.index(b"2+2?")] ^= 1  # short texts are stored as they are: only a checksum can tell
    path.write_bytes({"half": data[: len(data) // 2], "empty": b"", "text": b"step,reward\n2,0.5\n"}.get(kind, data))


@pytest.mark.parametrize("kind", ["half", "empty", "text", "one bit"])
def test_a_damaged_file_is_skipped_with_a_warning(tmp_path, kind):
    write_steps(tmp_path, [1, 2, 3])
    damage(tmp_path / "step-000002.parquet", kind)
    with pytest.warns(UserWarning) as caught:
        assert read(tmp_path)["step"].to_pylist() == [1, 1, 3, 3]
    assert [str(tmp_path / "step-000002.parquet") in str(warning.message) for warning in caught] == [True]


def test_columns_more_are_dropped_and_columns_fewer_filled_in(tmp_path):
    whole = table_of(1, rows_of(label=["4", "4"]))
    pq.write_table(whole.append_column("advantage", pa.array([0.5, -0.5])), tmp_path / "more.parquet")
    fewer = table_of(2, rows_of()).drop_columns(["label", "model_rewards"])
    pq.write_table(fewer, tmp_path / "fewer.parquet")
    assert steps_in(tmp_path) == [1, 1, 2, 2]
    table = read(tmp_path)
    assert table.schema.equals(SCHEMA) and table["label"].to_pylist() == ["4", "4", None, None]
    assert table["model_rewards"].to_pylist() == [[]] * 4


@pytest.mark.parametrize("column", [None, pa.array(["a", "b"]), pa.array([1.0, None])])
def test_a_file_of_another_kind_is_skipped(tmp_path, column):
    write_steps(tmp_path, [1])
    other = table_of(2, rows_of()).drop_columns(["weight"])
    pq.write_table(other.append_column("weight", column) if column else other, tmp_path / "other.parquet")
    with pytest.warns(UserWarning, match="other.parquet .*weight"):
        assert read(tmp_path)["step"].to_pylist() == [1, 1]


def test_a_killed_process_leaves_whole_steps_without_a_gap(tmp_path):
    killed = subprocess.run([sys.executable, "-c", WRITER, tmp_path], timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert steps_in(tmp_path) == [step for step in range(3) for _ in range(500)]
    assert names_in(tmp_path)[0].startswith(".step-000003.parquet.")


# ── What is refused, and how ──


def test_a_directory_is_made_and_left_empty_or_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_directory("runs/7") == tmp_path / "runs" / "7" and names_in(tmp_path / "runs" / "7") == []
    (tmp_path / "file").write_text("")
    expected = "cannot be written to '.*/file/log' .Not a directory.: it needs a directory .*; give another path"
    for refuse in (check_directory, RolloutLog):
        with pytest.raises(ValueError, match=expected):
            refuse(tmp_path / "file" / "log")
        with pytest.raises(ValueError, match="cannot be written to '/proc/self'"):
            refuse("/proc/self")  # exists, and takes no file even from root


def test_nothing_to_read_is_refused(tmp_path):
    expected = "no rollout log could be read from '.*': give the directory"
    for directory in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match=expected):
            read(directory)
    (tmp_path / "step-000001.parquet").write_text("")
    with pytest.warns(UserWarning, match="step-000001"), pytest.raises(ValueError, match=expected):
        read(tmp_path)
    with pytest.raises(ValueError, match="no column 'rewards': ask for any of step, group, .*reward, "):
        read(tmp_path, ["step", "rewards"])
