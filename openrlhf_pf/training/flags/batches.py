"""Check how samples are split into batches that all ranks can share."""

import math
from types import SimpleNamespace

from openrlhf_pf.filters import SampleFilter
from openrlhf_pf.training.flags.sample_filter import has_ragged_groups, trained_per_prompt


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
