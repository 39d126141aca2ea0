"""Collecting: its checks, and which files remain to be made; nothing here starts Ray."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("openrlhf")

from rollouts import make_maker, namespace, rollout_of

from openrlhf_pf import rollout_log
from openrlhf_pf.rollout_log import table_of, write_tables
from openrlhf_pf.training import collect
from openrlhf_pf.training.collect import chunks
from openrlhf_pf.training.flags.collect import check_arguments
from openrlhf_pf.training.true_score import TrueScore


def arguments(output, **flat):
    score = Path(__file__).parents[1] / "end_to_end" / "true_score.py"
    values = {"output": str(output), "score": str(score), "unscored": False, "score_twice": None, "checkpoint": None}
    values = {f"collect.{name}": value for name, value in {**values, "max_prompts": None, "workers": 2}.items()}
    models = {f"{name}.model_name_or_path": name for name in ("actor", "reward")} | {"actor.num_nodes": 1}
    data = {"data.prompt_dataset": "prompts", "eval.dataset": None, "critic.model_name_or_path": None}
    return namespace(**{"sample_filter": "none", "rollout.temperature": 1.0, **values, **models, **data, **flat})


def test_a_directory_is_continued_under_the_same_settings_only(tmp_path):
    check_arguments(arguments(tmp_path / "out"))
    check_arguments(arguments(tmp_path / "out", **{"actor.num_nodes": 2, "collect.workers": 7}))
    with pytest.raises(ValueError, match=r"begun with --rollout.temperature 1.0, and now it is 0.5: give the earlier"):
        check_arguments(arguments(tmp_path / "out", **{"rollout.temperature": 0.5}))
    assert (tmp_path / "out" / "collect.json").exists()
    (tmp_path / "step-000001.parquet").touch()
    with pytest.raises(ValueError, match="holds samples of something else"):
        check_arguments(arguments(tmp_path))


@pytest.mark.parametrize(
    "flat, words",
    [
        ({"reward.model_name_or_path": None}, "there is nothing to measure: give the reward model"),
        ({"collect.score": "absent.py"}, "absent.py gives no reward_func (FileNotFoundError"),
        ({"collect.score": __file__}, "gives no reward_func (AttributeError"),
        ({"collect.score": None}, "true score with --collect.score FILE.py, or say --collect.unscored that there is"),
        ({"collect.unscored": True}, "--collect.score says where true scores come from, and --collect.unscored that"),
        (
            {"collect.unscored": True, "collect.score": None, "reward.remote_url": "reward.py"},
            "--collect.unscored is for a local reward model: a reward function returns true scores or none by itself",
        ),
        (
            {"reward.remote_url": "reward.py", "sample_filter_reward_models": "a,b"},
            "--sample_filter_reward_models scores with the workers of a local reward model, but",
        ),
        (
            {"collect.score_twice": True, "train.agent_func_path": "agent.py", "reward.remote_url": ["agent"]},
            "--collect.score_twice asks the source of the rewards again, and those of an agent come with its",
        ),
        ({"collect.max_prompts": 0}, "--collect.max_prompts must be 1 or more, got 0"),
        ({"collect.workers": 0}, "--collect.workers must be 1 or more, got 0"),
    ],
)
def test_a_bad_flag_gets_one_sentence_and_leaves_no_record(tmp_path, flat, words):
    with pytest.raises(ValueError) as error:
        check_arguments(arguments(tmp_path / "out", **flat))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out" / "collect.json").exists()


def test_samples_need_no_true_score_where_it_is_said_or_a_function_brings_it(tmp_path):
    check_arguments(arguments(tmp_path, **{"collect.score": None, "reward.remote_url": "http://a/score"}))
    unscored = {"collect.score": None, "collect.unscored": True}
    check_arguments(arguments(tmp_path / "out", **unscored))
    record = json.loads((tmp_path / "out" / "collect.json").read_text())
    assert record["collect.score"] is None and "collect.unscored" not in record, "an older record has no such entry"
    with pytest.raises(ValueError, match="begun with --collect.score None, and now it is "):
        check_arguments(arguments(tmp_path / "out"))


def test_a_directory_is_scored_twice_from_the_start_or_not_at_all(tmp_path):
    check_arguments(arguments(tmp_path / "once"))
    record = json.loads((tmp_path / "once" / "collect.json").read_text())
    del record["collect.score_twice"]  # as an older record
    (tmp_path / "once" / "collect.json").write_text(json.dumps(record))
    check_arguments(arguments(tmp_path / "once"))
    with pytest.raises(ValueError, match="begun with --collect.score_twice None, and now it is True: give the"):
        check_arguments(arguments(tmp_path / "once", **{"collect.score_twice": True}))
    for _ in range(2):
        check_arguments(arguments(tmp_path / "twice", **{"collect.score_twice": True}))


def test_the_filter_of_a_training_command_touches_nothing(monkeypatch, tmp_path):
    """So that the command can be given as it is; above all no rollout log is opened."""
    collected = []
    monkeypatch.setattr(collect, "Collector", lambda args: collected.append(args) or SimpleNamespace(run=lambda: None))
    flat = {"sample_filter": "best_worst", "sample_filter_log": "log", "sample_filter_reward_models": "a,b"}
    collect.collect(arguments(tmp_path, **flat))
    found = {name: value for name, value in vars(collected[0]).items() if name.startswith("sample_filter")}
    given = {name: value for name, value in found.items() if value is not None}
    assert given == {"sample_filter": "none", "sample_filter_reward_models": "a,b"}


@pytest.mark.parametrize(
    "done, expected",
    [
        (set(), [(1, range(4)), (2, range(4, 8)), (3, range(8, 10))]),
        ({2}, [(1, range(4)), (3, range(8, 10))]),
        ({1, 2, 3}, []),
    ],
)
def test_chunks_that_are_left(done, expected):
    assert list(chunks(10, 4, done)) == expected


# ── True scores ──


def collector_of(folder, function):
    """A collector without Ray, whose files are in the folder."""
    made = object.__new__(collect.Collector)
    made.args = arguments(folder)
    made.directory = folder
    made.true_score = TrueScore(function, workers=1)
    return made


def write_part(folder, scores):
    """A file of two samples of one prompt."""
    prompt = {
        "group": [0, 0],
        "prompt_id": ["a"] * 2,
        "prompt": ["p"] * 2,
        "response": ["x", "yy"],
        "label": ["l"] * 2,
    }
    numbers = {"prompt_tokens": [1, 1], "response_tokens": [1, 2], "reward": [0.1, 0.2], "score": scores}
    others = {"weight": [0.0, 0.0], "kept": [False] * 2, "draws": [0, 0]}
    file = folder / "part-000001.parquet"
    write_tables(file, [table_of(0, {**prompt, **numbers, **others})])
    return file


@pytest.mark.parametrize("scores", [[None, None], [math.nan, math.nan]])
def test_samples_of_an_earlier_run_without_scores_are_scored(tmp_path, scores):
    file = write_part(tmp_path, scores)
    calls = []

    def count(queries, prompts, labels):
        calls.append((queries, prompts, labels))
        return len(queries[0])

    collector_of(tmp_path, count).score_file(file)
    table = rollout_log.read(file)
    assert table["score"].to_pylist() == [2.0, 3.0] and table["reward"].to_pylist() == [0.1, 0.2]
    assert calls == [(["px"], ["p"], ["l"]), (["pyy"], ["p"], ["l"])]
    collector_of(tmp_path, lambda *args: pytest.fail("scored twice")).score_file(file)


def test_a_file_without_any_score_ends_collecting_with_the_reason(tmp_path, capsys):
    def fail(queries, prompts, labels):
        raise KeyError("answer")

    file = write_part(tmp_path, [None, None])
    with pytest.raises(SystemExit) as end:
        collector_of(tmp_path, fail).score_file(file)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and f"no sample of {file} has a true score (KeyError: 'answer'): fix" in sentence
    assert "which scores the samples that are there" in sentence


def test_the_score_is_tried_on_one_prompt_before_ray_starts(tmp_path, capsys):
    args = arguments(
        tmp_path,
        **{"data.apply_chat_template": False, "data.input_template": None},
        **{"data.input_key": "input", "data.label_key": "label"},
    )
    row, calls = {"input": "1 + 1?", "label": "2"}, []
    collect.try_score(TrueScore(lambda *given: calls.append(given) or 1, 1), args, SimpleNamespace(), row)
    assert calls == [(["1 + 1?2"], ["1 + 1?"], ["2"])]
    with pytest.raises(SystemExit) as end:
        collect.try_score(TrueScore(lambda *given: "good", 1), args, SimpleNamespace(), row)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "fails for the first prompt (ValueError: one number is needed" in sentence


# ── The second scoring ──

#: Answers the query's first token plus the number of earlier calls; fails for 102 and has no number for 103.
REWARDS = """
calls = []

