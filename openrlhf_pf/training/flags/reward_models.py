"""Flags for several reward models: which they are, by which of their scores the filter ranks, and which train."""

from types import SimpleNamespace

from openrlhf_pf.training.flags.flag import Flag
from openrlhf_pf.training.flags.sample_filter import GROUP_ESTIMATORS, corrects

FLAGS = (
    Flag(
        "--sample_filter_reward_models A,B,C",
        "further local reward models that score every sample, for filters and for the log",
    ),
    Flag(
        "--sample_filter_rank_by",
        "what the filter ranks by: the reward, or the mean or the lower confidence bound (mean minus one standard "
        "deviation) of --sample_filter_reward_models; what trains, --sample_filter_reward says (default: reward)",
        choices=("reward", "ensemble_mean", "lower_bound"),
    ),
    Flag(
        "--sample_filter_reward",
        "which reward trains: the main model's, or of all models the mean, the mean shrunk where they disagree, the "
        "mean minus one standard deviation, or the lowest, each without its mean per prompt and at the main model's "
        "spread; member: one model at random scores each prompt (default: main)",
        choices=("main", "mean", "shrunk", "lower", "worst", "member"),
    ),
)


def reward_models(args: SimpleNamespace) -> list[str]:
    """Return the checkpoints of ``--sample_filter_reward_models``, in order."""
    return args.sample_filter_reward_models.split(",") if args.sample_filter_reward_models else []


def reward_rule(args: SimpleNamespace) -> str:
    """Return which reward trains: a choice of ``--sample_filter_reward``."""
    return getattr(args, "sample_filter_reward", None) or "main"  # collecting may lack the flag


def member_models(args: SimpleNamespace) -> list[str]:
    """Return the models of which ``--sample_filter_reward`` makes one reward: the main one, then the others."""
    return list(dict.fromkeys([args.reward.model_name_or_path, *reward_models(args)]))


def check_reward(args: SimpleNamespace) -> None:
    """Raise ValueError if ``--sample_filter_reward`` does not fit the other flags."""
    rule = reward_rule(args)
    if rule == "main":
        return
    if not reward_models(args):
        raise ValueError(
            f"--sample_filter_reward {rule} combines several reward models, but there is one: give others with "
            "--sample_filter_reward_models A,B, or leave the flag out."
        )
    if corrects(args):
        raise ValueError(
            f"--sample_filter_reward {rule} trains on several reward models, and --sample_filter_correct corrects the "
            "main one: leave one of the two out."
        )
    if rule != "member":
        return
    estimator, n_members = args.algo.advantage.estimator, len(member_models(args))
    if estimator not in GROUP_ESTIMATORS:
        raise ValueError(
            "--sample_filter_reward member brings constants that differ between members, which "
            f"--algo.advantage.estimator {estimator} does not take out and no critic can learn: choose one of "
            f"{', '.join(GROUP_ESTIMATORS)}, or --sample_filter_reward mean."
        )
    if args.sample_filter_rank_by not in (None, "reward") or args.sample_filter == "ensemble_agreement":
        raise ValueError(
            "--sample_filter_reward member has the reward of one model for each prompt, and ensemble_agreement and "
            "--sample_filter_rank_by need those of all: leave them out, or choose --sample_filter_reward mean."
        )
    if args.rollout.batch_size < n_members:
        raise ValueError(
            f"--sample_filter_reward member shares the prompts of a rollout among {n_members} models, but "
            f"--rollout.batch_size is {args.rollout.batch_size}: give at least {n_members}."
        )


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
    used = models if reward_rule(args) == "main" else member_models(args)
    if len(used) < 2 or len(set(models)) < len(models) or not all(models):
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
