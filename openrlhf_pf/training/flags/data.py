"""Checks that read the user's files: prompts and their labels, reward functions and agents."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openrlhf_pf.code_reward
from openrlhf_pf.filters.batch_scope import LABEL, Top, label_fields
from openrlhf_pf.training.flags.prompts import check_enough_prompts, prompts_per_generation, selects
from openrlhf_pf.training.flags.reward_models import reward_models
from openrlhf_pf.training.flags.sample_filter import filter_from_args

_MODELS = ("actor", "critic", "reward")
_DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".txt")


def reward_sources(args: SimpleNamespace) -> list[str]:
    """Return the URLs and files of ``--reward.remote_url``."""
    urls = args.reward.remote_url or []
    return urls.split(",") if isinstance(urls, str) else list(urls)


def check_user_code(args: SimpleNamespace) -> None:
    """Raise ValueError if a reward function or an agent has a syntax error: an engine that loads it would die."""
    given = [("--reward.remote_url", url) for url in reward_sources(args)]
    for flag, file in [*given, ("--train.agent_func_path", args.train.agent_func_path)]:
        if not file or not file.endswith(".py") or not Path(file).is_file():
            continue
        try:
            compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            place = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise ValueError(
                f"{flag} {file} is no Python that can be loaded ({error.args[0]}{place}): fix it or name another file."
            ) from error


def check_paths(args: SimpleNamespace) -> None:
    """Raise ValueError if a model, a data set or a file that a flag names does not exist.

    Only for a Ray of this machine's own: in a cluster, they may be on another node. Names on the Hugging Face hub are
    left to OpenRLHF.
    """
    if os.environ.get("RAY_ADDRESS", "local") != "local":
        return
    models = [(f"--{name}.model_name_or_path", getattr(args, name).model_name_or_path) for name in _MODELS]
    models += [("--sample_filter_reward_models", model) for model in reward_models(args)]
    sets = [("--data.prompt_dataset", args.data.prompt_dataset), ("--eval.dataset", args.eval.dataset)]
    sets += [("--sample_filter_probe", args.sample_filter_probe)]
    files = [("--reward.remote_url", url) for url in reward_sources(args) if "://" not in url]
    files += [("--train.agent_func_path", args.train.agent_func_path)]
    names = [(flag, name.strip().partition("@")[0]) for flag, value in sets for name in (value or "").split(",")]
    for flag, name in [*models, *names, *files]:
        if name and not os.path.exists(name) and (_is_path(name) or (flag, name) in files):
            raise ValueError(f"{flag} {name}: there is no such file or directory; give one that exists.")


def _is_path(name: str) -> bool:
    """Return whether this cannot be a name on the Hugging Face hub, which has one slash at most."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith(_DATA_SUFFIXES)


# ── Data sets of prompts: read when OpenRLHF can be imported ──


def load_prompts(args: SimpleNamespace, names: str | None = None) -> Any:
    """Load a data set as OpenRLHF's trainer does, without printing; rows are read from disk when asked for.

    Args:
        args: OpenRLHF's nested arguments.
        names: as for ``--data.prompt_dataset``; that one by default.
    """
    from openrlhf.datasets.utils import blending_datasets  # slow to import

    data = args.data
    names = names or data.prompt_dataset
    quiet = SimpleNamespace(print=lambda *_: None, is_rank_0=lambda: False, args=args)
    return blending_datasets(
        names,
        data.prompt_probs if names == data.prompt_dataset else None,
        quiet,
        args.train.seed,
        max_count=data.max_samples,
        dataset_split=data.prompt_split,
    )


def load_prompt_column(args: SimpleNamespace, name: str) -> Sequence[Any]:
    """Load a column of the prompts.

    Raises:
        ValueError: they have no such column.
    """
    rows = load_prompts(args)
    if name not in rows.column_names:
        raise ValueError(f"the data set has no column {name!r}: it has {', '.join(rows.column_names)}.")
    return rows[name]


def check_prompt_count(args: SimpleNamespace) -> None:
    """Raise ValueError if the data set has too few different prompts to select from."""
    if not selects(args):
        return
    try:
        rows = load_prompts(args)
        rows = rows.select_columns([key for key in (args.data.input_key, args.data.label_key) if key is not None])
    except Exception:  # the data set may be on another node; OpenRLHF says what is wrong with it
        return
    found: set[str] = set()
    for row in islice(rows, int(args.data.max_samples)):
        found.add(repr(row))
        if len(found) > prompts_per_generation(args):
            return
    check_enough_prompts(len(found), args)


def check_task_labels(args: SimpleNamespace) -> None:
    """Raise ValueError if the filter has a threshold per task and the task of some prompt is unknown."""
    sample_filter = filter_from_args(args)
    per = sample_filter.per if isinstance(sample_filter, Top) else None
    if per == "datasource":
        load_prompt_column(args, "datasource")
    elif per is not None:
        if not args.data.label_key:
            raise ValueError(f"per={per} needs labels: name the column that holds them with --data.label_key.")
        labels = load_prompt_column(args, args.data.label_key)
        label_fields([str(label) for label in labels], per.removeprefix(LABEL))


def check_code_labels(args: SimpleNamespace) -> None:
    """Read the labels of all prompts if the code reward (a reward function or the true score is
    ``openrlhf_pf/code_reward/reward.py``) judges them, and print how many there are.

    Raises:
        ValueError: some are not understood, or there are none; or a setting in the environment is wrong.
    """
    score = getattr(getattr(args, "collect", None), "score", None)
    ours = os.path.join(os.path.dirname(openrlhf_pf.code_reward.__file__), "reward.py")
    paths = [*reward_sources(args), *([score] if isinstance(score, str) else [])]
    if not any(os.path.exists(path) and os.path.samefile(path, ours) for path in paths if path.endswith(".py")):
        return
    from openrlhf_pf.code_reward import reward
    from openrlhf_pf.code_reward.label_check import refuse_bad_labels

    reward.settings()
    if not args.data.label_key:
        raise ValueError("the code reward needs tests: name the column that holds them with --data.label_key.")
    print(f"openrlhf_pf: {refuse_bad_labels(load_prompt_column(args, args.data.label_key))}", flush=True)
