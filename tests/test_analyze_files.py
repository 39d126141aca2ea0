"""Files that people have: every format, shape and name is read as the same samples, or refused in one sentence."""

import bz2
import csv
import datetime
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from openrlhf_pf.cli.analyze import main
from openrlhf_pf.reliability import load
from openrlhf_pf.reliability.read.columns import parse_columns

G, N = 30, 4
RNG = np.random.default_rng(0)
REWARD = RNG.normal(size=(G, N)).round(3)
SCORE = (REWARD + RNG.normal(size=(G, N)) > 0).astype(float)
IDS = [f"p{i}" for i in range(G)]


def rows(names=("prompt_id", "reward", "score"), ids=IDS, **more):
    """One row a sample, under these names."""
    return [
        dict(zip(names, (ids[g], float(REWARD[g, n]), float(SCORE[g, n])))) | {k: v for k, v in more.items()}
        for g in range(G)
        for n in range(N)
    ]


def lists(reward="rewards", score="correct", prompt="prompt", **more):
    """One row a prompt, with lists."""
    return [
        {prompt: IDS[g], "responses": ["x"] * N, reward: REWARD[g].tolist(), score: SCORE[g].tolist()} | more
        for g in range(G)
    ]


def wide(reward="score", score="correct", first=1):
    """One row a prompt, with numbered columns."""
    return [
        {"prompt": IDS[g]}
        | {f"response_{n + first}": "x" for n in range(N)}
        | {f"{reward}_{n + first}": REWARD[g, n].item() for n in range(N)}
        | {f"{score}_{n + first}": SCORE[g, n].item() for n in range(N)}
        for g in range(G)
    ]


def as_jsonl(found):
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def as_csv(found, delimiter=","):
    lines = [found[0].keys(), *(row.values() for row in found)]

    class Text(list):
        write = list.append

    csv.writer(text := Text(), delimiter=delimiter).writerows(lines)
    return "".join(text).encode()


