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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def parquet(path, found, schema=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(found, schema), path)
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


def refused(capsys, *arguments):
    """The one sentence that a refusal says."""
    assert main([*map(str, arguments), "--bootstrap", "100"]) == 2
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
        ("a.jsonl", as_jsonl(rows())),
        ("a.ndjson", b"\xef\xbb\xbf" + as_jsonl(rows())),
        ("a.json", as_jsonl(rows())),
        ("a.json", json.dumps(rows()).encode()),
        ("a.jsonl", json.dumps(rows(), indent=1).encode()),
        ("a.json", json.dumps({"model": "x", "data": rows()}, indent=2).encode()),
        ("a.json", json.dumps({k: [row[k] for row in rows()] for k in rows()[0]}).encode()),
        ("a.json", json.dumps({k: {str(i): r[k] for i, r in enumerate(rows())} for k in rows()[0]}).encode()),
        ("a.jsonl0", as_jsonl(rows())),
        ("samples", as_jsonl(rows())),
        ("a.csv", as_csv(rows())),
        ("a.csv", as_csv(rows(response='a, "b"\nc'))),
        ("a.csv", as_csv(rows(), ";")),
        ("a.tsv", as_csv(rows(), "\t")),
        ("a.jsonl.gz", gzip.compress(as_jsonl(rows()))),
        ("a.json.gz", gzip.compress(json.dumps(rows()).encode())),
        ("a.csv.gz", gzip.compress(as_csv(rows()))),
        ("a.csv.bz2", bz2.compress(as_csv(rows()))),
    ],
)
def test_text_formats(tmp_path, name, content):
    assert same(read(put(tmp_path / name, content)))


@pytest.mark.parametrize("ending", ["zst", "lz4"])
def test_what_arrow_compresses(tmp_path, ending):
    path = tmp_path / f"a.csv.{ending}"
    with pa.output_stream(str(path), compression="detect") as sink:
        sink.write(as_csv(rows()))
    assert same(read(path))


@pytest.mark.parametrize("name", ["a.arrow", "a.feather", "stream.arrow", "a", "a.parquet.gz"])
def test_arrow_and_parquet_by_content(tmp_path, name):
    table, path = pa.Table.from_pylist(rows()), tmp_path / name
    if name == "stream.arrow":
        stream(table, path)
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


