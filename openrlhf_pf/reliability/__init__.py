"""Is the reward model right, and which filter suits it? Files to a report, in the order of the data.

    from openrlhf_pf.reliability import Settings, analyse, write_report
    analysis = analyse(["rollouts/"], Settings(bins=20))
    write_report(analysis, Path("report"))

``read`` (files to prompts x responses), ``measures`` (one table of sums per prompt to every number and interval),
``recommend`` (numbers to decisions), ``report`` (decisions to sentences, page and figures); none imports a later one.
``analysis`` runs them, ``demo`` makes samples with known flaws. Nothing here imports ray, vllm, deepspeed or
openrlhf. Names are imported when first used: training needs only a few light modules.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Checkpoint": "read.checkpoints",
    "Rollouts": "read.checkpoints",
    "Settings": "analysis",
    "analyse": "analysis",
    "analyse_rollouts": "analysis",
    "choose": "recommend",
    "load": "read.checkpoints",
    "read_recommendation": "recommend",
    "show_report": "report.page",
    "write_report": "report",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
