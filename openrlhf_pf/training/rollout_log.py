"""The former place of :mod:`openrlhf_pf.rollouts`; importing it warns."""

import warnings

from openrlhf_pf.rollouts import *  # noqa: F403
from openrlhf_pf.rollouts import __all__ as __all__

warnings.warn(
    "openrlhf_pf.training.rollout_log has moved: import openrlhf_pf.rollouts instead.",
    DeprecationWarning,
    stacklevel=2,
)
