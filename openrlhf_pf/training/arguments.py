"""The ``--sample_filter*`` flags, and what they ask for; what speaks against them is in ``argument_checks.py``."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openrlhf_pf.filters import (
    DRAWS,
    FILTERS,
    LearningFilter,
    SampleFilter,
    build_filter,
    filter_class,
    options_of,
)
from openrlhf_pf.filters.prompts import VARIANCE_SHARE
from openrlhf_pf.training import selection_arguments
from openrlhf_pf.training.stop import WINDOW

#: Estimators that take a baseline from the other samples of a prompt: with one sample there is none.
GROUP_ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")

#: Those, and the one whose baseline is the mean of the whole batch: they can take it from samples that do not train.
BASELINE_ESTIMATORS = (*GROUP_ESTIMATORS, "flash_reinforce")

BASELINES = ("kept", "group")
DROPS = ("none", "flat", "variance_top_p", "band")
#: Filters that true scores teach while they train.
LEARNING = [name for name, cls in FILTERS.items() if issubclass(cls, LearningFilter)]
RANKINGS = ("reward", "ensemble_mean", "lower_bound")

#: Flags (without --sample_filter_) that shape the choice, so that they would do nothing with --sample_filter none.
FLAGS_OF_A_FILTER = (
    *("keep", "mode", "weights", "low", "high", "power", "options", "baseline", "rank_by"),
    *("probe", "probe_every", "probe_score"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add our flags to OpenRLHF's parser, in a group of their own."""
    group = parser.add_argument_group(
        "policy filtration (openrlhf_pf)",
        "Score all --rollout.n_samples_per_prompt samples, train on the ones that a filter keeps.",
    )

    def add(name: str, text: str, **settings: object) -> None:
        group.add_argument(f"--sample_filter{name}", help=text, **settings)

    add(
        "",
        f"which samples of a prompt train: {', '.join(FILTERS)}, auto, or package.module:Class "
        "or path/to/file.py:Class (default: none, which is OpenRLHF unchanged)",
        default="none",
        metavar="NAME",
    )
    add(
        "_report",
        "for auto: the report.json of openrlhf_pf.cli.analyze, whose recommendation is taken",
        metavar="FILE",
    )
    add("_keep", "samples a prompt that train (default: 1 for best_of_n, else 2)", type=int, metavar="K")
    add(
        "_mode",
        "how weights become samples: select exactly K a prompt with least variance, resample K times independently, "
        "or keep all that have weight and reweight their advantages (default: select)",
        choices=DRAWS,
    )
    add("_weights", "for rank_weights: the weight of each rank, best first", type=float, nargs="+", metavar="W")
    quantile = "or below this quantile of them with --sample_filter_options unit=quantile"
    add("_low", f"for top_bottom: rewards below this pass, {quantile}", type=float, metavar="R")
    quantile = quantile.replace("below", "above")
    add("_high", f"for top, top_random, top_bottom: rewards above this pass, {quantile}", type=float, metavar="R")
    add("_power", "for reward_power: the exponent", type=float, metavar="P")
    add("_options", "further options of the filter", nargs="+", metavar="KEY=VALUE")
    add(
        "_baseline",
        f"{', '.join(GROUP_ESTIMATORS)} take their baseline from the kept samples of a prompt or from the whole "
        "group, and flash_reinforce from those of all prompts (default: kept)",
        choices=BASELINES,
    )
    add(
        "_drop",
        "prompts to leave out whole: flat, whose rewards are all equal; variance_top_p, all but the fewest that hold "
        "a share of the rewards' variance within prompts; band, whose mean score lies outside a band (default: none)",
        choices=DROPS,
    )
    add(
        "_drop_tolerance",
        "for --sample_filter_drop flat: rewards this close count as equal (default: 0, but for rounding)",
        type=float,
        metavar="R",
    )
    add(
        "_drop_share",
        f"for --sample_filter_drop variance_top_p: the share of the variance that is kept (default: {VARIANCE_SHARE})",
        type=float,
        metavar="P",
    )
    add(
        "_drop_band",
        "for --sample_filter_drop band: lowest and highest mean true score, or mean reward where there are no scores",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
    )
    add(
        "_refill",
        "replace prompts of which nothing trains by further ones, as long as a step samples at most R times its "
        "prompts (default: a step has fewer)",
        type=float,
        metavar="R",
    )
    add(
        "_score_ahead",
        "have a local reward model with GPUs of its own score each prompt as soon as it is finished, while others are "
        "still generated; the rewards are the same",
        action="store_true",
        default=None,
    )
    add(
        "_reward_models",
        "further local reward models that score every sample, for filters and for the log",
        metavar="A,B,C",
    )
    add(
        "_rank_by",
        "what the filter ranks by: the reward, or the mean or the lower confidence bound (mean less one standard "
        "deviation) of --sample_filter_reward_models; the reward trains in any case (default: reward)",
        choices=RANKINGS,
    )
    add(
        "_probe",
        f"for {', '.join(LEARNING)}: prompts that are sampled and scored for the filter's sake alone, any data set "
        "that OpenRLHF reads",
        metavar="DATA",
    )
    add("_probe_every", "steps from one look at the probe to the next (default: 10)", type=int, metavar="M")
    add(
        "_probe_score",
        "file whose reward_func returns the true score of the probe's samples; needed where a local reward model "
        "gives the rewards",
        metavar="FILE.py",
    )
    add(
        "_stop_below",
        "end training, with a checkpoint, where rewards order fewer than this share of the pairs of a prompt's "
        "samples as true scores do, over a window and beyond noise",
        type=float,
        metavar="R",
    )
    add(
        "_stop_window",
        f"rollouts (or looks at the probe) that this goes by (default: {WINDOW})",
        type=int,
        metavar="M",
    )
    add("_log", "directory for the rollout log: every scored sample, one Parquet file a step", metavar="DIR")
    add("_seed", "seed of tie-breaking and draws (default: --train.seed)", type=int, metavar="SEED")
    selection_arguments.add_arguments(parser)


