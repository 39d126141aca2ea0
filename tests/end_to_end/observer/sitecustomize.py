"""Writes down how many samples each model really sees, and how long it takes, from inside OpenRLHF's own workers.

Python imports this file at start-up when its folder is on PYTHONPATH. It changes nothing that OpenRLHF does: it wraps
the names that the workers call, with versions that append one JSON line a call to $OBSERVE_DIR/<pid>.jsonl. But
where $REWARD_SECONDS is set, OpenRLHF waits as long for a reward server's answer, instead of 180 seconds.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import resource
import sys
import time


def record(**event):
    event["node"] = sys.modules["ray"].get_runtime_context().get_node_id()
    event["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # the largest so far
    with open(os.path.join(os.environ["OBSERVE_DIR"], f"{os.getpid()}.jsonl"), "a") as file:
        file.write(json.dumps({"rank": int(os.environ.get("RANK", -1)), **event}) + "\n")


class Watch:
    """Seconds since it was made: on the wall, and of this process on a CPU."""

    def __init__(self):
        self.start = time.perf_counter(), time.process_time()

    def read(self):
        wall, cpu = self.start
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def observing_tqdm(iterable, *args, **kwargs):
    """The progress bar of ``BaseModelActor.execute_batch``, which knows the batches that its caller goes through.

    The method itself cannot be wrapped from here: Ray has taken its copy when the module's classes were decorated.
    """
    from tqdm import tqdm

    caller = sys._getframe(1).f_locals
    if caller.get("method_name") == "forward":
        rows = [len(batch) for batch in caller["kwargs"]["sequences"]]
        model = type(caller["self"]).__name__
        record(model=model, event="forward", rows=rows)
        return watched(tqdm(iterable, *args, **kwargs), model)
    return tqdm(iterable, *args, **kwargs)


def watched(bar, model):
    watch = Watch()
    yield from bar
    record(model=model, event="forward_took", **watch.read())


def observe_training(trainer):
    train = trainer.training_step

    def training_step(self, experience, *args, **kwargs):
        record(model=type(self).__name__, event="train", rows=[len(experience.sequences)])
        return train(self, experience, *args, **kwargs)

    trainer.training_step = training_step
    epochs = trainer.ppo_train

    def ppo_train(self, *args, **kwargs):
        watch = Watch()
        status = epochs(self, *args, **kwargs)
        record(model=type(self).__name__, event="train_took", **watch.read())
        return status

    trainer.ppo_train = ppo_train


def observe_engines(module):
    """An engine makes one of these for itself."""
    for executor in (module.SingleTurnAgentExecutor, module.MultiTurnAgentExecutor):
        executor.__init__ = noting(executor.__init__)
    if seconds := os.environ.get("REWARD_SECONDS"):
        timeout = module.aiohttp.ClientTimeout
        module.aiohttp.ClientTimeout = lambda **given: timeout(**{**given, "total": float(seconds)})


def noting(make):
    @functools.wraps(make)  # the signature is checked
    def init(self, *args, **kwargs):
        make(self, *args, **kwargs)
        record(model="RolloutRayActor", event="made")

    return init


OBSERVE = {
    "openrlhf.utils.agent": observe_engines,
    "openrlhf.trainer.ray.launcher": lambda module: setattr(module, "tqdm", observing_tqdm),
    "openrlhf.trainer.ray.ppo_actor": lambda module: observe_training(module.ActorPPOTrainer),
    "openrlhf.trainer.ray.ppo_critic": lambda module: observe_training(module.CriticPPOTrainer),
}


class Observer(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname not in OBSERVE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            OBSERVE[fullname](module)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("OBSERVE_DIR"):
    sys.meta_path.insert(0, Observer())
