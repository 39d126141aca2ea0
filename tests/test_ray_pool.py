"""The pool over two real Ray nodes of one CPU each: the verdicts are the local pool's, whatever dies."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from test_code_reward_hostile import descendants, wait_for
from test_code_reward_pool import BAD, GOOD, SAME, returns

from openrlhf_pf.code_reward import Limits, Pool, Problem, Unavailable, Verdict

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
module = importlib.import_module("openrlhf_pf.code_reward.sandbox.ray_pool")  # which needs it
ray_pool = module.ray_pool

PAUSE = "import time\ndef f(x):\n    time.sleep(0.02)\n    return x\n"
FAULTY = ["def f(x):\n    raise ValueError(x)\n", "import os\nos._exit(0)\n", "def f(x)\n", "\udc80"]
PROGRAMS = [GOOD, BAD, PAUSE, *FAULTY]
FEW_BYTES = {"object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """A head and another node, of one CPU each, with files and ports of their own."""
    folder = tempfile.mkdtemp(prefix="r")  # the path of Ray's sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves programs where anything else runs
        made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **FEW_BYTES})
        try:
            made.add_node(num_cpus=1, **FEW_BYTES)
            ray.init(made.address, log_to_driver=False, logging_level="ERROR")
            yield made
        finally:
            ray.shutdown()
            made.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pool(cluster):
    with ray_pool(packages=()) as pool:
        wait_for(lambda: len(pool._actors) == 2)
        yield pool


def summary(results):
    return [(result.verdict, result.test, result.detail, result.calls) for result in results]


@pytest.mark.by_hand
def test_results_are_those_of_the_local_pool_in_the_same_order(pool):
    programs = [(source, problem) for source in PROGRAMS for problem in (SAME, returns(2))] * 8
    programs.append((GOOD, Problem("cases", {"path": object()})))
    with Pool(2, packages=()) as local:
        assert summary(pool.check_all(programs)) == summary(local.check_all(programs))
        assert pool.weaknesses == local.weaknesses
    assert {place.node for place in pool._actors} == {node["NodeID"] for node in ray.nodes()}
    ended = pool.check("while True: pass", SAME, Limits(cpu_seconds=1, wall_seconds=300))
    assert (ended.verdict, ended.detail) == (Verdict.TIMEOUT, "1 seconds of CPU time are over")


@pytest.mark.by_hand
def test_a_node_that_is_killed_costs_no_verdict_and_a_new_one_takes_part(cluster, pool, monkeypatch, caplog):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.5)
    victim = cluster.add_node(num_cpus=1, **FEW_BYTES)
    pool._next_poll = 0.0
    futures = [pool.submit(source, SAME) for source in [PAUSE, BAD] * 10]
    wait_for(lambda: len(pool._actors) == 3)
    (place,) = [place for place in pool._actors if place.node == victim.node_id]
    futures += [pool.submit(source, SAME) for source in [PAUSE, BAD] * 100]
    cluster.remove_node(victim, allow_graceful=False)
    futures += [pool.submit(source, SAME) for source in [PAUSE, BAD] * 10]
    assert [future.result(120).reward for future in futures] == [1.0, 0.0] * 120
    assert f"the code reward lost {place}" in caplog.text
    # Until Ray has noticed, it may place others' actors by way of that node, and they never start.
    wait_for(lambda: not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == victim.node_id))


@pytest.mark.by_hand
def test_actors_that_are_killed_are_started_again(pool, caplog):
    handles = [actor.handle for actor in pool._actors.values()]
    futures = [pool.submit(PAUSE, SAME) for _ in range(40)]
    for handle in handles:
        ray.kill(handle)
    assert [future.result(120).reward for future in futures] == [1.0] * 40
    assert "whose programs run again" in caplog.text


@pytest.mark.by_hand
def test_processes_of_a_job_share_the_actors_and_a_closed_pool_leaves_none(cluster):
    own = Limits(cpu_seconds=7)  # so that no actor of an earlier pool, which is about to end, is shared

    @ray.remote(num_cpus=0)
    class Engine:
        """In a placement group that has its children captured, as OpenRLHF places vLLM."""

        def judge(self, programs):
            with ray_pool(limits=own, packages=()) as pool:
                return pool.check_all(programs), {actor.handle._actor_id for actor in pool._actors.values()}

    pool = ray_pool(limits=own, packages=())
    wait_for(lambda: len(pool._actors) == 2)
    group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])  # all that there are
    ray.get(group.ready())
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    engine = Engine.options(scheduling_strategy=strategy).remote()
    results, actors = ray.get(engine.judge.remote([(GOOD, SAME), (BAD, SAME)]))
    assert [result.reward for result in results] == [1.0, 0.0]
    assert actors == {actor.handle._actor_id for actor in pool._actors.values()}
    assert pool.check(GOOD, SAME).passed  # who has shared them and left has ended none
    handles = [actor.handle for actor in pool._actors.values()]
    pids = [ray.get(handle.__ray_call__.remote(lambda self: os.getpid())) for handle in handles]
    del handles
    sandboxes = {pid for owner in pids for pid in descendants(owner)}
    assert len(sandboxes) >= 4
    pool.close()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in sandboxes))
    ray.util.remove_placement_group(group)
    ray.kill(engine)


@pytest.mark.by_hand
def test_why_a_node_has_no_sandbox_is_reported(cluster, monkeypatch):
    place = module.Place("10.0.0.2", ray.nodes()[0]["NodeID"], 0, 0)
    monkeypatch.setattr(module.RayPool, "_places", lambda self: [place])
    with pytest.raises(
        Unavailable, match="part 0 of the node 10.0.0.2 .* runs no programs: a pool needs workers >= 1"
    ):
        ray_pool(packages=())


@pytest.mark.by_hand
def test_the_reward_function_asks_for_it_by_an_environment_variable(cluster):
    """In a process of its own, which joins the cluster that RAY_ADDRESS names."""
    script = """
