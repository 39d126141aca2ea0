"""One training, as far as its cost goes: models, rollout, filter, GPUs and how they are shared.

Notation: P parameters, L layers, h width, s tokens of a sample, N samples a prompt that are scored, k that train.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

#: In the order in which OpenRLHF asks them while it makes experience.
ROLES = ("reward", "actor", "critic", "reference")
COLOCATE = ("all", "actor_ref", "critic_reward")

#: Parameters of a decoder of L layers whose width is 128 L: 12 L h² = 12 * 128² L³ (Kaplan et al. 2020, section 2.1).
_WIDTH_A_LAYER = 128


@dataclass(frozen=True)
class Model:
    """A dense decoder.

    Args:
        parameters: P, without the table of input embeddings, of which a token costs nothing.
        layers: L; 0 to take it from P, for a decoder 128 times as wide as deep (7B: 33, Llama's has 32).
        width: h; 0 likewise.
        kv_width: of the keys of a token in one layer, less than h with grouped queries; 0 for h.
        vocabulary: tokens, for the memory that logits take.
    """

    parameters: float
    layers: int = 0
    width: int = 0
    kv_width: int = 0
    vocabulary: int = 128_256

    def __post_init__(self) -> None:
        if self.parameters <= 0 or min(self.layers, self.width, self.kv_width, self.vocabulary) < 0:
            raise ValueError(f"a model has more than 0 parameters and no negative sizes, got {self}.")
        layers = self.layers or max(1, round((self.parameters / (12 * _WIDTH_A_LAYER**2)) ** (1 / 3)))
        width = self.width or round((self.parameters / (12 * layers)) ** 0.5)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "kv_width", self.kv_width or width)


@dataclass(frozen=True)
class Hardware:
    """One GPU, and how it is connected.

    Args:
        flops: peak FLOP/s, dense, in the number type that trains.
        memory: bytes.
        bandwidth: bytes/s between the GPU and its memory.
        interconnect: bytes/s at which a collective over the GPUs of a training gathers what each lacks (NCCL's "bus
            bandwidth").
        host_bandwidth: bytes/s between the GPU and the host's memory, one way.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    host_bandwidth: float


@dataclass(frozen=True)
class Efficiency:
    """What is reached of the hardware's peaks: shares in (0, 1], but for seconds of a decoding step and a width.

    The shares of the peak FLOP/s are those of very wide models. A layer's matrices take work in proportion to h², what
    is done to their results (norms, residuals, activations, the softmax; bound by the memory, not by FLOP/s) to h; so
    their time is in proportion to h² + h H, and a model of width h reaches h / (h + H) of that share.

    Args:
        prefill: of the peak FLOP/s, for prompts, and for decoding where it is bound by them.
        decode: of the memory's bandwidth.
        forward: of the peak FLOP/s, for the forward passes of the models while experience is made.
        train: of the peak FLOP/s, recomputed activations counted.
        communication: of the interconnect.
        decode_step: seconds that one step of decoding takes beside that: scheduling, launches, sampling.
        half_width: H, the width that reaches half of the shares of the peak FLOP/s; 0 for one share at every width, a
            guess for GPUs, whose models are thousands wide. Runs of two widths measure it.
    """

    prefill: float = 0.5
    decode: float = 0.6
    forward: float = 0.4
    train: float = 0.35
    communication: float = 0.7
    decode_step: float = 0.003
    half_width: float = 0.0

    def at(self, width: float) -> float:
        """The part of the shares of the peak FLOP/s that a model of this width reaches."""
        return width / (width + self.half_width)


#: What one phase's time is multiplied with, and the seconds a step that it takes besides; fitted to measured runs.
Correction = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """One training.

    Args:
        actor: the policy.
        critic, reward, reference: None where there is none (a remote reward takes none of these GPUs).
        hardware: of every GPU.
        gpus: how many each of ``actor``, ``critic``, ``reward``, ``reference`` and ``vllm`` has, or shares.
        prompts: a step.
        prompt_tokens, response_tokens: means.
        longest: tokens of the longest response; 0 for the mean. Decoding takes at least as many steps.
        samples: N.
        keep: k.
        epochs: PPO epochs over a rollout.
        updates: optimizer steps an epoch, with and without a filter (``--train.batch_size`` times k/N).
        colocate: of ``COLOCATE``; () for GPUs of their own for each model.
        asynchronous: generation runs beside training, on GPUs of its own.
        sleep: vLLM's memory and optimizer states go to the host while they are not used; where all share GPUs.
        zero_stage: of DeepSpeed.
        checkpointing: activations are recomputed in the backward pass.
        adam_offload: optimizer states live in the host's memory.
        micro_batch, train_micro_batch: samples a GPU at a time, while experience is made and in training.
        tensor_parallel: GPUs a vLLM engine.
        vllm_memory: share of a GPU's memory that vLLM may take.
        max_sequences: that vLLM decodes at the same time.
        prefix_caching: vLLM runs a prompt once for its N samples.
        efficiency: of the hardware's peaks.
        corrections: by phase of OpenRLHF's log, see :class:`~openrlhf_pf.cost.calibration.Calibration`.

    Raises:
        ValueError: numbers that no training has; the message is one sentence.
    """

    actor: Model
    critic: Model | None
    reward: Model | None
    reference: Model | None
    hardware: Hardware
    gpus: Mapping[str, int]
    prompts: int = 1024
    prompt_tokens: float = 512
    response_tokens: float = 1024
    longest: float = 0
    samples: int = 8
    keep: int = 2
    epochs: int = 1
    updates: int = 8
    colocate: tuple[str, ...] = ("all",)
    asynchronous: bool = False
    sleep: bool = True
    zero_stage: int = 3
    checkpointing: bool = True
    adam_offload: bool = False
    micro_batch: int = 16
    train_micro_batch: int = 4
    tensor_parallel: int = 1
    vllm_memory: float = 0.5
    max_sequences: int = 256
    prefix_caching: bool = False
    efficiency: Efficiency = field(default_factory=Efficiency)
    corrections: Mapping[str, Correction] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_gpus(self)
        if not 1 <= self.keep <= self.samples:
            raise ValueError(f"k is between 1 and N, got k = {self.keep} of N = {self.samples}.")
        if self.trained == 0:
            raise ValueError(
                f"{self.prompts} prompts x {self.keep} samples are too few for {self.unit // self.train_micro_batch} "
                f"GPUs that train on micro-batches of {self.train_micro_batch}: give more prompts, a larger k or a "
                "smaller micro-batch."
            )

    @property
    def tokens(self) -> float:
        """Of a sample."""
        return self.prompt_tokens + self.response_tokens

    @property
    def unit(self) -> int:
        """The samples that train are a multiple of this: a micro-batch for every GPU that trains."""
        gpus = [self.gpus[role] for role in ("actor", "critic", "reference") if getattr(self, role)]
        return math.lcm(*gpus) * self.train_micro_batch

    @property
    def trained(self) -> int:
        """Samples that train: k of each prompt, less the prompts that whole micro-batches for every GPU leave over."""
        whole = self.unit // math.gcd(self.unit, self.keep)
        return self.prompts // whole * whole * self.keep

    @property
    def sleeping(self) -> bool:
        """Whether models make room for each other: OpenRLHF does so only with ``--train.colocate_all``."""
        return self.sleep and "all" in self.colocate

    def models(self) -> dict[str, Model]:
        """By role, those that there are."""
        return {role: getattr(self, role) for role in ROLES if getattr(self, role)}

    def group(self, role: str) -> str:
        """The name of the GPUs that a role runs on; roles of the same group share them."""
        if "all" in self.colocate:
            return "vllm" if role == "vllm" and self.asynchronous else "all"
        if role in ("actor", "reference") and "actor_ref" in self.colocate:
            return "actor+reference"
        if role in ("critic", "reward") and "critic_reward" in self.colocate:
            return "critic+reward"
        return role

    def total_gpus(self) -> int:
        """GPUs of the whole training."""
        return sum({self.group(role): self.gpus[role] for role in (*self.models(), "vllm")}.values())

    def but(self, **changes: Any) -> "Setting":
        """A copy with other values, checked likewise."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for JSON."""
        gone = {"gpus": dict(self.gpus), "corrections": dict(self.corrections)}
        return asdict(replace(self, **gone)) | {"colocate": list(self.colocate)}

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Setting":
        """The inverse of :meth:`as_dict`."""
        built = dict(values)
        for role in ROLES:
            built[role] = Model(**values[role]) if values[role] else None
        built |= {"hardware": Hardware(**values["hardware"]), "efficiency": Efficiency(**values["efficiency"])}
        corrections = {name: tuple(pair) for name, pair in values.get("corrections", {}).items()}
        return Setting(**built | {"colocate": tuple(values["colocate"]), "corrections": corrections})


_AT_LEAST_ONE = "prompts samples keep epochs updates micro_batch train_micro_batch tensor_parallel max_sequences"


def _check_numbers(setting: Setting) -> None:
    for name in _AT_LEAST_ONE.split():
        if getattr(setting, name) < 1:
            raise ValueError(f"{name} is at least 1, got {getattr(setting, name)}.")
    for name in ("prompt_tokens", "response_tokens"):
        if getattr(setting, name) <= 0:
            raise ValueError(f"{name} is more than 0, got {getattr(setting, name):g}.")
    if 0 < setting.longest < setting.response_tokens:
        raise ValueError(
            f"the longest response has {setting.longest:g} tokens and the mean one {setting.response_tokens:g}: give "
            "at least the mean."
        )
    if setting.zero_stage not in range(4):
        raise ValueError(f"DeepSpeed's stages are 0, 1, 2 and 3, got {setting.zero_stage}.")
    for name, value in asdict(setting.efficiency).items():
        if name in ("decode_step", "half_width"):
            if value < 0:
                raise ValueError(f"the efficiency {name} is {value:g}: it is 0 or more.")
        elif not 0 < value <= 1:
            raise ValueError(f"the efficiency {name} is {value:g}: shares of a peak are in (0, 1].")
    if not 0 < setting.vllm_memory <= 1:
        raise ValueError(f"vLLM's share of the memory is in (0, 1], got {setting.vllm_memory:g}.")
    for name in ("flops", "memory", "bandwidth", "interconnect", "host_bandwidth"):
        if getattr(setting.hardware, name) <= 0:
            raise ValueError(f"a GPU's {name} is more than 0, got {getattr(setting.hardware, name):g}.")


def _check_gpus(setting: Setting) -> None:
    if wrong := set(setting.colocate) - set(COLOCATE):
        raise ValueError(f"nothing is colocated as {sorted(wrong)[0]!r}: choose from {', '.join(COLOCATE)}, or none.")
    by_group: dict[str, int] = {}
    for role in (*setting.models(), "vllm"):
        gpus = setting.gpus.get(role, 0)
        if gpus < 1:
            raise ValueError(f"{role} has no GPU: give a number, and {role}=NUMBER where it has others of its own.")
        if by_group.setdefault(setting.group(role), gpus) != gpus:
            raise ValueError(
                f"{setting.group(role)} share their GPUs, so they have as many, got {by_group[setting.group(role)]} "
                f"and {gpus} for {role}: give one number, or colocate less."
            )
    if setting.gpus["vllm"] % setting.tensor_parallel:
        raise ValueError(
            f"{setting.gpus['vllm']} GPUs of vLLM are not whole engines of {setting.tensor_parallel}: choose a tensor "
            "parallel size that divides them."
        )
