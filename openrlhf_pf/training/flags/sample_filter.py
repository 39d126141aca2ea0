"""``--sample_filter`` and the flags that shape the filter: which samples of a prompt train, and how they are drawn."""

import argparse
import math
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
from openrlhf_pf.training.flags import prompts
from openrlhf_pf.training.flags.flag import Flag, first_given

#: Estimators that take a baseline from the other samples of a prompt, so that one sample has none.
GROUP_ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")

#: Those, and the one whose baseline is the mean of the whole batch: they can take it from samples that do not train.
BASELINE_ESTIMATORS = (*GROUP_ESTIMATORS, "flash_reinforce")

#: Filters that learn from true scores during training.
LEARNING = [name for name, cls in FILTERS.items() if issubclass(cls, LearningFilter)]

#: Flags (without --sample_filter_) that have no effect with --sample_filter none.
FLAGS_OF_A_FILTER = ("keep", "mode", "options", "baseline", "rank_by", "probe", "probe_every", "probe_score")

FLAGS = (
    Flag(
        "--sample_filter NAME",
        f"which samples of a prompt train: {', '.join(FILTERS)}, auto, or package.module:Class "
        "or path/to/file.py:Class (default: none, which is OpenRLHF unchanged)",
        default="none",
    ),
    Flag(
        "--sample_filter_report FILE", "for auto: the report.json of openrlhf-pf analyze, whose recommendation is used"
    ),
    Flag("--sample_filter_keep K", "samples per prompt that train (default: 1 for best_of_n, else 2)", type=int),
    Flag(
        "--sample_filter_mode",
        "how weights become samples: select exactly K per prompt with least variance, resample K times independently, "
        "or keep all that have weight and reweight their advantages (default: select)",
        choices=DRAWS,
    ),
    Flag(
        "--sample_filter_options KEY=VALUE",
        "options of the filter, e.g. weights=0.5,0,0.5 (rank_weights), low=0.2 high=0.8 unit=quantile (top, "
        "top_bottom, top_random), power=2 (reward_power)",
        nargs="+",
    ),
    Flag(
        "--sample_filter_baseline",
        f"{', '.join(GROUP_ESTIMATORS)} take their baseline from the kept samples of a prompt or from the whole "
        "group, and flash_reinforce from those of all prompts (default: kept)",
        choices=("kept", "group"),
    ),
    Flag("--sample_filter_log DIR", "directory for the rollout log: every scored sample, one Parquet file per step"),
    Flag("--sample_filter_seed SEED", "seed of tie-breaking and draws (default: --train.seed)", type=int),
)


# ── What the arguments ask for ──


def is_active(args: SimpleNamespace) -> bool:
    """Return whether these arguments ask for anything but OpenRLHF's own training."""
    return needs_scored_samples(args) or prompts.selects(args)


def needs_scored_samples(args: SimpleNamespace) -> bool:
    """Return whether they ask for anything to be done with the scored samples of a rollout."""
    return bool(
        args.sample_filter != "none"
        or prompts.drop_rule(args)
        or args.sample_filter_log
        or args.sample_filter_reward_models
        or args.sample_filter_stop_below is not None
        or corrects(args)
    )


def corrects(args: SimpleNamespace) -> bool:
    """Return whether true scores correct the rewards: ``--sample_filter_correct``."""
    return getattr(args, "sample_filter_correct", None) not in (None, "none")  # collecting has no such flag


def reads_states(args: SimpleNamespace) -> bool:
    """Return whether a head on the reward model's last state corrects rewards."""
    return getattr(args, "sample_filter_correct", None) == "head"


def filter_from_args(args: SimpleNamespace) -> SampleFilter:
    """Build the filter that the arguments ask for.

    Raises:
        ValueError: see :func:`openrlhf_pf.filters.build_filter`.
    """
    return build_filter(
        args.sample_filter,
        n_samples=args.rollout.n_samples_per_prompt,
        keep=args.sample_filter_keep,
        texts=args.sample_filter_options or (),
        **_options_of_mode(args),
    )


def _options_of_mode(args: SimpleNamespace) -> dict[str, str]:
    """Return the draw as an option, for a filter that learns and needs to know it."""
    cls = filter_class(args.sample_filter)
    takes_mode = issubclass(cls, LearningFilter) and "mode" in options_of(cls)
    return {"mode": draw_mode(args)} if takes_mode else {}


