"""Sample filters: which of the scored samples of a prompt train the policy.

``FILTERS`` maps the name that a user types to the class that does it. To add a filter, write a ``SampleFilter``
subclass (file, class and name share a word), give it a line in ``FILTERS``, a row in the README's table and a
hand-computed test. Nothing here imports ray, vllm, deepspeed or openrlhf.
"""

import difflib
import inspect
from typing import Any

from openrlhf_pf.filters.base import FilterBatch, SampleFilter
from openrlhf_pf.filters.draw import select
from openrlhf_pf.filters.rank import BestOfN, BestRandom, BestWorst, NoFilter, RankFilter, RankWeights
from openrlhf_pf.filters.variance import MaxVariance

FILTERS: dict[str, type[SampleFilter]] = {
    "none": NoFilter,
    "best_of_n": BestOfN,
    "best_random": BestRandom,
    "best_worst": BestWorst,
    "rank_weights": RankWeights,
    "max_variance": MaxVariance,
}

__all__ = ["FILTERS", "FilterBatch", "RankFilter", "SampleFilter", "build_filter", "select"]


def build_filter(name: str, n_samples: int, keep: int | None = None, **options: Any) -> SampleFilter:
    """Build the filter called ``name``.

    Args:
        name: a key of ``FILTERS``.
        n_samples: N, samples drawn a prompt.
        keep: k, samples a prompt that train; None for the filter's own default.
        options: what the filter takes beyond that, e.g. ``weights`` for ``rank_weights``; None counts as not given.

    Raises:
        ValueError: unknown name, an option that is missing or that this filter does not take, or numbers that do not
            fit; the message is one sentence that says what was given, what is allowed and what to do.
    """
    if name not in FILTERS:
        close = difflib.get_close_matches(name, FILTERS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "choose one of them."
        raise ValueError(f"there is no sample filter '{name}'; there are {', '.join(FILTERS)}: {hint}")
    cls = FILTERS[name]
    given = {option for option, value in options.items() if value is not None}
    takes = set(inspect.signature(cls.__init__).parameters) - {"self", "n_samples", "keep"}
    if given - takes:
        raise ValueError(f"sample filter '{name}' takes no {_listed(given - takes)}: leave it out.")
    if takes - given:
        raise ValueError(f"sample filter '{name}' needs {_listed(takes - given)}: give it.")
    if n_samples < 2 and cls is not NoFilter:
        raise ValueError(
            f"sample filter '{name}' chooses among the samples of a prompt, but only {n_samples} is drawn: "
            "draw at least 2 samples a prompt."
        )
    keep = cls.default_keep(n_samples) if keep is None else keep
    return cls(n_samples, keep, **{option: options[option] for option in given})


def _listed(words: set[str]) -> str:
    return " or ".join(sorted(words))
