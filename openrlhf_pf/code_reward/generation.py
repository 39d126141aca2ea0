"""A checkpoint's answers to a benchmark, by vLLM: greedy or sampled, through its chat template or as plain
continuation.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openrlhf_pf.code_reward.problems import Task

# Where a base model's continuation of a function is over: the next statement at the top level.
STOPS = ["\ndef ", "\nclass ", "\nif ", "\nprint(", "\nassert ", "\n@", "\n#", "\n```", '\n"""']

_WHOLE = "Answer with the whole program in one Python code block."


def _is_mbpp(task: Task) -> bool:
    return task.problem.kind == "asserts" and not task.completes


def plain_prompt(task: Task) -> str:
    """What a base model continues: code as it stands; MBPP's text with its tests in a docstring, as its authors have
    it.
    """
    if not _is_mbpp(task):
        return task.prompt
    return '"""\n' + "\n".join([task.prompt.strip(), *task.problem.data["asserts"]]) + '\n"""\n'


def chat_prompt(task: Task) -> str:
    """What a chat model is asked."""
    if _is_mbpp(task):
        tests = "\n".join(task.problem.data["asserts"])
        return f"{task.prompt.strip()} Your code should pass these tests:\n\n{tests}\n\n{_WHOLE}"
    return f"Complete this Python code. {_WHOLE}\n\n```python\n{task.prompt.rstrip()}\n```"


def sampling_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of vLLM's ``SamplingParams``.

    Raises:
        ValueError: several greedy answers are asked for, or a number is out of its range.
    """
    if arguments.n_samples < 1 or arguments.max_new_tokens < 1 or arguments.temperature < 0:
        raise ValueError("--n_samples and --max_new_tokens must be 1 or more, --temperature 0 or more.")
    if arguments.n_samples > 1 and arguments.temperature == 0:
        raise ValueError(f"{arguments.n_samples} greedy answers would be the same: give a --temperature above 0.")
    settings: dict[str, Any] = {
        "n": arguments.n_samples,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
    }
    settings |= {"max_tokens": arguments.max_new_tokens, "seed": arguments.seed}
    return settings | {"stop": STOPS} if arguments.plain else settings


def answers(arguments: argparse.Namespace, tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """Have the checkpoint answer every task; kept in OUTPUT.answers.jsonl, which ``--solutions`` reads.

    Raises:
        ValueError: vLLM is missing, the checkpoint has no chat template, or a setting is wrong.
    """
    settings = sampling_settings(arguments)
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise ValueError(f"--model needs vLLM ({error}): install it, or give --solutions.") from error
    names = ("model", "seed", "tensor_parallel_size", "max_model_len", "enforce_eager")
    llm = LLM(**{name: getattr(arguments, name) for name in names})
    how = SamplingParams(**settings)
    if arguments.plain:
        outputs = llm.generate([plain_prompt(task) for task in tasks.values()], how)
    elif getattr(llm.get_tokenizer(), "chat_template", None) is None:
        raise ValueError(f"the checkpoint {arguments.model!r} has no chat template: give --plain.")
    else:
        outputs = llm.chat([[{"role": "user", "content": chat_prompt(task)}] for task in tasks.values()], how)
    found = {key: [answer.text for answer in output.outputs] for key, output in zip(tasks, outputs)}
    with Path(f"{arguments.output}.answers.jsonl").open("w", encoding="utf-8") as file:
        for key, texts in found.items():
            file.writelines(json.dumps({"task_id": key, "completion": text}) + "\n" for text in texts)
    return found
