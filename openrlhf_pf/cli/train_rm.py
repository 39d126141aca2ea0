"""``openrlhf-pf train_rm``: OpenRLHF's ``train_rm``, with a policy's samples as views."""

from types import SimpleNamespace
from typing import Any

from openrlhf_pf.training.flags import policy_samples
from openrlhf_pf.training.startup import compatibility, launch

#: Recognized by an argument that no other parser has.
HOST = launch.Host(
    "openrlhf.cli.train_rm",
    "data.chosen_key",
    compatibility.EXPECTED_OF_REWARD_MODEL,
    uses_ray=False,
    resolve=policy_samples.resolve,
)


def _prepare(args: SimpleNamespace, entry: Any) -> None:
    if policy_samples.is_active(args):
        # Imported when called: it needs an OpenRLHF that launch has found to be a supported one.
        from openrlhf_pf.training import reward_model

        reward_model.install(args, entry)


def main() -> None:
    """Train with the arguments of the command line. Exits with status 2 and one sentence on a bad argument."""
    launch.run(policy_samples.add_arguments, policy_samples.check_arguments, _prepare, HOST)


if __name__ == "__main__":
    main()
