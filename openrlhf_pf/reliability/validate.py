"""Could it have been found? Known truths in the shape of a user's own samples, and how often the analysis finds them.

A reward model whose flaw is planted (:mod:`planted`) judges as many responses to as many prompts as the user has. What
there is to find is what the same analysis says of many more of its prompts; each of ``TRIES`` data sets of the user's
size then says the same, or nothing beyond doubt, or something else. So "no problem found" can be told from "could not
have found one".
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from openrlhf_pf.reliability import within
from openrlhf_pf.reliability.answers import verdict_of
from openrlhf_pf.reliability.bootstrap import Bootstrap
from openrlhf_pf.reliability.choose import FILTER, NO_FILTER, WRONG_WAY, choose
from openrlhf_pf.reliability.data import Checkpoint
from openrlhf_pf.reliability.ends import ends_of
from openrlhf_pf.reliability.evaluate import evaluate, summary
from openrlhf_pf.reliability.planted import WORLDS, plant_like
from openrlhf_pf.reliability.strategies import Strategy

#: Data sets of the user's size for each planted truth, and repetitions of the bootstrap for each.
TRIES, REPETITIONS = 20, 200
#: Level and repetitions for what there is to find, which must not be chance.
SURE_LEVEL, SURE_REPETITIONS = 0.999, 1000
#: Responses of the sample that says what there is to find, about, and at least so many times the user's.
LARGE, LARGER = 100_000, 2
#: Share of the data sets from which on a truth counts as one that can be found.
OFTEN = 0.8
QUESTIONS = ("ranking", "ends", "filter")


@dataclass(frozen=True)
class Said:
    """What an analysis says; which filters it cannot tell from the one it names, and which lie above no filter."""

    ranking: str
    ends: str
    filter: str
    as_good: frozenset[str]
    better: frozenset[str]


@dataclass
class Power:
    """How often one planted truth is found.

    Attributes:
        world: its name.
        meaning: what this reward model does.
        truth: what there is to find, by question (``ranking``: right, guessing or wrong way round within a prompt;
            ``ends``: which end of the ranks is wrong; ``filter``: the recommendation).
        found: in how many data sets the same is said, by question.
        wrong: in how many something else is said beyond doubt; of filters, that one is better than none which is not.
        tries: how many data sets there were.
    """

    world: str
    meaning: str
    truth: dict[str, str]
    tries: int
    found: Counter = field(default_factory=Counter)
    wrong: Counter = field(default_factory=Counter)

    def as_dict(self) -> dict:
        """For report.json."""
        counts = {name: {q: getattr(self, name)[q] for q in QUESTIONS} for name in ("found", "wrong")}
        return {"world": self.world, "meaning": self.meaning, "truth": self.truth, "tries": self.tries, **counts}


def validate(
    checkpoint: Checkpoint,
    strategies: Sequence[Strategy],
    threshold: float = 0.5,
    level: float = 0.95,
    seed: int = 0,
    tries: int = TRIES,
    say: Callable[[str], None] = lambda line: None,
) -> list[Power]:
    """Plant every truth in the shape of these samples and look for it.

    Args:
        checkpoint: the user's samples.
        strategies: what is compared on them; those that need lengths or several reward models are left out.
        threshold: a score above it is correct.
        level: of the intervals.
        seed: of all randomness.
        tries: data sets for each truth.
        say: called with a line on what is being done.

    Raises:
        ValueError: nothing can be planted, for the scores are all on one side of the threshold.
    """
    correct = checkpoint.score[checkpoint.known] > threshold
    if not correct.any() or correct.all():
        which = "all" if correct.any() else "none"
        raise ValueError(
            f"--validate needs correct and wrong responses to plant, and {which} of these scores are above"
            f" {threshold:g}: choose another --threshold."
        )
    needing_more = ("shortest", "reward_per_token", "pareto", "ensemble_agreement")
    strategies = [s for s in strategies if s.name not in needing_more]
    measured = Bootstrap(checkpoint.n_prompts, 100, seed)
    parts = within.split(checkpoint, within.deviations_of(checkpoint), measured, level)
    between = np.nan if parts is None else parts.score_between["estimate"]
    between = float(np.clip(between if np.isfinite(between) else 0.5, 0.05, 0.95))
    times = max(LARGER, -(-LARGE // int(checkpoint.known.sum())))
    found = []
    for number, (world, planted) in enumerate(WORLDS.items()):
        say(f"planting {world!r}")

        def draw(i: int, times: int = 1, world: str = world, number: int = number) -> Said:
            seeds = np.random.SeedSequence([seed, number, i]).generate_state(2)
            sample = plant_like(checkpoint, world, int(seeds[0]), threshold, between, times)
            how = (level, REPETITIONS) if times == 1 else (SURE_LEVEL, SURE_REPETITIONS)
            return _said(sample, strategies, *how, int(seeds[1]))

        truth = draw(0, times)
        power = Power(world, planted.meaning, {q: getattr(truth, q) for q in QUESTIONS}, tries)
        for i in range(1, tries + 1):
            _count(power, truth, draw(i))
        found.append(power)
    return found


def _said(checkpoint: Checkpoint, strategies: Sequence[Strategy], level: float, repetitions: int, seed: int) -> Said:
    bootstrap = Bootstrap(checkpoint.n_prompts, repetitions, seed)
    results = evaluate(checkpoint, strategies, bootstrap, only=("gain", "pairwise_accuracy"))
    whole = next((r for r in results if r.strategy.name == "none"), results[0])
    verdict = verdict_of(summary(whole, bootstrap, level)["pairwise_accuracy"])
    ranking = {"no better than guessing": "guessing", "wrong way round": "wrong way round", "unknown": "unknown"}
    ends = ends_of(checkpoint, bootstrap, level)
    advice = choose(results, (), bootstrap.n_blocks, level)
    named = frozenset([advice.best, *advice.not_told_apart]) if advice.decided else frozenset()
    gains = {r.strategy.label: r.estimates.get("gain", np.nan) for r in results}
    better = frozenset(label for label, gain in gains.items() if gain > gains.get("none", np.inf))
    return Said(
        ranking.get(verdict, "right"),
        "" if ends is None else ends.verdict,
        advice.best if advice.answer == FILTER else advice.answer,
        named,
        better,
    )


def _count(power: Power, truth: Said, said: Said) -> None:
    same = {q: getattr(said, q) == getattr(truth, q) for q in QUESTIONS}
    same["filter"] |= said.filter in truth.as_good
    recommended = bool(said.as_good) and said.filter != NO_FILTER
    contrary = {
        "ranking": said.ranking not in ("guessing", "unknown"),
        "ends": said.ends != "",
        "filter": said.filter == WRONG_WAY or (recommended and said.filter not in truth.better),
    }
    for question in QUESTIONS:
        power.found[question] += same[question]
        power.wrong[question] += not same[question] and contrary[question]


def words(powers: Sequence[Power]) -> list[str]:
    """What a reader may conclude, a sentence each."""
    missed = []
    for power in powers:
        there = [q for q, answer in power.truth.items() if answer and not (q == "filter" and answer == "open")]
        rare = [f"{q} {power.found[q]} of {power.tries}" for q in there if power.found[q] < OFTEN * power.tries]
        missed += [f"{power.world} ({', '.join(rare)})"] if rare else []
    alarms, total = sum(p.wrong["filter"] for p in powers), sum(p.tries for p in powers)
    seen = (
        f"With this many prompts and responses these would often be missed, so that not seeing them does not rule them"
        f" out: {'; '.join(missed)}."
        if missed
        else "With this many prompts and responses each of these would be found in most data sets."
    )
    return [seen, f"A filter that is no better than none would be recommended in {alarms} of {total} data sets."]


def rows(powers: Sequence[Power]) -> list[tuple[str, str, list[str]]]:
    """World, meaning, and a cell for each of ``QUESTIONS``: what there is to find, and how often it is found."""
    return [
        (p.world, p.meaning, [f"{p.truth[q] or 'right'}: {p.found[q]} of {p.tries}" for q in QUESTIONS])
        for p in powers
    ]