def draw_mode(args: SimpleNamespace) -> str:
    """Return the draw that the arguments ask for: a member of ``DRAWS``."""
    return args.sample_filter_mode or "select"


def has_ragged_groups(args: SimpleNamespace, sample_filter: SampleFilter) -> bool:
    """Return whether prompts may keep different numbers of samples, so that the batch has no (prompts, k) shape."""
    return sample_filter.scope == "batch" or draw_mode(args) == "reweight"


def trained_per_prompt(args: SimpleNamespace, sample_filter: SampleFilter) -> int:
    """Return the number of samples per prompt that train: exact, or an upper bound if groups are ragged."""
    return sample_filter.max_kept_per_prompt if draw_mode(args) == "reweight" else sample_filter.keep


# ── Resolving: auto, and paths that Ray's workers find ──


def resolve(args: argparse.Namespace | SimpleNamespace) -> None:
    """Replace ``auto`` by the report's recommendation, and make paths absolute so that Ray's workers find them.

    Args:
        args: as parsed, nested or not.

    Raises:
        ValueError: ``auto`` without a report, or with one that cannot be used.
    """
    _resolve_auto(args)
    for flag in ("sample_filter", "prompt_selection"):
        place, colon, name = getattr(args, flag).rpartition(":")
        if place.endswith(".py"):
            setattr(args, flag, str(Path(place).resolve()) + colon + name)
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
            "--sample_filter auto takes the filter from a report on the reward model: make one with openrlhf-pf "
            "collect and openrlhf-pf analyze, and give it with --sample_filter_report report.json."
        )
    own = (name for name in FLAGS_OF_A_FILTER if name not in ("keep", "mode", "baseline"))
    if flag := first_given(args, "sample_filter", own):
        raise ValueError(f"{flag} cannot be combined with --sample_filter auto, which brings its own: leave it out.")
    # Imported here: it needs the statistics packages, which training without it does not need.
    from openrlhf_pf.reliability import read_recommendation

    recommended = read_recommendation(report)
    _check_rank_weights(args, recommended)
    args.sample_filter = recommended["name"]
    if args.sample_filter == "none":
        # Flags that shape a filter have nothing to shape.
        args.sample_filter_keep = args.sample_filter_mode = args.sample_filter_baseline = None
        headline = f" ({recommended['headline']})" if recommended["headline"] else ""
        print(f"openrlhf_pf: the report recommends no sample filter{headline}: all samples train.", flush=True)
    elif args.sample_filter_keep is None:
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
            f"the report's rank weights are for {len(weights)} samples per prompt, and "
            f"--rollout.n_samples_per_prompt is {n_samples}: draw {len(weights)}, or analyze samples with "
            f"{n_samples} per prompt."
        )
    if args.sample_filter_keep not in (None, keep):
        raise ValueError(
            f"the report's rank weights are for k = {keep}, and --sample_filter_keep is {args.sample_filter_keep}: "
            "leave it out, or analyze with --keep."
        )


# ── Checks ──


def check_unused(args: SimpleNamespace) -> None:
    """Raise ValueError if a flag that shapes the filter has no effect."""
    names = [name for name in FLAGS_OF_A_FILTER if name != "probe_score" or not corrects(args)]
    flag = first_given(args, "sample_filter", names) if args.sample_filter == "none" else None
    if flag is None and not needs_scored_samples(args):
        flag = first_given(args, "sample_filter", ["seed"])
    if flag:
        raise ValueError(
            f"{flag} has no effect with --sample_filter none: choose a filter ({', '.join(list(FILTERS)[1:])}) or "
            "leave the flag out."
        )


