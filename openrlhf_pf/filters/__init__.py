"""Sample filters: which of the scored samples of a prompt train the policy. On numpy; nothing here imports torch.

``FILTERS`` maps the name that a user types to the class that does it. To add a filter, write a ``SampleFilter``
subclass, give it a line in ``FILTERS``, a row in the tables of README and docs/filters.md, and a hand-computed test. A
filter of your own needs no line here: ``package.module:Class`` and ``path/to/file.py:Class`` are names, too, and
``openrlhf-pf check`` checks it.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from openrlhf_pf import registry
from openrlhf_pf.filters.adaptive import Adaptive
from openrlhf_pf.filters.base import KeyFilter, LearningFilter, SampleFilter, scaled
from openrlhf_pf.filters.batch import FilterBatch, make_generator
from openrlhf_pf.filters.batch_scope import RewardPower, Top, TopBottom, TopRandom
from openrlhf_pf.filters.draw import DRAWS, Draw, draw, resample, reweight, select
from openrlhf_pf.filters.group_scope import (
    BestOfN,
    BestRandom,
    BestWorst,
    EnsembleAgreement,
    MaxVariance,
    NoFilter,
    RankFilter,
    RankWeights,
    RewardPerToken,
    Shortest,
)
from openrlhf_pf.filters.pareto import Pareto

FILTERS: dict[str, type[SampleFilter]] = {
    "none": NoFilter,
    "best_of_n": BestOfN,
    "best_random": BestRandom,
    "best_worst": BestWorst,
    "rank_weights": RankWeights,
    "max_variance": MaxVariance,
    "top": Top,
    "top_random": TopRandom,
    "top_bottom": TopBottom,
    "reward_power": RewardPower,
    "shortest": Shortest,
    "reward_per_token": RewardPerToken,
    "pareto": Pareto,
    "ensemble_agreement": EnsembleAgreement,
    "adaptive": Adaptive,
}

__all__ = [
    "DRAWS",
    "FILTERS",
    "Draw",
    "FilterBatch",
    "KeyFilter",
    "LearningFilter",
    "NoFilter",
    "RankFilter",
    "SampleFilter",
    "build_filter",
    "draw",
    "filter_class",
    "make_generator",
    "options_of",
    "resample",
    "reweight",
    "scaled",
    "select",
]

#: Parameters of every filter's constructor; all others are its options.
_COMMON = ("n_samples", "keep")


def filter_class(name: str) -> type[SampleFilter]:
    """Return the class called ``name``: a key of ``FILTERS``, ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ValueError: there is none, or it is no filter; the message is one sentence.
    """
    cls = registry.find_named(name, FILTERS, "sample filter")
    methods = {"__init__": ("self", *_COMMON), "weigh": ("self", "batch")}
    registry.check_class(cls, name, SampleFilter, methods, "write weigh(self, batch), which returns the weights.")
    if cls.scope not in ("group", "batch"):
        raise ValueError(f"{name} has the scope {cls.scope!r}: set it to 'group' or 'batch'.")
    return cls


def options_of(cls: type[SampleFilter]) -> dict[str, inspect.Parameter]:
    """Return the constructor's parameters other than n_samples and keep."""
    return registry.options_of(cls, _COMMON)


def build_filter(
    name: str, n_samples: int, keep: int | None = None, texts: Sequence[str] = (), **options: Any
) -> SampleFilter:
    """Build the filter called ``name``.

    Args:
        name: see :func:`filter_class`.
        n_samples: N, samples drawn a prompt.
        keep: k, samples a prompt that train; None for the filter's own default.
        texts: options as ``key=value`` texts, read by the types that the filter declares.
        options: options as values, e.g. ``weights`` for ``rank_weights``; None counts as not given.

    Raises:
        ValueError: unknown name, an option that is missing or that this filter does not take, or numbers that do not
            fit; the message is one sentence that says what was given, what is allowed and what to do.
    """
    cls = filter_class(name)
    takes = options_of(cls)
    given = {option: value for option, value in options.items() if value is not None}
    parsed = registry.parse_options(cls, f"sample filter '{name}'", texts, _COMMON)
    if given.keys() & parsed:
        raise ValueError(f"sample filter '{name}' is given {_join(given.keys() & parsed)} twice: leave one out.")
    given |= parsed
    if given.keys() - takes:
        raise ValueError(f"sample filter '{name}' takes no {_join(given.keys() - takes)}: leave it out.")
    needed = {option for option, parameter in takes.items() if parameter.default is inspect.Parameter.empty}
    if needed - given.keys():
        raise ValueError(f"sample filter '{name}' needs {_join(needed - given.keys())}: give it.")
    if n_samples < 2 and cls is not NoFilter:
        raise ValueError(
            f"sample filter '{name}' chooses among the samples of a prompt, but only {n_samples} is drawn: "
            "draw at least 2 samples per prompt."
        )
    return cls(n_samples, cls.default_keep(n_samples) if keep is None else keep, **given)


def _join(names: set[str]) -> str:
    return " or ".join(sorted(names))
