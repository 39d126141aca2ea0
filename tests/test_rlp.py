"""The command preferences: what it writes, that it resumes after a kill, and how it refuses bad input."""

import datetime
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preference_samples import samples
from preference_samples import table_of as table

from openrlhf_pf.cli.preferences import main
from openrlhf_pf.rollout_log import prompt_id, table_of, write_tables

CODE = json.dumps({"entry_point": "f", "inputs": [[1], [3]], "outputs": [1, 9]})


def run(path, *more, cluster="exact", output=None):
    output = output or (path if path.is_dir() else path.parent) / "out" / "spg.jsonl"
    return main([str(path), "--cluster", cluster, "--output", str(output), *map(str, more)]), output


def rows_of(output):
    return [json.loads(line) for line in output.read_text().splitlines()]


def report_of(output):
    return json.loads((output.parent / f"{output.name}.report.json").read_text())


@pytest.fixture
def file(tmp_path):
    """Six prompts, whose largest cluster has six of ten answers and is right in all but one."""
    scores = [float(("answer 0" in response) == (prompt != "prompt 5")) for prompt, response, _ in samples()]
    pq.write_table(table(samples(), score=scores), tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


# ── What comes out ──


def test_pairs_and_their_report(file, capsys):
    status, output = run(file, "--seed", 3)
    assert status == 0
    rows = rows_of(output)
    assert [set(row) for row in rows] == [{"prompt", "chosen", "rejected"}] * 6
    assert {row["prompt"] for row in rows} == {f"prompt {p}" for p in range(6)}
    assert all(row["chosen"] == "answer 0" and row["rejected"] in ("answer 1", "answer 2") for row in rows)
    report = report_of(output)
    assert (report["prompts"], report["used"], report["pairs"], report["skipped"]) == (6, 6, 6, {})
    assert report["accuracy"]["spg"]["accuracy"]["estimate"] == pytest.approx(5 / 6)
    assert report["accuracy"]["spg"]["prompts"] == 6 and report["settings"]["seed"] == 3
    # Rewards rise from answer 0 to answer 2: ranked samples whose scores differ are right for prompt 5 alone.
    assert report["accuracy"]["ranked"]["accuracy"]["estimate"] == pytest.approx(1 / 6, abs=0.01)
    for values in report["accuracy"].values():
        share = values["accuracy"]
        assert share["low"] <= share["estimate"] <= share["high"]
    printed = capsys.readouterr().out
    assert "6 of 6 prompts give 6 pairs (100%)." in printed and "right of decided" in printed and "83.3%" in printed


def test_what_collecting_writes(tmp_path):
    """Two files of a log; a prompt that the data set holds twice is two prompts."""
    for number, start in ((1, 0), (2, 2)):
        rows = [(f"prompt {g // 3}", f"answer {i // 2}", g, i) for g in (start, start + 1) for i in range(3)]
        columns = {
            "group": [g for _, _, g, _ in rows],
            "prompt_id": [prompt_id(prompt) for prompt, *_ in rows],
            "prompt": [prompt for prompt, *_ in rows],
            "response": [response for _, response, *_ in rows],
            "prompt_tokens": [5] * 6,
            "response_tokens": [2, 2, 1] * 2,
            "reward": [float(i) for *_, i in rows],
            "weight": [0.0] * 6,
            "kept": [False] * 6,
            "draws": [0] * 6,
            "checkpoint": ["sft"] * 6,
        }
        write_tables(tmp_path / f"part-{number:06d}.parquet", [table_of(0, columns)])
    (tmp_path / "collect.json").write_text("{}")
    status, output = run(tmp_path)
    assert status == 0
    row = {"chosen": "answer 0", "rejected": "answer 1"}
    assert rows_of(output) == [
        {"prompt": "prompt 0", **row},
        {"prompt": "prompt 1", **row},
    ], "three equal pairs are one"
    report = report_of(output)
    assert (report["prompts"], report["used"], report["accuracy"]) == (4, 4, None)
    assert report["lengths"]["chosen"]["tokens"] == 2 and report["lengths"]["rejected"]["tokens"] == 1
    assert "Winners are 100% longer than losers" in report["warnings"][0]


@pytest.mark.parametrize("grouped", [True, False])
def test_the_order_of_rows_and_files_changes_nothing(tmp_path, grouped):
    rows = samples(20)
    groups = [int(prompt.split()[1]) for prompt, *_ in rows]
    order = list(range(len(rows)))
    written = []
    for turn in range(2):
        folder = tmp_path / str(turn)
        folder.mkdir()
        for part, places in enumerate((order[:90], order[90:])):
            columns = {"group": [groups[i] for i in places]} if grouped else {}
            pq.write_table(table([rows[i] for i in places], **columns), folder / f"{part}.parquet")
        assert run(folder)[0] == 0
        written.append((folder / "out" / "spg.jsonl").read_bytes())
        random.Random(0).shuffle(order)
    assert written[0] == written[1] and len(written[0].splitlines()) == 20


def test_programs_in_the_real_sandbox_and_jsonl(tmp_path):
    answers = ["def f(n):\n    return n * n", "def f(n):\n    return n ** 2", "def f(n):\n    return 1", "nonsense"]
    lines = [{"prompt": "p", "response": a, "reward": i, "label": CODE} for i, a in enumerate(answers)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, output = run(tmp_path / "samples.jsonl", cluster="behaviour")
    assert status == 0
    (row,) = rows_of(output)
    assert row["chosen"] == answers[1] and row["rejected"] in answers[2:]


@pytest.mark.parametrize("names, name", [(("first", "second"), "first"), ((100, 200), "100"), ((0.5, 1.5), "0.5")])
def test_one_of_several_checkpoints(tmp_path, names, name):
    rows = [*samples(2), *samples(3)]
    pq.write_table(table(rows, checkpoint=[names[0]] * 20 + [names[1]] * 30), tmp_path / "a.parquet")
    assert run(tmp_path / "a.parquet", "--checkpoint", name)[0] == 0
    assert report_of(tmp_path / "out" / "spg.jsonl")["samples"] == 20


def test_what_is_there_at_several_steps_counts_once(tmp_path):
    """The same prompts and answers at four steps are no more pairs, and no more prompts to draw intervals from."""
    rows = samples(20)
    scores = [float(("answer 0" in response) == (int(prompt.split()[1]) % 4 > 0)) for prompt, response, _ in rows]
    reports = []
    for steps in (1, 4):
        columns = {"score": scores * steps, "step": [step for step in range(steps) for _ in rows]}
        pq.write_table(table(rows * steps, **columns), tmp_path / "a.parquet")
        status, output = run(tmp_path / "a.parquet")
        reports.append(report_of(output))
        assert status == 0 and len(rows_of(output)) == reports[-1]["pairs"] == 20
    once, often = reports
    assert (once["used"], often["used"], often["texts"]) == (20, 80, 20)
    for name in ("spg", "select_all"):
        assert often["accuracy"][name] == once["accuracy"][name] and once["accuracy"][name]["prompts"] == 20
    ranked = [report["accuracy"]["ranked"]["accuracy"] for report in reports]
    assert [r["high"] - r["low"] for r in ranked] == pytest.approx(
        [ranked[0]["high"] - ranked[0]["low"]] * 2, rel=1e-6
    )
    assert often["sentences"][0] == "80 of 80 prompts, which are 20 different texts, give 20 different pairs (100%)."


@pytest.mark.parametrize(
    "columns",
    [
        {"label": [datetime.date(2020, 1, 1)] * 20},
        {"label": [b"abc"] * 20},
        {"label": [{"a": b"abc"}] * 20},
        {"step": [math.nan] * 20},
        {"group": [math.nan] * 20},
        {"truncated": ["False"] * 20},
        {"truncated": ["false", ""] * 10},
        {"truncated": [math.nan] * 20},
        {"truncated": [0] * 20},
        {"response_tokens": [math.inf] + [1.0] * 19},
        {"score": [math.inf] + [1.0] * 19},
        {"checkpoint": [math.nan] * 10 + [1.0] * 10},
    ],
)
def test_values_of_other_types(tmp_path, columns):
    pq.write_table(table(samples(2)), tmp_path / "a.parquet")
    plain = run(tmp_path / "a.parquet")[1].read_bytes()
    pq.write_table(table(samples(2), **columns), tmp_path / "a.parquet")
    status, output = run(tmp_path / "a.parquet")
    report = report_of(output)
    assert status == 0 and (report["prompts"], report["used"]) == (2, 2)
    if "label" not in columns:
        assert output.read_bytes() == plain


def test_wrong_pairs_are_called_wrong(tmp_path):
    """A policy whose favourite answer is wrong, as after over-optimisation."""
    rows = samples(60, (6, 4))
    scores = [float("answer 1" in response) for _, response, _ in rows]
    pq.write_table(table(rows, score=scores), tmp_path / "a.parquet")
    status, output = run(tmp_path / "a.parquet")
    report = report_of(output)
    assert status == 0 and report["verdict"] == "wrong way round"
    assert any("The pairs are mostly wrong" in line for line in report["warnings"])
    assert any("ranked by the old reward are right more often" in line for line in report["warnings"])


# ── Killed, and started again ──

STOPS = """
import time
from pathlib import Path
calls = []
def same(prompt, responses, label):
    calls.append(prompt)
    if len(calls) == 6 and not Path(__file__).with_name("go on").exists():
        time.sleep(600)
    return [int(text.split()[1]) for text in responses]
"""


def test_a_killed_command_goes_on_and_writes_what_an_unbroken_one_does(tmp_path, capsys):
    """It is killed in the middle of the sixth prompt: five are there."""
    path, output, whole = tmp_path / "a.parquet", tmp_path / "spg.jsonl", tmp_path / "whole.jsonl"
    pq.write_table(table(samples(20)), path)
    (tmp_path / "stops.py").write_text(STOPS)
    cluster = f"{tmp_path / 'stops.py'}:same"
    command = [sys.executable, "-m", "openrlhf_pf.cli.preferences", str(path), "--cluster", cluster]
    process = subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.DEVNULL)
    log = tmp_path / "spg.jsonl.clusters.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.glob("spg*")] == [log.name]
    (tmp_path / "go on").touch()
    assert run(path, cluster=cluster, output=output)[0] == 0
    assert "20 prompts, 5 of them clustered already" in capsys.readouterr().err
    assert run(path, output=whole)[0] == 0
    assert output.read_bytes() == whole.read_bytes() and len(rows_of(whole)) == 20


# ── Bad input ──


def refused(capsys, path, *more, **options):
    """The one sentence; nothing but the log of clusters may be there."""
    status, output = run(path, *more, **options)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "clustered already" not in line]
    assert status == 2 and line.startswith("preferences: ") and line.endswith(".")
    assert [f.name for f in output.parent.glob(f"{output.stem}*") if "clusters" not in f.name] == []
    return line


