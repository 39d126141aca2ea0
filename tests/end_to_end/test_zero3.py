"""What the CPU patch fixes in DeepSpeed's ZeRO-3: see patches/README.md."""

import re
import subprocess
import sys
from pathlib import Path

from real_stack import stack_environment

LOADS = Path(__file__).parent / "zero3_loads.py"


def test_weights_that_are_loaded_on_four_ranks_of_a_cpu_are_what_was_loaded():
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4")
    run = subprocess.run([*launcher, LOADS], env=stack_environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    assert re.findall(r"(\d+) of (\d+) right", run.stdout) == [("120", "120")] * 4
