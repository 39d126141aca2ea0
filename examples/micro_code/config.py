"""All settings of a micro-code study, in frozen dataclasses; ``PRESETS`` holds the named ones.

study = override(PRESETS["quickstart"], ["ppo.kl=0.2", "task.heldout=800"])
"""

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
    """The reward model and its pairs, sampled from the SFT policy. ``eval_prompts`` prompts train nothing at all."""

    eval_prompts: int = 300
    samples: int = 8
    pairs_per_prompt: int = 4
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class PPOConfig:
    """One PPO run.

    Attributes:
        samples, keep: responses to a prompt that are scored, and that train.
        batch_size: in kept samples.
        weights: of the filter ``rank_weights``.
        flags: further flags of the trainer.
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
        """Return the optimizer steps of the actor after ``step`` PPO steps; none while the critic warms up."""
        per_step = self.rollout_prompts * self.keep // self.batch_size
        return per_step * max(step - self.critic_warmup_steps, 0)

    def saved_steps(self) -> range:
        """Return the steps after which a policy is saved."""
        return range(self.save_every, self.steps + 1, self.save_every)


@dataclass(frozen=True)
class EvaluationConfig:
    """``samples`` responses per held-out task at temperature 1 give pass@1 at the end.

    The curve has a point every ``curve_every`` steps with ``checkpoint_samples``.
    """

    samples: int = 8
    checkpoint_samples: int = 2
    curve_every: int = 5
    max_new_tokens: int = 56
    max_length: int = 128


@dataclass(frozen=True)
class Study:
    """One whole study. ``ppo`` is the run with the filter; the runs that it is compared with have another filter.

    ``overoptimised`` is one more run, which pushes the same reward model too hard; None leaves it out.
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
        """Return the configuration as plain values for JSON."""
        return asdict(self)

    def ppo_runs(self) -> dict[str, PPOConfig]:
        """Return the PPO runs of this study by name."""
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
    # The evidence is measured on this one.
    "study": _STUDY,
    # The same, shortened to five minutes on two cores.
    "quickstart": replace(_STUDY, reward=replace(_STUDY.reward, epochs=1), ppo=replace(_STUDY.ppo, steps=12)),
    # The study with 0.9 million parameters, more data and more steps.
    "full": Study(
        task=TaskConfig(demonstrations=12000, prompts=5300, bug_rate=0.5, families=("conditional", "two_numbers")),
        sft=SFTConfig(epochs=1, batch_size=32, learning_rate=1.5e-3),
        reward=RewardConfig(samples=4, pairs_per_prompt=2, epochs=2, batch_size=32, learning_rate=1e-3),
        ppo=PPOConfig(steps=30, learning_rate=3e-4, critic_learning_rate=5e-4, kl=0.3),
    ),
}


def with_overoptimisation(study: Study) -> Study:
    """Return the study with another PPO run: a higher learning rate, almost no KL penalty."""
    return replace(study, overoptimised=replace(study.ppo, learning_rate=6e-4, kl=0.001))


def override(config: Any, assignments: Sequence[str]) -> Any:
    """Return a copy with ``name.name=value`` assignments applied; values are Python literals or plain words.

    Raises:
        ValueError: an assignment names no setting, or its value has another type.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set {assignment!r} is not an assignment: write name=value, for example ppo.kl=0.2.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        config = _set(config, path.split("."), value, path)
    return config


def _set(config: Any, path: list[str], value: Any, whole: str) -> Any:
    names = [f.name for f in fields(config)] if is_dataclass(config) else []
    if path[0] not in names:
        allowed = ", ".join(names) or "nothing (it is a plain value)"
        raise ValueError(f"--set {whole}: there is no setting {path[0]!r} here; there is {allowed}.")
    current = getattr(config, path[0])
    if len(path) > 1:
        return replace(config, **{path[0]: _set(current, path[1:], value, whole)})
    if isinstance(current, float) and isinstance(value, int):
        value = float(value)
    if is_dataclass(current) or (current is not None and type(value) is not type(current)):
        raise ValueError(f"--set {whole}={value!r}: a {type(current).__name__} is needed, like {current!r}.")
    return replace(config, **{path[0]: value})
