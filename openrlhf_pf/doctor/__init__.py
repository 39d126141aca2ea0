"""Could training start here? One finding for each thing that it needs, with what to do (``openrlhf_pf.cli.doctor``).

Nothing of OpenRLHF, vLLM, Ray or DeepSpeed is imported, so that this works, and in seconds, where one of them is
missing or broken.
"""

from typing import Literal, NamedTuple

#: "ok": as it should be. "note": training can start, and something is worth knowing. "FAILED": it could not start.
Status = Literal["ok", "note", "FAILED"]


class Finding(NamedTuple):
    """What was seen of one thing; where it is not ok, the sentence ends with what to do."""

    status: Status
    subject: str
    sentence: str
