"""Contract checks of sample filters and prompt selections, for pytest and for ``openrlhf-pf check``.

    from openrlhf_pf.testing import check_filter

    def test_my_filter():
        check_filter("path/to/file.py:Class", n_samples=16, keep=4, threshold=0.5)

``FILTER_CHECKS`` and ``SELECTION_CHECKS`` list the single checks, functions that take a :class:`FilterCase` or a
:class:`SelectionCase`. Each raises AssertionError with one sentence, or returns a note if it could not decide.

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train.
"""

import contextlib
import copy
import inspect
import json
import pickle
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters import DRAWS, FilterBatch, SampleFilter, build_filter, draw, make_generator
from openrlhf_pf.selection import PromptSelection, build_selection

#: Prompts of most test rollouts: a prime, so that no wrong shape fits by chance.
N_PROMPTS = 61
#: Prompts of the rollout whose samples are equal: the standard error of a mean weight is below 0.008.
N_TIED = 4000
#: Seeds that must agree for weights to count as deterministic: one tie that a coin decides hides from 12 in 2 ** -11.
N_SEEDS = 12
#: Columns with an entry for each prompt; all others have one for each sample.
OF_PROMPTS = ("prompts", "labels", "datasources", "posterior_mean", "visits")
OF_SELECTION = ("posterior_mean", "visits")
#: Columns whose content depends on the user's data and reward: an exception after reading them is no failure.
OF_USER = ("prompts", "responses", "response_tokens", "labels", "datasources", "extra_logs")


def check_filter(
    name: str, n_samples: int = 8, keep: int | None = None, texts: Sequence[str] = (), **options: Any
) -> None:
    """Run all checks of ``FILTER_CHECKS``; the arguments are those of :func:`openrlhf_pf.filters.build_filter`.

    Raises:
        ValueError: the filter cannot be loaded or built with these settings; the message is one sentence.
        AssertionError: it breaks the contract; the message is one sentence.
    """
    _raise_failures(name, run_filter_checks(name, n_samples, keep, texts, **options))


def check_selection(name: str, n_prompts: int = 200, texts: Sequence[str] = ()) -> None:
    """Run all checks of ``SELECTION_CHECKS``; the arguments are those of ``openrlhf_pf.selection.build_selection``.

    Raises:
        ValueError: the selection cannot be loaded or built with these settings; the message is one sentence.
        AssertionError: it breaks the contract; the message is one sentence.
    """
    _raise_failures(name, run_selection_checks(name, n_prompts, texts))


def run_filter_checks(
    name: str, n_samples: int = 8, keep: int | None = None, texts: Sequence[str] = (), seed: int = 0, **options: Any
) -> Iterator[tuple[str, bool, str]]:
    """Yield for each check its name, whether it passed, and the sentence or note; see :func:`check_filter`."""
    case = FilterCase(partial(build_filter, name, n_samples, keep, texts, **options), seed)
    return _run(FILTER_CHECKS, case, type(case.filter))


def run_selection_checks(
    name: str, n_prompts: int = 200, texts: Sequence[str] = ()
) -> Iterator[tuple[str, bool, str]]:
    """Yield for each check its name, whether it passed, and the sentence or note; see :func:`check_selection`."""
    case = SelectionCase(partial(build_selection, name, n_prompts, texts))
    return _run(SELECTION_CHECKS, case, type(case.build()))


def _run(checks: dict[str, Callable], case: Any, cls: type) -> Iterator[tuple[str, bool, str]]:
    for name, check in checks.items():
        try:
            note = check(case)
        except AssertionError as error:
            yield name, False, str(error)
        except (Exception, SystemExit) as error:
            read = [column for column in OF_USER if column in getattr(case, "used", ())]
            if name == "weights" and read and isinstance(error, Exception):
                yield name, True, (
                    f"{_describe(error, cls)[:-1]} after it had read {' and '.join(read)}, which are invented here; "
                    "the checks stop, as they cannot know yours."
                )
                return
            yield name, False, _describe(error, cls)
        else:
            yield name, True, note or ""
            continue
        if name == "weights":  # all other checks need weights
            return


