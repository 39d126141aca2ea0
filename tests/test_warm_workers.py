"""Workers that are forked from a process that has imported what they need: they are as if they had been started."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from test_record import wait_for

from openrlhf_pf.training import warm_workers

SERVER = """
import importlib.util, os, sys
from openrlhf_pf.training import warm_workers
warm_workers._IMPORTS = ("textwrap",)
import textwrap
textwrap.warm = True
warm_workers._has_accelerator = lambda: False
warm_workers.start()
print(os.environ.get(warm_workers.ADDRESS, "none"), flush=True)
sys.stdin.read()
"""
WORKER = """
import json, os, signal, sys, textwrap, time, atexit, random
atexit.register(lambda: print("at exit", flush=True))
print(json.dumps({
    "warm": hasattr(textwrap, "warm"), "argv": sys.argv, "folder": os.getcwd(), "name": __name__,
    "environment": dict(os.environ), "input": sys.stdin.readline(), "parent": os.getppid(), "pid": os.getpid(),
    "path": sys.path, "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
    "random": random.random(),
}), flush=True)
"""
THEN_EXEC = 'os.execvp("bash", args=["bash", "-c", f"exec {sys.executable} {sys.argv[1]} more"])\n'


@pytest.fixture
def server(tmp_path):
    """Address of a server, and the process that owns it."""
    owner = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain()
    )
    address = owner.stdout.readline().strip()
    assert os.path.exists(address)
    yield address, owner
    owner.kill()
    owner.wait()
    wait_for(lambda: not os.path.exists(os.path.dirname(address)))


def plain(**others):
    return {k: v for k, v in os.environ.items() if k != warm_workers.ADDRESS} | others


def start(tmp_path, address, code, name="setup_worker.py", *arguments, **others):
    script = tmp_path / name
    script.write_text(textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=plain(**{warm_workers.ADDRESS: address}, **others),
    )


def said(process, given="hello\n"):
    output, errors = process.communicate(given, timeout=60)
    lines = output.splitlines()
    return json.loads(lines[0]) if lines else {}, lines[1:], errors


def test_a_worker_is_forked_and_sees_what_it_would_have_seen(tmp_path, server):
    address, _ = server
    others = {"PLANTED": "1", "PYTHONPATH": "/nowhere"}
    warm, end, errors = said(start(tmp_path, address, WORKER, "setup_worker.py", "a", "--b=c", **others))
    cold, _, _ = said(start(tmp_path, "0", WORKER, "setup_worker.py", "a", "--b=c", **others))
    assert (warm.pop("warm"), cold.pop("warm"), end, errors) == (True, False, ["at exit"], "")
    assert warm.pop("random") != cold.pop("random") and warm.pop("pid") != cold.pop("pid")
    assert warm.pop("parent") != os.getpid() and cold.pop("parent") == os.getpid()
    assert warm["environment"].pop(warm_workers.ADDRESS) == address
    assert cold["environment"].pop(warm_workers.ADDRESS) == "0"
    assert warm == cold and warm["input"] == "hello\n"


def test_the_same_environments_python_is_ours_by_any_of_its_names(monkeypatch, tmp_path):
    base = os.path.realpath(sys.executable)
    for folder, name in (("a", "python"), ("a", "python3"), ("b", "python")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).symlink_to(base)
    (tmp_path / "a" / "other").symlink_to("/bin/true")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a" / "python"))
    ours = [warm_workers._is_ours(str(tmp_path / path)) for path in ("a/python", "a/python3", "b/python", "a/other")]
    assert ours == [True, True, False, False]


def test_what_the_set_up_execs_goes_on_in_the_same_process(tmp_path, server):
    (tmp_path / "default_worker.py").write_text(WORKER)
    setup = "import os, sys\n" + THEN_EXEC
    warm, end, _ = said(start(tmp_path, server[0], setup, "setup_worker.py", str(tmp_path / "default_worker.py")))
    assert warm["warm"] and warm["name"] == "__main__" and warm["argv"][1:] == ["more"] and end == ["at exit"]
    (tmp_path / "another.py").write_text(WORKER)
    other, _, _ = said(start(tmp_path, server[0], setup, "setup_worker.py", str(tmp_path / "another.py")))
    assert not other["warm"] and other["argv"][1:] == ["more"]


def test_nothing_else_is_forked(tmp_path, server):
    assert not said(start(tmp_path, server[0], WORKER, "train.py"))[0]["warm"]


def test_two_workers_draw_different_numbers(tmp_path, server):
    numbers = "import numpy, random\nprint([random.random(), numpy.random.random()])"
    assert said(start(tmp_path, server[0], numbers))[0] != said(start(tmp_path, server[0], numbers))[0]


def test_a_worker_that_fails_says_so(tmp_path, server):
    _, _, errors = said(start(tmp_path, server[0], "raise KeyError('planted')"))
    assert "KeyError: 'planted'" in errors


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_ends_with_the_process_that_ray_started_and_the_other_way_round(tmp_path, server):
    waits = WORKER + "time.sleep(600)\n"
    stand_in = start(tmp_path, server[0], waits)
    stand_in.stdin.write("\n")
    stand_in.stdin.flush()
    worker = json.loads(stand_in.stdout.readline())["pid"]
    assert worker != stand_in.pid and alive(worker)
    stand_in.kill()
    wait_for(lambda: not alive(worker))
    stand_in.wait()
    stand_in = start(tmp_path, server[0], waits)
    stand_in.stdin.write("\n")
    stand_in.stdin.flush()
    os.kill(json.loads(stand_in.stdout.readline())["pid"], signal.SIGKILL)
    assert stand_in.wait(timeout=60) == 0


def test_without_a_server_workers_start_as_usual(tmp_path, server):
    address, owner = server
    owner.kill()
    owner.wait()
    wait_for(lambda: not os.path.exists(os.path.dirname(address)))  # the server removes it and ends
    found, _, errors = said(start(tmp_path, address, WORKER))
    assert (found["warm"], errors) == (False, "")


@pytest.mark.parametrize(
    "before",
    [
        "warm_workers._has_accelerator = lambda: True",
        "sys.modules['ray'] = sys",
        "os.environ[warm_workers.ADDRESS] = '0'",
    ],
)
def test_no_server_where_it_must_not_be(before):
    code = SERVER.replace("warm_workers.start()", f"{before}\nwarm_workers.start()").replace("sys.stdin.read()", "")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain())
    assert result.stdout.strip() in ("none", "0"), result.stderr


def test_a_command_keeps_the_server_as_long_as_it_runs(tmp_path):
    script = tmp_path / "setup_worker.py"
    script.write_text(WORKER)
    call = f"subprocess.check_output([sys.executable, {str(script)!r}], input=b'x').decode()"
    look = f"import subprocess, sys; print({call})"
    code = SERVER.split("warm_workers.start()")[0] + (
        "warm_workers.start(inherited=True)\nos.execvp(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, look], capture_output=True, text=True, env=plain(), timeout=60
    )
    found = json.loads(result.stdout.splitlines()[0])
    assert found["warm"], result.stderr
    wait_for(lambda: not os.path.exists(found["environment"][warm_workers.ADDRESS]))
