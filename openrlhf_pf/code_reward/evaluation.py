"""pass@k of given solutions on a benchmark, with a log to resume from and a samples file for EvalPlus."""

import gzip
import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openrlhf_pf.code_reward.results import Result, Verdict
from openrlhf_pf.code_reward.sandbox.pool import AnyPool
from openrlhf_pf.code_reward.tasks import BENCHMARKS, Task
from openrlhf_pf.files import replace_file

RESAMPLES = 2000


def read_rows(path: str | os.PathLike[str], needed: str = "task_id") -> list[dict[str, Any]]:
    """The records of a ``.json``, ``.jsonl`` or ``.jsonl.gz`` file, each with a field that is needed, if one is.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        whole = text.lstrip()[:1] == "["
        rows = json.loads(text) if whole else [json.loads(line) for line in text.split("\n") if line.strip()]
        if not rows or not all(isinstance(row, dict) and (not needed or needed in row) for row in rows):
            raise ValueError(f"no records with a {needed or 'label'}")
        return rows
    except (OSError, ValueError, EOFError) as error:
        what = f"JSON lines with a {needed or 'label'}"
        raise ValueError(f"{str(path)!r} is not to be read as {what}: {error}.") from error


def task_key(task_id: object) -> str:
    """One spelling for MBPP's ``11`` and EvalPlus's ``Mbpp/11``."""
    text = str(task_id)
    return text[len("Mbpp/") :] if text.lower().startswith("mbpp/") else text


def read_tasks(benchmark: str, path: str | os.PathLike[str]) -> dict[str, Task]:
    """The tasks of a benchmark's data file, by their key.

    Raises:
        ValueError: no such benchmark, or the file is not of this one.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {benchmark!r}: choose from {', '.join(BENCHMARKS)}.")
    rows = read_rows(path)
    try:
        return {task_key(row["task_id"]): BENCHMARKS[benchmark](row) for row in rows}
    except ValueError as error:
        raise ValueError(f"{str(path)!r} does not hold rows of {benchmark}: {error}.") from error


def read_answers(path: str | os.PathLike[str], tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """The answers to each task, from records with ``task_id`` and ``completion`` or ``solution``.

    Raises:
        ValueError: a record is of no task, or has no answer.
    """
    answers: dict[str, list[str]] = {key: [] for key in tasks}
    for row in read_rows(path):
        key, answer = task_key(row["task_id"]), row.get("completion", row.get("solution"))
        name = f"{row['task_id']!r}"
        if key not in answers:
            raise ValueError(f"{str(path)!r} answers {name}, which the benchmark's data file does not have.")
        if not isinstance(answer, str):
            raise ValueError(f"{str(path)!r} has no completion for {name}: give one or leave the line out.")
        answers[key].append(answer)
    return answers


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples passes (Chen et al. 2021, Section 2.1)."""
    if not 0 < k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples of each problem: there are {samples}.")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the mean, from resampled problems."""
    generator, count = random.Random(seed), len(values)
    means = sorted(math.fsum(generator.choices(values, k=count)) / count for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def _identity(program: str) -> str:
    return hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _logged(path: Path, settings: str) -> dict[tuple[str, str], Result]:
    """What an earlier run has found out; a line that it did not finish is none."""
    found = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            result = Result(Verdict(row["verdict"]), row["test"], row["detail"], row["calls"])
            if row["settings"] == settings and result.verdict is not Verdict.INFRASTRUCTURE:
                found[row["task_id"], row["program"]] = result
        except (ValueError, KeyError, TypeError):
            continue
    return found


def score(
    pool: AnyPool, tasks: Mapping[str, Task], answers: Mapping[str, list[str]], log: Path
) -> dict[str, list[Result]]:
    """Check all answers; each result is a line in the log as soon as it and those before it are there."""
    settings = repr(pool.limits)
    known = _logged(log, settings)
    programs = [(key, tasks[key].program(answer)) for key in tasks for answer in answers[key]]
    fresh = {item: None for item in programs if (item[0], _identity(item[1])) not in known}
    results: dict[str, list[Result]] = {key: [] for key in tasks}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        # Begin on a new line: an interrupted run may have left an unfinished one.
        file.write("\n" if log.exists() and log.stat().st_size else "")
        for (key, program), result in zip(fresh, _in_order(pool, ((p, tasks[k].problem) for k, p in fresh))):
            row = {"task_id": key, "program": _identity(program), "verdict": result.verdict.value, "test": result.test}
            file.write(json.dumps(row | {"detail": result.detail, "calls": result.calls, "settings": settings}) + "\n")
            file.flush()
            known[key, _identity(program)] = result
    for key, program in programs:
        results[key].append(known[key, _identity(program)])
    return results


def _in_order(pool: AnyPool, programs: Iterable[tuple[str, Any]]) -> Iterable[Result]:
    waiting = []
    for program in programs:
        waiting.append(pool.submit(*program))
        while waiting and waiting[0].done():
            yield waiting.pop(0).result()
    yield from (future.result() for future in waiting)


def summarize(results: Mapping[str, list[Result]], ks: Sequence[int] = (1,)) -> dict[str, Any]:
    """pass@k over problems with an interval, and every verdict. A sample that the sandbox failed on counts neither
    way.

    Raises:
        ValueError: a problem has fewer than k samples.
    """
    usable = {key: [r for r in found if r.verdict is not Verdict.INFRASTRUCTURE] for key, found in results.items()}
    lost = sum(len(results[key]) - len(usable[key]) for key in results)
    # A problem without any answer is a failure; one whose answers the sandbox lost is not.
    scored = {key: found for key, found in usable.items() if found or not results[key]}
    summary: dict[str, Any] = {}
    for k in ks:
        values = [pass_at_k(len(f), sum(r.passed for r in f), k) if f else 0.0 for f in scored.values()]
        summary[f"pass@{k}"] = math.fsum(values) / len(values) if values else None
        summary[f"pass@{k}_interval"] = bootstrap_interval(values) if values else None
    counts = Counter(result.verdict.value for found in results.values() for result in found)
    summary["problems_scored"], summary["infrastructure_failures"] = len(scored), lost
    summary["verdicts"] = dict(sorted(counts.items()))
    summary["unanswered"] = [key for key, found in results.items() if not found]
    summary["problems"] = {
        key: [{"verdict": r.verdict.value, "test": r.test, "detail": r.detail} for r in found]
        for key, found in results.items()
    }
    return summary


def write_samples(path: Path, benchmark: str, tasks: Mapping[str, Task], answers: Mapping[str, list[str]]) -> None:
    """The whole programs as EvalPlus reads them: ``task_id`` in its spelling, and ``solution``."""
    prefix = "Mbpp/" if benchmark.startswith("mbpp") else ""
    with replace_file(path) as file:
        for key, task in tasks.items():
            for answer in answers[key]:
                file.write(json.dumps({"task_id": prefix + key, "solution": task.program(answer)}) + "\n")
