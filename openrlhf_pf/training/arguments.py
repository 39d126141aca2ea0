"""The ``--sample_filter*`` flags, and every check of them against OpenRLHF's own arguments, before Ray starts."""

import argparse
import math
from pathlib import Path
from types import SimpleNamespace

from openrlhf_pf.filters import DRAWS, FILTERS, LearningFilter, SampleFilter, build_filter, filter_class
from openrlhf_pf.filters.load import options_of
from openrlhf_pf.filters.prompts import VARIANCE_SHARE
from openrlhf_pf.rollouts import check_directory
from openrlhf_pf.training import selection_arguments
from openrlhf_pf.training.true_score import load_reward_func

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
_OF_A_FILTER = (
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
    add("_low", "for top_bottom: rewards below this pass", type=float, metavar="R")
    add("_high", "for top, top_random, top_bottom: rewards above this pass", type=float, metavar="R")
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
    add("_log", "directory for the rollout log: every scored sample, one Parquet file a step", metavar="DIR")
    add("_seed", "seed of tie-breaking and draws (default: --train.seed)", type=int, metavar="SEED")
    selection_arguments.add_arguments(parser)


def is_active(args: SimpleNamespace) -> bool:
    """Whether these arguments ask for anything but OpenRLHF's own training."""
    return _looks_at_samples(args) or selection_arguments.is_active(args)


def _looks_at_samples(args: SimpleNamespace) -> bool:
    return bool(
        args.sample_filter != "none" or drops(args) or args.sample_filter_log or args.sample_filter_reward_models
    )


def drops(args: SimpleNamespace) -> str | None:
    """Which prompts are left out whole: a member of ``DROPS``, None for none."""
    return None if args.sample_filter_drop in (None, "none") else args.sample_filter_drop


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
    flag = _given(args, *(flag for flag in _OF_A_FILTER if flag not in ("keep", "mode", "baseline")))
    if flag:
        raise ValueError(f"{flag} cannot be combined with --sample_filter auto, which brings its own: leave it out.")
    # Here, because it brings the statistics packages along, which training without it does not need.
    from openrlhf_pf.reliability.choose import read_recommendation

    recommended = read_recommendation(report)
    args.sample_filter = recommended["name"]
    if args.sample_filter_keep is None:
        args.sample_filter_keep = recommended["keep"]
    args.sample_filter_options = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in recommended["options"].items()
    ] or None
    args.sample_filter_report = None


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
    return sample_filter.most_weighed if draw_mode(args) == "reweight" else sample_filter.keep


def data_parallel_ranks(entity: SimpleNamespace, ds: SimpleNamespace) -> int:
    """Data-parallel ranks of a model: its GPUs less those that ring attention and tensor parallelism join."""
    return entity.num_nodes * entity.num_gpus_per_node // (ds.ring_attn_size * ds.tensor_parallel_size)


def ranks_of_models(args: SimpleNamespace) -> dict[str, int]:
    """Data-parallel ranks of each model that sees kept samples: actor, and critic and reference where there is one."""
    ranks = {"actor": data_parallel_ranks(args.actor, args.ds)}
    if args.algo.advantage.estimator == "gae":
        ranks["critic"] = data_parallel_ranks(args.critic, args.ds)
    if args.algo.kl.init_coef > 0:
        ranks["ref"] = data_parallel_ranks(args.ref, args.ds)
    return ranks


def check_arguments(args: SimpleNamespace) -> None:
    """Check our arguments against OpenRLHF's.

    Args:
        args: OpenRLHF's nested arguments, as ``openrlhf.utils.config.hierarchize`` makes them.

    Raises:
        ValueError: one sentence that says what was given, what is allowed and what to do.
    """
    _check_nothing_inert(args)
    selection_arguments.check_arguments(args)
    if not is_active(args):
        return
    sample_filter = filter_from_args(args)
    _check_keep(args, sample_filter)
    _check_estimator(args, sample_filter)
    check_reward_models(args)
    _check_probe(args, sample_filter)
    _check_batches(args, sample_filter)
    if args.sample_filter_log:
        check_directory(args.sample_filter_log)


def _given(args: SimpleNamespace, *flags: str) -> str | None:
    """The first of these flags that was given, by its full name."""
    return next((f"--sample_filter_{f}" for f in flags if getattr(args, f"sample_filter_{f}") is not None), None)


def _check_nothing_inert(args: SimpleNamespace) -> None:
    flag = _given(args, *_OF_A_FILTER) if args.sample_filter == "none" else None
    flag = flag or (None if _looks_at_samples(args) else _given(args, "seed"))
    if flag:
        raise ValueError(
            f"{flag} has no effect with --sample_filter none: choose a filter ({', '.join(list(FILTERS)[1:])}) or "
            "leave the flag out."
        )
    _check_drop(args)


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
        flag = _given(args, "probe_every", "probe_score")
        if flag:
            raise ValueError(f"{flag} has no effect without --sample_filter_probe DATA: add it or leave the flag out.")
        if isinstance(sample_filter, LearningFilter) and not brings_scores:
            raise ValueError(
                f"--sample_filter {args.sample_filter} learns from true scores, and a local reward model gives none: "
                "give prompts to learn from with --sample_filter_probe DATA and --sample_filter_probe_score FILE.py."
            )
        return
    if not hasattr(sample_filter, "observe"):
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


def _check_batches(args: SimpleNamespace, sample_filter: SampleFilter) -> None:
    per_prompt = trained_per_prompt(args, sample_filter)
    filtered = args.rollout.batch_size * per_prompt
    batch = args.train.batch_size
    varies = samples_stand_alone(args, sample_filter)
    what = (
        f"--rollout.batch_size {args.rollout.batch_size} x {'at most ' if varies else ''}{per_prompt} kept samples a "
        f"prompt gives {filtered} samples"
    )
    # Where the number varies from step to step, no number of prompts makes whole optimizer steps.
    if filtered < batch or (filtered % batch and not varies):
        raise ValueError(
            f"{what}, which is not a whole number of --train.batch_size {batch}: lower --train.batch_size to a "
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
    if filtered % share and not varies:
        raise ValueError(
            f"{what}, which {', '.join(f'{n} {model}' for model, n in ranks.items())} ranks cannot share in whole "
            f"micro-batches of {args.train.micro_batch_size}: make it a multiple of {share}."
        )
