"""The shell command ``openrlhf-pf``, also ``python -m openrlhf_pf``: run one of the commands below."""

import importlib
import sys

from openrlhf_pf import __version__

#: Name of a module in ``openrlhf_pf/cli`` to what it does. A command's module is imported only to run it.
COMMANDS = {
    "analyze": "measure a reward model against true scores and recommend a filter",
    "collect": "sample a policy, score the samples and write a rollout log",
    "evaluate": "compute pass@k of code on HumanEval, MBPP or LeetCode Contest",
    "preferences": "choose preference pairs from a policy's own samples",
    "train_ppo": "train by PPO with a sample filter; takes all flags of OpenRLHF's train_ppo_ray",
    "check": "check a filter or prompt selection of your own",
    "doctor": "check whether training could start on this machine",
}


def usage() -> str:
    """Return the help text: how to call the command, and one line for each subcommand."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    hint = "openrlhf-pf COMMAND --help lists the flags of a command."
    return "\n".join(["usage: openrlhf-pf [--help] [--version] COMMAND ...", "", "commands:", *lines, "", hint])


def main() -> int | None:
    """Run the command that the command line names and return its exit status; 2 if there is no such command."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"openrlhf-pf {__version__}")
        return 0
    if name not in COMMANDS:
        from openrlhf_pf.registry import did_you_mean

        if not name:
            print(usage(), file=sys.stderr)
            return 2
        hint = did_you_mean(name, COMMANDS) or f"choose from {', '.join(COMMANDS)}."
        print(f"openrlhf-pf: there is no command {name!r}: {hint}", file=sys.stderr)
        return 2
    # What argparse and OpenRLHF's own entry modules read.
    sys.argv = [f"openrlhf-pf {name}", *rest]
    return importlib.import_module(f"openrlhf_pf.cli.{name}").main()


if __name__ == "__main__":
    sys.exit(main())
