"""Preference pairs from a policy's own samples: Reward Learning on Policy (RLP, arXiv 2403.19279).

From samples to pairs for ``train_rm``:

    prompts = group_by_prompt(table)                                 # samples with rewards, N per prompt
    groups = list(build_clustering("exact").cluster(prompts))        # responses with the same meaning
    choices = [choose(p, g, threshold=0.5, pairs=1, seed=0) for p, g in zip(prompts, groups)]
    rows = make_pairs(prompts, choices)                              # prompt, chosen, rejected
"""

from openrlhf_pf.rlp.clusters import Behaviour, Clustering, ExactText, UserClustering
from openrlhf_pf.rlp.pairs import choose, make_pairs
from openrlhf_pf.rlp.samples import group_by_prompt

__all__ = ["CLUSTERINGS", "build_clustering", "choose", "group_by_prompt", "make_pairs"]

CLUSTERINGS = ("exact", "behaviour", "entailment")


def build_clustering(name: str, entailment_model: str | None = None, entailment_batch: int = 32) -> Clustering:
    """Return the clustering of a name in :data:`CLUSTERINGS`, or one by the function that ``file.py:function`` names.

    ``entailment`` needs the folder of an NLI checkpoint, and a number of pairs of texts per forward pass.

    Raises:
        ValueError: there is no such clustering, or its options are wrong; one sentence.
    """
    if name == "exact":
        return ExactText()
    if name == "behaviour":
        return Behaviour()
    if name == "entailment":
        from openrlhf_pf.rlp.entailment import Entailment

        return Entailment(entailment_model, entailment_batch)
    if ".py:" in name:
        return UserClustering(name)
    from openrlhf_pf.registry import did_you_mean

    raise ValueError(
        f"--cluster {name!r} is none of {', '.join(CLUSTERINGS)}; {did_you_mean(name, CLUSTERINGS) or 'choose one'} "
        "Or give file.py:function, which gets (prompt, responses, label) and returns a group number per response."
    )
