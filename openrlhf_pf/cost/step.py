"""Seconds of a PPO step, phase by phase, in four orders of the work.

``none``: no filter, all N samples go through all models. ``filter``: this package's order, the reward model on N, then
everything else on the k that are kept. ``forward_first``: all forward passes on N, then the filter, then training on
k, as the code published with PF-PPO does. ``ideal``: ``none`` with everything but the reward model times k/N.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from openrlhf_pf.cost import work
from openrlhf_pf.cost.setting import ROLES, Setting

ORDERS = ("none", "filter", "forward_first", "ideal")
#: The names in OpenRLHF's log (``timing/...``).
LOGGED = ("generation", "make_experience", "ppo_train", "broadcast")
FORWARDS = tuple(f"{role}_forward" for role in ROLES)
TRAINS = ("critic_train", "actor_train")


@dataclass(frozen=True)
class Step:
    """Seconds of one step.

    Args:
        parts: by part: ``prefill``, ``decode``, ``{role}_forward``, ``{actor,critic}_train``, ``state_moves``,
            ``broadcast``, each as if it had its GPUs for itself.
        logged: by name in OpenRLHF's log (``LOGGED``), what runs at the same time counted once.
        total: of the step.
    """

    parts: Mapping[str, float]
    logged: Mapping[str, float]
    total: float

    @property
    def learning(self) -> float:
        """Seconds of making experience and of training: what a filter can save of."""
        return self.logged["make_experience"] + self.logged["ppo_train"]


@dataclass(frozen=True)
class Comparison:
    """What a filter saves.

    Args:
        steps: by order.
        share: of the ideal saving on forward passes and training that ``filter`` reaches.
        share_forward_first: that ``forward_first`` reaches.
        keep_at_most: the largest k at which a step with the filter takes no longer than without; 0 if there is none.
        samples_at_most: the largest N to filter k from at which it takes no longer than without a filter with N.
    """

    steps: Mapping[str, Step]
    share: float
    share_forward_first: float
    keep_at_most: int
    samples_at_most: int

    @property
    def times_as_many(self) -> float:
        """The filter pays in time if it needs less than so many times as many steps for the same quality."""
        return self.steps["none"].total / self.steps["filter"].total


def step(setting: Setting, order: str) -> Step:
    """The seconds of a step.

    Raises:
        ValueError: there is no such order, or vLLM has no room for the model; the message is one sentence.
    """
    if order not in ORDERS:
        raise ValueError(f"there is no order {order!r}: choose from {', '.join(ORDERS)}.")
    scored = setting.prompts * setting.samples
    kept = setting.trained if order in ("filter", "forward_first") else scored
    others = kept if order == "filter" else scored
    parts = dict(zip(("prefill", "decode"), generation(setting)))
    for role in setting.models():
        parts[f"{role}_forward"] = forward(setting, role, scored if role == "reward" else others)
    for role in ("critic", "actor"):
        if role in setting.models():
            parts[f"{role}_train"] = train(setting, role, kept)
    if order == "ideal":
        scaled = {*FORWARDS, *TRAINS} - {"reward_forward"}
        parts = {name: t * (setting.keep / setting.samples if name in scaled else 1) for name, t in parts.items()}
    parts["state_moves"] = state_moves(setting)
    parts["broadcast"] = broadcast(setting)
    parts = {name: seconds * setting.corrections.get(_LOG_OF[name], (1, 0))[0] for name, seconds in parts.items()}
    return _in_time(setting, order, parts)


_LOG_OF = {
    **dict.fromkeys(("prefill", "decode"), "generation"),
    **dict.fromkeys(FORWARDS, "make_experience"),
    **dict.fromkeys((*TRAINS, "state_moves"), "ppo_train"),
    "broadcast": "broadcast",
}


def _in_time(setting: Setting, order: str, parts: dict[str, float]) -> Step:
    logged = {
        "generation": parts["prefill"] + parts["decode"],
        "make_experience": _make_experience(setting, order, parts),
        "ppo_train": _ppo_train(setting, parts),
        "broadcast": parts["broadcast"],
    }
    logged = {name: seconds + setting.corrections.get(name, (1, 0))[1] for name, seconds in logged.items()}
    rest = logged["make_experience"] + logged["ppo_train"] + logged["broadcast"]
    if setting.asynchronous:
        # vLLM does not decode while it takes new weights.
        return Step(parts, logged, max(logged["generation"] + logged["broadcast"], rest))
    return Step(parts, logged, logged["generation"] + rest)


def compare(setting: Setting) -> Comparison:
    """What the filter saves against no filter with the same N, and how far k and N can go."""
    steps = {order: step(setting, order) for order in ORDERS}
    none, ideal = steps["none"].learning, steps["ideal"].learning
    shares = [(none - steps[order].learning) / (none - ideal) if none > ideal else 1.0 for order in ORDERS[1:3]]
    return Comparison(steps, *shares, _keep_at_most(setting, steps), _samples_at_most(setting, steps))


def _keep_at_most(setting: Setting, steps: Mapping[str, Step]) -> int:
    limit = steps["none"].total
    for keep in range(setting.samples - 1, 0, -1):
        try:
            if step(setting.but(keep=keep), "filter").total <= limit:
                return keep
        except ValueError:  # the GPUs cannot share so many evenly
            continue
    return 0


def _samples_at_most(setting: Setting, steps: Mapping[str, Step]) -> int:
    def fits(samples: int) -> bool:
        return step(setting.but(samples=samples), "filter").total <= steps["none"].total

    if not fits(setting.keep):
        return 0
    low, high = setting.keep, 2 * setting.samples
    while fits(high) and high < 1_000_000:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# ── The parts ──


def generation(setting: Setting) -> tuple[float, float]:
    """Seconds of the prompts (bound by FLOP/s) and of decoding (bound by the memory's bandwidth, or by FLOP/s).

    An engine decodes as many sequences at a time as it is given, may have, and has room for keys and values of; it
    takes as many steps as their tokens, and as the longest response has.
    """
    model, hardware, reached = setting.actor, setting.hardware, setting.efficiency
    flops = hardware.flops * reached.prefill * reached.at(model.width) * setting.tensor_parallel
    engines = setting.gpus["vllm"] // setting.tensor_parallel
    sequences = math.ceil(setting.prompts * setting.samples / engines)
    prompts = math.ceil(setting.prompts / engines) if setting.prefix_caching else sequences
    room = setting.vllm_memory * hardware.memory * setting.tensor_parallel - work.BYTES * model.parameters
    at_once = min(sequences, setting.max_sequences, int(room / (work.kv_bytes(model) * setting.tokens)))
    if at_once < 1:
        raise ValueError(
            f"{setting.vllm_memory:g} of the memory of {setting.tensor_parallel} GPUs has no room for "
            f"{work.BYTES * model.parameters / 1e9:.0f} GB of weights and the keys and values of a response: give "
            "vLLM more of the memory, or engines of more GPUs."
        )
    steps = max(setting.longest or setting.response_tokens, sequences * setting.response_tokens / at_once)
    context = setting.prompt_tokens + setting.response_tokens / 2
    read = work.decode_bytes(model, at_once, context) / (hardware.bandwidth * reached.decode * setting.tensor_parallel)
    computed = at_once * work.decode_flops(model, context) / flops
    prefill = prompts * work.forward_flops(model, setting.prompt_tokens) / flops
    return prefill, steps * (max(read, computed) + reached.decode_step)


def forward(setting: Setting, role: str, samples: int) -> float:
    """Seconds of a model's forward pass: computing and exchanging weights at the same time, the slower counts."""
    return _passes(setting, role, samples, training=False)


def train(setting: Setting, role: str, samples: int) -> float:
    """Seconds of a model's PPO epochs, each with its optimizer steps, which the memory's bandwidth bounds."""
    gpus = setting.gpus[role]
    shares = gpus if setting.zero_stage >= 1 else 1
    bandwidth = setting.hardware.host_bandwidth if setting.adam_offload else setting.hardware.bandwidth
    moved = setting.updates * work.ADAM_TRAFFIC * setting.models()[role].parameters / shares
    adam = moved / (bandwidth * setting.efficiency.decode)
    return setting.epochs * (_passes(setting, role, samples, training=True) + adam)


def _passes(setting: Setting, role: str, samples: int, training: bool) -> float:
    model, gpus, reached = setting.models()[role], setting.gpus[role], setting.efficiency
    here = math.ceil(samples / gpus)
    if training:
        computed = work.train_flops(model, setting.tokens, setting.checkpointing) / reached.train
        micro_batches = math.ceil(here / setting.train_micro_batch)
    else:
        computed = work.forward_flops(model, setting.tokens) / reached.forward
        micro_batches = math.ceil(here / setting.micro_batch)
    moved = work.gathered_bytes(model, setting, gpus, training, micro_batches)
    flops = setting.hardware.flops * reached.at(model.width)
    return max(here * computed / flops, moved / (setting.hardware.interconnect * reached.communication))


def state_moves(setting: Setting) -> float:
    """Seconds in which sleeping models' gradients and optimizer states, and vLLM's weights, come and go."""
    if not setting.sleeping:
        return 0.0
    moved = 0.0
    for role in ("actor", "critic"):
        if role in setting.models() and not setting.adam_offload:
            shares = setting.gpus[role] if setting.zero_stage >= 1 else 1
            moved += 2 * 14 * setting.models()[role].parameters / shares
    if setting.group("vllm") == setting.group("actor"):
        moved += 2 * work.BYTES * setting.actor.parameters / setting.tensor_parallel
    return moved / setting.hardware.host_bandwidth


def broadcast(setting: Setting) -> float:
    """Seconds in which the actor's weights reach vLLM: gathered once, or sent once to all."""
    moved = work.BYTES * setting.actor.parameters
    return moved / (setting.hardware.interconnect * setting.efficiency.communication)


# ── What runs at the same time ──


def _make_experience(setting: Setting, order: str, parts: Mapping[str, float]) -> float:
    """OpenRLHF asks reward model, actor, critic and reference in this order, and waits for those that share GPUs.

    A filter needs the rewards before the others are asked.
    """
    now, free = 0.0, dict.fromkeys(map(setting.group, ROLES), 0.0)
    for role in setting.models():
        group = setting.group(role)
        free[group] = max(now, free[group]) + parts[f"{role}_forward"]
        waits = "all" in setting.colocate
        waits |= group == ("critic+reward" if role == "critic" else "actor+reference")
        waits |= role == "reward" and order in ("filter", "ideal")
        if waits:
            now = free[group]
    return max(free.values(), default=0.0)


def _ppo_train(setting: Setting, parts: Mapping[str, float]) -> float:
    """Actor and critic train at the same time where they have GPUs of their own."""
    trains = [parts[name] for name in TRAINS if name in parts]
    apart = setting.group("actor") != setting.group("critic")
    return (max(trains) if apart else sum(trains)) + parts["state_moves"]