def put(path, content):
    """Write bytes, or rows in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet" and not isinstance(content, bytes):
        pq.write_table(pa.Table.from_pylist(content), path)
        return path
    if not isinstance(content, bytes):
        writers = {".csv": as_csv, ".json": lambda found: json.dumps(found).encode()}
        content = writers.get(path.suffix, as_jsonl)(content)
    path.write_bytes(content)
    return path


def read(*paths, columns="", lines=None):
    """The only checkpoint of the paths."""
    rollouts = load(paths, parse_columns(columns) if columns else None, (lines if lines is not None else []).append)
    (checkpoint,) = rollouts.checkpoints
    checkpoint.warnings = rollouts.warnings
    return checkpoint


def same(checkpoint):
    """Whether they are the samples above, in order."""
    assert checkpoint.reward == pytest.approx(REWARD)
    assert (checkpoint.score == SCORE).all()
    assert checkpoint.n_prompts == G
    return True


def refused(tmp_path, capsys, path, *arguments):
    """The one sentence that a refusal says."""
    assert main([str(path), "--output", str(tmp_path / "out"), *map(str, arguments), "--bootstrap", "100"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("analyze: reading")]
    assert len(said) == 1 and said[0].startswith("analyze: "), said
    return said[0].removeprefix("analyze: ")


# ── Formats ──


def stream(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", rows()),
        ("a.parquet", rows()),
        ("a.ndjson", b"\xef\xbb\xbf" + as_jsonl(rows())),
        ("a.json", as_jsonl(rows())),
        ("a.json", rows()),
        ("a.jsonl", json.dumps(rows(), indent=1).encode()),
        ("a.json", json.dumps({"model": "x", "data": rows()}, indent=2).encode()),
        ("a.json", json.dumps({k: [row[k] for row in rows()] for k in rows()[0]}).encode()),
        ("a.json", json.dumps({k: {str(i): r[k] for i, r in enumerate(rows())} for k in rows()[0]}).encode()),
        ("a.jsonl0", rows()),
        ("samples", rows()),
        ("a.csv", rows()),
        ("a.csv", as_csv(rows(response='a, "b"\nc'))),
        ("a.csv", as_csv(rows()).replace(b"reward,", b" reward ,", 1)),
        ("a.csv", as_csv(rows(), ";")),
        ("a.csv", [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in lists()]),
        ("a.csv", as_csv(rows(), "|")),
        ("a.tsv", as_csv(rows(), "\t")),
        ("a.jsonl.gz", gzip.compress(as_jsonl(rows()))),
        ("a.json.gz", gzip.compress(json.dumps(rows()).encode())),
        ("a.csv.gz", gzip.compress(as_csv(rows()))),
        ("a.csv.bz2", bz2.compress(as_csv(rows()))),
    ],
)
def test_text_formats(tmp_path, name, content):
    assert same(read(put(tmp_path / name, content)))


@pytest.mark.parametrize(
    "name", ["a.arrow", "a.feather", "stream.arrow", "a", "a.parquet.gz", "a.csv.zst", "a.csv.lz4"]
)
def test_arrow_and_parquet_by_content_and_what_arrow_compresses(tmp_path, name):
    table, path = pa.Table.from_pylist(rows()), tmp_path / name
    if name == "stream.arrow":
        stream(table, path)
    elif name.startswith("a.csv"):
        with pa.output_stream(str(path), compression="detect") as sink:
            sink.write(as_csv(rows()))
    elif name == "a":
        pq.write_table(table, path)
    elif name == "a.parquet.gz":
        pq.write_table(table, tmp_path / "a.parquet")
        path.write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    else:
        feather.write_feather(table, path)
    assert same(read(path))


def saved(folder, found):
    """What ``datasets`` writes with save_to_disk, and a file of its cache next to it."""
    folder.mkdir(parents=True)
    half = len(found) // 2
    for i, part in enumerate((found[:half], found[half:])):
        stream(pa.Table.from_pylist(part), folder / f"data-0000{i}-of-00002.arrow")
    stream(pa.Table.from_pylist(found), folder / "cache-0123456789abcdef.arrow")
    files = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"reward": {"dtype": "float64"}}}))
    return folder


def test_a_saved_dataset_without_its_cache(tmp_path):
    assert same(read(saved(tmp_path / "set", rows())))


def test_nested_folders_and_what_else_lies_in_them(tmp_path):
    half = len(rows()) // 2
    put(tmp_path / "run" / "1" / "a.jsonl", rows()[:half])
    put(tmp_path / "run" / "2" / "b.jsonl.gz", gzip.compress(as_jsonl(rows()[half:])))
    put(tmp_path / "run" / "settings.json", b'{"seed": 1}')
    put(tmp_path / "run" / ".hidden" / "c.jsonl", rows())
    put(tmp_path / "run" / "table.csv", as_csv(rows()))
    found = read(tmp_path / "run")
    assert same(found)
    assert "table.csv was left out: the folder's .jsonl files are read" in found.warnings[0]


def test_files_of_a_folder_whose_types_differ(tmp_path):
    """Ids as numbers, then as text; scores as yes and no, then as text; two files without scores."""
    first, second = rows(ids=list(range(G))), rows(ids=[str(i) for i in range(G)])
    half = len(first) // 2
    put(tmp_path / "in" / "1.parquet", [row | {"score": row["score"] > 0} for row in first[:half]])
    put(tmp_path / "in" / "2.parquet", [row | {"score": str(row["score"])} for row in second[half:]])
    for name in ("3", "4"):
        put(tmp_path / "in" / f"{name}.parquet", [{"prompt_id": 1, "reward": 0.5}])
    found = read(tmp_path / "in")
    assert same(found)
    lost, ids = found.warnings
    assert lost.startswith("3.parquet and 1 more were left out: it has no column for score")
    assert ids.startswith("prompt_id is a whole number and text in the files, compared as text")


def test_whole_numbers_that_one_file_has_as_floats_are_the_same_prompts(tmp_path):
    """As pandas writes a column of whole numbers in which one is missing."""
    found = rows(ids=list(range(G)))
    odd = [row | {"prompt_id": float(row["prompt_id"])} for row in found[3::4]]
    put(tmp_path / "in" / "1.parquet", [row for i, row in enumerate(found) if i % 4 < 3])
    put(tmp_path / "in" / "2.parquet", [*odd, {"prompt_id": None, "reward": 0.0, "score": 0.0}])
    again = read(tmp_path / "in")
    assert len(again.reward) == G and "1 of" in again.warnings[-1]


# ── Ids and cells of every type ──


@pytest.mark.parametrize(
    "ids",
    [
        list(range(G)),
        [i + 0.5 for i in range(G)],
        [[i // 6, i % 6] for i in range(G)],
        [{"set": "a", "row": i} for i in range(G)],
        [[{"role": "system", "content": "s"}, {"role": "user", "content": f"q{i}"}] for i in range(G)],
        [f"2024-01-{i + 1:02d}" for i in range(G)],
        [i if i % 2 else f"p{i}" for i in range(G)],
        [[i, "a"] if i % 2 else i for i in range(G)],
    ],
    ids=["int", "float", "list", "dict", "messages", "date", "mixed", "mixed-lists"],
)
def test_ids_of_every_type(tmp_path, ids):
    assert same(read(put(tmp_path / "a.jsonl", rows(ids=ids))))
    assert same(read(put(tmp_path / "b.jsonl", rows(("prompt", "reward", "score"), ids))))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([datetime.date(2024, 1, i % 28 + 1) for i in range(G)]),
        pa.array([f"é{i}".encode() for i in range(G)]),
        pa.array(IDS).dictionary_encode(),
        pa.array(range(G)).cast(pa.decimal128(20)),
    ],
    ids=["date", "binary", "category", "decimal"],
)
def test_ids_of_arrows_types(tmp_path, values):
    long = values.take(pa.array(np.repeat(np.arange(G), N)))
    pq.write_table(
        pa.table({"prompt_id": long, "reward": REWARD.ravel(), "score": SCORE.ravel()}), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet").n_prompts == len(set(values.to_pylist()))


def test_ids_as_numbers_and_text_are_said_to_be_one(tmp_path):
    found = rows(ids=[0, "0", *range(1, G - 1)])
    checkpoint = read(put(tmp_path / "a.jsonl", found))
    assert checkpoint.n_prompts == G - 1
    assert "1 and '1' are one prompt" in checkpoint.warnings[0]


@pytest.mark.parametrize("blank", ["", " ", float("nan")])
def test_rows_with_an_empty_id_are_left_out(tmp_path, blank):
    """Arrow reads an empty cell of a CSV's text column as "", and pandas writes missing numbers as NaN."""
    numbers = isinstance(blank, float)
    found = [{**row, "prompt_id": float(row["prompt_id"][1:]) if numbers else row["prompt_id"]} for row in rows()]
    empty = [row | {"prompt_id": blank} for row in found[:3]]
    file = put(tmp_path / ("a.parquet" if numbers else "a.csv"), found + empty)
    checkpoint = read(file)
    assert same(checkpoint)
    assert f"{file}: 3 of {G * N + 3} rows have no prompt_id and were left out." in checkpoint.warnings
    with pytest.raises(ValueError, match="column prompt_id of .* is empty in all 3 rows"):
        read(put(tmp_path / "b.parquet", empty))


