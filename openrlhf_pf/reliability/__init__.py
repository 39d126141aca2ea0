"""Is the reward model right, and which filter suits it? Arrays in, numbers and figures out.

    from openrlhf_pf.reliability import Settings, analyse, report
    analysis = analyse(["rollouts/"], Settings(bins=20))
    report.write(analysis, Path("report"))

``files``, ``columns``, ``samples`` and ``data`` read samples, ``oddities`` says what limits them, ``strategies``
weighs samples by the filters, ``metrics`` and ``bootstrap`` do the statistics, ``evaluate`` puts them together,
``choose`` recommends, ``curves`` look at other k and N, ``drift`` and ``calibration`` at steps and at regions of
rewards, ``ends`` at the first and the last ranks, ``validate`` at which ``planted`` truths would be found. ``report``
writes what comes out: ``plots`` draws, ``svg`` and ``seen`` make figures readable and say what is in them, ``page``
fills ``template`` in, ``words`` explains. Nothing here imports ray, vllm, deepspeed or openrlhf.
"""

from openrlhf_pf.reliability.analysis import Analysis, Settings, analyse, analyse_rollouts
from openrlhf_pf.reliability.choose import Recommendation, choose, read_recommendation
from openrlhf_pf.reliability.data import Checkpoint, Rollouts, load
from openrlhf_pf.reliability.metrics import METRICS, binned_points, binned_r2

__all__ = [
    "METRICS",
    "Analysis",
    "Checkpoint",
    "Recommendation",
    "Rollouts",
    "Settings",
    "analyse",
    "analyse_rollouts",
    "binned_points",
    "binned_r2",
    "choose",
    "load",
    "read_recommendation",
]
