"""Every check of our flags against OpenRLHF's own arguments, before Ray starts."""

import math
from pathlib import Path
from types import SimpleNamespace

from openrlhf_pf.filters import FILTERS, LearningFilter, SampleFilter
from openrlhf_pf.rollout_log import check_directory
from openrlhf_pf.training import selection_arguments
from openrlhf_pf.training.arguments import (
    BASELINE_ESTIMATORS,
    FLAGS_OF_A_FILTER,
    GROUP_ESTIMATORS,
    LEARNING,
    draw_mode,
    drops,
    filter_from_args,
    first_given,
    is_active,
    looks_at_samples,
    reward_models,
    stops,
    trained_per_prompt,
)
from openrlhf_pf.training.batch_checks import check_batches, check_score_ahead
from openrlhf_pf.training.true_score import load_reward_func


def check_arguments(args: SimpleNamespace) -> None:
    """Check our arguments against OpenRLHF's.

    Args:
        args: OpenRLHF's nested arguments, as ``openrlhf.utils.config.hierarchize`` makes them.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    _check_nothing_inert(args)
    _check_stop(args)
    selection_arguments.check_arguments(args)
    if not is_active(args):
        return
    sample_filter = filter_from_args(args)
    _check_keep(args, sample_filter)
    _check_estimator(args, sample_filter)
    check_reward_models(args)
    _check_probe(args, sample_filter)
    check_batches(args, sample_filter)
    check_score_ahead(args)
    if args.sample_filter_log:
        check_directory(args.sample_filter_log)
    check_own_code(args)


def check_own_code(args: SimpleNamespace) -> None:
    """Refuse a reward function or an agent that Python cannot read: an engine that loads it would die at its start."""
    urls = args.reward.remote_url or []
    urls = urls.split(",") if isinstance(urls, str) else urls
    given = [("--reward.remote_url", url) for url in urls] + [("--train.agent_func_path", args.train.agent_func_path)]
    for flag, file in given:
        if not file or not file.endswith(".py") or not Path(file).is_file():
            continue
        try:
            compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            place = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise ValueError(
                f"{flag} {file} is no Python that can be loaded ({error.args[0]}{place}): mend it or name another."
            ) from error


def _check_nothing_inert(args: SimpleNamespace) -> None:
    flag = first_given(args, *FLAGS_OF_A_FILTER) if args.sample_filter == "none" else None
    flag = flag or (None if looks_at_samples(args) else first_given(args, "seed", "score_ahead"))
    if flag:
        raise ValueError(
            f"{flag} has no effect with --sample_filter none: choose a filter ({', '.join(list(FILTERS)[1:])}) or "
            "leave the flag out."
        )
    _check_drop(args)
    _check_refill(args)


def _check_drop(args: SimpleNamespace) -> None:
    for flag, drop in (("tolerance", "flat"), ("share", "variance_top_p"), ("band", "band")):
        if getattr(args, f"sample_filter_drop_{flag}") is not None and drops(args) != drop:
            raise ValueError(
                f"--sample_filter_drop_{flag} has no effect without --sample_filter_drop {drop}: add it or leave the "
                "flag out."
            )
    tolerance, share, band = (getattr(args, f"sample_filter_drop_{flag}") for flag in ("tolerance", "share", "band"))
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"--sample_filter_drop_tolerance must be 0 or more, in units of the reward, got {tolerance}.")
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"--sample_filter_drop_share must be above 0 and at most 1, got {share}.")
    if drops(args) == "band" and band is None:
        raise ValueError(
            "--sample_filter_drop band needs the lowest and the highest mean score of a prompt that trains: give "
            "--sample_filter_drop_band LOW HIGH."
        )
    if band is not None and not band[0] <= band[1]:
        raise ValueError(f"--sample_filter_drop_band must be the lower number first, got {band[0]} {band[1]}.")


def _check_refill(args: SimpleNamespace) -> None:
    times, prompts = args.sample_filter_refill, args.rollout.batch_size
    if times is None:
        return
    if not (times < math.inf and int(prompts * times) > prompts):
        raise ValueError(
            f"--sample_filter_refill must allow a step more than its {prompts} prompts, got {times:g} times as many: "
            "give 2, say."
        )
    if args.sample_filter == "none" and drops(args) is None:
        raise ValueError(
            "--sample_filter_refill has no effect without a --sample_filter or a --sample_filter_drop, which leave "
            "prompts out: add one or leave the flag out."
        )
    if args.algo.dynamic_filtering_enable:
        raise ValueError(
            "--sample_filter_refill and --algo.dynamic_filtering_enable both replace prompts while a step is sampled: "
            "leave one of them out."
        )
    if not selection_arguments.scored_where_generated(args):
        raise ValueError(
            "--sample_filter_refill looks at rewards that come back with the responses, and a local reward model's "
            "come when all are sampled: give --reward.remote_url or an agent, or leave the flag out."
        )
    at_once = selection_arguments.prompts_at_once(args)
    if drops(args) == "variance_top_p" and at_once != prompts:
        raise ValueError(
            "--sample_filter_drop variance_top_p compares the prompts of a step, and --sample_filter_refill those of "
            f"--rollout.vllm_generate_batch_size {at_once}: make it --rollout.batch_size {prompts}, or choose another "
            "--sample_filter_drop."
        )


def _check_keep(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    if args.sample_filter_keep is not None and sample_filter.scope == "batch" and draw_mode(args) == "reweight":
        raise ValueError(
            f"--sample_filter_keep has no effect with --sample_filter {args.sample_filter} and --sample_filter_mode "
            "reweight, which trains every sample of the batch that has weight: leave it out, or choose select."
        )


def _check_estimator(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    estimator, keep = args.algo.advantage.estimator, sample_filter.keep
    if args.sample_filter_baseline is not None and estimator not in BASELINE_ESTIMATORS:
        raise ValueError(
            f"--sample_filter_baseline has no effect with --algo.advantage.estimator {estimator}, which takes no "
            f"baseline from other samples: choose one of {', '.join(BASELINE_ESTIMATORS)} or leave the flag out."
        )
    if estimator not in GROUP_ESTIMATORS:
        return
    if sample_filter.scope == "batch":
        raise ValueError(
            f"--sample_filter {args.sample_filter} draws from the whole batch, so that a prompt may keep any number "
            f"of samples, and --algo.advantage.estimator {estimator} needs the group of a prompt: choose gae or "
            "reinforce, or a filter that keeps k samples a prompt."
        )
    if args.sample_filter_baseline != "group" and trained_per_prompt(args, sample_filter) < 2:
        raise ValueError(
            f"--algo.advantage.estimator {estimator} takes its baseline from the kept samples of a prompt and needs "
            f"at least 2, but --sample_filter {args.sample_filter} keeps {keep}: raise --sample_filter_keep, take the "
            "baseline from all samples with --sample_filter_baseline group, or choose gae or reinforce."
        )


def check_reward_models(args: SimpleNamespace) -> None:
    """Check ``--sample_filter_reward_models`` and what asks for it.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
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