import json, sys
from openrlhf_pf.code_reward import reward
found = reward.reward_func(["def f(x): return x"] * 3, [""] * 3, ['{"asserts": ["assert f(1) == 1"]}'] * 3)
print(json.dumps([found["rewards"].tolist(), type(reward.shared_pool()).__name__]))
"""
    environment = os.environ | {"OPENRLHF_PF_CODE_RAY": "1", "RAY_ADDRESS": cluster.address}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment)
    assert run.stdout, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [[1.0, 1.0, 1.0], "RayPool"]


def test_a_large_node_has_several_actors_and_one_without_cpus_none(monkeypatch):
    made = [
        {"Alive": alive, "NodeID": name, "NodeManagerAddress": name, "Resources": resources}
        for name, alive, resources in [
            ("large", True, {"CPU": 18.0, "GPU": 1.0}),
            ("head", True, {"memory": 1.0}),
            ("dead", False, {"CPU": 4.0}),
        ]
    ]
    monkeypatch.setattr(ray, "nodes", lambda: made)
    pool = object.__new__(module.RayPool)
    pool._workers = None
    assert pool._places() == [module.Place("large", "large", part, 6) for part in range(3)]
    pool._workers = 3
    assert pool._places() == [module.Place("large", "large", 0, 3)]


def test_ray_is_not_imported_without_being_asked_for():
    script = "import sys; from openrlhf_pf.code_reward import reward, Pool; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False\n"


def test_without_a_cluster_there_is_a_sentence(monkeypatch):
    def nothing(address, **options):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nothing)  # a real search would find whatever else runs on this machine
    with pytest.raises(ValueError, match="there is no Ray cluster: start one .ray start --head. or name it in"):
        ray_pool()


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"num_cpus": -1}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="workers >= 1 and num_cpus >= 0"):
        ray_pool(**arguments)
