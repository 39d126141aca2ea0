"""Evaluating a checkpoint: vLLM writes the programs, the sandbox runs them; killed and started again."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from real_stack import stack_environment
from transformers import AutoModelForCausalLM, AutoTokenizer

from openrlhf_pf.code_reward.evaluation import read_tasks
from openrlhf_pf.code_reward.generation import chat_prompt

pytestmark = pytest.mark.end_to_end

PROBLEMS = 12
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[say]"


def write_problems(path):
    """Rows in HumanEval's form, short enough for a model of 128 positions."""
    rows = [
        {
            "task_id": f"Tiny/{i}",
            "prompt": f'def f{i}(x):\n    """Add {i}."""\n',
            "entry_point": f"f{i}",
            "canonical_solution": f"    return x + {i}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {1 + i}\n    assert candidate(5) == {5 + i}\n",
        }
        for i in range(PROBLEMS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(data, output, *source):
    command = [
        *(sys.executable, "-m", "openrlhf_pf.cli.evaluate", "--benchmark", "humaneval", "--data", str(data)),
        *("--output", str(output), *map(str, source)),
    ]
    log = open(f"{output}.txt", "a")
    return subprocess.Popen(command, env=stack_environment(), stdout=log, stderr=subprocess.STDOUT)


def test_a_killed_evaluation_gives_the_same_numbers_when_it_is_started_again(stack, tmp_path):
    data, output = write_problems(tmp_path / "tiny.jsonl"), tmp_path / "result.json"
    model = (
        "--model",
        stack.policy,
        "--plain",
        "--max_new_tokens",
        24,
        "--vllm",
        "max_model_len=96",
        "enforce_eager=true",
    )
    sampling = ("--n_samples", 3, "--temperature", 0.8, "--k", 1, 3)
    process = start(data, output, *model, *sampling)
    log = tmp_path / "result.json.log.jsonl"
    deadline = time.monotonic() + 600
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "result.json.txt").read_text()[
            -3000:
        ]
        time.sleep(0.01)
    process.kill()
    process.wait()
    answers = tmp_path / "result.json.answers.jsonl"
    before = answers.read_text()
    assert start(data, output, *model, *sampling).wait(600) == 0, (tmp_path / "result.json.txt").read_text()[-3000:]
    assert answers.read_text() == before and len(set(before.splitlines())) > PROBLEMS, "other answers, or one only"

    unbroken = tmp_path / "unbroken.json"
    assert start(data, unbroken, "--solutions", answers, "--k", 1, 3).wait(600) == 0
    first, second = (json.loads(file.read_text()) for file in (output, unbroken))
    assert first["verdicts"] == second["verdicts"] and sum(first["verdicts"].values()) == 3 * PROBLEMS
    assert first["pass@1"] == second["pass@1"] == first["pass@3"] == 0, "random bytes solved a problem"
    assert first["problems_scored"] == PROBLEMS

    # The reference solutions, by the same command.
    solutions = tmp_path / "solutions.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    solved = [{"task_id": row["task_id"], "completion": row["canonical_solution"]} for row in rows for _ in range(3)]
    solutions.write_text("".join(json.dumps(row) + "\n" for row in solved))
    assert start(data, tmp_path / "solved.json", "--solutions", solutions).wait(600) == 0
    assert json.loads((tmp_path / "solved.json").read_text())["pass@1"] == 1.0


def with_chat_template(policy, folder):
    """The same checkpoint as a chat model, for prompts of a benchmark's length."""
    shutil.copytree(policy, folder)
    changes = {
        "config.json": {"max_position_embeddings": 1024},
        "tokenizer_config.json": {"chat_template": TEMPLATE},
    }
    for name, change in changes.items():
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | change))
    return folder


def test_a_chat_model_is_asked_through_its_template(stack, tmp_path):
    data, output = write_problems(tmp_path / "tiny.jsonl"), tmp_path / "result.json"
    chat = with_chat_template(stack.policy, tmp_path / "chat")
    model = ("--model", chat, "--max_new_tokens", 24, "--vllm", "max_model_len=512", "enforce_eager=true")
    assert start(data, output, *model).wait(600) == 0, (tmp_path / "result.json.txt").read_text()[-3000:]
    result = json.loads(output.read_text())
    assert result["pass@1"] == 0 and result["problems_scored"] == PROBLEMS and result["unanswered"] == []
    lines = (tmp_path / "result.json.answers.jsonl").read_text().splitlines()
    answers = {answer["task_id"]: answer["completion"] for answer in map(json.loads, lines)}
    prompts = {key: chat_prompt(task) for key, task in read_tasks("humaneval", data).items()}
    begins = {key: beginning(chat, prompt) for key, prompt in prompts.items()}
    # Not all: with random weights, two ways to round can lead to two tokens.
    agree = [key for key, text in begins.items() if text and answers[key].startswith(text)]
    assert len(agree) >= PROBLEMS / 2, (begins, answers)
    assert set(begins.values()).isdisjoint(beginning(chat, prompt, "") for prompt in prompts.values())


def beginning(folder, prompt, template=TEMPLATE):
    """The first greedy tokens of an answer, without vLLM; half a character at the end left out."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    message = {"role": "user", "content": prompt}
    text = tokenizer.apply_chat_template([message], chat_template=template, tokenize=False) if template else prompt
    asked = tokenizer(text, return_tensors="pt")
    found = AutoModelForCausalLM.from_pretrained(folder).generate(**asked, max_new_tokens=4, do_sample=False)
    return tokenizer.decode(found[0, asked.input_ids.shape[1] :], skip_special_tokens=True).rstrip("\ufffd")