def _by_name(*checks: Callable) -> dict[str, Callable]:
    return {check.__name__.removeprefix("check_"): check for check in checks}


def _describe(error: BaseException, cls: type) -> str:
    """What was raised, and the last line of the file of ``cls`` that took part in it."""
    what = f"raised {traceback.format_exception_only(error)[-1].splitlines()[0].rstrip('.:')}"
    file = inspect.getfile(cls)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{what} ({file}, line {lines[-1].lineno}: {lines[-1].line})." if lines else f"{what}."


def expect(condition: Any, sentence: str) -> None:
    """Raise AssertionError with the sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)


def _raise_failures(name: str, results: Iterator[tuple[str, bool, str]]) -> None:
    for check, passed, sentence in results:
        expect(passed, f"{name} fails the check '{check}': {sentence}")


@contextlib.contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and (if it is loaded) torch; restore their states afterwards."""
    torch = sys.modules.get("torch")
    states = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    if torch:
        torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch:
            torch.set_rng_state(states[2])


# ── Test rollouts ──


class Rollout(dict[str, ndarray]):
    """Rewards and every column that a filter can ask for, as arrays: (G,) of ``OF_PROMPTS``, else (..., G, N)."""

    def batch(self, seed: int, step: int = 0) -> FilterBatch:
        """Return a batch of copies, made when the filter asks for them, with a generator of this seed."""

        def copied(values: ndarray) -> Any:
            return copy.deepcopy(values.tolist() if values.dtype == object else values)

        columns: dict[str, Any] = {name: partial(copied, values) for name, values in self.items()}
        columns["extra_logs"] = lambda: {"accuracy": self["accuracy"].copy()}
        del columns["rewards"], columns["accuracy"]
        return FilterBatch(self["rewards"].copy(), make_generator(seed), step, **columns)

    def moved(self, prompts: ndarray, samples: ndarray) -> "Rollout":
        """Return the prompts in another order (G,), and then the samples of each in another order (G, N)."""

        def move(values: ndarray) -> ndarray:
            values = values[..., prompts, :]
            return np.take_along_axis(values, np.broadcast_to(samples, values.shape), axis=-1)

        return Rollout({name: v[prompts] if name in OF_PROMPTS else move(v) for name, v in self.items()})


