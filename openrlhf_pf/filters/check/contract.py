"""The contract of a sample filter, one function a clause, and the filter under test.

Notation used for tensor shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, M reward
models.
"""

import contextlib
import io
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from openrlhf_pf.filters import DRAWS, FilterBatch, SampleFilter, draw
from openrlhf_pf.filters.check.rollouts import OF_SELECTION, Rollout, make_rollout, make_tied_rollout, spoiled

Status = Literal["ok", "FAILED", "note"]
Outcome = tuple[Status, str]

#: Prompts of most test rollouts: a prime, so that no mixed-up shape fits by chance.
N_PROMPTS = 61
#: Prompts of the rollout whose samples are equal: the standard error of a mean weight is below 0.008.
N_TIED = 4000
#: Prompts and samples a prompt of the timed rollouts.
N_TIMED, TIMED_SAMPLES = 4096, (4, 8, 16, 32)
#: Seeds that must agree for weights to count as deterministic: one tie that a coin decides hides from 12 in 2 ** -11.
N_SEEDS = 12
#: Above this many times the time of torch.sort, a filter most likely loops over prompts in Python.
SLOW = 1000


@contextlib.contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, Python and numpy, and put their states back in the end."""
    numpy = sys.modules.get("numpy")  # torch runs without it; a filter that uses it has imported it
    python_state, numpy_state = random.getstate(), numpy and numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


class Subject:
    """The filter under test, built afresh for each call, because a filter may learn from what it has seen.

    Args:
        build: makes the filter for a number of samples a prompt.
        n_samples: N.
        seed: decides the test rollouts and all randomness of the filter.
    """

    def __init__(self, build: Callable[[int], SampleFilter], n_samples: int, seed: int) -> None:
        self.build, self.n_samples, self.seed = build, n_samples, seed
        sample_filter = build(n_samples)
        self.keep, self.scope, self.most_weighed = sample_filter.keep, sample_filter.scope, sample_filter.most_weighed
        self.rollout = make_rollout(N_PROMPTS, n_samples, seed)
        self.tied = make_tied_rollout(N_PROMPTS, n_samples, seed)
        #: What the filter has changed in place in any of the checks.
        self.changed: set[str] = set()

    def weights(
        self,
        rollout: Rollout,
        shift: int = 0,
        global_seed: int = 0,
        step: int = 0,
        sample_filter: SampleFilter | None = None,
    ) -> Tensor:
        """Call a fresh filter, or ``sample_filter``, with ``shift`` added to the batch's seed; (G, N) weights."""
        sample_filter = sample_filter or self.build(self.n_samples)
        batch = rollout.batch(self.seed + shift, step)
        with global_generators(global_seed):
            weights = sample_filter(batch)
        self.changed |= rollout.changed_in(batch)
        return weights

    @cached_property
    def plain(self) -> Tensor:
        """(G, N) weights of the rollout without ties and with all rewards usable."""
        return self.weights(self.rollout)

    @cached_property
    def is_random(self) -> bool:
        """Whether these weights depend on the seed."""
        others = (self.weights(self.rollout, shift=i, global_seed=i) for i in range(1, N_SEEDS))
        return not all(torch.equal(self.plain, weights) for weights in others)


