"""Where the reward is the code reward: are its settings, and the labels of the whole data set, understood, before
anything is loaded?
"""

import os
from types import SimpleNamespace

import openrlhf_pf.code_reward
from openrlhf_pf.training.prompt_rows import prompt_column


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
        ValueError: some of them are not understood, or there are none; or a setting in the environment is wrong.
    """
    if not uses_code_reward(args):
        return
    from openrlhf_pf.code_reward import reward
    from openrlhf_pf.code_reward.label_check import refuse_bad_labels

    reward.settings()
    if not args.data.label_key:
        raise ValueError("the code reward needs tests: name the column that holds them with --data.label_key.")
    print(f"openrlhf_pf: {refuse_bad_labels(prompt_column(args, args.data.label_key))}", flush=True)