def is_active(args: SimpleNamespace) -> bool:
    """Whether these arguments ask for anything but OpenRLHF's own training."""
    return looks_at_samples(args) or selection_arguments.is_active(args)


def looks_at_samples(args: SimpleNamespace) -> bool:
    """Whether they ask for anything to be done with the samples of a rollout."""
    return stops(args) or bool(
        args.sample_filter != "none" or drops(args) or args.sample_filter_log or args.sample_filter_reward_models
    )


def drops(args: SimpleNamespace) -> str | None:
    """Which prompts are left out whole: a member of ``DROPS``, None for none."""
    return None if args.sample_filter_drop in (None, "none") else args.sample_filter_drop


def prompts_of_a_step(args: SimpleNamespace) -> int:
    """Prompts that a step is to have."""
    return min(args.rollout.batch_size, selection_arguments.prompts_at_once(args))


def stops(args: SimpleNamespace) -> bool:
    """Whether training may end by itself."""
    return args.sample_filter_stop_below is not None


def reward_models(args: SimpleNamespace) -> list[str]:
    """The checkpoints of ``--sample_filter_reward_models``, in order."""
    return args.sample_filter_reward_models.split(",") if args.sample_filter_reward_models else []


def resolve(args: argparse.Namespace | SimpleNamespace) -> None:
    """Put the report's recommendation in the place of ``auto``, and name files so that Ray's workers find them.

    Raises:
        ValueError: ``auto`` without a report, or with one that cannot be used.
    """
    _resolve_auto(args)
    selection_arguments.resolve(args)
    place, colon, name = args.sample_filter.rpartition(":")
    if place.endswith(".py"):
        args.sample_filter = str(Path(place).resolve()) + colon + name
    for flag in ("sample_filter_log", "sample_filter_probe_score"):
        if getattr(args, flag):
            setattr(args, flag, str(Path(getattr(args, flag)).resolve()))


