"""The rows of the prompt data set, read in the driver for checks that should not wait until models are loaded."""

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
