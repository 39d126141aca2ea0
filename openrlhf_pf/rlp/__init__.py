"""Which pairs of a policy's own answers retrain the reward model: Reward Learning on Policy (RLP, arXiv 2403.19279).

    prompts = prompts_of(table)                                      # samples with rewards, N of each prompt
    groups = list(build("exact").groups(prompts))                    # answers that mean the same
    choices = [choose(p, g, threshold=0.5, pairs=1, seed=0) for p, g in zip(prompts, groups)]
    rows = pairs_of(prompts, choices)                                # prompt, chosen, rejected: for train_rm

``samples`` reads and orders, ``clusters`` has the table of ways to find answers of one meaning (``behaviour``,
``entailment`` and ``own`` are three of them), ``progress`` keeps what is found, ``pairs`` chooses winners and losers,
``measures`` says what they are like. ``views`` and ``information`` are the other variant: a loss on two answers to a
prompt, for ``openrlhf_pf.cli.train_rm``. Nothing here imports OpenRLHF, Ray or vLLM.
"""

from openrlhf_pf.rlp.clusters import CLUSTERINGS, Clustering, build
from openrlhf_pf.rlp.measures import measure
from openrlhf_pf.rlp.pairs import REASONS, USED, Choice, choose, pairs_of
from openrlhf_pf.rlp.progress import Progress
from openrlhf_pf.rlp.samples import NAMES, Prompt, prompts_of

__all__ = [
    "CLUSTERINGS",
    "NAMES",
    "REASONS",
    "USED",
    "Choice",
    "Clustering",
    "Progress",
    "Prompt",
    "build",
    "choose",
    "measure",
    "pairs_of",
    "prompts_of",
]
