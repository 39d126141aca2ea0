"""Everything that a micro-code study can vary, in frozen dataclasses; ``PRESETS`` holds the named settings.

study = override(PRESETS["quickstart"], ["ppo.kl=0.2", "task.heldout=800"])
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from .policy import ModelConfig
from .tasks import TaskConfig


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning of the random policy; short, so that the policy stays imperfect."""

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class RewardConfig:
    """The reward model: pairs sampled from the SFT policy on the training prompts. ``eval_prompts`` of them train
    nothing at all.
    """

    eval_prompts: int = 300
    samples: int = 8
    pairs_per_prompt: int = 4
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class PPOConfig:
    """One PPO run. ``samples`` responses a prompt are scored, ``keep`` of them train; ``batch_size`` counts kept
    samples. ``weights`` are those of ``rank_weights``; ``flags`` are further ones of the trainer.
    """

    sample_filter: str = "best_worst"
    weights: tuple[float, ...] = ()
    samples: int = 5
    keep: int = 2
    steps: int = 40
    rollout_prompts: int = 64
    batch_size: int = 64
    micro_batch_size: int = 64
    learning_rate: float = 5e-5
    critic_learning_rate: float = 2e-4
    critic_warmup_steps: int = 3
    kl: float = 0.1
    save_every: int = 1
    flags: tuple[str, ...] = ()

    def actor_updates(self, step: int) -> int:
        """Optimizer steps that the actor has taken after ``step`` PPO steps; none while the critic warms up."""
        per_step = self.rollout_prompts * self.keep // self.batch_size
        return per_step * max(step - self.critic_warmup_steps, 0)

    def saved_steps(self) -> range:
        """The steps of which a policy is saved."""
        return range(self.save_every, self.steps + 1, self.save_every)


@dataclass(frozen=True)
class EvaluationConfig:
    """``samples`` responses per held-out task at temperature 1 decide pass@1; the curve between has a point every
    ``curve_every`` steps, with fewer.
    """

    samples: int = 8
    checkpoint_samples: int = 2
    curve_every: int = 5
    max_new_tokens: int = 56
    max_length: int = 128


@dataclass(frozen=True)
class Study:
    """One run of the whole story. ``ppo`` is the run with the filter; the runs that it is compared with differ from it
    in the filter alone. ``overoptimised`` is one more run, that pushes the same reward model too hard; None leaves it
    out.
    """

    seed: int = 1
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    overoptimised: PPOConfig | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def as_dict(self) -> dict[str, Any]:
        """The configuration as plain, JSON-ready values."""
        return asdict(self)

    def ppo_runs(self) -> dict[str, PPOConfig]:
        """The PPO runs of this study by name."""
        n = self.ppo.samples
        runs = {
            "unfiltered": replace(self.ppo, sample_filter="none", keep=n),
            "random": replace(self.ppo, sample_filter="rank_weights", weights=(1.0,) * n),
            "ppo": self.ppo,
            "overoptimised": self.overoptimised,
        }
        return {name: run for name, run in runs.items() if run is not None}


# Two of the families and 0.4 million parameters.
_STUDY = Study(
    task=TaskConfig(demonstrations=10000, prompts=3500, bug_rate=0.5, families=("conditional", "two_numbers")),
    model=ModelConfig(hidden_size=96, layers=3, heads=3, intermediate_size=288),
    sft=SFTConfig(epochs=1, batch_size=32, learning_rate=2e-3),
    reward=RewardConfig(samples=4, pairs_per_prompt=2, epochs=2, batch_size=32, learning_rate=1e-3),
    ppo=PPOConfig(steps=16, learning_rate=3e-4, critic_learning_rate=5e-4, kl=0.3),
)

PRESETS: dict[str, Study] = {
    # What the evidence is measured on.
    "study": _STUDY,
    # The same, shortened until the whole story takes five minutes of two cores.
    "quickstart": replace(_STUDY, reward=replace(_STUDY.reward, epochs=1), ppo=replace(_STUDY.ppo, steps=12)),
    # The study with 0.9 million parameters, more data and more steps.
    "full": Study(
        task=TaskConfig(demonstrations=12000, prompts=5300, bug_rate=0.5, families=("conditional", "two_numbers")),
        sft=SFTConfig(epochs=1, batch_size=32, learning_rate=1.5e-3),
        reward=RewardConfig(samples=4, pairs_per_prompt=2, epochs=2, batch_size=32, learning_rate=1e-3),
        ppo=PPOConfig(steps=30, learning_rate=3e-4, critic_learning_rate=5e-4, kl=0.3),
    ),
    # The real pipeline, on one family of functions and far too short to learn much from PPO: for trying a change.
    "smoke": Study(
        task=TaskConfig(demonstrations=3200, prompts=400, heldout=50, families=("two_numbers",)),
        sft=SFTConfig(epochs=1),
        reward=RewardConfig(eval_prompts=100, epochs=1),
        ppo=PPOConfig(steps=4, rollout_prompts=16, batch_size=16, micro_batch_size=16),
    ),
}


def with_overoptimisation(study: Study) -> Study:
    """The study with a second PPO run that differs in two settings: a higher learning rate, almost no KL penalty."""
    return replace(study, overoptimised=replace(study.ppo, learning_rate=6e-4, kl=0.001))


def override(config: Any, assignments: Sequence[str]) -> Any:
    """A copy of a configuration with ``name.name=value`` assignments applied; values are Python literals or plain
    words.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set {assignment!r} is not an assignment: write name=value, for example ppo.kl=0.2.")
        config = _set(config, path.split("."), _parse(text), path)
    return config


def _parse(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _set(config: Any, path: list[str], value: Any, whole: str) -> Any:
    names = [f.name for f in fields(config)] if is_dataclass(config) else []
    if path[0] not in names:
        allowed = ", ".join(names) or "nothing (it is a plain value)"
        raise ValueError(f"--set {whole}: there is no setting {path[0]!r} here; there is {allowed}.")
    current = getattr(config, path[0])
    if len(path) > 1:
        return replace(config, **{path[0]: _set(current, path[1:], value, whole)})
    if is_dataclass(current):
        raise ValueError(
            f"--set {whole}: this is a group of settings; set one of {', '.join(f.name for f in fields(current))}."
        )
    if isinstance(current, float) and isinstance(value, int):
        value = float(value)
    if current is not None and type(value) is not type(current):
        raise ValueError(f"--set {whole}={value!r}: a {type(current).__name__} is needed, like {current!r}.")
    return replace(config, **{path[0]: value})