@pytest.mark.parametrize("blank", ["", float("nan")])
def test_an_empty_checkpoint_is_none(tmp_path, blank):
    name, said = (2.5, "2.5") if isinstance(blank, float) else ("sft", "sft")
    found = [row | {"checkpoint": name if i < 60 else blank} for i, row in enumerate(rows())]
    file = put(tmp_path / "a.parquet", found)
    assert [checkpoint.name for checkpoint in load([file]).checkpoints] == [said, "all samples"]


@pytest.mark.parametrize("name", [["a"], {"step": 1}, [1, 2], 3])
def test_checkpoints_of_every_type(tmp_path, name):
    (checkpoint,) = load([put(tmp_path / "a.jsonl", rows(checkpoint=name))]).checkpoints
    assert same(checkpoint) and checkpoint.name == json.dumps(name)


@pytest.mark.parametrize(
    "models, shape",
    [
        ({"a": 1.0, "b": 2}, (2, G, N)),
        ([1.0, 2.0, 3.0], (3, G, N)),
        ({"a": {"score": 1.0}, "b": {"score": 2.0}}, None),
        ({"a": "good", "b": "bad"}, None),
        ([[1.0], [2.0]], None),
        ("a", None),
    ],
)
def test_rewards_of_several_models(tmp_path, models, shape):
    found = read(put(tmp_path / "a.jsonl", rows(model_rewards=models)))
    assert same(found)
    assert (None if found.model_rewards is None else found.model_rewards.shape) == shape
    assert any("model_rewards" in note and "left out" in note for note in found.warnings) == (shape is None)


