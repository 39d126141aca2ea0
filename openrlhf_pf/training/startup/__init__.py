"""What happens before training, and when it fails."""

import sys


def say(text: object) -> None:
    """Print one sentence of ours where errors go."""
    print(f"openrlhf_pf: {text}", file=sys.stderr, flush=True)
