"""Clusters of programs that answer alike: the sandbox runs each on the inputs of the prompt's label.

Expected values take no part (:mod:`openrlhf_pf.code_reward.judge.observe`). A program that fails on every input, that
does not end, or whose answers only itself could compare, stands alone.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from openrlhf_pf.code_reward import AnyPool, Result, Verdict
from openrlhf_pf.code_reward.judge.observe import observation_of
from openrlhf_pf.code_reward.tasks import from_label
from openrlhf_pf.rlp.clusters import Groups, numbered
from openrlhf_pf.rlp.samples import Prompt

_AHEAD = 64  # prompts whose programs are handed to the sandbox before the first one's are done


class Behaviour:
    """Answers are equal if the programs in them are.

    Args:
        pool: the sandboxes; without one, those of the code reward, with its settings from the environment.
    """

    def __init__(self, pool: AnyPool | None = None) -> None:
        self.notes: list[str] = []
        self._pool = pool
        self._lost = 0

    @property
    def settings(self) -> str:
        """As in the protocol."""
        return f"behaviour {self.pool.limits} {os.environ.get('OPENRLHF_PF_CODE_PACKAGES')}"

    @property
    def pool(self) -> AnyPool:
        """The sandboxes, started when they are first needed."""
        if self._pool is None:
            from openrlhf_pf.code_reward.reward import shared_pool

            self._pool = shared_pool()
        return self._pool

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Every label must have tests, for it is their inputs that programs are told apart by.

        Raises:
            ValueError: one has none.
        """
        bad: list[str] = []
        for prompt in prompts:
            try:
                if prompt.label is None:
                    raise ValueError("it is missing, and comes with --data.label_key when samples are collected.")
                from_label(prompt.label)
            except ValueError as error:
                bad.append(f"the first is that of the prompt {prompt.text!r:.60}: {error}")
        if bad:
            raise ValueError(
                f"--cluster behaviour needs tests in every label, and {len(bad)} of {len(prompts)} have none; {bad[0]}"
            )

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """As in the protocol."""
        waiting: deque[tuple[Prompt, dict[str, Future[Result]]]] = deque()
        for prompt in prompts:
            task = from_label(prompt.label or "")
            observation = observation_of(task.problem)
            programs = {response: task.program(response) for response in prompt.responses}
            running = {text: self.pool.submit(text, observation) for text in dict.fromkeys(programs.values())}
            waiting.append((prompt, {response: running[text] for response, text in programs.items()}))
            while len(waiting) > _AHEAD or (waiting and all(f.done() for f in waiting[0][1].values())):
                yield self._grouped(*waiting.popleft())
        while waiting:
            yield self._grouped(*waiting.popleft())

    def _grouped(self, prompt: Prompt, running: dict[str, "Future[Result]"]) -> Groups:
        results = {response: future.result() for response, future in running.items()}
        lost = [result for result in results.values() if result.verdict is Verdict.INFRASTRUCTURE]
        if lost:
            self._lost += 1
            self.notes[:] = [f"{self._lost} prompts could not be clustered; the last reason: {lost[0].detail}"]
            return None
        return numbered([results[r].detail if results[r].passed else None for r in prompt.responses])
