"""pass@k of code on HumanEval, MBPP or LeetCode Contest: of given solutions, or of a checkpoint's.

    python -m openrlhf_pf.cli.evaluate --benchmark humaneval --data HumanEval.jsonl.gz --solutions answers.jsonl
    --output result.json

    python -m openrlhf_pf.cli.evaluate --check-labels train.jsonl --reference solution

The second command reports how many labels of a data set are understood, how many reference solutions pass, and how
many stubs of them pass too; exit code 1 if a label or a reference is useless.

Next to OUTPUT it writes OUTPUT.log.jsonl, one line per program, from which an interrupted run resumes, and
OUTPUT.samples.jsonl for EvalPlus. The sandbox's settings are those of the code reward, OPENRLHF_PF_CODE_WORKERS and
others. Exit code 0: scored. 1: scored, but the sandbox failed on some programs. 2: refused, with one sentence.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openrlhf_pf.cli import Parser
from openrlhf_pf.code_reward import evaluation, label_check, reward
from openrlhf_pf.code_reward.sandbox.worker import Unavailable
from openrlhf_pf.code_reward.tasks import BENCHMARKS
from openrlhf_pf.files import replace_file


def parser() -> argparse.ArgumentParser:
    """The command line."""
    built = Parser("openrlhf-pf evaluate", description=__doc__.split("\n")[0])
    built.add_argument("--benchmark", choices=list(BENCHMARKS))
    built.add_argument("--data", help="the benchmark's own file: .jsonl, .jsonl.gz or .json")
    source = built.add_mutually_exclusive_group()
    source.add_argument(
        "--solutions", help="JSON lines with task_id and completion (or solution); several per task are samples"
    )
    source.add_argument("--model", help="a checkpoint that vLLM writes the solutions with")
    source.add_argument("--check-labels", metavar="DATA", help="instead: check the labels of this file")
    built.add_argument("--label_key", help="the column of labels; without it, label, or the whole row is one")
    built.add_argument("--reference", metavar="COLUMN", help="the column of solutions that have to pass")
    built.add_argument("--output", help="the result, as JSON")
    built.add_argument("--k", type=int, nargs="+", default=[1], help="which pass@k to report")
    sampling = built.add_argument_group("with --model")
    sampling.add_argument("--n_samples", type=int, default=1, help="answers a problem")
    sampling.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    sampling.add_argument("--max_new_tokens", type=int, default=1024)
    sampling.add_argument("--plain", action="store_true", help="the prompt itself, without the chat template")
    sampling.add_argument(
        "--vllm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of vLLM's LLM or SamplingParams, such as tensor_parallel_size=2 max_model_len=4096 top_p=0.9",
    )
    return built


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score, write the three files, and return what OUTPUT holds.

    Raises:
        ValueError: in one sentence, what is wrong with the arguments or the files.
    """
    missing = [name for name in ("benchmark", "data", "output") if not getattr(arguments, name)]
    missing += [] if arguments.solutions or arguments.model else ["solutions (or --model, or --check-labels)"]
    if missing:
        raise ValueError(f"--{missing[0]} is missing.")
    tasks = evaluation.read_tasks(arguments.benchmark, arguments.data)
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.model:
        from openrlhf_pf.code_reward import generation

        answers = generation.answers(arguments, tasks)
    else:
        answers = evaluation.read_answers(arguments.solutions, tasks)
    fewest = min(len(found) for found in answers.values() if found)
    if max(arguments.k) > fewest or min(arguments.k) < 1:
        raise ValueError(
            f"--k {max(arguments.k)} needs {max(arguments.k)} answers to each problem: the fewest are {fewest}."
        )
    evaluation.write_samples(Path(f"{output}.samples.jsonl"), arguments.benchmark, tasks, answers)
    with reward.open_pool() as pool:
        results = evaluation.score(pool, tasks, answers, Path(f"{output}.log.jsonl"))
        about = {"benchmark": arguments.benchmark, "limits": asdict(pool.limits)}
        about["sandbox_weaknesses"] = pool.weaknesses
    summary = {**evaluation.summarize(results, arguments.k), **about}
    with replace_file(output) as text:
        text.write(json.dumps(summary, indent=1) + "\n")
    return summary


def check_labels(arguments: argparse.Namespace) -> int:
    """Print how useful the labels of a file are; returns the exit code.

    Raises:
        ValueError: in one sentence, what is wrong with the arguments or the file.
    """
    rows = evaluation.read_rows(arguments.check_labels, "")
    key = arguments.label_key or ("label" if "label" in rows[0] else "")
    for name in filter(None, (key, arguments.reference)):
        if name not in rows[0]:
            raise ValueError(f"{arguments.check_labels!r} has no column {name!r}: it has {', '.join(rows[0])}.")
    labels = [row.get(key) for row in rows] if key else rows
    references = [row.get(arguments.reference) for row in rows] if arguments.reference else None
    with reward.open_pool() as pool:
        report = label_check.check(pool, labels, references)
    print(*label_check.sentences(report), sep="\n")
    if arguments.output:
        with replace_file(arguments.output) as text:
            text.write(json.dumps(report, indent=1) + "\n")
    sound = report["understood"] == report["labels"]
    return 0 if sound and report.get("references_passed") == report.get("references") else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    try:
        arguments = parser().parse_args(argv)
        if arguments.check_labels:
            return check_labels(arguments)
        summary = run(arguments)
    except (ValueError, Unavailable) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    for name in [name for name in summary if name.startswith("pass@") and not name.endswith("_interval")]:
        low, high = summary[f"{name}_interval"] or (float("nan"), float("nan"))
        interval = f"95% interval {low:.4f} to {high:.4f}, {summary['problems_scored']} problems"
        print(f"{name} {summary[name] or 0.0:.4f}  {interval}")
    print(", ".join(f"{verdict} {count}" for verdict, count in summary["verdicts"].items()))
    return 1 if summary["infrastructure_failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
