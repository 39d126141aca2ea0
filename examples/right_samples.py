"""Write the samples that pass as a data set for OpenRLHF's ``train_sft``: the cheapest use of true scores.

    openrlhf-pf collect ... --collect.output samples/ --collect.score true_score.py
    python examples/right_samples.py samples/ right.jsonl
    python -m openrlhf.cli.train_sft --data.dataset right.jsonl --data.input_key input --data.output_key output \
        --data.input_template "{}" ...

Prompts are as the policy saw them, with the chat template applied: ask for none in ``train_sft``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from openrlhf_pf import rollout_log


def main(argv: Sequence[str] | None = None) -> int:
    """Write one row, ``input`` and ``output``, for each sample with a true score of ``--least`` or more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="directory that openrlhf-pf collect wrote")
    parser.add_argument("output", type=Path, help="JSONL file to write")
    parser.add_argument("--least", type=float, default=1.0, help="lowest true score to keep (default: %(default)s)")
    options = parser.parse_args(argv)
    rows = rollout_log.read(options.samples, columns=["prompt", "response", "score"]).to_pylist()
    right = [row for row in rows if row["score"] is not None and row["score"] >= options.least]
    if not right:
        parser.error(f"none of {len(rows)} samples has a score of {options.least:g} or more: give another --least.")
    lines = (json.dumps({"input": row["prompt"], "output": row["response"]}) for row in right)
    options.output.write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(right)} of {len(rows)} samples, from {len({row['prompt'] for row in right})} prompts, are right")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