def test_what_the_package_datasets_itself_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(rows())
    one.save_to_disk(tmp_path / "one")
    assert same(read(tmp_path / "one"))
    half = len(one) // 2
    parts = {"train": one.select(range(half)), "test": one.select(range(half, len(one)))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    found = read(tmp_path / "two")
    assert found.known.sum() == G * N and "the files of 2 folders (test, train) are read as one" in found.warnings[0]


def test_nested_folders_and_what_else_lies_in_them(tmp_path):
    half = len(rows()) // 2
    put(tmp_path / "run" / "1" / "a.jsonl", as_jsonl(rows()[:half]))
    put(tmp_path / "run" / "2" / "b.jsonl.gz", gzip.compress(as_jsonl(rows()[half:])))
    put(tmp_path / "run" / "settings.json", b'{"seed": 1}')
    put(tmp_path / "run" / ".hidden" / "c.jsonl", as_jsonl(rows()))
    put(tmp_path / "run" / "table.csv", as_csv(rows()))
    found = read(tmp_path / "run")
    assert same(found)
    assert "table.csv was left out: the folder's .jsonl files are read" in found.warnings[0]


def test_files_of_a_folder_whose_types_differ(tmp_path):
    """Ids as numbers, then as text; scores as yes and no, then as text; two files without scores."""
    first, second = rows(ids=list(range(G))), rows(ids=[str(i) for i in range(G)])
    half = len(first) // 2
    parquet(tmp_path / "in" / "1.parquet", [row | {"score": row["score"] > 0} for row in first[:half]])
    parquet(tmp_path / "in" / "2.parquet", [row | {"score": str(row["score"])} for row in second[half:]])
    for name in ("3", "4"):
        parquet(tmp_path / "in" / f"{name}.parquet", [{"prompt_id": 1, "reward": 0.5}])
    found = read(tmp_path / "in")
    assert same(found)
    lost, ids = found.warnings
    assert lost.startswith("3.parquet and 1 more were left out: it has no column for score")
    assert ids.startswith("prompt_id is a whole number and text in the files, compared as text")


def test_whole_numbers_that_one_file_has_as_floats_are_the_same_prompts(tmp_path):
    """As pandas writes a column of whole numbers in which one is missing."""
    found = rows(ids=list(range(G)))
    odd = [row | {"prompt_id": float(row["prompt_id"])} for row in found[3::4]]
    parquet(tmp_path / "in" / "1.parquet", [row for i, row in enumerate(found) if i % 4 < 3])
    parquet(tmp_path / "in" / "2.parquet", [*odd, {"prompt_id": None, "reward": 0.0, "score": 0.0}])
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
    assert same(read(put(tmp_path / "a.jsonl", as_jsonl(rows(ids=ids)))))
    assert same(read(put(tmp_path / "b.jsonl", as_jsonl(rows(("prompt", "reward", "score"), ids)))))


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
    checkpoint = read(put(tmp_path / "a.jsonl", as_jsonl(found)))
    assert checkpoint.n_prompts == G - 1
    assert "1 and '1' are one prompt" in checkpoint.warnings[0]


@pytest.mark.parametrize("blank", ["", " ", float("nan")])
def test_rows_with_an_empty_id_are_left_out(tmp_path, blank):
    """Arrow reads an empty cell of a CSV's text column as "", and pandas writes missing numbers as NaN."""
    numbers = isinstance(blank, float)
    found = [{**row, "prompt_id": float(row["prompt_id"][1:]) if numbers else row["prompt_id"]} for row in rows()]
    empty = [row | {"prompt_id": blank} for row in found[:3]]
    if numbers:
        file = parquet(tmp_path / "a.parquet", found + empty)
    else:
        file = put(tmp_path / "a.csv", as_csv(found + empty))
    checkpoint = read(file)
    assert same(checkpoint)
    assert f"{file}: 3 of {G * N + 3} rows have no prompt_id and were left out." in checkpoint.warnings
    with pytest.raises(ValueError, match="column prompt_id of .* is empty in all 3 rows"):
        read(parquet(tmp_path / "b.parquet", empty))


@pytest.mark.parametrize("blank", ["", float("nan")])
def test_an_empty_checkpoint_is_none(tmp_path, blank):
    name, said = (2.5, "2.5") if isinstance(blank, float) else ("sft", "sft")
    found = [row | {"checkpoint": name if i < 60 else blank} for i, row in enumerate(rows())]
    file = parquet(tmp_path / "a.parquet", found)
    assert [checkpoint.name for checkpoint in load([file]).checkpoints] == [said, "all samples"]


@pytest.mark.parametrize("name", [["a"], {"step": 1}, [1, 2], 3])
def test_checkpoints_of_every_type(tmp_path, name):
    (checkpoint,) = load([put(tmp_path / "a.jsonl", as_jsonl(rows(checkpoint=name)))]).checkpoints
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
    found = read(put(tmp_path / "a.jsonl", as_jsonl(rows(model_rewards=models))))
    assert same(found)
    assert (None if found.model_rewards is None else found.model_rewards.shape) == shape
    assert any("model_rewards" in note and "left out" in note for note in found.warnings) == (shape is None)


@pytest.mark.parametrize("sizes", [(2, 1, 3), (2, 0, 2), (2, None, 2)])
def test_rewards_of_models_as_lists_of_different_lengths_are_left_out(tmp_path, sizes):
    """Cut differently they would be read as other models' rewards."""
    lists = [None if sizes[i % 3] is None else [1.0, 2.0, 3.0][: sizes[i % 3]] for i in range(G * N)]
    found = read(parquet(tmp_path / "a.parquet", [r | {"model_rewards": v} for r, v in zip(rows(), lists)]))
    assert same(found) and found.model_rewards is None
    shortest, longest = min(size or 0 for size in sizes), max(size or 0 for size in sizes)
    said = f"model_rewards were left out: their lists hold {shortest} to {longest} numbers, and must hold one for each"
    assert [note for note in found.warnings if said in note]


def test_nan_as_text_among_numbers_and_a_whole_number_beyond_64_bits(tmp_path):
    found = rows()
    found[0]["reward"], found[1]["reward"], found[2]["score"] = "nan", 2**70, True
    checkpoint = read(put(tmp_path / "a.jsonl", as_jsonl(found)))
    assert np.isnan(checkpoint.reward[0, 0]) and checkpoint.reward[0, 1] == 2.0**70 and checkpoint.score[0, 2] == 1


def test_whole_rewards_beyond_the_precision_of_a_float_and_half_characters(tmp_path):
    found = rows()
    text = as_jsonl([row | {"reward": 2**53 + 1 + i, "response": "x\ud800"} for i, row in enumerate(found)])
    checkpoint = read(put(tmp_path / "a.jsonl", text))
    assert checkpoint.reward[0, 1] == 2.0**53 + 2 and not any("text" in note for note in checkpoint.warnings)


def test_a_reward_that_is_an_object_names_its_field(tmp_path, capsys):
    file = put(tmp_path / "a.jsonl", as_jsonl([row | {"reward": {"value": row["reward"]}} for row in rows()]))
    said = refused(capsys, file, "--output", tmp_path / "out")
    assert "--columns can name a field, reward=reward.value for instance" in said
    assert same(read(file, columns="reward=reward.value"))


def test_what_is_no_number_is_shown(tmp_path, capsys):
    found = rows()
    found[7]["reward"] = "good"
    file = put(tmp_path / "a.jsonl", as_jsonl(found))
    said = refused(capsys, file, "--output", tmp_path / "out")
    assert f"column reward of {file} holds text that is no number, such as 'good'" in said


def test_a_step_that_is_no_number_is_left_out(tmp_path):
    found = read(put(tmp_path / "a.jsonl", as_jsonl(rows(step="first", length=[1, 2]))))
    assert same(found) and found.step is None and found.length is None
    assert "column step of" in found.warnings[0] and "column length of" in found.warnings[1]


# ── One row a prompt ──


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
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_one_row_a_prompt(tmp_path, found, columns, form):
    file, lines = tmp_path / f"a.{form}", []
    if form == "parquet":
        parquet(file, found)
    else:
        put(file, json.dumps(found).encode() if form == "json" else as_jsonl(found))
    assert same(read(file, columns=columns, lines=lines))
    assert len(lines) <= 1


def test_lists_of_different_lengths_and_a_row_without_any(tmp_path):
    found = lists(step=3)
    found[0] |= {"rewards": [0.5], "correct": [1]}
    found[1] |= {"rewards": None, "correct": []}
    checkpoint = read(put(tmp_path / "a.jsonl", as_jsonl(found)))
    assert checkpoint.known.sum(axis=1).tolist() == [1] + [4] * (G - 2)
    assert set(checkpoint.step) == {3}


def test_numbered_columns_with_gaps(tmp_path):
    found = wide()
    found[0] |= {"score_4": None, "correct_4": None}
    checkpoint = read(
        put(tmp_path / "a.csv", as_csv([{k: "" if v is None else v for k, v in r.items()} for r in found]))
    )
    assert checkpoint.known.sum(axis=1).tolist() == [3] + [4] * (G - 1)
    assert np.isfinite(checkpoint.reward).sum() == G * N - 1


def test_lists_that_a_csv_holds_as_text(tmp_path):
    found = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in lists()]
    assert same(read(put(tmp_path / "a.csv", as_csv(found))))