@pytest.mark.parametrize("sizes", [(2, 1, 3), (2, 0, 2), (2, None, 2)])
def test_rewards_of_models_as_lists_of_different_lengths_are_left_out(tmp_path, sizes):
    """Cut differently they would be read as other models' rewards."""
    lists = [None if sizes[i % 3] is None else [1.0, 2.0, 3.0][: sizes[i % 3]] for i in range(G * N)]
    found = read(put(tmp_path / "a.parquet", [r | {"model_rewards": v} for r, v in zip(rows(), lists)]))
    assert same(found) and found.model_rewards is None
    shortest, longest = min(size or 0 for size in sizes), max(size or 0 for size in sizes)
    said = f"model_rewards were left out: their lists hold {shortest} to {longest} numbers, and must hold one for each"
    assert [note for note in found.warnings if said in note]


def test_nan_as_text_a_whole_number_beyond_64_bits_and_one_too_large_to_square(tmp_path):
    found = rows()
    found[0]["reward"], found[1]["reward"], found[2]["score"], found[3]["reward"] = "nan", 2**70, True, 1e90
    checkpoint = read(put(tmp_path / "a.jsonl", found))
    assert np.isnan(checkpoint.reward[0, [0, 3]]).all() and checkpoint.reward[0, 1] == 2.0**70
    assert checkpoint.score[0, 2] == 1


def test_whole_rewards_beyond_the_precision_of_a_float_and_half_characters(tmp_path):
    found = rows()
    text = as_jsonl([row | {"reward": 2**53 + 1 + i, "response": "x\ud800"} for i, row in enumerate(found)])
    checkpoint = read(put(tmp_path / "a.jsonl", text))
    assert checkpoint.reward[0, 1] == 2.0**53 + 2 and not any("text" in note for note in checkpoint.warnings)


def test_a_step_that_is_no_number_is_left_out(tmp_path):
    found = read(put(tmp_path / "a.jsonl", rows(step="first", length=[1, 2])))
    assert same(found) and len(found.reward) == G and found.length is None
    assert "column step of" in found.warnings[0] and "column length of" in found.warnings[1]


# ── What is read ──


VERL = [row | {"output": "x", "gts": "1", "step": 2} for row in rows(("input", "score", "acc"))]
VALIDATION = [row | {"reward": row["score"], "acc": row["acc"] > 0} for row in VERL]
BATCHES = [{name: [row[name] for row in rows()[i : i + 24]] for name in rows()[0]} for i in range(0, G * N, 24)]
INSIDE = [{"id": r["prompt_id"], "reward": r["reward"], "extra": {"acc": r["score"]}} for r in rows()]
OBJECTS = [row | {"reward": {"value": row["reward"]}} for row in rows()]


