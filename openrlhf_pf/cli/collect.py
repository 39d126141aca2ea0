"""``openrlhf-pf collect``: sample a policy and score the samples, with OpenRLHF's training flags."""

from types import SimpleNamespace
from typing import Any

from openrlhf_pf.training.flags import collect as collect_flags
from openrlhf_pf.training.startup import launch


def _prepare(args: SimpleNamespace, entry: Any) -> None:
    # Imported when called: it needs an OpenRLHF that launch has found to be a supported one.
    from openrlhf_pf.training.collect import collect

    entry.train = collect


def main() -> None:
    """Collect with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    launch.run(collect_flags.add_arguments, collect_flags.check_arguments, _prepare)


if __name__ == "__main__":
    main()