def test_rows_without_a_name_are_prompts_of_their_own(tmp_path):
    lines = []
    found = [{k: v for k, v in row.items() if k != "prompt"} for row in lists()]
    for part, name in ((found[:10], "a"), (found[10:], "b")):
        put(tmp_path / "in" / f"{name}.jsonl", as_jsonl(part))
    assert same(read(tmp_path / "in", lines=lines))
    assert "each row is a prompt of its own" in lines[0] and len(lines) == 1


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"correct": [1, 0]}, "has 4 values of rewards and 2 of correct"),
        ({"correct": ["yes", "no", "no", "no"]}, "column correct of"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, capsys, changed, sentence):
    file = put(tmp_path / "a.jsonl", as_jsonl(lists(**changed)))
    columns = ["--columns", "reward=rewards,score=correct"]
    assert sentence in refused(capsys, file, "--output", tmp_path / "out", *columns)


def test_one_truth_for_a_list_of_rewards_is_refused(tmp_path, capsys):
    """It is the truth about the response that was chosen, not about each."""
    file = put(tmp_path / "a.jsonl", as_jsonl([row | {"correct": True} for row in lists()]))
    said = refused(capsys, file, "--output", tmp_path / "out", "--columns", "reward=rewards,score=correct")
    assert "column rewards holds several values in each row and column correct one" in said
    said = refused(capsys, file, "--output", tmp_path / "out")
    assert "if 'rewards' is the reward, give --columns reward=rewards,score=NAME" in said


