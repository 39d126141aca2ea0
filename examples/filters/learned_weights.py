"""A filter whose rank weights are learnt from true scores while it trains: those with the best signal to noise.

With d a reward and s a true score, each minus its prompt's mean, rank j has c_j = E[s d], v_j = E[d²]. A step that
takes rank j n_j times moves the mean true score by sum n_j c_j, with noise sqrt(sum n_j² v_j), if the gradients of
different samples are orthogonal and equally long. So J = sum E[n] c / sqrt(sum E[n²] v).

    python -m openrlhf.cli.train_ppo --sample_filter examples/filters/learned_weights.py:LearnedWeights \\
        --sample_filter_probe DATA --sample_filter_probe_score FILE ...

Notation used for array shapes: G prompts (groups), N scored samples a prompt, k samples a prompt that train, L
multipliers.
"""

import warnings
from collections import deque
from typing import Any

import numpy as np
from numpy import ndarray

from openrlhf_pf.filters import DRAWS, FilterBatch, LearningFilter, RankFilter
from openrlhf_pf.filters.adaptive import CANDIDATES, check_positive, decayed, known_samples, lead
from openrlhf_pf.filters.base import scaled
from openrlhf_pf.filters.batch import deviations
from openrlhf_pf.filters.group_scope import RankWeights, spread_ranks

#: How weights are found; "auto" takes what is exact for the draw.
METHODS = ("auto", "closed", "subset")
#: Filters that may be used until there is evidence: by rank, without options of their own.
STARTS = [name for name, cls in CANDIDATES.items() if issubclass(cls, RankFilter)]