def _resolve_auto(args: argparse.Namespace | SimpleNamespace) -> None:
    report = args.sample_filter_report
    if args.sample_filter != "auto":
        if report is not None:
            raise ValueError("--sample_filter_report has no effect without --sample_filter auto: leave it out.")
        return
    if report is None:
        raise ValueError(
            "--sample_filter auto takes the filter from a report on the reward model: make one with python -m "
            "openrlhf_pf.cli.collect and analyze, and give it with --sample_filter_report report.json."
        )
    flag = first_given(args, *(flag for flag in FLAGS_OF_A_FILTER if flag not in ("keep", "mode", "baseline")))
    if flag:
        raise ValueError(f"{flag} cannot be combined with --sample_filter auto, which brings its own: leave it out.")
    # Here, because it brings the statistics packages along, which training without it does not need.
    from openrlhf_pf.reliability.choose import read_recommendation

    recommended = read_recommendation(report)
    _check_rank_weights(args, recommended)
    args.sample_filter = recommended["name"]
    if args.sample_filter_keep is None:
        args.sample_filter_keep = recommended["keep"]
    args.sample_filter_options = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in recommended["options"].items()
    ] or None
    args.sample_filter_report = None


def _check_rank_weights(args: argparse.Namespace | SimpleNamespace, recommended: dict[str, Any]) -> None:
    weights, keep = recommended["options"].get("weights"), recommended["keep"]
    if weights is None:
        return
    n_samples = getattr(args, "rollout.n_samples_per_prompt", len(weights))
    if n_samples != len(weights):
        raise ValueError(
            f"the report's rank weights are for {len(weights)} samples a prompt, and --rollout.n_samples_per_prompt "
            f"is {n_samples}: draw {len(weights)}, or analyse samples with {n_samples} a prompt."
        )
    if args.sample_filter_keep not in (None, keep):
        raise ValueError(
            f"the report's rank weights are for k = {keep}, and --sample_filter_keep is {args.sample_filter_keep}: "
            "leave it out, or analyse with --keep."
        )


def filter_from_args(args: SimpleNamespace) -> SampleFilter:
    """Build the filter that the arguments ask for.

    Raises:
        ValueError: see :func:`openrlhf_pf.filters.build_filter`.
    """
    options = {option: getattr(args, f"sample_filter_{option}") for option in ("weights", "low", "high", "power")}
    cls = filter_class(args.sample_filter)
    if issubclass(cls, LearningFilter) and "mode" in options_of(cls):
        options["mode"] = draw_mode(args)
    return build_filter(
        args.sample_filter,
        n_samples=args.rollout.n_samples_per_prompt,
        keep=args.sample_filter_keep,
        texts=args.sample_filter_options or (),
        **options,
    )


def draw_mode(args: SimpleNamespace) -> str:
    """The draw that the arguments ask for: a member of ``DRAWS``."""
    return args.sample_filter_mode or "select"


def samples_stand_alone(args: SimpleNamespace, sample_filter: SampleFilter) -> bool:
    """Whether the kept samples are no (prompts, k) rectangle: each prompt may keep another number of them."""
    return sample_filter.scope == "batch" or draw_mode(args) == "reweight"


def trained_per_prompt(args: SimpleNamespace, sample_filter: SampleFilter) -> int:
    """Samples a prompt that train: exactly, or at most where samples stand alone."""
    return sample_filter.max_kept_per_prompt if draw_mode(args) == "reweight" else sample_filter.keep


def first_given(args: SimpleNamespace, *flags: str) -> str | None:
    """The first of these flags that was given, by its full name."""
    return next((f"--sample_filter_{f}" for f in flags if getattr(args, f"sample_filter_{f}") is not None), None)
