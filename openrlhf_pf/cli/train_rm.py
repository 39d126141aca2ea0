"""``python -m openrlhf_pf.cli.train_rm``: OpenRLHF's ``train_rm``, with a policy's samples as views."""

from types import SimpleNamespace
from typing import Any

from openrlhf_pf.training import compatibility, launch, policy_reward_arguments

#: By an argument that no other parser has.
HOST = launch.Host(
    "openrlhf.cli.train_rm",
    "data.chosen_key",
    compatibility.EXPECTED_OF_REWARD_MODEL,
    uses_ray=False,
    settle=policy_reward_arguments.resolve,
)


def _prepare(args: SimpleNamespace, entry: Any) -> None:
    if policy_reward_arguments.is_active(args):
        # Imported when called: it needs an OpenRLHF that launch has found to be a supported one.
        from openrlhf_pf.training import policy_reward

        policy_reward.install(args, entry)


def main() -> None:
    """Train with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    launch.run(policy_reward_arguments.add_arguments, policy_reward_arguments.check_arguments, _prepare, HOST)


if __name__ == "__main__":
    main()
