"""Makes `python -m openrlhf.cli.train_ppo` run this plugin's launcher.

`openrlhf_pf.pth` imports this module in every Python process of the environment, so it imports nothing that is not
loaded anyway and does its work only when the one name is asked for, or when Ray starts a worker that a driver on a CPU
has prepared (training/warm_workers.py).
"""

import os
import sys

SERVED_NAME = "openrlhf.cli.train_ppo"


class TrainPPOFinder:
    """Last in `sys.meta_path`, so it is asked only when OpenRLHF has no module of that name."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """The spec of openrlhf_pf/cli/train_ppo.py under OpenRLHF's name; None for every other name."""
        if fullname != SERVED_NAME:
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(fullname, __file__.replace("_import_hook.py", "cli/train_ppo.py"))


sys.meta_path.append(TrainPPOFinder)

if os.environ.get("OPENRLHF_PF_WARM_WORKERS", "0") != "0" and any(
    x.endswith("setup_worker.py") for x in sys.orig_argv
):
    from openrlhf_pf.training.warm_workers import stand_in

    stand_in(os.environ["OPENRLHF_PF_WARM_WORKERS"])