def _check_probe(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    brings_scores = args.reward.remote_url or args.train.agent_func_path
    if args.sample_filter_probe is None:
        flag = first_given(args, "probe_every", "probe_score")
        if flag:
            raise ValueError(f"{flag} has no effect without --sample_filter_probe DATA: add it or leave the flag out.")
        if isinstance(sample_filter, LearningFilter) and not brings_scores:
            raise ValueError(
                f"--sample_filter {args.sample_filter} learns from true scores, and a local reward model gives none: "
                "give prompts to learn from with --sample_filter_probe DATA and --sample_filter_probe_score FILE.py."
            )
        return
    if not hasattr(sample_filter, "observe") and not stops(args):
        raise ValueError(
            f"--sample_filter_probe has no effect with --sample_filter {args.sample_filter}, which learns nothing "
            f"from true scores: choose {' or '.join(LEARNING)}, or leave the flag out."
        )
    if args.sample_filter_probe_every is not None and args.sample_filter_probe_every < 1:
        raise ValueError(f"--sample_filter_probe_every must be 1 or more, got {args.sample_filter_probe_every}.")
    if args.sample_filter_probe_score:
        load_reward_func(args.sample_filter_probe_score, "--sample_filter_probe_score")
    elif not brings_scores:
        raise ValueError(
            "the samples of --sample_filter_probe need true scores, and a local reward model gives none: name a "
            "reward_func with --sample_filter_probe_score FILE.py."
        )


def _check_stop(args: SimpleNamespace) -> None:
    below, window = args.sample_filter_stop_below, args.sample_filter_stop_window
    if below is None:
        if window is not None:
            raise ValueError("--sample_filter_stop_window has no effect without --sample_filter_stop_below R: add it.")
        return
    if not 0 < below <= 1:
        raise ValueError(
            f"--sample_filter_stop_below must be above 0 and at most 1, got {below}: it is a share of pairs, and "
            "guessing gives .5."
        )
    if window is not None and window < 1:
        raise ValueError(f"--sample_filter_stop_window must be 1 or more, got {window}.")
    if not (args.reward.remote_url or args.train.agent_func_path or args.sample_filter_probe):
        raise ValueError(
            "--sample_filter_stop_below compares rewards with true scores, and a local reward model gives none: give "
            "prompts to look at with --sample_filter_probe DATA and --sample_filter_probe_score FILE.py."
        )
