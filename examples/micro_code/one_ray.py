"""One process for all commands that need Ray: it runs them one after the other and keeps their workers in between.

Most of a short run's time goes into starting Ray, vLLM and a process for each model. The commands are those that
``python -m`` would run, argument by argument. A later command reuses vLLM's engine, the reward model, and the
processes of actor, critic and reference. Actor and critic are loaded again for each command, and the actor's weights
go to the engine before the first rollout, so no run starts from what another one has learned.

python -m examples.micro_code.one_ray      # reads a command a line as JSON, answers with its exit status
"""

import contextlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from .commands import environment

# Held by model: a second command may use them as they are. The others have learned.
_NEVER_TRAINED = ("ReferenceModelActor", "RewardModelActor")


def command_line() -> list[str]:
    """Return the command that starts the process."""
    return [sys.executable, "-m", "examples.micro_code.one_ray"]


class OneRay:
    """The process, from the caller's side; it starts with the first command."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.directory: str | None = None

    def run(self, module: str, arguments: Sequence[str], log: Path) -> int:
        """Run ``python -m module arguments`` with its output in ``log``; return its exit status."""
        self.start(log)
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps([module, *arguments, str(log)]), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        status = int(answer) if answer else self.process.wait() or 1
        if status:
            self.close()  # do not build on workers of a failed command
        return status

    def start(self, log: Path) -> None:
        """Start Ray and the processes of the models unless they are there, without waiting for them.

        Their output goes to ``log`` until the first command.
        """
        if self.process is not None:
            return
        # Not in the run directory: Ray puts Unix sockets there, whose paths may not exceed 107 bytes.
        self.directory = tempfile.mkdtemp(prefix="ray")
        with open(log, "a") as output:
            self.process = subprocess.Popen(
                command_line(),
                cwd=Path(__file__).resolve().parents[2],
                env=environment(Path(self.directory)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def close(self) -> None:
        """End the process and its Ray."""
        if self.process is not None:
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()  # no more commands
            self.process.terminate()
            try:
                self.process.wait(timeout=30)  # it ends its Ray
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None


def keep_workers() -> None:
    """Put groups of workers that outlive a command where OpenRLHF's commands import theirs from."""
    import openrlhf.trainer.ray as trainers
    import openrlhf.trainer.ray.launcher as launcher
    import ray

    create_engines = trainers.create_vllm_engines
    engines: dict[str, list] = {}
    workers: dict[str, list] = {}
    held: dict[str, str] = {}

    def create_vllm_engines(*args: Any, **kwargs: Any) -> list:
        call = signature(create_engines).bind(*args, **kwargs)
        call.apply_defaults()
        key = repr(call)
        if key not in engines:
            for engine in [engine for group in engines.values() for engine in group]:
                ray.kill(engine)
            engines.clear()
            engines[key] = create_engines(*args, **kwargs)
        return engines[key]

    class KeptGroup(launcher.RayActorGroup):
        """OpenRLHF's group, on the processes of the command before."""

        def _initiate_actors(self, pg: Any, num_gpus_per_actor: float) -> None:
            self.name = self.ray_actor_type.__ray_metadata__.class_name
            if self.name not in workers:
                super()._initiate_actors(pg, num_gpus_per_actor)
                workers[self.name] = self._actor_handlers
            self._actor_handlers = workers[self.name]

        def async_init_model_from_pretrained(self, *args: Any, **kwargs: Any) -> list:
            path = args[1]  # after the strategy
            if self.name in _NEVER_TRAINED and held.get(self.name) == path:
                return []
            trained = self.name in held
            held[self.name] = path
            refs = super().async_init_model_from_pretrained(*args, **kwargs)
            if trained and self.name == "PolicyModelActor":
                refs += self.async_run_method("broadcast_to_vllm")  # the engine holds the last run's policy
            return refs

    trainers.create_vllm_engines = create_vllm_engines
    launcher.RayActorGroup = KeptGroup


def execute(command: list[str]) -> int:
    """Run one command in this process; return its exit status."""
    sys.argv = list(command)
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1


def main() -> None:
    """Run commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    trainer, original = prepare()
    for line in iter(sys.stdin.readline, ""):
        *command, log = json.loads(line)
        with open(log, "a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        trainer.PPOTrainer = original  # a command with a filter has put its own there
        status = execute(command)
        time.sleep(1)  # Ray copies the workers' lines to this process from their files, some ten times a second
        sys.stdout.flush()
        print(status, file=answers, flush=True)


def prepare() -> tuple[Any, Any]:
    """Start Ray and the models' processes; return OpenRLHF's trainer module and the trainer in it."""
    import ray

    ray.init(include_dashboard=False)  # its ten processes take longer to start than some of the phases
    keep_workers()
    import openrlhf.trainer.ppo_trainer as trainer
    from openrlhf.trainer.ray import launcher
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
    from openrlhf.trainer.ray.ppo_critic import CriticModelActor

    for worker in (launcher.RewardModelActor, launcher.ReferenceModelActor, PolicyModelActor, CriticModelActor):
        launcher.RayActorGroup(1, 1, worker)
    return trainer, trainer.PPOTrainer


if __name__ == "__main__":
    main()
