"""Where the reward is the code reward: are the labels of the whole data set understood, before anything is loaded?"""

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import openrlhf_pf.code_reward


def uses_code_reward(args: SimpleNamespace) -> bool:
    """Whether a reward function of these arguments, or their true score, is ``openrlhf_pf/code_reward/reward.py``."""
    urls = getattr(getattr(args, "reward", None), "remote_url", None) or []
    score = getattr(getattr(args, "collect", None), "score", None)
    ours = os.path.join(os.path.dirname(openrlhf_pf.code_reward.__file__), "reward.py")
    paths = [*(urls.split(",") if isinstance(urls, str) else urls), *([score] if isinstance(score, str) else [])]
    return any(os.path.exists(path) and os.path.samefile(path, ours) for path in paths if path.endswith(".py"))


def check_code_labels(args: SimpleNamespace) -> None:
    """Read the labels of the prompts that are to be trained on, and say how many.

    Raises:
        ValueError: some of them are not understood, or there are none.
    """
    if not uses_code_reward(args):
        return
    from openrlhf_pf.code_reward.label_check import refuse_bad_labels

    if not args.data.label_key:
        raise ValueError("the code reward needs tests: name the column that holds them with --data.label_key.")
    print(f"openrlhf_pf: {refuse_bad_labels(prompt_column(args, args.data.label_key))}", flush=True)


def prompt_column(args: SimpleNamespace, name: str) -> Sequence[Any]:
    """A column of the prompts that are to be trained on.

    Raises:
        ValueError: they have no such column.
    """
    from openrlhf.datasets.utils import blending_datasets

    data = args.data
    quiet = SimpleNamespace(print=lambda *_: None, is_rank_0=lambda: True, args=args)
    rows = blending_datasets(
        data.prompt_dataset,
        data.prompt_probs,
        quiet,
        args.train.seed,
        max_count=data.max_samples,
        dataset_split=data.prompt_split,
    )
    if name not in rows.column_names:
        raise ValueError(f"the data set has no column {name!r}: it has {', '.join(rows.column_names)}.")
    return rows[name]
