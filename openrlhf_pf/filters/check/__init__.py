"""Is a sample filter sound? A contract test to run against a class of one's own.

    python -m openrlhf_pf.filters.check path/to/file.py:Class
    python -m openrlhf_pf.filters.check path/to/file.py:Class --samples 16 --keep 4 --options threshold=0.5

prints one line a check (``ok``, ``FAILED`` or ``note``) and a verdict. Exit status: 0 when no check FAILED, 1 when one
did, 2 when the filter cannot be loaded or built. The same from a test::

    assert not [finding for finding in check_filter("path/to/file.py:Class") if finding.status == "FAILED"]

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

import inspect
import traceback
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from openrlhf_pf.filters import SampleFilter, build_filter, filter_class
from openrlhf_pf.filters.check.contract import CHECKS, Status, Subject, global_generators
from openrlhf_pf.filters.check.rollouts import UnknownLog

__all__ = ["Finding", "check_filter", "verdict"]


class Finding(NamedTuple):
    """What one check saw."""

    check: str
    status: Status
    sentence: str


def check_filter(
    name: str, n_samples: int = 8, keep: int | None = None, texts: Sequence[str] = (), seed: int = 0
) -> list[Finding]:
    """Run all checks against a filter.

    The others are left out when "build" or "weights" FAILED, and when the filter asks for an extra log that the check
    cannot know (a note called "extra_logs" says which).

    Args:
        name: see :func:`openrlhf_pf.filters.filter_class`.
        n_samples: N.
        keep: k; None for the filter's own default.
        texts: options as ``key=value`` texts.
        seed: decides the test rollouts and all randomness.

    Raises:
        ValueError: the filter cannot be loaded, or does not take these settings.
    """
    cls = filter_class(name)
    with global_generators(seed):
        try:
            subject = Subject(partial(build_filter, name, keep=keep, texts=texts), n_samples, seed)
        except ValueError:
            raise
        except Exception as error:
            advice = "__init__ takes n_samples and keep and starts with super().__init__(n_samples, keep)."
            return [Finding("build", "FAILED", f"{_raised(error, cls)}; {advice}")]
        return _run_checks(subject, cls)


def _run_checks(subject: Subject, cls: type[SampleFilter]) -> list[Finding]:
    findings: list[Finding] = []
    for check, function in CHECKS.items():
        try:
            status, sentence = function(subject)
        except UnknownLog as error:
            return [*findings, Finding("extra_logs", "note", _unknown_log(error.args[0]))]
        except Exception as error:
            status, sentence = "FAILED", f"{_raised(error, cls)}."
        findings.append(Finding(check, status, sentence))
        if check == "weights" and status == "FAILED":
            break
    return findings


def _unknown_log(key: str) -> str:
    return (
        f"the filter reads extra_logs['{key}'], which the reward function of your run must return and which this "
        "check cannot know, so that it stops here; it serves extra_logs['accuracy'] only."
    )


def _raised(error: Exception, cls: type[SampleFilter]) -> str:
    """What was raised, and the last line of the file of ``cls`` that took part in it."""
    what = f"raised {traceback.format_exception_only(error)[-1].splitlines()[0].rstrip('.:')}"
    file = inspect.getfile(cls)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{what} ({file}, line {lines[-1].lineno}: {lines[-1].line})" if lines else what


def verdict(name: str, findings: Sequence[Finding]) -> str:
    """Return the last line of the report."""
    failed = [finding.check for finding in findings if finding.status == "FAILED"]
    if failed:
        return f"{name} is not sound: {', '.join(failed)} FAILED."
    if findings[-1].check == "extra_logs":
        return f"{name} could not be checked to the end; nothing FAILED until then."
    return f"{name} is sound: {len(findings)} checks, none FAILED."
