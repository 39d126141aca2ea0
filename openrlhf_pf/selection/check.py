"""Is a prompt selection sound? A contract test to run against a class of one's own.

    python -m openrlhf_pf.selection.check path/to/file.py:Class [--prompts 200] [--options KEY=VALUE ...]

prints one line a check (``ok`` or ``FAILED``) and a verdict. Exit status: 0 when no check FAILED, 1 when one did, 2
when the class cannot be loaded or built.
"""

import argparse
import io
import pickle
import sys
from collections.abc import Callable, Sequence

import torch

from openrlhf_pf.selection import PromptSelection, build_selection

_COUNT, _SAMPLES, _STEPS = 16, 8, 5

Build = Callable[[], PromptSelection]


def _generator(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + step)


def _course(selection: PromptSelection, steps: Sequence[int]) -> list[list[int]]:
    """What is selected in each of some steps, the prompts of even place being right half of the time."""
    selected = []
    for step in steps:
        prompts = selection.select(_COUNT, _generator(step))
        counts = torch.full((_COUNT,), _SAMPLES)
        selection.observe(prompts, torch.where(prompts % 2 == 0, _SAMPLES // 2, 0), counts)
        selected.append(prompts.tolist())
    return selected


def _selects(build: Build) -> str | None:
    for prompts in _course(build(), range(_STEPS)):
        if len(set(prompts)) < _COUNT:
            return "the same prompt was selected twice for one rollout."
    return None


def _leaves_out(build: Build) -> str | None:
    selection = build()
    excluded = set(range(0, selection.n_prompts, 2))
    found = set(selection.select(_COUNT, _generator(0), excluded).tolist()) & excluded
    return (
        f"prompts {sorted(found)} were selected though they were excluded: do not override select." if found else None
    )


def _repeats(build: Build) -> str | None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = _course(build(), range(_STEPS))
    if not torch.equal(before, torch.random.get_rng_state()):
        return "torch's global generator was used: take random numbers from the generator that priorities is given."
    torch.manual_seed(2)
    return None if first == _course(build(), range(_STEPS)) else "the same seeds selected other prompts."


def _resumes(build: Build) -> str | None:
    unbroken = build()
    _course(unbroken, range(_STEPS))
    file = io.BytesIO()
    torch.save(unbroken.state_dict(), file)
    file.seek(0)
    resumed = build()
    resumed.load_state_dict(torch.load(file, weights_only=False))
    later = range(_STEPS, 2 * _STEPS)
    if _course(unbroken, later) != _course(resumed, later):
        return "after state_dict and load_state_dict other prompts were selected: save all that priorities depends on."
    return None


def _only_looks(build: Build) -> str | None:
    selection = build()
    _course(selection, range(_STEPS))
    counts = selection.posterior.counts().clone()
    selection.priorities(_generator(0))
    same = torch.equal(counts, selection.posterior.counts())
    return None if same else "priorities changed the posterior: leave that to observe."


def _measures(build: Build) -> str | None:
    selection = build()
    prompts = selection.select(_COUNT, _generator(0))
    figures = selection.metrics(prompts, torch.ones(_COUNT), torch.full((_COUNT,), _SAMPLES))
    wrong = [name for name, value in figures.items() if type(value) is not float]
    return f"metrics returned something else than floats: {', '.join(wrong)}." if wrong else None


def _travels(build: Build) -> str | None:
    return None if isinstance(pickle.loads(pickle.dumps(build())), PromptSelection) else "it does not pickle."


CHECKS: dict[str, tuple[Callable[[Build], str | None], str]] = {
    "selects": (_selects, "different prompts, as many as asked for."),
    "leaves_out": (_leaves_out, "prompts in flight are not selected."),
    "repeats": (_repeats, "the same seeds select the same prompts."),
    "only_looks": (_only_looks, "priorities changes nothing."),
    "resumes": (_resumes, "a resumed run selects what the unbroken one does."),
    "measures": (_measures, "metrics are numbers."),
    "travels": (_travels, "it goes to another process whole."),
}


def check_selection(name: str, n_prompts: int = 200, texts: Sequence[str] = ()) -> dict[str, str | None]:
    """Run all checks: the name of each, and what is wrong, or None.

    Args:
        name: see :func:`openrlhf_pf.selection.selection_class`.
        n_prompts: P, at least 32.
        texts: options as ``key=value`` texts.

    Raises:
        ValueError: the class cannot be loaded, or does not take these settings.
    """
    if n_prompts < 2 * _COUNT:
        raise ValueError(f"the checks need at least {2 * _COUNT} prompts, got {n_prompts}: give more.")
    build_selection(name, n_prompts, texts)
    found: dict[str, str | None] = {}
    for check, (function, _) in CHECKS.items():
        try:
            found[check] = function(lambda: build_selection(name, n_prompts, texts))
        except Exception as error:
            found[check] = f"raised {type(error).__name__}: {error}"
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    built = argparse.ArgumentParser(
        prog="python -m openrlhf_pf.selection.check", description="Check whether a prompt selection is sound."
    )
    built.add_argument("selection", help="path/to/file.py:Class, package.module:Class or a built-in name")
    built.add_argument("--prompts", type=int, default=200, metavar="P", help="prompts of the data set (default: 200)")
    built.add_argument("--options", nargs="+", default=(), metavar="KEY=VALUE", help="options of the selection")
    return built


def main(argv: Sequence[str] | None = None) -> int:
    """Check one selection, print the report and return the exit status, as the module's docstring says."""
    args = parser().parse_args(argv)
    try:
        found = check_selection(args.selection, args.prompts, args.options)
    except ValueError as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    for check, wrong in found.items():
        print(f"{'FAILED' if wrong else 'ok':<6}  {check:<10}  {wrong or CHECKS[check][1]}")
    failed = [check for check, wrong in found.items() if wrong]
    if failed:
        print(f"{args.selection} is not sound: {', '.join(failed)} FAILED.")
        return 1
    print(f"{args.selection} is sound: {len(found)} checks, none FAILED.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