def check_keep(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    """Raise ValueError if ``--sample_filter_keep`` has no effect on this filter."""
    if args.sample_filter_keep is not None and sample_filter.scope == "batch" and draw_mode(args) == "reweight":
        raise ValueError(
            f"--sample_filter_keep has no effect with --sample_filter {args.sample_filter} and --sample_filter_mode "
            "reweight, which trains every sample of the batch that has weight: leave it out, or choose select."
        )


def check_contract(args: SimpleNamespace) -> None:
    """Raise ValueError if a user's own filter breaks the contract of filters, after two seconds on made-up rewards."""
    if ":" not in args.sample_filter:
        return
    from openrlhf_pf.testing import check_filter

    options = _options_of_mode(args)
    n_samples = args.rollout.n_samples_per_prompt
    try:
        check_filter(
            args.sample_filter, n_samples, args.sample_filter_keep, args.sample_filter_options or (), **options
        )
    except AssertionError as error:
        raise ValueError(f"--sample_filter {str(error).rstrip('.')}: fix it, or see openrlhf-pf check.") from error


def check_estimator(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    """Raise ValueError if the advantage estimator has no baseline with this filter."""
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
            "reinforce, or a filter that keeps k samples per prompt."
        )
    if args.sample_filter_baseline != "group" and trained_per_prompt(args, sample_filter) < 2:
        raise ValueError(
            f"--algo.advantage.estimator {estimator} takes its baseline from the kept samples of a prompt and needs "
            f"at least 2, but --sample_filter {args.sample_filter} keeps {keep}: raise --sample_filter_keep, take the "
            "baseline from all samples with --sample_filter_baseline group, or choose gae or reinforce."
        )


def check_batches(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    """Check that the samples that train are whole optimizer steps, and whole micro-batches for every rank.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    per_prompt = trained_per_prompt(args, sample_filter)
    filtered = args.rollout.batch_size * per_prompt
    batch = args.train.batch_size
    ragged = has_ragged_groups(args, sample_filter)
    given = (
        f"--rollout.batch_size {args.rollout.batch_size} x {'at most ' if ragged else ''}{per_prompt} kept samples "
        f"per prompt gives {filtered} samples"
    )
    # If the number changes from step to step, no number of prompts makes whole optimizer steps.
    if filtered < batch or (filtered % batch and not ragged):
        raise ValueError(
            f"{given}, which is not a whole number of --train.batch_size {batch}: lower --train.batch_size to a "
            f"divisor of {filtered} (e.g. {math.gcd(filtered, batch)}) or raise --rollout.batch_size."
        )
    if args.train.dynamic_batch_enable:
        return
    ranks = ranks_of_models(args)
    for model in ("actor", "critic"):
        step = args.train.micro_batch_size * ranks.get(model, 1)
        if batch % step:
            raise ValueError(
                f"--train.batch_size {batch} is not a whole number of micro-batches for the {ranks[model]} ranks of "
                f"the {model}: with --train.micro_batch_size {args.train.micro_batch_size} it must be a multiple of "
                f"{step}."
            )
    share = args.train.micro_batch_size * math.lcm(*ranks.values())
    if filtered % share and not ragged:
        raise ValueError(
            f"{given}, which {', '.join(f'{n} {model}' for model, n in ranks.items())} ranks cannot share in whole "
            f"micro-batches of {args.train.micro_batch_size}: make it a multiple of {share}."
        )


def data_parallel_ranks(entity: SimpleNamespace, ds: SimpleNamespace) -> int:
    """Return a model's GPUs divided by those that ring attention and tensor parallelism join.

    Raises:
        ValueError: it has fewer GPUs than they join.
    """
    workers, joined = entity.num_nodes * entity.num_gpus_per_node, ds.ring_attn_size * ds.tensor_parallel_size
    if workers < joined:
        raise ValueError(
            f"with --ds.ring_attn_size {ds.ring_attn_size} and --ds.tensor_parallel_size {ds.tensor_parallel_size}, "
            f"{joined} workers share each sample, and a model has {workers}: lower them or give every model that many "
            "GPUs (--actor, --critic, --ref, --reward.num_gpus_per_node)."
        )
    return workers // joined


def ranks_of_models(args: SimpleNamespace) -> dict[str, int]:
    """Return the data-parallel ranks of each model that processes kept samples: actor, and critic and reference if
    there is one.
    """
    ranks = {"actor": data_parallel_ranks(args.actor, args.ds)}
    if args.algo.advantage.estimator == "gae":
        ranks["critic"] = data_parallel_ranks(args.critic, args.ds)
    if args.algo.kl.init_coef > 0:
        ranks["ref"] = data_parallel_ranks(args.ref, args.ds)
    return ranks
