"""A true score to copy: 1.0 if the last number of a response is the one in the label, else 0.0.

    openrlhf-pf collect ... --collect.score examples/true_score.py
    python examples/true_score.py      # scores two responses and prints their scores

A true score is what you really want, such as passed tests or a correct answer; a reward model predicts it. Replace
``is_correct`` by your own judgement. examples/micro_code/true_score.py runs hidden tests instead.
"""

import re


def is_correct(response: str, label: str) -> bool:
    """Return whether the last number of the response is the label's."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", response.replace(",", ""))
    return bool(numbers) and float(numbers[-1]) == float(label)


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, list[float]]:
    """Return a number for each query, which is its prompt and the response to it.

    >>> reward_func(["6 x 7 = ? It is 42.", "6 x 7 = ? It is 48."], ["6 x 7 = ?"] * 2, ["42"] * 2)
    {'rewards': [1.0, 0.0]}
    """
    responses = [query[len(prompt) :] for query, prompt in zip(queries, prompts)]
    return {"rewards": [float(is_correct(response, label)) for response, label in zip(responses, labels)]}


if __name__ == "__main__":
    print(reward_func(["6 x 7 = ? It is 42.", "6 x 7 = ? It is 48."], ["6 x 7 = ?"] * 2, ["42"] * 2))
