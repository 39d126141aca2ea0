"""Makes `python -m openrlhf.cli.train_ppo` run this plugin's launcher.

`openrlhf_pf.pth` imports this module in every Python process of the environment, so it imports only `sys` and does its
work only when that one name is asked for.
"""

import sys

SERVED_NAME = "openrlhf.cli.train_ppo"


class TrainPPOFinder:
    """Last in `sys.meta_path`, so it is asked only when OpenRLHF has no module of that name."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """Return the spec of openrlhf_pf/cli/train_ppo.py under OpenRLHF's name; None for every other name."""
        if fullname != SERVED_NAME:
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(fullname, __file__.replace("_import_hook.py", "cli/train_ppo.py"))


sys.meta_path.append(TrainPPOFinder)
