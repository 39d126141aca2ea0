"""Flags for several reward models: which they are, and by which of their scores the filter ranks."""

from types import SimpleNamespace

from openrlhf_pf.training.flags.flag import Flag

FLAGS = (
    Flag(
        "--sample_filter_reward_models",
        "further local reward models that score every sample, for filters and for the log",
        metavar="A,B,C",
    ),
    Flag(
        "--sample_filter_rank_by",
        "what the filter ranks by: the reward, or the mean or the lower confidence bound (mean minus one standard "
        "deviation) of --sample_filter_reward_models; training uses the reward in any case (default: reward)",
        choices=("reward", "ensemble_mean", "lower_bound"),
    ),
)


def reward_models(args: SimpleNamespace) -> list[str]:
    """Return the checkpoints of ``--sample_filter_reward_models``, in order."""
    return args.sample_filter_reward_models.split(",") if args.sample_filter_reward_models else []


def check_reward_models(args: SimpleNamespace) -> None:
    """Raise ValueError if ``--sample_filter_reward_models`` does not fit the flags that use it."""
    models = reward_models(args)
    if not models:
        if args.sample_filter_rank_by not in (None, "reward") or args.sample_filter == "ensemble_agreement":
            flag = "ensemble_agreement" if args.sample_filter == "ensemble_agreement" else args.sample_filter_rank_by
            raise ValueError(
                f"{flag} compares several reward models, but there are none: give their checkpoints with "
                "--sample_filter_reward_models A,B,C."
            )
        return
    if len(models) < 2 or len(set(models)) < len(models) or not all(models):
        raise ValueError(
            "--sample_filter_reward_models needs two or more different checkpoints, separated by commas, got "
            f"'{args.sample_filter_reward_models}'."
        )
    if args.reward.remote_url or args.train.agent_func_path:
        raise ValueError(
            "--sample_filter_reward_models scores with the workers of a local reward model, but rewards come from "
            "--reward.remote_url or an agent: give --reward.model_name_or_path instead, or return each model's score "
            "in the reward function's extra_logs, where a filter of your own reads them."
        )