def make_rollout(n_prompts: int, n_samples: int, seed: int, tied: bool = False) -> Rollout:
    """Return random samples: rewards between -1 and 1, scores between 0 and 1; no two of a prompt are equal.

    ``tied``: samples that are equal but for their rewards, all 0 in half of the prompts, 0 or 1 at random in the rest.
    In either half, each position has the same mean weight unless a filter goes by positions.
    """
    rng, shape = np.random.default_rng(seed), (n_prompts, n_samples)
    tasks = np.array(["code", "maths", "chat"], dtype=object)[np.arange(n_prompts) % 3]
    rewards = np.tanh(rng.normal(size=shape))
    lengths = 20 + 37 * rng.random(shape).argsort(axis=1) + rng.integers(37, size=shape)
    scores = 1 / (1 + np.exp(-2 * rewards - rng.normal(size=shape)))
    models = rewards + 0.3 * rng.normal(size=(3, *shape))
    mean, visits = rng.random(n_prompts), rng.integers(4, size=n_prompts)
    if tied:
        rewards = rng.integers(2, size=shape).astype(np.float64)
        rewards[: n_prompts // 2] = 0.0
        lengths, scores, models = np.full(shape, 100), np.ones(shape), np.tile(rewards, (3, 1, 1))
        mean, visits = np.full(n_prompts, 0.5), np.zeros(n_prompts, dtype=np.int64)
    texts = {n: f"{'step ' * (n // 40)}answer {n}" for n in np.unique(lengths).tolist()}
    tokens = np.empty(shape, dtype=object)
    for place, n in np.ndenumerate(lengths):
        tokens[place] = np.arange(n) ** 2 % (7 + n)
    return Rollout(
        rewards=rewards,
        response_lengths=lengths,
        response_tokens=tokens,
        prompts=np.array([f"Question {i}" for i in range(n_prompts)], dtype=object),
        responses=np.vectorize(texts.get, otypes=[object])(lengths),
        labels=np.array([json.dumps({"answer": i, "task": task}) for i, task in enumerate(tasks)], dtype=object),
        datasources=tasks,
        posterior_mean=mean,
        visits=visits,
        scores=scores,
        accuracy=(scores > 0.5).astype(np.float64),
        model_rewards=models,
    )


# ── Checks of a sample filter ──


class FilterCase:
    """The filter under test, built again for each call, because a filter may learn from earlier rollouts.

    Args:
        build: makes the filter.
        seed: decides the test rollouts and all randomness of the filter.
    """

    def __init__(self, build: Callable[[], SampleFilter], seed: int = 0) -> None:
        self.build, self.seed = build, seed
        with seeded_globally(seed):
            self.filter = build()
        try:
            self.n_samples, self.keep, self.scope = self.filter.n_samples, self.filter.keep, self.filter.scope
        except AttributeError as error:
            raise ValueError(
                f"{type(self.filter).__name__}.__init__ must start with super().__init__(n_samples, keep): {error}."
            ) from error
        self.rollout = make_rollout(N_PROMPTS, self.n_samples, seed)
        #: Columns that the filter has read, and that it has changed in place, in any of the checks.
        self.used: set[str] = set()
        self.changed: set[str] = set()

    def weights(
        self,
        rollout: Rollout,
        shift: int = 0,
        global_seed: int = 0,
        step: int = 0,
        sample_filter: SampleFilter | None = None,
    ) -> ndarray:
        """Return the (G, N) weights of a new filter, or of ``sample_filter``; ``shift`` is added to the seed."""
        batch, unchanged = rollout.batch(self.seed + shift, step), rollout.batch(self.seed + shift, step)
        try:
            with seeded_globally(global_seed):
                return (sample_filter or self.build())(batch)
        finally:
            used = {"usable", "extra_logs", *rollout} & batch.__dict__.keys()
            self.used |= used
            self.changed |= {n for n in used if not _is_equal(getattr(batch, n), getattr(unchanged, n))}

    @cached_property
    def plain(self) -> ndarray:
        """(G, N) weights of the rollout without ties and with all rewards usable."""
        return self.weights(self.rollout)

    @cached_property
    def tied(self) -> Rollout:
        """The rollout whose samples are equal."""
        return make_rollout(N_PROMPTS, self.n_samples, self.seed, tied=True)

    @cached_property
    def is_random(self) -> bool:
        """True if the weights depend on the seed."""
        others = (self.weights(self.rollout, shift=i, global_seed=i) for i in range(1, N_SEEDS))
        return not all(np.array_equal(self.plain, weights) for weights in others)


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    return one == other


def _is_same(weights: ndarray, expected: ndarray) -> bool:
    """True if weights are equal up to rounding, which may be that of float32."""
    return np.allclose(weights, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def check_weights(case: FilterCase) -> str | None:
    """``weigh`` returns finite weights, none negative, of the shape of the rewards."""
    try:
        kept = (case.plain > 0).any(axis=1)
    except ValueError as error:
        if "weigh must return" not in str(error):
            raise
        raise AssertionError(f"{error} All rewards of the check are finite, between -1 and 1.") from error
    if not kept.any():
        return (
            "no sample has a weight above 0: fix weigh, or give options that fit the rewards of this check, which "
            "lie between -1 and 1."
        )
    if not kept.all():
        return f"{int((~kept).sum())} of {len(kept)} prompts have no weight though all their rewards are usable."
    return None


def check_sums(case: FilterCase) -> None:
    """Weights sum to 1 or 0, and no more samples of a prompt have weight than ``max_kept_per_prompt``."""
    weights, group = case.plain, case.scope == "group"
    totals = weights.sum(axis=1) if group else weights.sum().reshape(1)
    off = np.minimum(np.abs(totals - 1), np.abs(totals))
    expect(
        off.max() <= 1e-6,
        f"the weights of {'a prompt' if group else 'the batch'} sum to {float(totals[off.argmax()]):.6g}, not to 1 or "
        "0: write weigh and do not override __call__, which scales them.",
    )
    most, allowed = int((weights > 0).sum(axis=1).max()), case.filter.max_kept_per_prompt
    expect(
        most <= allowed,
        f"{most} samples of a prompt have weight, but max_kept_per_prompt is {allowed}: return the largest number "
        "that can, because the batch sizes of a run are checked with it.",
    )


def check_draws(case: FilterCase) -> None:
    """All draws (select, resample, reweight) take the samples that they should, and none of weight 0."""
    weights, group = case.plain, case.scope == "group"
    for mode in DRAWS:
        batch = case.rollout.batch(case.seed)
        counts = draw(mode, weights, case.keep, case.scope, batch.order, batch.generator).counts
        expect(not counts[weights == 0].any(), f"draw '{mode}' takes samples of weight 0: do not override __call__.")
        if mode == "reweight":
            expected, found = weights > 0, counts
        elif group:
            expected, found = case.keep * (weights.sum(axis=1) > 0), counts.sum(axis=1)
        else:
            budget = case.keep * len(weights)
            allowed = (weights > 0).sum() if mode == "select" or not weights.any() else budget
            expected, found = min(budget, allowed), counts.sum()
        expect(
            np.array_equal(found, expected),
            f"draw '{mode}' does not take {case.keep} samples per prompt: write weigh and do not override __call__.",
        )


def check_seed(case: FilterCase) -> None:
    """The batch's generator is the only source of randomness."""
    for rollout in (case.rollout, case.tied):
        weights = case.weights(rollout)
        expect(
            np.array_equal(weights, case.weights(rollout)),
            "two new filters give different weights for the same batch and seed, so a run cannot be repeated: take "
            "all randomness from batch.generator, none from the clock or the system.",
        )
        expect(
            np.array_equal(weights, case.weights(rollout, global_seed=1)),
            "the weights change with the global random state of numpy, random or torch, so a resumed run would choose "
            "other samples: use batch.generator only.",
        )


def check_ties(case: FilterCase) -> str | None:
    """The position of equal samples does not matter."""
    if case.n_samples == 1:
        return "a prompt has one sample only, so there are no ties."
    weights = case.weights(make_rollout(N_TIED, case.n_samples, case.seed, tied=True))
    weights = weights * N_TIED if case.scope == "batch" else weights
    mean, expected = weights.mean(axis=0), float(weights.mean())
    excess = np.abs(mean - expected) - 6 * weights.std(axis=0) / N_TIED**0.5
    worst = int(excess.argmax())
    # 6 standard errors: a sound filter fails less than once in 10 ** 7 seeds.
    expect(
        excess.max() <= 1e-9,
        f"of equal samples, number {worst} of each prompt has the mean weight {float(mean[worst]):.4g} over {N_TIED} "
        f"prompts and not {expected:.4g}, so the position decides: rank with batch.order or batch.ranking(key), which "
        "break ties at random.",
    )
    return "no prompt with equal samples has any weight, so ties do not matter." if expected == 0 else None


def check_unusable(case: FilterCase) -> str | None:
    """NaN and infinite rewards get no weight and do not change the weights of other prompts."""
    rng, shape = np.random.default_rng(case.seed), case.rollout["rewards"].shape
    hit = rng.random(shape) < 0.3
    hit[shape[0] // 2 :] = False
    rewards = np.where(hit, rng.choice([np.nan, np.inf, -np.inf], shape), case.rollout["rewards"])
    rewards[0] = np.nan
    usable = np.isfinite(rewards)
    with np.errstate(all="ignore"):
        weights = case.weights(Rollout({**case.rollout, "rewards": rewards}))
    expect(
        not weights[~usable].any(),
        "samples whose reward is NaN or infinite have weight: do not change batch.rewards or override __call__.",
    )
    if case.scope == "batch":
        return None
    if case.is_random:
        return "weights are random, so it is unknown whether unusable rewards change those of other prompts."
    clean = usable.all(axis=1)
    expect(
        _is_same(weights[clean], case.plain[clean]),
        "weights change in prompts whose rewards are all usable when rewards of other prompts are not: weigh each "
        "prompt by its own samples, or set scope = 'batch'.",
    )
    lost = (usable.sum(axis=1) >= case.keep) & (weights == 0).all(axis=1) & (case.plain > 0).any(axis=1)
    if not lost.any():
        return None
    return (
        f"{int(lost.sum())} prompts with some unusable rewards are dropped though k = {case.keep} or more are "
        "usable: rank with batch.order or mask with batch.usable, as numpy sorts NaN and inf highest."
    )


def check_order(case: FilterCase) -> str | None:
    """Weights follow when prompts, or the samples of a prompt, change places."""
    if case.is_random:
        return "weights are random, so they cannot be compared when samples change places."
    rng, prompts, samples = np.random.default_rng(case.seed), np.arange(N_PROMPTS), np.arange(case.n_samples)
    for what, order in (
        ("samples of a prompt", (prompts, rng.random(case.plain.shape).argsort(axis=1))),
        ("prompts", (rng.permutation(N_PROMPTS), samples[None])),
    ):
        expected = np.take_along_axis(case.plain[order[0]], np.broadcast_to(order[1], case.plain.shape), axis=1)
        expect(
            _is_same(case.weights(case.rollout.moved(*order)), expected),
            f"weights do not follow when {what} change places: do not go by row or column numbers.",
        )
    return None


def check_without_selection(case: FilterCase) -> str | None:
    """The filter works without ``--prompt_selection``, or says so in a ValueError."""
    rollout = Rollout({name: values for name, values in case.rollout.items() if name not in OF_SELECTION})
    try:
        case.weights(rollout)
    except ValueError as error:
        return f"the filter works with --prompt_selection only: {error}"
    except (Exception, SystemExit) as error:
        raise AssertionError(
            f"without --prompt_selection, {' and '.join(OF_SELECTION)} are None, and the filter raised "
            f"{type(error).__name__} ({error}): handle None, or raise a ValueError that says what to add."
        ) from error


def check_state(case: FilterCase) -> None:
    """A filter restored from a checkpoint weighs the next batch as the saved one does."""
    original, restored = case.build(), case.build()
    for step in range(3):
        rollout = make_rollout(N_PROMPTS, case.n_samples, case.seed + 1 + step)
        case.weights(rollout, step=step, sample_filter=original)
    restored.load_state_dict(pickle.loads(pickle.dumps(original.state_dict())))
    empty = "" if original.state_dict() else " (state_dict is empty)"
    for rollout in (case.rollout, case.tied):
        expected = case.weights(rollout, step=3, sample_filter=original)
        expect(
            _is_same(case.weights(rollout, step=3, sample_filter=restored), expected),
            f"a filter restored from a checkpoint weighs the next batch differently{empty}: return all that weigh "
            "remembers from state_dict and restore it in load_state_dict.",
        )


def check_input(case: FilterCase) -> None:
    """No other check has found rewards or columns changed in place."""
    expect(
        not case.changed,
        f"the filter changes {', '.join(sorted(case.changed))} in place, which are trained on and logged after it: "
        "work on a copy (x * 2 instead of x *= 2).",
    )


_FILTER_CHECKS = (check_weights, check_sums, check_draws, check_seed, check_ties, check_unusable, check_order)
_FILTER_CHECKS += (check_without_selection, check_state, check_input)
FILTER_CHECKS: dict[str, Callable[[FilterCase], str | None]] = _by_name(*_FILTER_CHECKS)


# ── Checks of a prompt selection ──

_COUNT, _SAMPLES, _STEPS = 16, 8, 5


class SelectionCase:
    """The selection under test, built again by ``build`` for each check.

    Raises:
        ValueError: it has too few prompts for the checks.
    """

    def __init__(self, build: Callable[[], PromptSelection]) -> None:
        self.build = build
        if (n_prompts := build().n_prompts) < 2 * _COUNT:
            raise ValueError(f"the checks need at least {2 * _COUNT} prompts, got {n_prompts}: give more.")

    def run(self, selection: PromptSelection, steps: Sequence[int] = range(_STEPS)) -> list[list[int]]:
        """Return the prompts of each step, where half of the responses to even prompts succeed and no others."""
        selected = []
        for step in steps:
            prompts = selection.select(_COUNT, np.random.default_rng(1000 + step))
            selection.observe(prompts, np.where(prompts % 2 == 0, _SAMPLES // 2, 0), np.full(_COUNT, _SAMPLES))
            selected.append(prompts.tolist())
        return selected


def check_distinct(case: SelectionCase) -> None:
    """A rollout has different prompts, and their number is the one asked for."""
    for prompts in case.run(case.build()):
        expect(
            len(set(prompts)) == _COUNT, "the same prompt was selected twice for one rollout: do not override select."
        )


def check_excluded(case: SelectionCase) -> None:
    """Prompts in flight are not selected."""
    selection = case.build()
    excluded = set(range(0, selection.n_prompts, 2))
    found = set(selection.select(_COUNT, np.random.default_rng(0), excluded).tolist()) & excluded
    expect(not found, f"prompts {sorted(found)} were selected though they were excluded: do not override select.")


def check_repeatable(case: SelectionCase) -> None:
    """The same seeds select the same prompts, whatever the global random state."""
    found = []
    for seed in (1, 2):
        with seeded_globally(seed):
            found.append(case.run(case.build()))
    expect(
        found[0] == found[1],
        "the same seeds selected other prompts: take random numbers from the generator that priorities is given.",
    )


def check_pure(case: SelectionCase) -> None:
    """``priorities`` changes nothing."""
    selection = case.build()
    case.run(selection)
    before = selection.posterior.counts().copy()
    selection.priorities(np.random.default_rng(0))
    expect(
        np.array_equal(before, selection.posterior.counts()),
        "priorities changed the posterior: leave that to observe.",
    )


def check_resumable(case: SelectionCase) -> None:
    """A resumed run selects what the unbroken run selects."""
    unbroken, resumed = case.build(), case.build()
    case.run(unbroken)
    resumed.load_state_dict(pickle.loads(pickle.dumps(unbroken.state_dict())))
    later = range(_STEPS, 2 * _STEPS)
    expect(
        case.run(unbroken, later) == case.run(resumed, later),
        "after state_dict and load_state_dict other prompts were selected: save all that priorities depends on.",
    )


def check_metrics(case: SelectionCase) -> None:
    """``metrics`` returns floats."""
    selection = case.build()
    prompts = selection.select(_COUNT, np.random.default_rng(0))
    figures = selection.metrics(prompts, np.ones(_COUNT), np.full(_COUNT, _SAMPLES))
    wrong = [name for name, value in figures.items() if type(value) is not float]
    expect(not wrong, f"metrics returned values that are no floats: {', '.join(wrong)}.")


SELECTION_CHECKS: dict[str, Callable[[SelectionCase], None]] = _by_name(
    check_distinct, check_excluded, check_repeatable, check_pure, check_resumable, check_metrics
)
