"""Writes down how many samples each model really sees, from inside OpenRLHF's own workers.

Python imports this file at start-up when its folder is on PYTHONPATH. It changes nothing that OpenRLHF does: it wraps
three names that the workers call, with versions that append one JSON line a call to $OBSERVE_DIR/<pid>.jsonl.
"""

import importlib.abc
import importlib.machinery
import json
import os
import resource
import sys


def record(**event):
    event["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # the largest so far
    with open(os.path.join(os.environ["OBSERVE_DIR"], f"{os.getpid()}.jsonl"), "a") as file:
        file.write(json.dumps({"rank": int(os.environ.get("RANK", -1)), **event}) + "\n")


def observing_tqdm(iterable, *args, **kwargs):
    """The progress bar of ``BaseModelActor.execute_batch``, which knows the batches that its caller goes through.

    The method itself cannot be wrapped from here: Ray has taken its copy when the module's classes were decorated.
    """
    from tqdm import tqdm

    caller = sys._getframe(1).f_locals
    if caller.get("method_name") == "forward":
        rows = [len(batch) for batch in caller["kwargs"]["sequences"]]
        record(model=type(caller["self"]).__name__, event="forward", rows=rows)
    return tqdm(iterable, *args, **kwargs)


def observe_training(trainer):
    train = trainer.training_step

    def training_step(self, experience, *args, **kwargs):
        record(model=type(self).__name__, event="train", rows=[len(experience.sequences)])
        return train(self, experience, *args, **kwargs)

    trainer.training_step = training_step


OBSERVE = {
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
