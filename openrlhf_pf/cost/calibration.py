"""From a measured run to the next one: what each phase really took, as a factor and seconds besides.

A phase's time is modelled as ``factor * predicted + overhead``. One run gives the factor; from two runs of other sizes
on, both are fitted, by least squares of the relative errors. From runs whose actors have two widths on, so is before
that the width which reaches half of the peaks' shares (:class:`~openrlhf_pf.cost.setting.Efficiency`), one for all
phases, with factors alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openrlhf_pf.cost.setting import Correction, Setting
from openrlhf_pf.cost.step import LOGGED, ORDERS, step


@dataclass
class Calibration:
    """Measured runs.

    Args:
        runs: of each the setting, the order (of ``ORDERS``) and the seconds of a step by phase of ``LOGGED``.
    """

    runs: list[tuple[Setting, str, Mapping[str, float]]] = field(default_factory=list)

    def add(self, setting: Setting, order: str, seconds: Mapping[str, float]) -> None:
        """Note a run.

        Raises:
            ValueError: a phase that OpenRLHF does not log, or a time that is none.
        """
        if wrong := set(seconds) - set(LOGGED):
            raise ValueError(f"no phase is called {sorted(wrong)[0]!r}: give seconds of {', '.join(LOGGED)}.")
        if not seconds or not all(isinstance(value, int | float) and value > 0 for value in seconds.values()):
            raise ValueError(f"a phase takes more than 0 seconds, got {dict(seconds)}: give medians over steps.")
        assert order in ORDERS
        self.runs.append((setting.but(corrections={}), order, dict(seconds)))

    def half_width(self) -> float | None:
        """The width that reaches half of the shares of the peak FLOP/s; None where all runs have one width."""
        widths = {setting.actor.width for setting, _, _ in self.runs}
        if len(widths) < 2:
            return None
        # From 0 on, then between its neighbours; far beyond these widths, all that counts is how they compare.
        tried = [0.0, *(max(widths) * 2 ** (power / 4) for power in range(-40, 21))]
        for _ in range(4):
            place = min(range(len(tried)), key=lambda i: self._error(tried[i]))
            low, high = tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)]
            tried = [low + (high - low) * part / 20 for part in range(21)]
        return min(tried, key=self._error)

    def corrections(self) -> dict[str, Correction]:
        """By phase; without a run of it, (1, 0)."""
        return {phase: fitted(pairs) for phase, pairs in self._points(self.half_width()).items()}

    def applied_to(self, setting: Setting) -> Setting:
        """The setting with what was measured."""
        return _with(setting, self.half_width()).but(corrections=self.corrections())

    def _points(self, half_width: float | None) -> dict[str, list[tuple[float, float]]]:
        """Predicted and measured seconds of the phases that were measured."""
        points: dict[str, list[tuple[float, float]]] = {phase: [] for phase in LOGGED}
        for setting, order, seconds in self.runs:
            predicted = step(_with(setting, half_width), order).logged
            for phase, measured in seconds.items():
                points[phase].append((predicted[phase], measured))
        return {phase: pairs for phase, pairs in points.items() if pairs}

    def _error(self, half_width: float) -> float:
        """Sum of the squared relative errors that factors alone leave, with this width."""
        shares = [[x / m for x, m in pairs] for pairs in self._points(half_width).values()]
        return sum(len(row) - sum(row) ** 2 / sum(share * share for share in row) for row in shares)

    def write(self, file: Path) -> None:
        """As JSON."""
        runs = [
            {"setting": setting.as_dict(), "order": order, "seconds": dict(seconds)}
            for setting, order, seconds in self.runs
        ]
        file.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(file: Path) -> "Calibration":
        """What :meth:`write` wrote.

        Raises:
            ValueError: it is no such file; the message is one sentence.
        """
        found = Calibration()
        try:
            for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
                found.add(Setting.of(run["setting"]), run["order"], run["seconds"])
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{file} is no calibration ({type(error).__name__}: {error}): give a file that --measured wrote, "
                "or another name."
            ) from error
        return found


def _with(setting: Setting, half_width: float | None) -> Setting:
    if half_width is None:
        return setting
    return setting.but(efficiency=replace(setting.efficiency, half_width=half_width))


def fitted(points: Sequence[tuple[float, float]]) -> Correction:
    """Factor and overhead of (predicted, measured) seconds; an overhead is never less than 0, nor is the factor."""
    # Relative errors f x/m + o/m - 1.
    rows = [(x / m, 1 / m) for x, m in points]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = (sum(r[i] for r in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * aa * bb:
        factor, overhead = (a * bb - b * ab) / determinant, (aa * b - ab * a) / determinant
        if factor >= 0 and overhead >= 0:
            return factor, overhead
        if factor < 0:
            return 0.0, b / bb
    return a / aa, 0.0


def from_tensorboard(folder: Path) -> dict[str, float]:
    """Median seconds of each phase that OpenRLHF logged in a TensorBoard folder, the first step left out.

    Raises:
        ValueError: there are none; the message is one sentence.
    """
    import statistics

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(folder.rglob("events.out.tfevents.*"))
    taken: dict[str, list[float]] = {}
    for file in files:
        accumulator = EventAccumulator(str(file)).Reload()
        for tag in accumulator.Tags()["scalars"]:
            _, _, phase = tag.partition("timing/")
            if phase in LOGGED:
                taken.setdefault(phase, []).extend(event.value for event in accumulator.Scalars(tag)[1:])
    seconds = {phase: statistics.median(values) for phase, values in taken.items() if values}
    if not seconds:
        raise ValueError(
            f"no times of at least two steps are in {folder}: give the directory that --logger.tensorboard_dir named, "
            "of a run of two steps or more."
        )
    return seconds
