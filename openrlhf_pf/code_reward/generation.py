"""A checkpoint's answers to a benchmark, by vLLM: greedy or sampled, through its chat template or as plain
continuation.
"""

import argparse
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openrlhf_pf.code_reward.tasks import Task
from openrlhf_pf.files import replace_file

_AT_A_TIME = 64  # prompts, after which the answers are written down

# Where a base model's continuation of a function is over: the next statement at the top level.
STOPS = ["\ndef ", "\nclass ", "\nif ", "\nprint(", "\nassert ", "\n@", "\n#", "\n```", '\n"""']

_WHOLE = "Answer with the whole program in one Python code block."


def _is_mbpp(task: Task) -> bool:
    return task.problem.kind == "asserts" and not task.completes


def plain_prompt(task: Task) -> str:
    """The text that a base model continues: the prompt's code; for MBPP its text and tests in a docstring."""
    if not _is_mbpp(task):
        return task.prompt
    return '"""\n' + "\n".join([task.prompt.strip(), *task.problem.data["asserts"]]) + '\n"""\n'


def chat_prompt(task: Task) -> str:
    """What a chat model is asked."""
    if _is_mbpp(task):
        tests = "\n".join(task.problem.data["asserts"])
        return f"{task.prompt.strip()} Your code should pass these tests:\n\n{tests}\n\n{_WHOLE}"
    return f"Complete this Python code. {_WHOLE}\n\n```python\n{task.prompt.rstrip()}\n```"


_SAMPLING = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def vllm_options(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of vLLM's ``LLM`` and of its ``SamplingParams``.

    Raises:
        ValueError: several greedy answers are asked for, a number is out of its range, or an option is no KEY=VALUE.
    """
    if arguments.n_samples < 1 or arguments.max_new_tokens < 1 or arguments.temperature < 0:
        raise ValueError("--n_samples and --max_new_tokens must be 1 or more, --temperature 0 or more.")
    if arguments.n_samples > 1 and arguments.temperature == 0:
        raise ValueError(f"{arguments.n_samples} greedy answers would be the same: give a --temperature above 0.")
    given: dict[str, Any] = {"seed": 0}
    for option in arguments.vllm:
        key, equals, text = option.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--vllm has {option!r}: give KEY=VALUE, such as max_model_len=4096.")
        with contextlib.suppress(ValueError):
            text = json.loads(text.lower() if text in ("True", "False") else text)
        given[key] = text
    sampling = {"n": arguments.n_samples, "temperature": arguments.temperature, "seed": given["seed"]}
    sampling |= {"max_tokens": arguments.max_new_tokens, **({"stop": STOPS} if arguments.plain else {})}
    sampling |= {key: given.pop(key) for key in _SAMPLING if key in given}
    return {"model": arguments.model, **given}, sampling


def answers(arguments: argparse.Namespace, tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """Have the checkpoint answer every task; kept in OUTPUT.answers.jsonl, which ``--solutions`` reads.

    What is there from an earlier call with the same checkpoint, prompts and settings is not asked again.

    Raises:
        ValueError: vLLM is missing, the checkpoint has no chat template, or a setting is wrong.
    """
    settings = vllm_options(arguments)
    prompts = {key: plain_prompt(task) if arguments.plain else chat_prompt(task) for key, task in tasks.items()}
    # Of all that decides an answer.
    decisive = {key: json.dumps([arguments.plain, settings, prompt]) for key, prompt in prompts.items()}
    marks = {key: hashlib.sha256(text.encode()).hexdigest()[:16] for key, text in decisive.items()}
    file = Path(f"{arguments.output}.answers.jsonl")
    found = {key: rows for key, rows in _answered(file, marks).items() if len(rows) == arguments.n_samples}
    missing = [key for key in tasks if key not in found]
    if missing:
        generate = _generator(arguments, settings)
        with replace_file(file) as text:
            text.writelines(_lines(found, marks))
        for start in range(0, len(missing), _AT_A_TIME):
            keys = missing[start : start + _AT_A_TIME]
            new = dict(zip(keys, generate([prompts[key] for key in keys])))
            with file.open("a", encoding="utf-8") as text:
                text.writelines(_lines(new, marks))
            found |= new
    return {key: found[key] for key in tasks}


def _lines(found: Mapping[str, list[str]], marks: Mapping[str, str]) -> Iterator[str]:
    for key, texts in found.items():
        for text in texts:
            yield json.dumps({"task_id": key, "completion": text, "settings": marks[key]}) + "\n"


def _answered(file: Path, marks: Mapping[str, str]) -> dict[str, list[str]]:
    """The answers in a file that were given under these settings; a line that was not finished is none."""
    found: dict[str, list[str]] = {}
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row["settings"] == marks.get(row["task_id"]):
                found.setdefault(row["task_id"], []).append(row["completion"])
    return found


def _generator(
    arguments: argparse.Namespace, settings: tuple[dict[str, Any], dict[str, Any]]
) -> Callable[[list[str]], list[list[str]]]:
    """From prompts to their answers."""
    try:
        from transformers import AutoTokenizer

        if not arguments.plain and AutoTokenizer.from_pretrained(arguments.model).chat_template is None:
            raise ValueError(f"the checkpoint {arguments.model!r} has no chat template: give --plain.")
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise ValueError(f"--model needs vLLM ({error}): install it, or give --solutions.") from error
    try:
        llm, sampling = LLM(**settings[0]), SamplingParams(**settings[1])
    except TypeError as error:
        raise ValueError(f"vLLM refuses an argument of --vllm ({error}): correct it or leave it out.") from error

    def generate(prompts: list[str]) -> list[list[str]]:
        if arguments.plain:
            outputs = llm.generate(prompts, sampling)
        else:
            outputs = llm.chat([[{"role": "user", "content": prompt}] for prompt in prompts], sampling)
        return [[answer.text for answer in output.outputs] for output in outputs]

    return generate
