"""The samples that the criteria of dial.py are computed from, as a file for openrlhf_pf.cli.analyze.

python -m examples.micro_code.world_samples --base runs/s1 --output runs/study --reward exploit samples.jsonl
python -m openrlhf_pf.cli.analyze samples.jsonl --output report/
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from . import judge
from .dial import sampled
from .phases import _write_rows
from .rewards import DIALS
from .sampling import rewards_of
from .study import Cells


def main(argv: Sequence[str] | None = None) -> int:
    """Sample, reward and score; 0 when the file is written."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.micro_code.world_samples",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--base", type=Path, required=True, help="run directory with a policy and a reward model")
    add("--output", type=Path, required=True, help="where cells are kept, and the other reward models")
    add("--reward", choices=[*DIALS, "judge"], default="given", help="a reward model of rewards.py, or judge.py's")
    add("samples", type=Path, metavar="FILE", help="a name that ends in .jsonl")
    options = parser.parse_args(argv)
    judged = options.reward == "judge"
    cells = Cells(options.base, options.output, reward="given" if judged else options.reward)
    texts, scores = sampled(cells.source, cells.study.ppo.samples)
    if judged:
        looks = zip(itertools.count(), texts, scores.flat)
        rewards = [judge.look(text, score, number) for number, text, score in looks]
    else:
        rewards = rewards_of(cells.reward_model(), texts)
    group = scores.shape[1]  # responses to a prompt, side by side
    _write_rows(
        options.samples,
        [
            {"prompt_id": place // group, "response": text, "reward": float(reward), "score": float(score)}
            for place, (text, reward, score) in enumerate(zip(texts, rewards, scores.flat))
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