def reward_func(queries, prompts, labels):
    calls.append((queries, prompts, labels))
    token = int(queries[0].split()[0])
    if token == 102:
        raise RuntimeError("the judge is busy")
    return {"rewards": "good" if token == 103 else [token + len(calls) - 1], "scores": 0.5}
"""


def collect_twice(folder, maker, samples, **flat):
    """The table of one chunk that a collector without Ray makes of these samples."""
    args = arguments(folder, **{"collect.score_twice": True, "collect.workers": 1, **flat})
    made = collector_of(folder, None)
    made.args, made.maker, made.true_score, made.tokenizer = args, maker, None, maker.tokenizer
    made.prompts, made.sample = [{}, {}], lambda rows: samples
    made.reward_again = collect.second_scoring(args)
    made.collect(1, range(2))
    return made, rollout_log.read(folder).to_pandas()


def test_a_local_reward_model_scores_the_same_responses_twice(tmp_path):
    maker = make_maker(sample_filter="none")
    _, rows = collect_twice(tmp_path, maker, rollout_of([[None] * 4] * 2))
    assert sorted(rows.reward) == [1, 2, 3, 4, 101, 102, 103, 104] and (rows.reward_again == rows.reward).all()
    assert maker.reward_model_group.models == [None, None], "two rounds of forward passes"


def test_a_reward_function_is_asked_again_and_what_fails_is_nan(tmp_path, capsys):
    (tmp_path / "judge.py").write_text(REWARDS)
    maker = make_maker(sample_filter="none", local_reward=False)
    first = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]
    source = {"reward.remote_url": [str(tmp_path / "judge.py")]}
    made, rows = collect_twice(tmp_path, maker, rollout_of(first), **source)
    assert sorted(rows.reward) == pytest.approx([*first[0], *first[1]]), "the first stays"
    token = rows.reward.rank() + 96 * (rows.reward > 0.45)  # 1 to 4 and 101 to 104
    expected = token + range(8)
    expected[token.isin([102, 103])] = math.nan
    assert rows.reward_again.tolist() == pytest.approx(expected.tolist(), nan_ok=True)
    made.report_failures()
    assert "2 samples have no second reward; the last reason: ValueError: one number" in capsys.readouterr().out


def test_a_server_is_asked_again(tmp_path):
    class Judge(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"rewards": [0.25], "scores": [1.0]}).encode())

        def log_message(self, *args):
            pass

    asked, server = [], HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = {"reward.remote_url": [f"http://127.0.0.1:{server.server_port}/score"]}
    maker = make_maker(sample_filter="none", local_reward=False)
    _, rows = collect_twice(tmp_path, maker, rollout_of([[0.5] * 4] * 2), **url)
    server.shutdown()
    assert rows.reward_again.tolist() == [0.25] * 8 and len(asked) == 8
    assert {"query": ["104 2 9"], "prompts": ["prompt 1"], "labels": [""]} in asked
