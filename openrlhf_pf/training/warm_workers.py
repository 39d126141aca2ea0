"""On a CPU, Ray's workers are forked from a process that has imported all that they need.

A training has eight processes, and each spends most of ten CPU seconds on the same imports: on two cores that is most
of the time to the first step. So the driver imports those first and forks a server. When Ray starts a Python worker,
the import hook finds the server's address in the environment, and hands over arguments, environment, folder and
standard streams; the server forks a process that goes on as that worker, and the process that Ray has started waits
for its end. If anything is amiss, the worker starts as usual.

Not where there is an accelerator: its driver must not be loaded before a fork, and such machines have many cores. And
never Ray itself, which reads its environment when it is loaded, nor OpenRLHF and vLLM, which import Ray.

    python -m openrlhf_pf.training.warm_workers COMMAND...      # the same for a command that starts Ray
"""

import atexit
import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
from typing import NoReturn

#: Holds the server's address for the processes that Ray starts; "0" switches it off.
ADDRESS = "OPENRLHF_PF_WARM_WORKERS"
#: What Ray starts a Python worker by; a worker that is not to be forked gets it to start :data:`_WORKER`.
_SETUP, _WORKER = "setup_worker.py", "default_worker.py"
_TAKEN = b"t"
#: What actor, critic, reference and reward model import, by way of OpenRLHF; what is missing is theirs to miss.
_IMPORTS = (
    "deepspeed",
    "deepspeed.ops.adam",
    "datasets",
    "peft",
    "accelerate",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.processing_auto",
    "transformers.integrations.deepspeed",
)

# ── In the driver ──


def start(inherited: bool = False) -> None:
    """Fork the server, if this machine has no accelerator and Ray is not there yet; it ends with this process.

    Args:
        inherited: whether a program that this process goes on as keeps it alive.
    """
    if ADDRESS in os.environ or "ray" in sys.modules or sys.platform != "linux" or _has_accelerator():
        return
    for name in _IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    folder = tempfile.mkdtemp(prefix="warm")
    address = os.path.join(folder, "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    theirs, ours = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(ours)
        serve(listener, theirs, folder)
    listener.close()
    os.close(theirs)  # the other end closes with this process, however it ends
    os.set_inheritable(ours, inherited)
    os.environ[ADDRESS] = address


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available() if hasattr(torch, "accelerator") else torch.cuda.is_available()


# ── In the server ──


def serve(listener: socket.socket, owner: int, folder: str) -> NoReturn:
    """Fork a worker for every connection until the owner's end of the pipe is closed."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's, who ends this process by ending
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
        while True:
            ready, _, _ = select.select([listener, owner], [], [])
            if owner in ready:
                break
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os.close(owner)
                _become(connection)
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _become(connection: socket.socket) -> NoReturn:
    """Go on as the worker that is asked for."""
    status = 1
    try:
        request, streams = _receive(connection)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        _set_environment(request["environment"])
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, request["nice"])
        atexit._clear()  # the driver's
        sys.path[:] = request["path"]
        _reset_libraries()
        os.execvp = _go_on
        connection.sendall(_TAKEN)
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        status = _run(request["command"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _set_environment(wanted: dict[str, str]) -> None:
    """Only what differs: Ray finds where the process' title lies from the place of the first variable."""
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _reset_libraries() -> None:
    """What a process of its own would have drawn or read for itself."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        # Ray gives a worker one thread a CPU that it asks for, one at least; OpenRLHF's ask for less than one.
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))


def _run(command: list[str]) -> int:
    """Run a script in this process as ``python command`` would; its exit status."""
    import runpy

    sys.argv = list(command)
    sys.path.insert(0, os.path.dirname(command[0]))
    try:
        runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


_execvp = os.execvp


def _go_on(file: str, args: list[str]) -> NoReturn:
    """Ray's set-up of a worker ends in an exec of the worker; this process is what that would become."""
    import shlex

    words = shlex.split(args[-1]) if args[:2] == ["bash", "-c"] else []
    if len(words) > 2 and words[0] == "exec" and _is_ours(words[1]) and words[2].endswith(_WORKER):
        os.execvp = _execvp
        os._exit(_run(words[2:]))
    _execvp(file, args)


def _is_ours(python: str) -> bool:
    """Whether this is the same environment's Python, whatever its name: python, python3, python3.11."""
    same = os.path.realpath(python) == os.path.realpath(sys.executable)
    return same and os.path.dirname(python) == os.path.dirname(sys.executable)


def _end_with(connection: socket.socket) -> None:
    """End when the process that Ray has started ends: it stands for this one."""
    try:
        connection.recv(1)
    finally:
        os._exit(1)


def _receive(connection: socket.socket) -> tuple[dict, list[int]]:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    size, parts = int.from_bytes(head, "big"), []
    while size:
        parts.append(connection.recv(size))
        if not parts[-1]:
            raise EOFError("the request ends early.")
        size -= len(parts[-1])
    return json.loads(b"".join(parts)), streams


# ── In the process that Ray has started ──


def stand_in(address: str) -> None:
    """Have the server fork this worker and wait for its end; returns, to start as usual, where it cannot."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            _request(connection)
            taken = connection.recv(1) == _TAKEN
        except OSError:
            taken = False
        if not taken:
            return
        try:
            connection.recv(1)  # nothing comes: its end closes with the worker
        finally:
            os._exit(0)


def _request(connection: socket.socket) -> None:
    arguments = sys.orig_argv
    script = next(i for i, word in enumerate(arguments) if word.endswith(_SETUP))
    request = {
        "command": arguments[script:],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": sys.path,
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
    }
    body = json.dumps(request).encode()
    socket.send_fds(connection, [len(body).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(body)


if __name__ == "__main__":
    start(inherited=True)
    os.execvp(sys.argv[1], sys.argv[1:])
