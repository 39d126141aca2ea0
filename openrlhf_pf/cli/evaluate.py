"""pass@k of code: given solutions, or a checkpoint's, on HumanEval, MBPP or LeetCode Contest.

    python -m openrlhf_pf.cli.evaluate --benchmark humaneval --data HumanEval.jsonl.gz --solutions answers.jsonl
    --output result.json

    python -m openrlhf_pf.cli.evaluate --check-labels train.jsonl --reference solution

The second one says how many labels of a data set are understood, how many reference solutions pass, and how many wrong
programs made of them pass too; exit code 1 where a label or a reference is of no use.

Beside OUTPUT come OUTPUT.log.jsonl, a line a program, from which a broken run goes on, and OUTPUT.samples.jsonl for
EvalPlus. Exit code 0: scored. 1: scored, but the sandbox failed on some programs. 2: refused, with one sentence.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openrlhf_pf.code_reward import evaluation, label_check
from openrlhf_pf.code_reward.judge.results import Limits
from openrlhf_pf.code_reward.sandbox.control import Unavailable
from openrlhf_pf.code_reward.sandbox.pool import AnyPool, Pool
from openrlhf_pf.code_reward.tasks import BENCHMARKS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    built = argparse.ArgumentParser("openrlhf-pf evaluate", description=__doc__.split("\n")[0])
    built.add_argument("--benchmark", choices=list(BENCHMARKS))
    built.add_argument("--data", help="the benchmark's own file: .jsonl, .jsonl.gz or .json")
    source = built.add_mutually_exclusive_group()
    source.add_argument(
        "--solutions", help="JSON lines with task_id and completion (or solution); several a task are samples"
    )
    source.add_argument("--model", help="a checkpoint that vLLM writes the solutions with")
    source.add_argument("--check-labels", metavar="DATA", help="instead: are the labels of this file worth anything?")
    built.add_argument("--label_key", help="the column of labels; without it, label, or the whole row is one")
    built.add_argument("--reference", metavar="COLUMN", help="the column of solutions that have to pass")
    built.add_argument("--output", help="the result, as JSON")
    built.add_argument("--k", type=int, nargs="+", default=[1], help="which pass@k to report")
    built.add_argument("--workers", type=int, help="programs at a time (2); with --ray on each node (its CPUs)")
    built.add_argument("--ray", action="store_true", help="run programs on all nodes of the Ray cluster")
    built.add_argument(
        "--cpu_seconds", type=int, default=Limits.cpu_seconds, help="CPU time of a program with all its tests"
    )
    built.add_argument(
        "--memory_mb", type=int, default=Limits.memory_bytes >> 20, help="memory that a program may add"
    )
    built.add_argument(
        "--require_isolation", action="store_true", help="refuse to run with less than the whole sandbox"
    )
    sampling = built.add_argument_group("with --model")
    sampling.add_argument("--n_samples", type=int, default=1, help="answers a problem")
    sampling.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    sampling.add_argument("--top_p", type=float, default=1.0)
    sampling.add_argument("--max_new_tokens", type=int, default=1024)
    sampling.add_argument("--plain", action="store_true", help="the prompt as it stands, without the chat template")
    sampling.add_argument("--tensor_parallel_size", type=int, default=1, help="GPUs that share the model")
    sampling.add_argument("--max_model_len", type=int, help="tokens of prompt and answer; the model's own without it")
    sampling.add_argument("--enforce_eager", action="store_true", help="start sooner, write slower")
    sampling.add_argument("--seed", type=int, default=0)
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
        raise ValueError(f"--k {max(arguments.k)} needs so many answers of each problem: the fewest are {fewest}.")
    evaluation.write_samples(Path(f"{output}.samples.jsonl"), arguments.benchmark, tasks, answers)
    with _pool(arguments) as pool:
        results = evaluation.score(pool, tasks, answers, Path(f"{output}.log.jsonl"))
        about = {"benchmark": arguments.benchmark, "limits": asdict(pool.limits)}
        about["sandbox_weaknesses"] = pool.weaknesses
    summary = {**evaluation.summarize(results, arguments.k), **about}
    with evaluation.whole(output) as text:
        text.write(json.dumps(summary, indent=1) + "\n")
    return summary


def check_labels(arguments: argparse.Namespace) -> int:
    """Say what the labels of a file are worth; the exit code.

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
    with _pool(arguments) as pool:
        report = label_check.check(pool, labels, references)
    print(*label_check.sentences(report), sep="\n")
    if arguments.output:
        with evaluation.whole(Path(arguments.output)) as text:
            text.write(json.dumps(report, indent=1) + "\n")
    sound = report["understood"] == report["labels"]
    return 0 if sound and report.get("references_passed") == report.get("references") else 1


def _pool(arguments: argparse.Namespace) -> AnyPool:
    limits = Limits(
        cpu_seconds=arguments.cpu_seconds,
        wall_seconds=4.0 * arguments.cpu_seconds,
        memory_bytes=arguments.memory_mb << 20,
    )
    if not arguments.ray:
        return Pool(2 if arguments.workers is None else arguments.workers, limits, arguments.require_isolation)
    try:
        from openrlhf_pf.code_reward.nodes.cluster import ray_pool
    except ImportError as error:
        raise ValueError(f"--ray needs Ray ({error}): pip install ray, or leave it out.") from error
    return ray_pool(arguments.workers, limits, arguments.require_isolation)


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
