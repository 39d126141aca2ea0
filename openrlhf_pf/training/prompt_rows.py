"""The rows of the prompt data set, read in the driver for checks that should not wait until models are loaded."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any


def prompt_rows(args: SimpleNamespace) -> Any:
    """Load the data set of prompts as OpenRLHF's trainer will, without a word."""
    from openrlhf.datasets.utils import blending_datasets  # which takes long to import

    data = args.data
    quiet = SimpleNamespace(print=lambda *_: None, is_rank_0=lambda: True, args=args)
    return blending_datasets(
        data.prompt_dataset,
        data.prompt_probs,
        quiet,
        args.train.seed,
        max_count=data.max_samples,
        dataset_split=data.prompt_split,
    )


def prompt_column(args: SimpleNamespace, name: str) -> Sequence[Any]:
    """A column of the prompts that are to be trained on.

    Raises:
        ValueError: they have no such column.
    """
    rows = prompt_rows(args)
    if name not in rows.column_names:
        raise ValueError(f"the data set has no column {name!r}: it has {', '.join(rows.column_names)}.")
    return rows[name]
