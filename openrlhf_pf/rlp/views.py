"""Two views of each prompt: answers that the same policy gave to it (the paper's Section 3.2)."""

import random
from collections.abc import Sequence

from openrlhf_pf.rlp.samples import Prompt

#: A prompt and two different answers to it.
View = tuple[str, str, str]


class Views:
    """A data set with an item a prompt, (x, y_1, y_2), drawn anew at each pass.

    Prompts are told apart by their text, for two items of one prompt in a batch would be taken for different ones. The
    two answers differ in text: the paper draws them independently, and equal ones would say nothing. Answers that were
    cut off take no part; a prompt whose answers are all equal gives no view.

    Args:
        prompts: with their samples.
        seed: of what is drawn.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int = 0) -> None:
        answers: dict[str, list[str]] = {}
        for prompt in prompts:
            whole = [text for text, cut in zip(prompt.responses, prompt.truncated) if not cut]
            answers.setdefault(prompt.text, []).extend(whole)
        self._answers = [(text, some) for text, some in answers.items() if len(set(some)) > 1]
        self.skipped = len(answers) - len(self._answers)
        self._seed, self._pass = seed, 0

    def set_pass(self, number: int) -> None:
        """Have items drawn as in that pass through the data."""
        self._pass = number

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, place: int) -> View:
        """A prompt's answer at random, and another one at random among those of another text."""
        text, answers = self._answers[place]
        rng = random.Random(f"{self._seed} {self._pass} {place}")
        one = rng.choice(answers)
        return text, one, rng.choice([answer for answer in answers if answer != one])
