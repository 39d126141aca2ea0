"""Clusters of programs with the same outputs: the sandbox runs each on the inputs of the prompt's label.

Expected values are not used (:mod:`openrlhf_pf.code_reward.judge.observe`). A program that fails on every input, that
does not end, or whose outputs only itself could compare, is in no group.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from openrlhf_pf.code_reward import AnyPool, Result, Verdict
from openrlhf_pf.code_reward.judge.observe import observation_of
from openrlhf_pf.code_reward.tasks import from_label
from openrlhf_pf.rlp.clusters import Clustering, Groups, number_groups
from openrlhf_pf.rlp.samples import Prompt

_AHEAD = 64  # prompts whose programs are in the sandbox at a time


class Behaviour(Clustering):
    """Responses are equal if the programs in them are.

    Args:
        pool: the sandboxes; by default those of the code reward, with its settings from the environment.
    """

    def __init__(self, pool: AnyPool | None = None) -> None:
        super().__init__()
        self._pool = pool
        self._failed = 0

    @property
    def settings(self) -> str:
        """Return the limits and packages that decide the outputs."""
        return f"behaviour {self.pool.limits} {os.environ.get('OPENRLHF_PF_CODE_PACKAGES')}"

    @property
    def pool(self) -> AnyPool:
        """Return the sandboxes, started on first use."""
        if self._pool is None:
            from openrlhf_pf.code_reward.reward import shared_pool

            self._pool = shared_pool()
        return self._pool

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ValueError, one sentence, if a label has no tests, whose inputs the programs run on."""
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

    def cluster(self, prompts: Sequence[Prompt]) -> Iterator[Groups]:
        """As in the protocol."""
        waiting: deque[tuple[Prompt, dict[str, Future[Result]]]] = deque()
        for prompt in prompts:
            task = from_label(prompt.label or "")
            observation = observation_of(task.problem)
            programs = {response: task.program(response) for response in prompt.responses}
            running = {text: self.pool.submit(text, observation) for text in dict.fromkeys(programs.values())}
            waiting.append((prompt, {response: running[text] for response, text in programs.items()}))
            while len(waiting) > _AHEAD or (waiting and all(f.done() for f in waiting[0][1].values())):
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def _collect(self, prompt: Prompt, running: dict[str, "Future[Result]"]) -> Groups:
        results = {response: future.result() for response, future in running.items()}
        failed = [result for result in results.values() if result.verdict is Verdict.INFRASTRUCTURE]
        if failed:
            self._failed += 1
            self.notes[:] = [f"{self._failed} prompts could not be clustered; the last reason: {failed[0].detail}"]
            return None
        return number_groups([results[r].detail if results[r].passed else None for r in prompt.responses])
