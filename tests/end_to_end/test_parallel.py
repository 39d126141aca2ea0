"""Parallel modes of OpenRLHF with a filter, pair by pair; the table is in docs/clusters.md."""

import math
from collections import Counter
from pathlib import Path

import pytest
from definitions import check_group
from faulty import data_of, prompts_of
from parallel_cases import CASES, Case
from real_stack import RunningCluster
from test_training import steps_of

HERE = Path(__file__).parent

FLAGS = (
    "--sample_filter best_worst --train.batch_size 8 --train.micro_batch_size 2 --rollout.micro_batch_size 2 "
    "--algo.advantage.estimator gae --actor.lr_warmup_ratio 0 "
)
MODES = {"sync": "", "async": "--train.async_enable", "partial": "--train.async_enable --train.partial_rollout_enable"}
PLACES = {place: f"--train.colocate_{place}" for place in ("all", "actor_ref", "critic_reward")}


def ranks_of(case: Case) -> dict[str, int]:
    """Ranks of each model: critic and reward model have fewer than the actor, as far as that goes."""
    critic = max(1, case.ranks // 2)
    with_actor = case.ranks if case.place in ("all", "actor_ref") else 1
    return {"actor": case.ranks, "ref": with_actor, "critic": critic, "reward": critic}


def gpus_of(case: Case) -> int:
    """What all models take."""
    ranks = ranks_of(case)
    reward = ranks["reward"] * (case.turns == 1)  # the agent rewards itself
    models = {
        "all": ranks["actor"],
        "actor_ref": ranks["actor"] + ranks["critic"] + reward,
        "critic_reward": ranks["actor"] + ranks["ref"] + ranks["critic"],
        "apart": ranks["actor"] + ranks["ref"] + ranks["critic"] + reward,
    }
    return models[case.place] + case.engines * (case.place != "all" or case.mode != "sync")


def command(case: Case, stack, folder: Path) -> str:
    ranks = ranks_of(case)
    nodes = {model: case.nodes if count == case.ranks > 1 else 1 for model, count in ranks.items()}
    sizes = " ".join(
        f"--{model}.num_nodes {nodes[model]} --{model}.num_gpus_per_node {count // nodes[model]}"
        for model, count in ranks.items()
    )
    agent = f"--train.agent_func_path {HERE / 'turns_agent.py'}"
    return (
        f"{FLAGS} --sample_filter_log {folder / 'log'} {sizes} --ds.zero_stage {case.zero} "
        f"--vllm.num_engines {case.engines} --train.max_epochs {case.epochs} {MODES[case.mode]} "
        f"--rollout.vllm_generate_batch_size {case.generate} {PLACES.get(case.place, '')} "
        f"{f'--reward.model_name_or_path {stack.reward}' if case.turns == 1 else agent}"
    )


@pytest.fixture
def cluster(stack):
    """Starts a Ray cluster of its own for a case; a session's own has one node."""
    made = []

    def start(case: Case) -> dict[str, str]:
        if case.nodes == 1:
            return {}
        first = gpus_of(case) // 2
        made.append(RunningCluster(stack.observed, gpus=(first, gpus_of(case) - first)))
        return {"RAY_ADDRESS": made[0].address}

    yield start
    for one in made:
        one.stop()


@pytest.mark.by_hand
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_filter_in_every_pair_of_parallel_modes(stack, cluster, tmp_path, case):
    """Two rollouts of 8 prompts, or one of 8 and one of 5, of which the ranks can share 4."""
    folder = tmp_path / "run"
    run = stack.train(folder, case.prompts, command(case, stack, folder), **cluster(case))

    unit = 2 * case.ranks  # samples: a micro-batch for every rank
    log = steps_of(folder)
    assert list(run.steps) == list(log) == [1, 2]
    assert sum(prompts_of(folder), Counter()) == data_of(folder)
    trained = 0
    for step, rows in log.items():
        groups = [group.sort_values("rank") for _, group in rows.groupby("group")]
        kept = [group for group in groups if group.kept.any()]
        assert len(groups) == (8 if step == 1 else case.prompts - 8) and all(len(group) == 4 for group in groups)
        assert len(kept) * 2 == len(groups) * 2 // unit * unit
        for group in kept:
            check_group("best_worst", group)
            assert group.reward.is_monotonic_decreasing
        metrics = run.steps[step]
        assert metrics["filter/kept_fraction"] == rows.kept.mean()
        assert all(math.isfinite(metrics[name]) for name in ("policy_loss", "critic_loss", "kl", "actor_grad_norm"))
        trained += 2 * len(kept)
        if case.turns == 2:
            turns = [dict(logs)["turns"] for logs in rows.extra_logs]
            assert set(turns) <= {2, 3} and rows.response.str.contains("<1>", regex=False).all()

    for model in ("ActorPPOTrainer", "CriticPPOTrainer"):
        shares = {rank: sum(rows) for rank, rows in run.rows(model, "train").items()}
        ranks = ranks_of(case)["actor" if model == "ActorPPOTrainer" else "critic"]
        assert shares == {rank: case.epochs * trained // ranks for rank in range(ranks)}
    assert run.samples("PolicyModelActor", "forward") == trained
    assert run.samples("RewardModelActor", "forward") == (4 * case.prompts if case.turns == 1 else 0)
    assert len(run.nodes("RolloutRayActor", "PolicyModelActor", "CriticModelActor")) == case.nodes
    if case.nodes == 2 and case.place == "all" and case.ranks == 4:
        assert len(run.nodes("PolicyModelActor")) == 2, "3 GPUs a node, and two engines"