# ── Presets ──


def verl(**more):
    return [row | {"output": "x", "gts": "1", "step": 2} | more for row in rows(("input", "score", "acc"))]


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
    lines, half = [], len(verl()) // 2
    put(tmp_path / "in" / "1.jsonl", as_jsonl([row | {"step": 1} for row in verl()[:half]]))
    put(tmp_path / "in" / "2.jsonl", as_jsonl(verl()[half:]))
    found = read(tmp_path / "in", lines=lines)
    assert same(found) and sorted(set(found.step)) == [1, 2]
    (line,) = lines
    assert "a rollout dump of verl" in line and "prompt_id = input, reward = score, score = acc" in line


def test_the_command_says_what_it_takes_columns_for(tmp_path, capsys):
    file = put(tmp_path / "a.jsonl", as_jsonl(verl()))
    options = ["--bootstrap", "100", "--strategies", "none", "best_of_n"]
    assert main([str(file), "--output", str(tmp_path / "out"), *options]) == 0
    assert f"analyze: {file} is read as a rollout dump of verl" in capsys.readouterr().err
    named = ["--columns", "reward=score,score=acc,prompt_id=input"]
    assert main([str(file), "--output", str(tmp_path / "named"), *options, *named]) == 0
    assert "is read as" not in capsys.readouterr().err
    assert json.loads((tmp_path / "named" / "report.json").read_text())["checkpoints"][0]["n_scored"] == G * N


def test_a_dump_of_verl_without_a_true_score(tmp_path, capsys):
    found = [{k: v for k, v in row.items() if k != "acc"} | {"is_right": True} for row in verl()]
    file = put(tmp_path / "a.jsonl", as_jsonl(found))
    said = refused(capsys, file, "--output", tmp_path / "out")
    assert "no column for score" in said and "a rollout dump of verl, whose score is the reward" in said
    lines = []
    assert same(read(put(tmp_path / "b.jsonl", as_jsonl(verl())), columns="score=acc", lines=lines))


def test_rewards_of_openrlhfs_batch_inference(tmp_path):
    lines, found = [], [row | {"output": "x"} for row in rows(("input", "reward", "score"))]
    assert same(read(put(tmp_path / "rm.jsonl0", as_jsonl(found)), lines=lines))
    assert "OpenRLHF" in lines[0] and "prompt_id = input" in lines[0]


@pytest.mark.parametrize("nested", [False, True])
def test_results_of_reward_bench_2(tmp_path, nested):
    content, reward, score = reward_bench_2(nested)
    lines = []
    found = read(put(tmp_path / "model.json", content), lines=lines)
    assert found.reward == pytest.approx(reward) and (found.score == score).all()
    assert "RewardBench 2" in lines[0] and "the first num_correct" in lines[0]
    assert (read(tmp_path / "model.json", columns="reward=scores").score == score).all()


@pytest.mark.parametrize(
    "found, either",
    [
        (lists(), None),
        ([row | {"scores": row["rewards"]} for row in lists()], ("rewards", "scores")),
        ([row | {"labels": row["correct"]} for row in lists()], ("correct", "labels")),
    ],
)
def test_two_columns_that_could_be_meant_are_not_guessed(tmp_path, capsys, found, either):
    file = put(tmp_path / "a.jsonl", as_jsonl(found))
    if either is None:
        assert same(read(file))
        return
    said = refused(capsys, file, "--output", tmp_path / "out")
    assert all(f"'{name}'" in said for name in either) and "--columns" in said


# ── Names ──


def test_named_columns(tmp_path):
    file = put(tmp_path / "a.jsonl", as_jsonl(rows(("id", "rm_score", "acc"))))
    assert same(read(file, columns="reward=rm_score,score=acc,prompt_id=id"))
    inside = [{"id": r["prompt_id"], "reward": r["reward"], "extra": {"acc": r["score"]}} for r in rows()]
    for path in (put(tmp_path / "b.jsonl", as_jsonl(inside)), parquet(tmp_path / "b.parquet", inside)):
        assert same(read(path, columns="prompt_id=id,score=extra.acc"))


