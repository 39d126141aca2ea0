"""Samples of a policy for the tests of preferences."""

import math

import pyarrow as pa

from openrlhf_pf.rlp.samples import Prompt


def prompt_of(responses, rewards=None, scores=None, truncated=None, tokens=None, text="x", label=None):
    """A prompt; rewards rise with the place unless they are given."""
    n = len(responses)
    unknown = (math.nan,) * n
    return Prompt(
        text,
        label,
        tuple(responses),
        tuple(map(float, range(n) if rewards is None else rewards)),
        unknown if scores is None else tuple(map(float, scores)),
        (False,) * n if truncated is None else tuple(truncated),
        unknown if tokens is None else tuple(map(float, tokens)),
    )


def table_of(rows, **columns):
    """Rows of (prompt, response, reward), and more columns."""
    names = ("prompt", "response", "reward")
    return pa.table({**{name: list(values) for name, values in zip(names, zip(*rows))}, **columns})


def samples(n_prompts=6, sizes=(6, 3, 1)):
    """Rows of (prompt, response, reward): clusters of equal texts of these sizes, rewards that differ."""
    texts = [f"answer {group}" for group, size in enumerate(sizes) for _ in range(size)]
    return [(f"prompt {p}", text, p + i / 10) for p in range(n_prompts) for i, text in enumerate(texts)]
