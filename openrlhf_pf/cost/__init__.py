"""What a PPO step costs with and without a filter: seconds a phase, memory a GPU, what training on k of N saves.

A model on paper: floating-point operations and bytes moved, over what the hardware gives. It needs neither torch nor
OpenRLHF, so that a run can be planned where none of them is installed. ``python -m openrlhf_pf.cli.cost`` prints it.
"""

from openrlhf_pf.cost.calibration import Calibration
from openrlhf_pf.cost.presets import HARDWARE, PRESETS
from openrlhf_pf.cost.setting import Efficiency, Hardware, Model, Setting
from openrlhf_pf.cost.step import ORDERS, Comparison, Step, compare, step

__all__ = [
    "HARDWARE",
    "ORDERS",
    "PRESETS",
    "Calibration",
    "Comparison",
    "Efficiency",
    "Hardware",
    "Model",
    "Setting",
    "Step",
    "compare",
    "step",
]