def test_a_named_column_beats_one_of_the_known_name(tmp_path):
    found = [row | {"score": 0.5, "acc": row["score"]} for row in rows()]
    assert same(read(put(tmp_path / "a.jsonl", as_jsonl(found)), columns="score=acc"))


def test_a_column_that_is_named_has_no_second_meaning(tmp_path, capsys):
    file = put(tmp_path / "a.jsonl", as_jsonl([row | {"truth": 1} for row in rows(("prompt_id", "score", "acc"))]))
    said = refused(capsys, file, "--output", tmp_path / "out", "--columns", "reward=score")
    assert "no column for score" in said and "if 'acc' is the score, give --columns score=acc" in said
    file = put(tmp_path / "b.jsonl", as_jsonl(verl()))
    said = refused(capsys, file, "--output", tmp_path / "out", "--columns", "score=score")
    assert "no column for reward" in said


@pytest.mark.parametrize(
    "names, sentences",
    [
        (
            ("id", "rm_score", "acc"),
            [
                "no column for prompt_id, reward and score (120 rows)",
                "it has id, rm_score, acc:",
                "if 'id' is the prompt_id, 'rm_score' the reward and 'acc' the score, give --columns "
                "prompt_id=id,reward=rm_score,score=acc",
            ],
        ),
        (("prompt_id", "rewrad", "score"), ["no column for reward", "--columns reward=rewrad"]),
        (("a", "b", "c"), ["it has a, b, c:", "give --columns prompt_id=NAME,reward=NAME,score=NAME"]),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_messages_list_the_files_own_columns(tmp_path, capsys, names, sentences, form):
    file = tmp_path / f"a.{form}"
    found = rows(names)
    if form == "parquet":
        parquet(file, found)
    else:
        put(file, as_csv(found) if form == "csv" else as_jsonl(found))
    said = refused(capsys, file, "--output", tmp_path / "out")
    for sentence in sentences:
        assert sentence in said


@pytest.mark.parametrize(
    "columns, sentence",
    [
        ("reward", "--columns needs OURS=YOURS, got 'reward'"),
        ("rewards=x", "--columns knows no 'rewards': choose from prompt_id, reward, score"),
        ("reward=a,reward=b", "--columns names reward twice"),
        ("reward=score,score=score", "--columns gives 'score' two meanings"),
        ("reward=rm_scor", "has no column 'rm_scor' (--columns reward=rm_scor), it has prompt_id, reward, score"),
        ("reward=rewar", "did you mean 'reward'?"),
    ],
)
def test_columns_that_cannot_be(tmp_path, capsys, columns, sentence):
    file = put(tmp_path / "a.jsonl", as_jsonl(rows()))
    assert sentence in refused(capsys, file, "--output", tmp_path / "out", "--columns", columns)


def test_columns_do_not_go_with_the_demo(capsys):
    assert "--columns" in refused(capsys, "--demo", "--columns", "reward=a")


def test_two_columns_of_one_name(tmp_path, capsys):
    file = put(tmp_path / "a.csv", as_csv(rows()).replace(b"score", b"reward", 1))
    assert "two columns called reward" in refused(capsys, file, "--output", tmp_path / "out")


# ── What cannot be read, and what is odd ──


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.json", b'{"reward": [1, 2', "cannot be read (line 1 is not a JSON object)"),
        ("a.json", b'[{"reward": 1}, ', "cannot be read (it is no JSON:"),
        ("a.json", b"[1, 2, 3]", "cannot be read (it is a JSON list whose entries are no objects)"),
        ("a.json", b'{"lr": 0.1,\n "seed": 1}', "no column for prompt_id, reward and score"),
        ("a.jsonl.gz", b"no gzip at all", "cannot be read ("),
        ("a.jsonl.gz", gzip.compress(as_jsonl(rows()))[:200], "cannot be read ("),
        ("a.parquet", b"PAR1....", "cannot be read ("),
        ("a.arrow", b"ARROW1..", "cannot be read ("),
        ("a.csv", b"a,b\n1,2,3\n", "cannot be read ("),
        ("a.csv", as_csv(rows()).decode().encode("utf-16"), "cannot be read (it is UTF-16 and must be UTF-8)"),
        ("a.xlsx", b"PK\x03\x04", "cannot be read (its format is not recognised)"),
        ("a.jsonl", b"{" + b'"a":[' * 9000, "cannot be read ("),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, capsys, name, content, sentence):
    file = put(tmp_path / name, content)
    assert sentence in refused(capsys, file, "--output", tmp_path / "out")


def test_a_folder_without_samples_says_what_is_in_it(tmp_path, capsys):
    put(tmp_path / "in" / "weights.bin", b"x")
    said = refused(capsys, tmp_path / "in", "--output", tmp_path / "out")
    assert "it holds weights.bin" in said and ".parquet" in said and ".csv" in said


def test_prompt_ids_that_are_empty(tmp_path, capsys):
    nowhere = put(tmp_path / "a.jsonl", as_jsonl(rows(ids=[None] * G, prompt="x")))
    said = refused(capsys, nowhere, "--output", tmp_path / "out")
    assert "column prompt_id of" in said and "is empty in all 120 rows" in said and "--columns prompt_id=" in said
    some = read(put(tmp_path / "b.jsonl", as_jsonl(rows(ids=[None, *IDS[1:]]))))
    assert some.n_prompts == G - 1 and "4 of 120 rows have no prompt_id and were left out" in some.warnings[0]


@pytest.mark.parametrize("times, word", [(2, "twice"), (3, "3 times")])
def test_every_row_twice(tmp_path, times, word):
    found = read(put(tmp_path / "a.jsonl", as_jsonl(rows() * times)))
    assert any(f"every sample is there {word}" in note for note in found.warnings)


def test_equal_samples_by_chance_are_not_taken_for_copies(tmp_path):
    """Rewards of 0 and 1: 2, 2 of 4 in 40 prompts, and one prompt with 1, 3."""
    found = [{"prompt_id": g, "reward": n % 2, "score": n // 2} for g in range(40) for n in range(4)]
    assert not any("is there" in note for note in read(put(tmp_path / "a.jsonl", as_jsonl(found))).warnings)
    found = [{"prompt_id": g, "reward": 0, "score": 1} for g in range(40) for n in range(4)]
    assert not any("is there" in note for note in read(put(tmp_path / "b.jsonl", as_jsonl(found))).warnings)


def test_one_reward_that_dominates(tmp_path):
    found = rows()
    found[5]["reward"] = 2.0**70
    notes = read(put(tmp_path / "a.jsonl", as_jsonl(found))).warnings
    assert any("1 of 120 rewards, 1.18059e+21, makes up 100% of their spread" in note for note in notes)
    assert not any("spread" in note for note in read(put(tmp_path / "b.jsonl", as_jsonl(rows()))).warnings)


def test_how_many_prompts_carry_the_answer(tmp_path):
    single = [{"prompt_id": f"s{i}", "reward": 0.5 + i / 900, "score": i % 2} for i in range(300)]
    notes = read(put(tmp_path / "a.jsonl", as_jsonl(rows() + single))).warnings
    assert any("prompts have 1 to 4 samples" in n and "Only 30 of 330 have more than one" in n for n in notes)


def test_checkpoints_are_called_by_their_files(tmp_path):
    files = [put(tmp_path / f"{name}.csv.gz", gzip.compress(as_csv(rows()))) for name in ("sft", "run.2")]
    assert [c.name for c in load(files).checkpoints] == ["sft", "run.2"]


def test_groups_of_several_files_are_counted_apart(tmp_path):
    """The same prompts in two files without steps, whose groups count from 0 in each."""
    for name in "ab":
        found = [row | {"group": i // N} for i, row in enumerate(rows())]
        put(tmp_path / "in" / f"{name}.jsonl", as_jsonl(found))
    found = read(tmp_path / "in")
    assert found.reward.shape == (2 * G, N) and found.n_prompts == G


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--threshold", "nan"], "threshold must be a finite score, got nan"),
        (["--seed", "-1"], "seed must not be negative, got -1"),
    ],
)
def test_settings_are_refused_before_files_are_read(tmp_path, capsys, arguments, sentence):
    assert sentence in refused(capsys, tmp_path / "absent", "--output", tmp_path / "out", *arguments)


def test_an_output_that_cannot_be_a_directory_is_refused_before_files_are_read(tmp_path, capsys):
    file = put(tmp_path / "a.txt", b"")
    for output in (file, file / "below"):
        said = refused(capsys, tmp_path / "absent", "--output", output)
        assert f"--output {str(output)!r} cannot be a directory, because {str(file)!r} is a file" in said
