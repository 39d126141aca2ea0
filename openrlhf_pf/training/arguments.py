"""The ``--sample_filter*`` flags, and every check of them against OpenRLHF's own arguments, before Ray starts."""

import argparse
import math
from types import SimpleNamespace

from openrlhf_pf.filters import FILTERS, SampleFilter, build_filter

#: Estimators that take a baseline from the other samples of a prompt: with one sample there is none.
GROUP_ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add our flags to OpenRLHF's parser, in a group of their own."""
    group = parser.add_argument_group(
        "policy filtration (openrlhf_pf)",
        "Score all --rollout.n_samples_per_prompt samples, train on the ones that a filter keeps.",
    )
    group.add_argument(
        "--sample_filter",
        default="none",
        metavar="NAME",
        help=f"which samples of a prompt train: {', '.join(FILTERS)} (default: none, which is OpenRLHF unchanged)",
    )
    group.add_argument(
        "--sample_filter_keep",
        type=int,
        metavar="K",
        help="samples a prompt that train (default: 1 for best_of_n, else 2)",
    )
    group.add_argument(
        "--sample_filter_weights",
        type=float,
        nargs="+",
        metavar="W",
        help="for rank_weights: the weight of each rank, best first",
    )
    group.add_argument(
        "--sample_filter_seed",
        type=int,
        metavar="SEED",
        help="seed of tie-breaking and draws (default: --train.seed)",
    )


def is_active(args: SimpleNamespace) -> bool:
    """Whether these arguments ask for anything but OpenRLHF's own training."""
    return args.sample_filter != "none"


def filter_from_args(args: SimpleNamespace) -> SampleFilter:
    """Build the filter that the arguments ask for.

    Raises:
        ValueError: see :func:`openrlhf_pf.filters.build_filter`.
    """
    return build_filter(
        args.sample_filter,
        n_samples=args.rollout.n_samples_per_prompt,
        keep=args.sample_filter_keep,
        weights=args.sample_filter_weights,
    )


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
    if not is_active(args):
        _check_nothing_inert(args)
        return
    keep = filter_from_args(args).keep
    estimator = args.algo.advantage.estimator
    if estimator in GROUP_ESTIMATORS and keep < 2:
        raise ValueError(
            f"--algo.advantage.estimator {estimator} takes its baseline from the kept samples of a prompt and needs "
            f"at least 2, but --sample_filter {args.sample_filter} keeps {keep}: raise --sample_filter_keep or choose "
            "gae or reinforce."
        )
    _check_batches(args, keep)


def _check_nothing_inert(args: SimpleNamespace) -> None:
    given = [flag for flag in ("keep", "weights", "seed") if getattr(args, f"sample_filter_{flag}") is not None]
    if given:
        raise ValueError(
            f"--sample_filter_{given[0]} has no effect with --sample_filter none: choose a filter "
            f"({', '.join(list(FILTERS)[1:])}) or leave the flag out."
        )


def _check_batches(args: SimpleNamespace, keep: int) -> None:
    filtered = args.rollout.batch_size * keep
    batch = args.train.batch_size
    what = f"--rollout.batch_size {args.rollout.batch_size} x {keep} kept samples a prompt gives {filtered} samples"
    if filtered % batch:
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
    if filtered % share:
        raise ValueError(
            f"{what}, which {', '.join(f'{n} {model}' for model, n in ranks.items())} ranks cannot share in whole "
            f"micro-batches of {args.train.micro_batch_size}: make it a multiple of {share}."
        )
