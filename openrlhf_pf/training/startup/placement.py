"""Compare the GPUs that the flags ask for with those of the Ray cluster, where OpenRLHF would wait for ever."""

import time
from collections.abc import Mapping
from types import SimpleNamespace

from openrlhf_pf.training.startup import say

#: Seconds without a new GPU after which training stops waiting for a cluster to grow, and between two messages.
PATIENCE, PAUSE = 600.0, 60.0


def requested_gpus(args: SimpleNamespace) -> dict[str, int]:
    """Return how many GPUs OpenRLHF's ``train`` takes, by the models that share them."""

    def gpus(model: SimpleNamespace) -> int:
        return model.num_nodes * model.num_gpus_per_node

    train = args.train
    has_critic, has_ref = bool(args.critic.model_name_or_path), args.algo.kl.init_coef > 0
    wanted = {"actor": gpus(args.actor)}
    if has_ref and not (train.colocate_all or train.colocate_actor_ref):
        wanted["ref"] = gpus(args.ref)
    if has_critic and train.colocate_critic_reward:
        wanted["critic and reward"] = gpus(args.critic)
    elif not train.colocate_all:
        wanted |= {"critic": gpus(args.critic)} if has_critic else {}
        wanted |= {} if args.reward.remote_url else {"reward": gpus(args.reward)}
    if not train.colocate_all or train.async_enable:
        wanted["vllm"] = (args.vllm.num_engines or 0) * args.vllm.tensor_parallel_size
    return wanted


def wait_for_gpus(wanted: Mapping[str, int]) -> None:
    """Return when the Ray cluster has the wanted GPUs.

    A cluster that this process has started cannot grow. Any other may, by an autoscaler: what is missing is printed
    every minute.

    Raises:
        SystemExit: the cluster cannot grow, or has not grown for ten minutes.
    """
    import ray

    wanted = {name: number for name, number in wanted.items() if number}
    total, since, has = sum(wanted.values()), time.monotonic(), -1
    can_grow = not getattr(ray._private.worker._global_node, "head", False)
    while True:
        had, has = has, int(ray.cluster_resources().get("GPU", 0))
        if has >= total:
            return
        since = time.monotonic() if has != had else since
        parts = ", ".join(f"{number} {name}" for name, number in wanted.items())
        sentence = f"the flags ask for {total} GPUs ({parts}), and the Ray cluster has {has}"
        if not can_grow or time.monotonic() - since > PATIENCE:
            say(
                f"{sentence}: lower --actor, --critic, --ref or --reward.num_gpus_per_node or --vllm.num_engines, "
                f"share GPUs with --train.colocate_all, or add {total - has} GPUs."
            )
            raise SystemExit(2)
        say(f"{sentence}: waiting for {total - has} more.")
        time.sleep(PAUSE)