def made(tmp_path, rows=None, **columns):
    """A file of samples with more columns, or without those that are None."""
    found = table(rows or samples(2), **{name: values for name, values in columns.items() if values is not None})
    found = found.drop_columns([name for name, values in columns.items() if values is None])
    pq.write_table(found, tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


NO_PAIR = [("tie", "a", 1.0), ("tie", "b", 1.0), ("same", "a", 1.0), ("same", "a", 1.0)]
NO_PAIR += [("unusable", "a", None), ("unusable", "a", float("nan")), ("unusable", "b", 1.0)]
CUT = ["True" if "answer 0" in response else " false " for _, response, _ in samples(2)]
EMPTY = {
    "prompt": pa.array([], pa.string()),
    "response": pa.array([], pa.string()),
    "reward": pa.array([], pa.float64()),
}


@pytest.mark.parametrize(
    "rows, columns, more, words",
    [
        (None, {"prompt": None}, (), "there is no column prompt among"),
        (None, {"response": None}, (), "there is no column response among"),
        (None, {"reward": None}, (), "openrlhf-pf collect writes them."),
        (None, {"reward": None, "a": [{"rm": 1.0}] * 20}, (), "no column reward among prompt, response, a, a.rm: a"),
        (None, {"reward": None, "score": [1.0] * 20}, (), "is 'score' your reward? Then rename it to reward."),
        ([*samples(2), ("alone", "a", 1.0)], {}, (), "1 of 3 prompts have fewer than 2 samples, the first is 'alone'"),
        (None, {}, ("--threshold", 1.5), "--threshold must be from 0 to 1"),
        (None, {}, ("--threshold", "nan"), "--threshold must be from 0 to 1"),
        (None, {}, ("--pairs_per_prompt", 0), "--pairs_per_prompt must be 1 or more, got 0"),
        (None, {}, ("--checkpoint", "b"), "there are no samples of the checkpoint 'b': there are none named"),
        (None, {}, ("--threshold", 0.7), "none of 2 prompts gives a pair (low_confidence 2): no pairs were written"),
        (NO_PAIR, {}, (), "none of 3 prompts gives a pair (tie 1, one_cluster 1, unusable_reward 1)"),
        (None, {"truncated": CUT}, (), "(truncated 2)"),
        (None, {"checkpoint": ["a"] * 10 + ["b"] * 10}, (), "samples of several checkpoints, a (10), b (10)"),
        ([("p", "a", "high")] * 2, {}, (), "reward holds 'high': it must hold numbers"),
        (None, {"truncated": ["perhaps"] * 20}, (), "truncated holds 'perhaps': it must hold true or false"),
        ([("p", None, 1.0)] * 2, {}, (), "2 of 2 samples have no prompt or no response"),
    ],
)
def test_samples_and_flags_that_cannot_be_used(tmp_path, capsys, rows, columns, more, words):
    assert words in refused(capsys, made(tmp_path, rows, **columns), *more)


def test_files_that_are_none(tmp_path, capsys):
    assert "there is no file or directory" in refused(capsys, tmp_path / "absent.parquet")
    pq.write_table(pa.table(EMPTY), tmp_path / "a.parquet")
    assert "there are no samples" in refused(capsys, tmp_path / "a.parquet")


def test_an_output_that_cannot_be(tmp_path, capsys):
    path = made(tmp_path)
    assert "must be the name of a file that ends in .jsonl" in refused(capsys, path, output=tmp_path / "out.json")
    assert "without a comma or @" in refused(capsys, path, output=tmp_path / "a,b.jsonl")
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(capsys, path, output=tmp_path / "file" / "spg.jsonl")