@pytest.mark.parametrize(
    "found, columns",
    [
        (lists(), ""),
        (lists("rewards", "label"), ""),
        (lists("scores", "is_correct"), ""),
        (lists("rewards", "scores"), ""),
        (lists("reward", "score"), ""),
        (lists("rm", "judge", "question"), "reward=rm,score=judge,prompt_id=question"),
        (wide(), ""),
        (wide(first=0), ""),
        (wide("reward", "score"), ""),
        (wide("rm", "gold"), "reward=rm_*,score=gold_*"),
        (rows(("id", "rm_score", "acc")), "reward=rm_score,score=acc,prompt_id=id"),
        (INSIDE, "prompt_id=id,score=extra.acc"),
        ([row | {"score": 0.5, "acc": row["score"]} for row in rows()], "score=acc"),
        (OBJECTS, "reward=reward.value"),
        (VERL, "score=acc"),
        (VALIDATION, ""),
        (BATCHES, ""),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_what_is_read_as_the_same_samples(tmp_path, found, columns, form):
    lines = []
    assert same(read(put(tmp_path / f"a.{form}", found), columns=columns, lines=lines))
    assert len(lines) <= 1


def test_lists_of_different_lengths_and_a_row_without_any(tmp_path):
    found = lists(step=3)
    found[0] |= {"rewards": [0.5], "correct": [1]}
    found[1] |= {"rewards": None, "correct": []}
    checkpoint = read(put(tmp_path / "a.jsonl", found))
    assert checkpoint.known.sum(axis=1).tolist() == [1] + [4] * (G - 2)


def test_numbered_columns_with_gaps(tmp_path):
    found = wide()
    found[0] |= {"score_4": None, "correct_4": None}
    checkpoint = read(
        put(tmp_path / "a.csv", as_csv([{k: "" if v is None else v for k, v in r.items()} for r in found]))
    )
    assert checkpoint.known.sum(axis=1).tolist() == [3] + [4] * (G - 1)
    assert np.isfinite(checkpoint.reward).sum() == G * N - 1


def test_rows_without_a_name_are_prompts_of_their_own(tmp_path):
    lines = []
    found = [{k: v for k, v in row.items() if k != "prompt"} for row in lists()]
    for part, name in ((found[:10], "a"), (found[10:], "b")):
        put(tmp_path / "in" / f"{name}.jsonl", part)
    assert same(read(tmp_path / "in", lines=lines))
    assert "each row is a prompt of its own" in lines[0] and len(lines) == 1


def reward_bench_2(nested):
    """A file of the results: an object of columns; the right responses come first."""
    order = np.argsort(-SCORE, axis=1, kind="stable")
    rewards = np.take_along_axis(REWARD, order, 1).tolist()
    found = {
        "id": IDS,
        "scores": [[[r] for r in row] for row in rewards] if nested else rewards,
        "num_correct": SCORE.sum(axis=1).astype(int).tolist(),
        "results": [1] * G,
        "subset": ["Math"] * G,
        "text": [["x"] * N] * G,
        "model": "some/model",
        "model_type": "Seq. Classifier",
    }
    return json.dumps(found, indent=4, sort_keys=True).encode(), np.array(rewards), -np.sort(-SCORE, axis=1)


def test_a_dump_of_verl(tmp_path):
    lines, half = [], len(VERL) // 2
    put(tmp_path / "in" / "1.jsonl", [row | {"step": 1} for row in VERL[:half]])
    put(tmp_path / "in" / "2.jsonl", VERL[half:])
    found = read(tmp_path / "in", lines=lines)
    assert same(found)
    (line,) = lines
    assert "a rollout dump of verl" in line and "prompt_id = input, reward = score, score = acc" in line


def test_rewards_of_openrlhfs_batch_inference(tmp_path):
    lines, found = [], [row | {"output": "x"} for row in rows(("input", "reward", "score"))]
    assert same(read(put(tmp_path / "rm.jsonl0", found), lines=lines))
    assert "OpenRLHF" in lines[0] and "prompt_id = input" in lines[0]


@pytest.mark.parametrize("nested", [False, True])
def test_results_of_reward_bench_2(tmp_path, nested):
    content, reward, score = reward_bench_2(nested)
    lines = []
    found = read(put(tmp_path / "model.json", content), lines=lines)
    assert found.reward == pytest.approx(reward) and (found.score == score).all()
    assert "RewardBench 2" in lines[0] and "the first num_correct" in lines[0]
    assert (read(tmp_path / "model.json", columns="reward=scores").score == score).all()


# ── What is refused ──


SLIME = [{"prompt": r["prompt_id"], "reward": {"score": r["reward"], "acc": r["score"] > 0}} for r in rows()]
NO_SCORE = [{k: v for k, v in row.items() if k != "acc"} | {"is_right": True} for row in VERL]
ODD = [row | {"reward": "good"} if i == 7 else row for i, row in enumerate(rows())]
GIVEN = "reward=rewards,score=correct"
OWN_PROMPTS = [{"id": i, "rewards": [row["reward"]], "accuracy": [row["score"]]} for i, row in enumerate(rows())]


@pytest.mark.parametrize(
    "found, columns, sentences",
    [
        (
            rows(("id", "rm_score", "acc")),
            "",
            [
                "no column for prompt_id, reward and score (120 rows)",
                "it has id, rm_score, acc:",
                "if 'id' is the prompt_id, 'rm_score' the reward and 'acc' the score, give --columns "
                "prompt_id=id,reward=rm_score,score=acc",
            ],
        ),
        (rows(("prompt_id", "rewrad", "score")), "", ["no column for reward", "--columns reward=rewrad"]),
        (rows(("a", "b", "c")), "", ["it has a, b, c:", "give --columns prompt_id=NAME,reward=NAME,score=NAME"]),
        (rows(), "reward", ["--columns needs OURS=YOURS, got 'reward'"]),
        (rows(), "rewards=x", ["--columns knows no 'rewards': choose from prompt_id, reward, score"]),
        (rows(), "reward=a,reward=b", ["--columns names reward twice"]),
        (rows(), "reward=score,score=score", ["--columns gives 'score' two meanings"]),
        (rows(), "reward=rm_scor", ["no column 'rm_scor' (--columns reward=rm_scor), it has prompt_id, reward, sc"]),
        (rows(), "reward=rewar", ["did you mean 'reward'?"]),
        (rows(("prompt_id", "score", "acc")), "reward=score", ["if 'acc' is the score, give --columns score=acc"]),
        (VERL, "score=score", ["no column for reward"]),
        (NO_SCORE, "", ["no column for score", "a rollout dump of verl, whose score is the reward"]),
        (lists(correct=[1, 0]), GIVEN, ["has 4 values of rewards and 2 of correct"]),
        (lists(correct=["yes", "no", "no", "no"]), GIVEN, ["column correct of"]),
        (lists(correct=True), GIVEN, ["column rewards holds several values in each row and column correct one"]),
        (lists(correct=True), "", ["if 'rewards' is the reward, give --columns reward=rewards,score=NAME"]),
        ([row | {"scores": row["rewards"]} for row in lists()], "", ["'rewards'", "'scores'", "--columns"]),
        ([row | {"labels": row["correct"]} for row in lists()], "", ["'correct'", "'labels'", "--columns"]),
        (OBJECTS, "", ["if 'reward.value' is the reward, give --columns reward=reward.value"]),
        (OBJECTS, "reward=reward", ["--columns can name a field, reward=reward.value for instance"]),
        (SLIME, "", ["no column for reward and score", "--columns reward=reward.score,score=reward.acc;"]),
        (INSIDE, "prompt_id=id,score=extra.ac", ["extra, extra.acc: did you mean 'extra.acc'"]),
        (rows(("prompt", "reward_model", "accuracy_reward")), "", ["reward=reward_model,score=accuracy_reward"]),
        (rows(("input_prompt", "reward", "metrics_correct")), "", ["prompt_id=input_prompt,score=metrics_correct"]),
        (ODD, "", ["holds text that is no number, such as 'good'"]),
        (rows(ids=[None] * G), "", ["prompt_id of", "is empty in all 120 rows", "--columns prompt_id="]),
        (rows(ids=["You help."] * G), "", ["all 120 rows of", "belong to one prompt ('You help.')"]),
        (
            [row | {"prompt_id": i, "prompt": row["prompt_id"]} for i, row in enumerate(rows())],
            "",
            ["prompt has 30 different values; if it identifies the prompt, give --columns prompt_id=prompt."],
        ),
        (OWN_PROMPTS, "", ["no prompt_id and one response in each of 120 rows", "it has id, rewards, accuracy;"]),
        (
            [row | {"content": [f"p{i // N}"]} for i, row in enumerate(OWN_PROMPTS)],
            "",
            ["content has 30 different values; if it identifies the prompt, give --columns prompt_id=content."],
        ),
        (lists("score", "x", "problem"), "", ["is 'score' your reward? Then give --columns reward=score"]),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, capsys, found, columns, sentences):
    options = ["--columns", columns] if columns else []
    said = refused(tmp_path, capsys, put(tmp_path / "a.jsonl", found), *options)
    assert [sentence for sentence in sentences if sentence not in said] == [], said


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.json", b'{"reward": [1, 2', "cannot be read (line 1 is not a JSON object)"),
        ("a.json", b'[{"reward": 1}, ', "cannot be read (it is no JSON:"),
        ("a.jsonl", b"", "cannot be read (it is empty): give a Parquet, Arrow, JSON, JSONL or CSV file."),
        ("a.jsonl", b'{"a": 1}\nnothing\n{"a": 2}\n', "cannot be read (line 2 is not a JSON object)"),
        ("a.json", b"[1, 2, 3]", "cannot be read (it is a JSON list whose entries are no objects)"),
        ("a.json", b'{"lr": 0.1,\n "seed": 1}', "no column for prompt_id, reward and score"),
        ("a.jsonl.gz", b"no gzip at all", "cannot be read ("),
        ("a.jsonl.gz", gzip.compress(as_jsonl(rows()))[:200], "cannot be read ("),
        ("a.parquet", b"PAR1....", "cannot be read ("),
        ("a.arrow", b"ARROW1..", "cannot be read ("),
        ("a.csv", b"a,b\n1,2,3\n", "cannot be read ("),
        ("a.csv", as_csv(rows()).decode().encode("utf-16"), "cannot be read (it is UTF-16 and must be UTF-8)"),
        ("a.csv", as_csv(rows()).replace(b"score", b"reward", 1), "two columns called reward"),
        ("a.xlsx", b"PK\x03\x04", "cannot be read (its format is not recognised)"),
        ("a.jsonl", b"{" + b'"a":[' * 9000, "cannot be read ("),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, capsys, name, content, sentence):
    file = put(tmp_path / name, content)
    assert sentence in refused(tmp_path, capsys, file)


def test_a_path_that_is_none_and_a_folder_without_samples(tmp_path, capsys):
    assert "there is no file or directory" in refused(tmp_path, capsys, tmp_path / "absent")
    put(tmp_path / "in" / "weights.bin", b"x")
    said = refused(tmp_path, capsys, tmp_path / "in")
    assert "it holds weights.bin" in said and ".parquet" in said and ".csv" in said
    (tmp_path / "empty").mkdir()
    assert "csv, .tsv or .json file, it holds nothing" in refused(tmp_path, capsys, tmp_path / "empty")
    for name in "ab":
        put(tmp_path / "in" / f"{name}.parquet", b"PAR1")
    assert "can be read: all 2 are damaged or unfinished" in refused(tmp_path, capsys, tmp_path / "in")


# ── What is odd ──


@pytest.mark.parametrize("times, word", [(2, "twice"), (3, "3 times")])
def test_every_row_twice(tmp_path, times, word):
    found = read(put(tmp_path / "a.jsonl", rows() * times))
    assert any(f"every sample is there {word}" in note for note in found.warnings)


def test_equal_samples_by_chance_are_not_taken_for_copies(tmp_path):
    """Rewards of 0 and 1: 2, 2 of 4 in 40 prompts, and one prompt with 1, 3."""
    found = [{"prompt_id": g, "reward": n % 2, "score": n // 2} for g in range(40) for n in range(4)]
    assert not any("is there" in note for note in read(put(tmp_path / "a.jsonl", found)).warnings)
    found = [{"prompt_id": g, "reward": 0, "score": 1} for g in range(40) for n in range(4)]
    assert not any("is there" in note for note in read(put(tmp_path / "b.jsonl", found)).warnings)


def test_one_reward_that_dominates(tmp_path):
    found = rows()
    found[5]["reward"] = 2.0**70
    notes = read(put(tmp_path / "a.jsonl", found)).warnings
    assert any("1 of 120 rewards, 1.18059e+21, makes up 100% of their spread" in note for note in notes)
    assert not any("spread" in note for note in read(put(tmp_path / "b.jsonl", rows())).warnings)


def test_how_many_prompts_carry_the_answer(tmp_path):
    single = [{"prompt_id": f"s{i}", "reward": 0.5 + i / 900, "score": i % 2} for i in range(300)]
    notes = read(put(tmp_path / "a.jsonl", rows() + single)).warnings
    assert any("prompts have 1 to 4 samples" in n and "Only 30 of 330 have more than one" in n for n in notes)


def test_checkpoints_are_called_by_their_files(tmp_path):
    files = [put(tmp_path / f"{name}.csv.gz", gzip.compress(as_csv(rows()))) for name in ("sft", "run.2")]
    assert [c.name for c in load(files).checkpoints] == ["sft", "run.2"]


def test_groups_of_several_files_are_counted_apart(tmp_path):
    """The same prompts in two files without steps, whose groups count from 0 in each."""
    for name in "ab":
        found = [row | {"group": i // N} for i, row in enumerate(rows())]
        put(tmp_path / "in" / f"{name}.jsonl", found)
    found = read(tmp_path / "in")
    assert found.reward.shape == (2 * G, N) and found.n_prompts == G
