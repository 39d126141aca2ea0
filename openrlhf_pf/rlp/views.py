"""Two responses to each prompt, the data of the multi-view loss; needs no torch, so that flags are checked fast."""

import random
from collections.abc import Sequence

from openrlhf_pf.rlp.samples import Prompt

#: A prompt and two different responses to it.
View = tuple[str, str, str]


class Views:
    """A data set with one item per prompt text, (x, y_1, y_2), drawn again in each epoch.

    Equal prompt texts are one item, because two in a batch would count as different prompts. The two responses differ
    in text: the paper draws them independently, but equal ones carry no information. Truncated responses are left out,
    and so are prompts whose responses are all equal.

    Args:
        prompts: with their samples.
        seed: of the draws.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int = 0) -> None:
        responses: dict[str, list[str]] = {}
        for prompt in prompts:
            complete = [text for text, is_cut in zip(prompt.responses, prompt.truncated) if not is_cut]
            responses.setdefault(prompt.text, []).extend(complete)
        self._items = [(text, several) for text, several in responses.items() if len(set(several)) > 1]
        self.n_skipped = len(responses) - len(self._items)
        self._seed, self._epoch = seed, 0

    def set_epoch(self, number: int) -> None:
        """Draw items as in that epoch."""
        self._epoch = number

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> View:
        """Return a prompt, a random response, and a random one of those with another text."""
        text, responses = self._items[place]
        rng = random.Random(f"{self._seed} {self._epoch} {place}")
        one = rng.choice(responses)
        return text, one, rng.choice([response for response in responses if response != one])