class LearnedWeights(LearningFilter):
    """The rank weights with the best signal to noise, by the true scores so far.

    Each rollout with true scores (of all prompts or of some: others have NaN) adds s d and d², by rank, to decaying
    sums, from which weights are found that maximise J under the draw. Before a rollout is
    added, the weights found without it are evaluated on it, and so is ``start``: fitted weights count only by their J
    on other samples. They take over from ``start`` if their J is higher by more than ``certainty`` standard errors of
    the difference (a jackknife over rollouts); ``start`` takes over again by the same rule. Without true scores
    nothing ever changes.

    Args:
        half_life: rollouts with true scores after which one counts half.
        method: ``closed`` (w in proportion to max(0, c / v): the best for ``reweight``), ``subset`` (the k best ranks:
            the best for ``select``), or ``auto``: ``closed`` for ``reweight``, else ``subset``.
        start: name of ``STARTS``, used until other weights are significantly better.
        patience: rollouts with true scores before weights take over, and again after each change.
        certainty: standard errors to be ahead by. 4 allows for a test after every rollout.
        mode: the draw; training gives it.
    """

    def __init__(
        self,
        n_samples: int,
        keep: int,
        half_life: float = 20.0,
        method: str = "auto",
        start: str = "best_worst",
        patience: int = 10,
        certainty: float = 4.0,
        mode: str = "select",
    ) -> None:
        super().__init__(n_samples, keep)
        for name, value, allowed in (("method", method, METHODS), ("start", start, STARTS), ("mode", mode, DRAWS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value}: choose one of them.")
        check_positive(half_life=half_life, certainty=certainty, patience=patience)
        self.method = method if method != "auto" else "closed" if mode == "reweight" else "subset"
        self.start_name, self.start = start, CANDIDATES[start](n_samples, keep)
        self.half_life, self.patience, self.certainty, self.mode = half_life, patience, certainty, mode
        #: (N,) the weights found last; None before there are any, and where none can help.
        self.learned: ndarray | None = None
        self.uses_learned = False
        self._sums = np.zeros((3, n_samples))
        # Rollouts, evaluated with weights found without them. After 6 half-lives one counts less than 2 percent.
        self._judged: deque[ndarray] = deque(maxlen=max(patience, round(6 * half_life)))
        self._since_switch = 0
        self._warned = False

    @property
    def max_kept_per_prompt(self) -> int:
        return max(self.start.max_kept_per_prompt, self.keep) if self.method == "subset" else self.n_samples

    @property
    def weights(self) -> ndarray:
        """(N,) those in use, best rank first."""
        return self.learned if self.uses_learned else self.start.rank_weights(self.n_samples)

    def weigh(self, batch: FilterBatch) -> ndarray:
        self.log_message = ""
        self.observe(batch)
        weights = self.start.weigh(batch)
        if self.uses_learned:
            learned = RankWeights(self.n_samples, self.keep, self.learned.tolist()).weigh(batch)
            # With few usable samples, none of the ranks that have weight may be among theirs.
            weights = np.where((learned > 0).any(axis=1, keepdims=True), learned, weights)
        return weights

    def observe(self, batch: FilterBatch) -> None:
        """Learn from a rollout, whether it trains or not, and change the weights if others are clearly better."""
        known = known_samples(batch)
        if known is None:
            return
        sums = rank_sums(batch, known)
        if not sums[0].any():
            return
        if self.learned is not None:
            prompts = (known.sum(axis=1) > 1).sum()
            contestants = self.start.rank_weights(self.n_samples), self.learned
            self._judged.append(np.stack([self._judge(w, sums, prompts) for w in contestants]))
        self._sums = self._sums * 0.5 ** (1 / self.half_life) + sums
        self._since_switch += 1
        self.learned = self._find()
        self._change()

    def c_and_v(self) -> tuple[ndarray, ndarray]:
        """Return (N,) each: E[s d] and E[d²] of each rank; 0 where there was no sample."""
        number, c, v = self._sums
        return c / number.clip(min=1e-300), v / number.clip(min=1e-300)

    def metrics(self) -> dict[str, float]:
        """Return ``weight_<rank>`` in use, and J of the learnt weights and of ``start`` on rollouts found without."""
        values = {f"weight_{rank}": weight for rank, weight in enumerate(self.weights.tolist(), 1)}
        j_start, j = self._j(self._decayed().sum(axis=0)).tolist() if self._judged else (float("nan"),) * 2
        return values | {"j": j, "j_start": j_start}

    def _judge(self, weights: ndarray, sums: ndarray, prompts: int) -> ndarray:
        """(3,) number of prompts, signal and noise of weights (N,) on one rollout's sums (3, N)."""
        mean, square = expected_counts(weights, self.keep, self.mode)
        return np.array([prompts, (mean * sums[1]).sum(), (square * sums[2]).sum()])

    def _j(self, judged: ndarray) -> ndarray:
        """(..., 2) J of start and of the learnt weights from sums (..., 2, 3)."""
        prompts, signal, noise = np.moveaxis(judged, -1, 0)
        return np.where(noise > 0, signal / np.sqrt((prompts * noise).clip(min=1e-300)), 0.0)

    def _decayed(self) -> ndarray:
        return decayed(list(self._judged), self.half_life)

    def _find(self) -> ndarray | None:
        """Weights (N,) with sum 1; None where at no rank higher rewards go with higher true scores."""
        c, v = self.c_and_v()
        if (c > 0).any():
            return closed_form(c, v) if self.method == "closed" else best_subset(c, v, self.keep)
        if not self._warned and self._since_switch >= self.patience:
            self._warned = True
            warnings.warn(
                f"learned_weights: at no rank do higher rewards go with higher true scores; {self.start_name} stays, "
                "but this reward should not train.",
                stacklevel=2,
            )
        return None

    def _change(self) -> None:
        if self.learned is None:
            if self.uses_learned:
                self._use(False, "no rank has a signal now")
            return
        if self._since_switch < self.patience or len(self._judged) < 2:
            return
        sign = -1 if self.uses_learned else 1
        ahead, error = lead(self._decayed(), lambda judged: np.diff(self._j(judged))[..., 0] * sign)
        if ahead > 0 and ahead > self.certainty * error:
            j_start, j = self._j(self._decayed().sum(axis=0)).tolist()
            self._use(
                not self.uses_learned,
                f"over {len(self._judged)} other rollouts than they were found on, the learnt weights have a signal "
                f"to noise of {j:.3f} and {self.start_name} of {j_start:.3f}, a difference with a standard error of "
                f"{error:.3f}",
            )

    def _use(self, learned: bool, why: str) -> None:
        self.uses_learned, self._since_switch = learned, 0
        names = ("the learnt weights take", f"{self.start_name} takes")
        self.log_message = f"{names[0] if learned else names[1]} over: {why}; weights by rank " + " ".join(
            f"{weight:.2f}" for weight in self.weights.tolist()
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "settings": [self.n_samples, self.keep, self.method, self.start_name, self.mode],
            "sums": self._sums,
            "judged": list(self._judged),
            "learned": self.learned,
            "uses_learned": self.uses_learned,
            "since_switch": self._since_switch,
            "warned": self._warned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = [self.n_samples, self.keep, self.method, self.start_name, self.mode]
        if state["settings"] != own:
            raise ValueError(
                f"the checkpoint's learned_weights have N, k, method, start and mode {state['settings']}, these "
                f"{own}: give the same to resume."
            )
        self._sums, self.learned, self.uses_learned = state["sums"], state["learned"], state["uses_learned"]
        self._since_switch, self._warned = state["since_switch"], state["warned"]
        self._judged.clear()
        self._judged.extend(state["judged"])


# ── Signal and noise by rank ──


def rank_sums(batch: FilterBatch, known: ndarray) -> ndarray:
    """Return (3, N) by rank: number of samples, sum of s d, sum of d²; c and v are the latter by the first.

    A prompt with n < N usable rewards adds to n ranks, evenly spaced, as ``rank_weights`` does; one with a single
    ``known`` (G, N) sample adds nothing.
    """
    known = known & (known.sum(axis=1, keepdims=True) > 1)
    d, s = deviations(batch.rewards, known), deviations(batch.scores, known)
    values = np.stack([np.ones_like(d), s * d, d * d]) * known
    ranked = np.take_along_axis(values, np.broadcast_to(batch.order, values.shape), axis=2)
    sums = np.zeros((3, known.shape[1]))
    for n_usable in np.unique(batch.n_usable).tolist():
        of_ranks = ranked[:, batch.n_usable == n_usable, :n_usable].sum(axis=1)
        sums[:, spread_ranks(n_usable, known.shape[1])] += of_ranks
    return sums


def expected_counts(weights: ndarray, keep: int, mode: str) -> tuple[ndarray, ndarray]:
    """Return E[n] and E[n²] (..., N) of how often each rank trains, of weights (..., N) with sum 1 under a draw.

    ``select`` takes a rank floor(k w) or ceil(k w) times, ``resample`` as often as a binomial of k draws, ``reweight``
    w times.
    """
    if mode == "reweight":
        return weights, weights**2
    mean = keep * weights
    if mode == "resample":
        return mean, mean * (1 - weights) + mean**2
    whole = np.floor(mean + 1e-9)
    rest = (mean - whole).clip(min=0.0)
    return mean, whole**2 + rest * (2 * whole + 1)


def closed_form(c: ndarray, v: ndarray) -> ndarray:
    """Return the (N,) weights of largest J when advantages are scaled: in proportion to max(0, c / v), 0 if v is 0."""
    weights = np.where(v > 0, c / v.clip(min=1e-300), 0.0).clip(min=0.0)
    return scaled(weights, weights.sum())


def best_subset(c: ndarray, v: ndarray, keep: int) -> ndarray:
    """Return (N,) 1/k on the k ranks with the largest sum of c by the root of their sum of v, where that is above 0.

    Exact, without listing the subsets: sum c / sqrt(sum v) rises with sum c, falls with sum v, and is quasi-convex
    where sum c > 0, so that its largest value lies at a corner of the convex hull of (sum v, sum c): k ranks with the
    largest c - m v for a multiplier m >= 0. These change only where two ranks change places, at one of N (N - 1) / 2
    values of m. Ranks with v = 0, where no reward ever differs, are left out; so fewer than k may be left.
    """
    some = v > 0
    size = min(keep, int(some.sum()))
    i, j = np.triu_indices(len(c), 1)
    crossing = some[i] & some[j] & (v[i] != v[j])
    i, j = i[crossing], j[crossing]
    crossings = (c[i] - c[j]) / (v[i] - v[j])
    crossings = np.sort(crossings[crossings > 0])
    ends = np.concatenate([[0.0], crossings, crossings[-1:] * 2 + 1])
    multipliers = np.concatenate([ends[:1], (ends[1:] + ends[:-1]) / 2])
    keys = np.where(some, c - multipliers[:, None] * v, -np.inf)  # (L, N)
    ranks = np.argsort(-keys, axis=1, kind="stable")[:, :size]
    value = c[ranks].sum(axis=1) / np.sqrt(v[ranks].sum(axis=1))
    best = np.zeros_like(c)
    best[ranks[value.argmax()]] = 1.0 / size
    return best