def same(weights: Tensor, expected: Tensor) -> bool:
    """Whether weights are equal but for rounding, which may be that of float32."""
    return torch.allclose(weights, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


# ── Checks ──


def check_weights(subject: Subject) -> Outcome:
    """``weigh`` itself returns one finite weight a sample, none negative."""
    shape = tuple(subject.rollout.rewards.shape)
    batch = subject.rollout.batch(subject.seed)
    with global_generators(0):
        raw = subject.build(subject.n_samples).weigh(batch)
    subject.changed |= subject.rollout.changed_in(batch)
    if not isinstance(raw, Tensor):
        return "FAILED", f"weigh returned a {type(raw).__name__}: return a tensor of shape {shape}."
    if raw.shape != shape:
        return "FAILED", (
            f"weigh returned shape {tuple(raw.shape)} for rewards of shape {shape}: return one weight for each sample."
        )
    if not raw.isfinite().all():
        return "FAILED", (
            f"{int((~raw.isfinite()).sum())} of {raw.numel()} weights are NaN or infinite though all rewards are "
            "finite: look for a division by 0, a logarithm or a power."
        )
    if (raw < 0).any():
        return "FAILED", (
            f"{int((raw < 0).sum())} of {raw.numel()} weights are negative, the lowest is {float(raw.min()):.3g}: "
            "return shares of the draws, 0 or more."
        )
    return "ok", (
        f"weigh returns finite weights of shape {shape}, none negative (k = {subject.keep}, {subject.scope} scope)."
    )


def check_rows(subject: Subject) -> Outcome:
    """The filter returns distributions, and keeps something."""
    weights, group = subject.plain, subject.scope == "group"
    totals = weights.sum(dim=1) if group else weights.sum().reshape(1)
    off = (totals - 1).abs().minimum(totals.abs())
    if (off > 1e-6).any():
        return "FAILED", (
            f"the weights of {'a prompt' if group else 'the batch'} sum to {float(totals[off.argmax()]):.6g}, not to "
            "1 or 0: write weigh and leave __call__ as it is, which scales them."
        )
    kept = (weights > 0).any(dim=1)
    if not kept.any():
        return "FAILED", (
            f"no sample of {len(kept)} prompts has a weight above 0, so that nothing would train: mend weigh, or give "
            "options that fit the rewards tested here, which lie between -1 and 1."
        )
    if not kept.all():
        return "note", (
            f"{int((~kept).sum())} of {len(kept)} prompts have no weight though all their rewards are usable; this is "
            "right if the filter means to drop prompts."
        )
    return "ok", f"weights sum to 1 {'in each prompt' if group else 'over the batch'}, and no prompt is dropped."


def check_draws(subject: Subject) -> Outcome:
    """All three draws can be made from the weights, and no more samples have weight than the filter says."""
    weights = subject.plain
    most = int((weights > 0).sum(dim=1).max())
    if most > subject.most_weighed:
        return "FAILED", (
            f"{most} samples of a prompt have weight, but most_weighed is {subject.most_weighed}: return the largest "
            "number that can, because the batch sizes of a run are checked with it."
        )
    for mode in DRAWS:
        batch = subject.rollout.batch(subject.seed)
        counts = draw(mode, weights, subject.keep, subject.scope, batch.order, batch.generator).counts
        misfit = _misfit(mode, counts, weights, subject)
        if misfit:
            return "FAILED", f"draw '{mode}' {misfit}: write weigh and leave __call__ as it is."
    return "ok", f"{', '.join(DRAWS)} draw the samples that have weight, as many as they should."


def _misfit(mode: str, counts: Tensor, weights: Tensor, subject: Subject) -> str | None:
    """What is wrong with (G, N) counts, if anything."""
    if (counts[weights == 0] > 0).any():
        return "takes samples of weight 0"
    if mode == "reweight":
        return None if torch.equal(counts, (weights > 0).long()) else "does not take each sample with weight once"
    if subject.scope == "group":
        expected = subject.keep * (weights.sum(dim=1) > 0)
        return None if torch.equal(counts.sum(dim=1), expected) else f"does not take {subject.keep} samples a prompt"
    room = subject.keep * len(weights)
    if mode == "resample":
        expected_total = room if (weights > 0).any() else 0
        return None if counts.sum() == expected_total else f"does not take {expected_total} samples of the batch"
    return None if counts.sum() <= room and counts.max() <= 1 else f"takes a sample twice, or more than {room}"


def check_seed(subject: Subject) -> Outcome:
    """All randomness comes from the batch's generator."""
    for rollout in (subject.rollout, subject.tied):
        weights = subject.weights(rollout)
        if not torch.equal(weights, subject.weights(rollout)):
            return "FAILED", (
                "two fresh filters give different weights for the same batch and seed, so that a run cannot be "
                "repeated: take all randomness from batch.generator, none from the clock or the system."
            )
        if not torch.equal(weights, subject.weights(rollout, global_seed=1)):
            return "FAILED", (
                "the weights change with the global random state of torch, random or numpy, so that a resumed run "
                "chooses other samples: draw with torch and generator=batch.generator only."
            )
    return "ok", "the batch's seed alone decides the weights."


def check_ties(subject: Subject) -> Outcome:
    """Among equal samples, the position does not decide."""
    if subject.n_samples == 1:
        return "note", "a prompt has one sample only, so that there are no ties."
    weights = subject.weights(make_tied_rollout(N_TIED, subject.n_samples, subject.seed))
    if subject.scope == "batch":
        weights = weights * N_TIED
    mean, expected = weights.mean(dim=0), float(weights.mean())
    if expected == 0:
        return "note", "no prompt with equal samples has any weight, so that ties do not matter."
    off = (mean - expected).abs()
    error = weights.std(dim=0) / N_TIED**0.5
    # 6 standard errors: a sound filter fails less than once in 10 ** 7 seeds.
    if (off > 6 * error + 1e-9).any():
        worst = int((off - 6 * error).argmax())
        return "FAILED", (
            f"of equal samples, number {worst} of each prompt has the mean weight {float(mean[worst]):.4g} over "
            f"{N_TIED} prompts and not {expected:.4g}, so that the position decides: rank with batch.order or "
            "batch.ranking(key), which break ties at random."
        )
    return "ok", f"of equal samples, each position has the same mean weight over {N_TIED} prompts."


def check_unusable(subject: Subject) -> Outcome:
    """NaN and infinite rewards get no weight and do not disturb other prompts."""
    rollout = spoiled(subject.rollout, subject.seed)
    usable = rollout.rewards.isfinite()
    weights, group = subject.weights(rollout), subject.scope == "group"
    if (weights[~usable] != 0).any():
        return "FAILED", (
            "samples whose reward is NaN or infinite have weight: leave batch.rewards and __call__ as they are."
        )
    clean = usable.all(dim=1)
    if group and not subject.is_random and not same(weights[clean], subject.plain[clean]):
        return "FAILED", (
            "weights change in prompts whose rewards are all usable when rewards of other prompts are not: weigh each "
            "prompt by its own samples, or set scope = 'batch'."
        )
    lost = (usable.sum(dim=1) >= subject.keep) & (weights == 0).all(dim=1) & (subject.plain > 0).any(dim=1)
    if group and lost.any():
        return "note", (
            f"{int(lost.sum())} prompts with some unusable rewards are dropped though k = {subject.keep} or more are "
            "usable: unless this is meant, rank with batch.order or mask with batch.usable, as torch sorts NaN "
            "and inf highest."
        )
    if group and subject.is_random:
        return "note", (
            "unusable rewards get weight 0; whether they disturb other prompts cannot be told, as weights are random."
        )
    return "ok", f"unusable rewards get weight 0{' and do not disturb other prompts' if group else ''}."


def check_samples(subject: Subject) -> Outcome:
    """The weights follow the samples when these change places."""
    if subject.n_samples == 1:
        return "note", "a prompt has one sample only, so that there is nothing to exchange."
    generator = torch.Generator().manual_seed(subject.seed)
    order = torch.rand(subject.rollout.rewards.shape, generator=generator).argsort(dim=1)
    expected = subject.plain.gather(1, order)
    return _moved_alike(subject, "samples of a prompt", subject.rollout.with_samples(order), expected)


def check_prompts(subject: Subject) -> Outcome:
    """The weights follow the prompts when these change places."""
    order = torch.randperm(N_PROMPTS, generator=torch.Generator().manual_seed(subject.seed))
    return _moved_alike(subject, "prompts", subject.rollout.with_prompts(order), subject.plain[order])


def _moved_alike(subject: Subject, what: str, moved: Rollout, expected: Tensor) -> Outcome:
    if subject.is_random:
        return "note", f"weights are random, so that they cannot be compared when {what} change places."
    if not same(subject.weights(moved), expected):
        return "FAILED", (
            f"weights do not follow when {what} change places: weigh by what is known of a sample, not by its row or "
            "column."
        )
    return "ok", f"weights follow when {what} change places."


def check_context(subject: Subject) -> Outcome:
    """What only prompt selection knows may be missing."""
    batch = subject.rollout.batch(subject.seed)
    with global_generators(0):
        subject.build(subject.n_samples)(batch)
    asked = " and ".join(name for name in OF_SELECTION if name in batch.__dict__)
    if not asked:
        return "ok", "the filter asks for nothing that only --prompt_selection knows."
    try:
        subject.weights(subject.rollout.without_selection())
    except ValueError as error:
        return "note", f"the filter works with --prompt_selection only: {error}"
    except Exception as error:
        return "FAILED", (
            f"without --prompt_selection {asked} are None, and the filter raised {type(error).__name__} ({error}): do "
            "without, or raise a ValueError that says what to add."
        )
    return "ok", f"the filter asks for {asked}, and does without where there is no --prompt_selection."


def check_state(subject: Subject) -> Outcome:
    """A filter that is restored from a checkpoint goes on as the saved one does."""
    original = subject.build(subject.n_samples)
    for step in range(3):
        rollout = make_rollout(N_PROMPTS, subject.n_samples, subject.seed + 1 + step)
        subject.weights(rollout, step=step, sample_filter=original)
    checkpoint = io.BytesIO()
    torch.save(original.state_dict(), checkpoint)
    checkpoint.seek(0)
    restored = subject.build(subject.n_samples)
    restored.load_state_dict(torch.load(checkpoint, weights_only=False))
    empty = not original.state_dict()
    for rollout in (subject.rollout, subject.tied):
        expected = subject.weights(rollout, step=3, sample_filter=original)
        if not same(subject.weights(rollout, step=3, sample_filter=restored), expected):
            return "FAILED", (
                "a filter restored from a checkpoint weighs the next batch differently"
                f"{' (state_dict is empty)' if empty else ''}: return all that weigh remembers from state_dict and "
                "restore it in load_state_dict."
            )
    if empty:
        return "ok", "the filter remembers nothing between batches, and state_dict is empty."
    return "ok", "a filter restored from a checkpoint weighs the next batch as the saved one does."


def check_input(subject: Subject) -> Outcome:
    """No check has seen its rewards or columns changed in place."""
    if subject.changed:
        return "FAILED", (
            f"the filter changes {', '.join(sorted(subject.changed))} in place, which are trained on and logged after "
            "it: work on a copy (x.clone(), x * 2 instead of x.mul_(2))."
        )
    return "ok", "rewards and columns are left as they were."


def check_speed(subject: Subject) -> Outcome:
    """How long the filter takes, and how that grows with N."""
    timed = {}
    for n in [n for n in TIMED_SAMPLES if _fits(subject, n)] or [subject.n_samples]:
        timed[n] = seconds(subject.build(n), make_rollout(N_TIMED, n, subject.seed), subject.seed)
    figures = "; ".join(
        f"N = {n}: {1000 * ours:.2f} ms, {ours / sort:.1f} x torch.sort" for n, (ours, sort) in timed.items()
    )
    growth = ""
    if len(timed) > 1:
        few, many = min(timed), max(timed)
        growth = f"; {many / few:g} times the samples take {timed[many][0] / timed[few][0]:.1f} times as long"
    sentence = f"for {N_TIMED} prompts, {figures}{growth}."
    if any(ours > SLOW * sort for ours, sort in timed.values()):
        sentence += (
            " This is slow, as a Python loop over prompts is: work on whole (G, N) tensors (gather, scatter, cumsum)."
        )
    return "note", sentence


def _fits(subject: Subject, n_samples: int) -> bool:
    """Whether the filter takes this N: options may fit one N only, e.g. a weight for each rank."""
    try:
        subject.build(n_samples)
    except ValueError:
        return False
    return True


def seconds(sample_filter: SampleFilter, rollout: Rollout, seed: int) -> tuple[float, float]:
    """Return the time of the filter and that of torch.sort on the same rewards: medians of 3 after a warm-up."""
    ours, sort = [], []
    for _ in range(4):
        # Columns as they are: making copies of texts would be timed, too.
        generator = torch.Generator().manual_seed(seed)
        batch = FilterBatch(rollout.rewards.clone(), generator, **rollout.columns)
        start = time.perf_counter()
        torch.sort(rollout.rewards, dim=1)
        middle = time.perf_counter()
        sample_filter(batch)
        ours.append(time.perf_counter() - middle)
        sort.append(middle - start)
    return statistics.median(ours[1:]), statistics.median(sort[1:])


#: In the order of the report: "weights" first, because the others need weights; "input" after those that call the
#: filter, because it reports what they saw.
CHECKS: dict[str, Callable[[Subject], Outcome]] = {
    "weights": check_weights,
    "rows": check_rows,
    "draws": check_draws,
    "seed": check_seed,
    "ties": check_ties,
    "unusable": check_unusable,
    "samples": check_samples,
    "prompts": check_prompts,
    "context": check_context,
    "state": check_state,
    "input": check_input,
    "speed": check_speed,
}
