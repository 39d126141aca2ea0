"""What goes in and what comes out: limits, problems as plain data, results."""

import enum
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from openrlhf_pf.code_reward.judge import codec


class Verdict(str, enum.Enum):
    """How a program ended. Only ``PASSED`` is a pass; ``INFRASTRUCTURE`` says nothing about the program."""

    PASSED = "passed"
    FAILED = "failed"
    SYNTAX_ERROR = "syntax_error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASHED = "crashed"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    CPU time is the limit that is meant; wall time only ends those that sleep, and is long, so that a busy machine
    fails no program.
    """

    cpu_seconds: int = 10
    wall_seconds: float = 40.0
    memory_bytes: int = 1 << 30
    disk_bytes: int = 16 << 20
    open_files: int = 64
    threads: int = 32
    output_bytes: int = 16 << 20  # of a program that is tested by what it prints; otherwise its output goes nowhere
    test_cpu_seconds: float = 86400.0  # of one test of a whole program

    def __post_init__(self) -> None:
        for name, value in self.as_dict.items():
            if not value > 0:
                raise ValueError(f"the limit {name} is {value}: give a number above 0.")

    @cached_property
    def as_dict(self) -> dict[str, float]:
        """Its fields, made once for many programs."""
        return asdict(self)


@dataclass(frozen=True)
class Problem:
    """What a program is checked against, as plain data; the builders in :mod:`tasks` make it.

    Attributes:
        kind: ``cases``, ``function``, ``asserts``, ``functions`` (:mod:`checks`) or ``stdio`` (:mod:`programs`);
            :mod:`observe` makes two more of them.
        data: what tests of that kind need; not to be changed once a program has been checked. ``limits`` in it, names
            and values of :class:`Limits`, stand above those of the pool.
    """

    kind: str
    data: dict[str, Any] = field(hash=False)

    def limited(self, limits: Limits) -> Limits:
        """The limits that hold for it."""
        return replace(limits, **self.data["limits"]) if self.data.get("limits") else limits

    @cached_property
    def encoded(self) -> bytes:
        """As it goes to a checker: once for all samples of a prompt.

        Raises:
            NotPlain: it holds something else than plain data, or too much of it.
        """
        return codec.encode((self.kind, self.data), codec.MAX_TASK_BYTES)


@dataclass(frozen=True)
class Result:
    """The outcome of one program.

    Attributes:
        test: the test that failed, from 0, where there is one.
        calls: how many answers of the program were judged.
        weaker: a test relied on the program's own objects, such as their ``__eq__``.
        label_at_fault: no statement about the program, for the label's test is in error.
    """

    verdict: Verdict
    test: int | None = None
    detail: str = ""
    calls: int = 0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    weaker: bool = False
    label_at_fault: bool = False

    @property
    def passed(self) -> bool:
        """Whether every test ran to its end and was right."""
        return self.verdict is Verdict.PASSED

    @property
    def reward(self) -> float:
        """1 for a pass, 0 for a failure, NaN where the sandbox or the label's test failed."""
        return float("nan") if self.verdict is Verdict.INFRASTRUCTURE else float(self.passed)
