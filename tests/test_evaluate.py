"""``python -m openrlhf_pf.cli.evaluate``: pass@k of given solutions, its log, its files, its refusals."""

import gzip
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from openrlhf_pf.cli import evaluate
from openrlhf_pf.code_reward import Pool, Result, Verdict, evaluation, generation
from openrlhf_pf.code_reward.evaluation import bootstrap_interval, pass_at_k, summarize
from openrlhf_pf.code_reward.tasks import humaneval, mbpp

ROWS = [
    {
        "task_id": f"Toy/{n}",
        "prompt": f'def add{n}(x):\n    """Add {n}."""\n',
        "entry_point": f"add{n}",
        "test": f"def check(candidate):\n    for x in range(4):\n        assert candidate(x) == x + {n}\n",
    }
    for n in range(4)
]
GOOD = [{"task_id": f"Toy/{n}", "completion": f"    return x + {n}"} for n in range(4)]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command on these rows and answers; returns its exit code and what it wrote."""
    monkeypatch.setenv("OPENRLHF_PF_CODE_WORKERS", "1")
    data, given, output = tmp_path / "data.jsonl.gz", tmp_path / "solutions.jsonl", tmp_path / "out" / "result.json"

    def run(answers, *more, rows=ROWS, benchmark="humaneval"):
        data.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        given.write_text("\n".join(map(json.dumps, answers)))
        arguments = ["--benchmark", benchmark, "--data", data, "--solutions", given, "--output", output]
        code = evaluate.main([*map(str, arguments), *more])
        return code, json.loads(output.read_text()) if output.exists() else None

    run.output = output
    return run


def test_pass_at_1_and_every_verdict(command):
    answers = [GOOD[0], {"task_id": "Toy/1", "completion": "    import os; os._exit(0)"}, GOOD[2]]
    code, result = command(answers)
    assert code == 0
    assert result["pass@1"] == 0.5  # two of four: a problem without an answer is a failure
    assert result["verdicts"] == {"crashed": 1, "passed": 2}
    assert result["unanswered"] == ["Toy/3"]
    verdicts = [[sample["verdict"] for sample in result["problems"][f"Toy/{n}"]] for n in range(4)]
    assert verdicts == [["passed"], ["crashed"], ["passed"], []]
    assert (result["problems_scored"], result["infrastructure_failures"]) == (4, 0)


def test_several_answers_a_problem(command, capsys):
    wrong = [{"task_id": row["task_id"], "solution": "def nothing(): pass"} for row in GOOD]
    _, result = command([*GOOD, *GOOD[:2], *wrong, *wrong[2:]], "--k", "1", "2")
    # Problems 0 and 1: 2 of 3 pass, pass@2 = 1 - C(1,2)/C(3,2) = 1. Problems 2 and 3: 1 of 3, 1 - C(2,2)/C(3,2) = 2/3.
    assert result["pass@1"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 / 3) / 4)
    assert result["pass@2"] == pytest.approx((1 + 1 + 2 / 3 + 2 / 3) / 4)
    assert "pass@2 0.8333  95% interval 0.6667 to 1.0000, 4 problems" in capsys.readouterr().out


def test_a_second_run_checks_only_what_is_new(command, monkeypatch):
    command(GOOD[:2])
    log = Path(f"{command.output}.log.jsonl")
    first = log.read_text()
    log.write_text(first + '{"task_id": "Toy/2", "pro')  # killed in the middle of a line
    checked = []
    submit = Pool.submit
    monkeypatch.setattr(Pool, "submit", lambda self, *program: checked.append(1) or submit(self, *program))
    code, result = command(GOOD)
    assert (code, result["pass@1"], len(checked)) == (0, 1.0, 2)
    assert log.read_text().startswith(first)
    command([*GOOD[:3], {"task_id": "Toy/3", "completion": "    return 0"}])
    assert len(checked) == 3
    monkeypatch.setenv("OPENRLHF_PF_CODE_CPU_SECONDS", "9")
    command(GOOD)  # other limits, other results
    assert len(checked) == 7


def test_the_samples_file_is_evalplus_s(command):
    row = {"task_id": 11, "text": "Negate.", "code": "def neg(x):\r\n    return -x"}
    row |= {"test_list": ["assert neg(1) == -1"]}
    answer = {"task_id": "Mbpp/11", "completion": "def neg(x):\n    return -x"}
    _, result = command([answer], rows=[row], benchmark="mbpp")
    assert result["pass@1"] == 1.0
    (line,) = Path(f"{command.output}.samples.jsonl").read_text().splitlines()
    assert json.loads(line) == {"task_id": "Mbpp/11", "solution": "def neg(x):\n    return -x\n"}


def test_a_json_array_is_read_too(command, tmp_path):
    path = tmp_path / "sanitized.json"
    path.write_text(
        json.dumps([{"task_id": 2, "prompt": "", "code": "", "test_imports": [], "test_list": ["assert f(1) == 1"]}])
    )
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"task_id": 2, "completion": "def f(x): return x"}\n')
    arguments = ["--benchmark", "mbpp_sanitized", "--data", str(path), "--solutions", str(answers)]
    assert evaluate.main([*arguments, "--output", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["pass@1"] == 1.0


@pytest.mark.parametrize(
    "answers, more, message",
    [
        ([{"task_id": "Toy/9", "completion": ""}], [], "answers 'Toy/9', which the benchmark's data file does not"),
        ([{"task_id": "Toy/1"}], [], "has no completion for 'Toy/1'"),
        ([], [], "is not to be read as JSON lines with a task_id: no records"),
        (GOOD, ["--k", "2"], "--k 2 needs 2 answers to each problem: the fewest are 1"),
        (GOOD, ["--data", "/nowhere.jsonl"], "'/nowhere.jsonl' is not to be read"),
        (GOOD, ["--benchmark", "mbpp"], "does not hold rows of mbpp: test_list is missing"),
    ],
)
def test_refusals(command, capsys, answers, more, message):
    code, result = command(answers, *more)
    assert (code, result) == (2, None)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "samples, passed, k, expected",
    [(1, 1, 1, 1.0), (1, 0, 1, 0.0), (10, 3, 1, 0.3), (5, 1, 2, 0.4), (5, 4, 2, 1.0), (200, 1, 100, 0.5)],
)
def test_pass_at_k(samples, passed, k, expected):
    assert pass_at_k(samples, passed, k) == pytest.approx(expected)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@3 needs at least 3 samples"):
        pass_at_k(2, 2, 3)


def test_the_interval_is_that_of_a_mean():
    low, high = bootstrap_interval([1.0] * 50 + [0.0] * 50)
    # Normal approximation: 0.5 +- 1.96 * 0.5 / sqrt(100).
    assert (low, high) == (pytest.approx(0.402, abs=0.02), pytest.approx(0.598, abs=0.02))
    assert bootstrap_interval([1.0] * 9) == (1.0, 1.0)


def test_what_the_sandbox_lost_counts_neither_way():
    passed, failed, lost = (Result(Verdict(name)) for name in ("passed", "failed", "infrastructure"))
    summary = summarize({"a": [passed, lost], "b": [lost], "c": [failed], "d": []})
    assert summary["pass@1"] == pytest.approx(1 / 3)  # a, c and d
    assert (summary["problems_scored"], summary["infrastructure_failures"]) == (3, 2)
    assert summary["unanswered"] == ["d"]
    nothing = summarize({"a": [lost]})
    assert (nothing["pass@1"], nothing["problems_scored"]) == (None, 0)
    assert not math.isnan(summary["pass@1"])


def model_arguments(*more):
    given = ["--benchmark", "humaneval", "--data", "x", "--output", "y", "--model", "z", *more]
    return evaluate.parser().parse_args(given)


def test_prompts_of_a_model():
    code = humaneval(ROWS[1])
    assert generation.plain_prompt(code) == ROWS[1]["prompt"]
    assert "```python\n" + ROWS[1]["prompt"].rstrip() + "\n```" in generation.chat_prompt(code)
    text = mbpp({"task_id": 1, "text": "Negate.", "code": "", "test_list": ["assert neg(1) == -1"]})
    assert generation.plain_prompt(text) == '"""\nNegate.\nassert neg(1) == -1\n"""\n'
    assert generation.chat_prompt(text).startswith(
        "Negate. Your code should pass these tests:\n\nassert neg(1) == -1\n"
    )


def test_options_of_vllm():
    model, greedy = generation.vllm_options(model_arguments())
    assert (model, greedy["n"], greedy["temperature"], "stop" in greedy) == ({"model": "z", "seed": 0}, 1, 0.0, False)
    given = "--n_samples 5 --temperature 0.8 --plain"
    given += " --vllm top_p=0.9 enforce_eager=True seed=3 max_model_len=96 dtype=half"
    model, drawn = generation.vllm_options(model_arguments(*given.split()))
    assert model == {"model": "z", "seed": 3, "enforce_eager": True, "max_model_len": 96, "dtype": "half"}
    assert (drawn["n"], drawn["temperature"], drawn["top_p"], drawn["seed"]) == (5, 0.8, 0.9, 3)
    assert drawn["stop"] == generation.STOPS
    with pytest.raises(ValueError, match="5 greedy answers would be the same: give a --temperature above 0"):
        generation.vllm_options(model_arguments("--n_samples", "5"))
    with pytest.raises(ValueError, match="--vllm has 'fast': give KEY=VALUE"):
        generation.vllm_options(model_arguments("--vllm", "fast"))


def test_a_broken_off_generation_goes_on_and_asks_nothing_twice(monkeypatch, tmp_path):
    arguments = model_arguments("--n_samples", "2", "--temperature", "0.5", "--plain")
    arguments.output = str(tmp_path / "result.json")
    tasks = {row["task_id"]: humaneval(row) for row in ROWS}
    asked = []

    def generator(arguments, settings):
        def generate(prompts):
            if len(asked) == 2:
                raise KeyboardInterrupt
            asked.extend(prompts)
            return [[f"{prompt}, {place}" for place in range(arguments.n_samples)] for prompt in prompts]

        return generate

    monkeypatch.setattr(generation, "_generator", generator)
    monkeypatch.setattr(generation, "_AT_A_TIME", 2)
    with pytest.raises(KeyboardInterrupt):
        generation.answers(arguments, tasks)
    file = tmp_path / "result.json.answers.jsonl"
    file.write_text(file.read_text() + '{"task_id": "Toy/2", "comple')  # the line that was being written
    asked.append("from here on it works")
    found = generation.answers(arguments, tasks)
    assert asked[3:] == [row["prompt"] for row in ROWS[2:]]
    assert found == {row["task_id"]: [f"{row['prompt']}, {place}" for place in (0, 1)] for row in ROWS}
    assert evaluation.read_answers(file, tasks) == found
    asked.clear()
    assert generation.answers(arguments, tasks) == found and not asked
    arguments.temperature = 0.9  # another setting, other answers
    monkeypatch.setattr(generation, "_AT_A_TIME", 100)
    generation.answers(arguments, tasks)
    assert len(asked) == len(ROWS)


def test_a_checkpoint_without_a_chat_template_is_refused_before_it_is_loaded(monkeypatch, tmp_path):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails
    arguments = model_arguments("--output", str(tmp_path / "result.json"))
    tokenizer = SimpleNamespace(chat_template=None)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda path: tokenizer)
    with pytest.raises(ValueError, match="the checkpoint 'z' has no chat template: give --plain."):
        generation.answers(arguments, {"Toy/0": humaneval(ROWS[0])})
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(ValueError, match="--model needs vLLM .*: install it, or give --solutions."):
        generation.answers(arguments, {"Toy/0": humaneval(ROWS[0])})
    assert not list(tmp_path.iterdir())
