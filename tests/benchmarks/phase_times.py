"""Seconds of each phase of a real run, beside what the cost model predicts; for the benchmarks."""

import statistics
from dataclasses import dataclass, field

from real_stack import Run

from openrlhf_pf.cost import Calibration, Setting, Step

#: Each part of a step, as the cost model calls it, by the worker that does it and what the observer calls it.
PARTS = {
    "reward_forward": ("RewardModelActor", "forward"),
    "actor_forward": ("PolicyModelActor", "forward"),
    "critic_forward": ("CriticModelActor", "forward"),
    "reference_forward": ("ReferenceModelActor", "forward"),
    "critic_train": ("CriticPPOTrainer", "train"),
    "actor_train": ("ActorPPOTrainer", "train"),
}
FORWARDS = tuple(name for name in PARTS if name.endswith("forward"))
TRAINS = tuple(name for name in PARTS if name.endswith("train"))


@dataclass
class Times:
    """Of one arm: seconds of every step, the first of each run left out, by phase."""

    by_phase: dict[str, list[float]] = field(default_factory=dict)

    def add(self, run: Run) -> None:
        """Note a run: its workers' seconds on a CPU and on the wall, and what OpenRLHF has logged."""
        for clock in ("cpu", "wall"):
            for part, (model, event) in PARTS.items():
                self._note(f"{part}, {clock}", run.took(model, event, clock))
            for total, parts in (("forward", FORWARDS), ("train", TRAINS), ("forward + train", tuple(PARTS))):
                taken = [run.took(*PARTS[part], clock) for part in parts]
                self._note(f"{total}, {clock}", [sum(of_step) for of_step in zip(*taken)])
        for phase in ("generation", "make_experience", "ppo_train", "broadcast"):
            self._note(phase, [metrics[f"timing/{phase}"] for metrics in run.steps.values()])
        both = (m["timing/make_experience"] + m["timing/ppo_train"] for m in run.steps.values())
        self._note("make_experience + ppo_train", list(both))

    def _note(self, phase: str, seconds: list[float]) -> None:
        self.by_phase.setdefault(phase, []).extend(seconds[1:])

    def median(self, phase: str) -> float:
        return statistics.median(self.by_phase[phase])

    def text(self, phase: str) -> str:
        """Median and range."""
        seconds = self.by_phase[phase]
        return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"

    def logged(self) -> dict[str, float]:
        """Medians of what OpenRLHF logs, for a calibration."""
        return {phase: self.median(phase) for phase in ("generation", "make_experience", "ppo_train", "broadcast")}

    def computed(self) -> dict[str, float]:
        """Medians of CPU seconds in the models' workers, by the phase in whose time they are."""
        return {"make_experience": self.median("forward, cpu"), "ppo_train": self.median("train, cpu")}


def of_ideal(times: dict[str, Times], none: str, arm: str, share: float) -> tuple[float, float]:
    """Share of the ideal saving in CPU seconds of forward passes and training, and the ideal's seconds.

    Ideal: what ``none`` takes, with everything but the reward model's forward pass times ``share``, k/N.
    """
    reward, all_ = times[none].median("reward_forward, cpu"), times[none].median("forward + train, cpu")
    ideal = reward + share * (all_ - reward)
    return (all_ - times[arm].median("forward + train, cpu")) / (all_ - ideal), ideal


def parts_of(found: Step) -> dict[str, float]:
    """A prediction by part, with the sums that are measured."""
    parts = {part: found.parts[part] for part in PARTS}
    forward, train = (sum(parts[part] for part in names) for names in (FORWARDS, TRAINS))
    return parts | {"forward": forward, "train": train, "forward + train": forward + train}


def calibrated(runs: list[tuple[Setting, str, Times]]) -> Calibration:
    """On the runs' CPU seconds."""
    calibration = Calibration()
    for measured, how, times in runs:
        calibration.add(measured, how, times.computed())
    return calibration
