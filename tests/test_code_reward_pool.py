"""The pool's own promises: order, bounds, retries, what is left when something dies."""

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from test_code_reward_hostile import descendants, wait_for

from openrlhf_pf.code_reward import Limits, Pool, Problem, Verdict
from openrlhf_pf.code_reward.sandbox import driver, worker
from openrlhf_pf.code_reward.sandbox.pool import find_packages


def returns(expected):
    return Problem("cases", {"path": ["f"], "cases": [([1], {}, expected)], "tolerance": 0.0})


def checks(test):
    return Problem("function", {"preamble": "", "test": test, "entry_point": "f", "function": "check"})


SAME = returns(1)
GOOD = "def f(x):\n    return x\n"
BAD = "def f(x):\n    return 2\n"
SLOW = "import time\ndef f(x):\n    time.sleep(0.3)\n    return x\n"


@pytest.fixture
def others():
    """The processes below ours that no pool of the test has started."""
    return descendants(os.getpid())


@pytest.fixture
def pool(others):
    with Pool(1, packages=()) as pool:
        yield pool


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has gone with the one before it
            os.kill(pid, signal.SIGKILL)


def test_results_come_in_order():
    with Pool(2, packages=()) as pool:
        results = pool.check_all((source, SAME) for source in [SLOW, BAD, GOOD, BAD, SLOW, GOOD])
    assert [result.reward for result in results] == [1, 0, 1, 0, 1, 1]


def test_submit_waits_while_the_queue_is_full():
    with Pool(1, packages=(), queue_size=1) as pool:
        done = []
        waiting = threading.Thread(target=lambda: done.extend(pool.submit(SLOW, SAME) for _ in range(4)))
        first = pool.submit(SLOW, SAME)
        waiting.start()
        assert first.result().passed
        assert len(done) < 4  # one runs, one waits in the queue, one waits for its place
        waiting.join()
        assert [future.result().passed for future in done] == [True] * 4


def test_a_worker_that_dies_is_replaced(others, pool, caplog):
    assert pool.check(GOOD, SAME).passed
    before = descendants(os.getpid()) - others
    assert before
    kill(before)
    with caplog.at_level(logging.WARNING):
        assert pool.check(GOOD, SAME).passed
    assert "the code sandbox failed, attempt 1 of 3" in caplog.text
    assert not before & descendants(os.getpid())


def test_what_fails_again_and_again_is_no_wrong_answer(pool, monkeypatch):
    calls = []

    def broken(self, *program):
        calls.append(1)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(driver.Worker, "run", broken)
    result = pool.check(GOOD, SAME)
    assert (result.verdict, result.reward != result.reward, len(calls)) == (Verdict.INFRASTRUCTURE, True, 3)
    assert result.detail == "OSError: [Errno 24] Too many open files"
    monkeypatch.undo()
    assert pool.check(GOOD, SAME).passed


def test_a_new_worker_must_be_as_strong_as_the_first(others, pool, monkeypatch):
    monkeypatch.setattr(pool, "_setup", dataclasses.replace(pool._setup, without=frozenset({"mounts"})))
    kill(descendants(os.getpid()) - others)
    result = pool.check(GOOD, SAME)
    assert result.verdict is Verdict.INFRASTRUCTURE
    assert "a new worker is weaker than the first: no file system of its own" in result.detail


def test_a_program_killed_from_outside_is_run_again(pool, caplog):
    assert pool.check(GOOD, SAME).passed
    before = descendants(os.getpid())
    future = pool.submit("import time\ndef f(x):\n    time.sleep(2)\n    return x\n", SAME)
    wait_for(lambda: descendants(os.getpid()) - before)
    kill(descendants(os.getpid()) - before)
    assert future.result().passed
    assert "attempt 1 of 3" in caplog.text


def test_no_environment_memory_or_descriptor_of_ours_is_inside(monkeypatch):
    monkeypatch.setenv("TEST_SECRET", "not for programs")
    look = """
import os, stat
def f(x):
    found = [name for name, value in os.environ.items() if "not for" in value]
    for file in range(4096):
        try:
            kind = os.fstat(file).st_mode
        except OSError:
            continue
        found.append("socket" if stat.S_ISSOCK(kind) else "pipe" if stat.S_ISFIFO(kind) else file)
    return found
"""
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]  # so that ours have high numbers
    try:
        with Pool(1, packages=()) as pool:
            standard_files_talk_and_bell = returns([0, 1, 2, "socket", "pipe"])
            assert pool.check(look, standard_files_talk_and_bell).passed
    finally:
        for file in opened:
            os.close(file)


def test_two_runs_of_a_program_see_the_same_world(pool):
    draw = "import random\ndef f(x):\n    return [random.random(), sorted({'a', 'b'}, key=hash), list({'a', 'b'})]\n"
    details = {pool.check(draw, SAME).detail for _ in range(3)}
    assert len(details) == 1


LEAVE = """
import builtins, os, json, sys
open("/tmp/x", "w").write("x")
builtins.left = sys.left = json.left = 1
os.environ["LEFT"] = "1"
def f(x):
    return x
"""
LOOK = """
import builtins, os, json, sys
def f(x):
    return [os.listdir("/tmp"), *(hasattr(module, "left") for module in (builtins, sys, json)), "LEFT" in os.environ]
"""
SET_FLAG = "import fcntl, os\ndef f(x):\n    fcntl.fcntl(os.dup(0), fcntl.F_SETFL, os.O_NONBLOCK)\n    return x\n"
FLAGS = "import fcntl, os\ndef f(x):\n    return [fcntl.fcntl(n, fcntl.F_GETFL) & os.O_NONBLOCK for n in range(3)]\n"


@pytest.mark.parametrize(
    "leave, look, clean", [(LEAVE, LOOK, [[], False, False, False, False]), (SET_FLAG, FLAGS, [0, 0, 0])]
)
def test_nothing_of_one_program_reaches_the_next(pool, leave, look, clean):
    assert pool.check(leave, SAME).passed
    assert pool.check(look, returns(clean)).passed


def test_a_test_that_swallows_everything_does_not_pass_what_has_ended(pool):
    swallows = """
def check(candidate):
    for n in range(3):
        try:
            assert candidate(n) == n
        except BaseException:
            pass
"""
    assert pool.check("import os\ndef f(x):\n    os._exit(0)\n", checks(swallows)).verdict is Verdict.CRASHED
    assert pool.check(GOOD, checks(swallows)).passed


def test_a_test_that_an_answer_keeps_busy_ends_and_hurts_no_other(pool):
    """As long as the program says, inside of C code: no exception would end that."""
    counts = checks("def check(candidate):\n    assert sum(range(candidate(1))) == 0\n")
    limits = Limits(cpu_seconds=1)
    result = pool.check("def f(x):\n    return 10 ** 15\n", counts, limits)
    assert (result.verdict, result.detail) == (Verdict.TIMEOUT, "comparing the answers took too long")
    assert pool.check("def f(x):\n    return 1\n", counts, limits).passed


def test_a_test_that_sleeps_ends_too(pool, monkeypatch):
    monkeypatch.setattr(driver, "_GRACE_SECONDS", 0.5)
    sleeps = checks("import time\ndef check(candidate):\n    time.sleep(candidate(1))\n")
    result = pool.check("def f(x):\n    return 3600\n", sleeps, Limits(wall_seconds=0.5))
    assert (result.verdict, result.detail) == (Verdict.TIMEOUT, "the tests have no end within 0.5 seconds")
    assert pool.check("def f(x):\n    return 0\n", sleeps).passed


def test_a_checker_is_replaced_after_some_programs(pool, monkeypatch):
    monkeypatch.setattr(driver, "_PROGRAMS_A_CHECKER", 2)
    counts = checks(
        "import sys\ndef check(candidate):\n    sys.seen = getattr(sys, 'seen', 0) + 1\n    assert candidate(sys.seen)"
    )
    first_and_second = "def f(x):\n    return x == {}\n"
    found = [pool.check(first_and_second.format(n), counts).passed for n in (1, 2, 1, 2, 1)]
    assert found == [True] * 5


def test_what_is_free_on_pages_that_programs_share_is_found():
    """Of every size, the search ends at a new pool and not at its limit."""
    run = run_script(
        "from openrlhf_pf.code_reward.sandbox import worker as w; w._fill_holes(); print(*map(len, w._holes))"
    )
    lengths = [int(word) for word in run.stdout.split()]
    assert len(set(lengths)) == 30 and max(map(lengths.count, lengths)) < worker._MOST_HOLES


def test_no_program_carries_modules_that_few_want(pool):
    """A fork and the end of a process take time for each page that the process has."""
    program = (
        "import sys\nheavy = [m for m in ('socket', 'select', 'sysconfig', 'inspect', 'dis') if m in sys.modules]\n"
    )
    assert pool.check(program + "def f(x):\n    return heavy\n", returns([])).passed


def test_rare_imports_burden_only_those_that_name_them(pool):
    program = "import sys\nloaded = 'async' + 'io' in sys.modules\n{}\ndef f(x):\n    return loaded\n"
    assert pool.check(program.format(""), returns(False)).passed
    assert pool.check(program.format("__import__('async' + 'io').run"), returns(False)).passed  # at its own cost
    before = descendants(os.getpid())
    assert pool.check(program.format("import asyncio"), returns(True)).passed
    assert len(descendants(os.getpid()) - before) >= 2  # a process of their own, in its jail
    assert pool.check(program.format(""), returns(False)).passed


def test_an_environment_where_programs_write_or_behind_a_link(tmp_path, monkeypatch):
    """Ray puts its own below /tmp, which is the programs' directory; an absolute link would lead out of the jail."""
    below, elsewhere = Path(tempfile.mkdtemp(dir="/tmp")), Path(tempfile.mkdtemp(dir=Path.home()))
    try:
        for folder in (below, elsewhere):
            folder.chmod(0o755)
        for name, folder in (("package_below", below), ("package_linked", elsewhere)):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text("")
            (folder / name / "part.py").write_text("value = 1\n")
        (below / "link").symlink_to(elsewhere)
        monkeypatch.syspath_prepend(str(below))
        monkeypatch.syspath_prepend(str(below / "link"))
        program = "def f(x):\n    import {0}.part\n    open('/tmp/file', 'w').write('x')\n    return {0}.part.value\n"
        with Pool(1, packages=("package_below", "package_linked")) as pool:
            if pool.weaknesses:
                pytest.skip(f"this kernel grants less than the whole jail: {pool.weaknesses}")
            for name in ("package_below", "package_linked"):
                for _ in range(2):  # also in the directory that is made again after the file
                    result = pool.check(program.format(name), SAME)
                    assert result.passed, result
    finally:
        shutil.rmtree(below)
        shutil.rmtree(elsewhere)


def test_a_package_comes_with_what_it_needs():
    """As its installer has noted."""
    pytest.importorskip("pandas")
    assert {"numpy", "dateutil"} <= set(find_packages(["pandas"]))


def test_numpy_is_there_where_it_is_installed():
    pytest.importorskip("numpy")
    with Pool(1) as pool:
        program = "import numpy as np\ndef f(x):\n    return np.arange(3)[x]\n"
        assert pool.check(program, SAME).passed


@pytest.mark.parametrize(
    "death", ["os._exit(0)", "os.kill(os.getpid(), 9)", "sys.exit(1)", "pool.close()", "raise ValueError"]
)
def test_workers_end_with_their_owner_however_it_ends(death):
    owner = f"""
import os, sys
from openrlhf_pf.code_reward import Pool, Problem
pool = Pool(1, packages=())
if "kill" in {death!r}:
    pool.submit("while True: pass", Problem("cases", {{"path": ["f"], "cases": [], "tolerance": 0.0}}))
from test_code_reward_hostile import descendants, wait_for
print(*descendants(os.getpid()), flush=True)
{death}
"""
    run = run_script(owner)
    pids = set(map(int, run.stdout.split()))
    assert len(pids) >= 4, run.stderr
    wait_for(lambda: not any(map(_runs, pids)))


def run_script(script, *prefix):
    """In an interpreter of its own, which finds these tests."""
    folder = os.path.dirname(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(folder), folder])}
    command = [*prefix, sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Pool(workers=0), "workers >= 1"),
        (lambda: Pool(without=["walls"]), "'walls' is no part of the jail: choose from namespaces"),
        (lambda: Limits(cpu_seconds=0), "the limit cpu_seconds is 0: give a number above 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_closed_pool_says_so(pool):
    pool.close()
    pool.close()
    with pytest.raises(ValueError, match="the pool is closed"):
        pool.submit(GOOD, SAME)


def test_what_cannot_be_sent_is_a_failure_of_the_program(pool):
    assert pool.check("x" * (17 << 20), SAME).verdict is Verdict.FAILED
    assert pool.check(GOOD, SAME).passed


OTHER_USERS = {
    # Root of a user namespace: may build the whole jail, but has no second user to give programs.
    "unshare -Ur": ["as the same user"],
    # Root without capabilities, as in many containers.
    "setpriv --bounding-set -all --inh-caps -all": ["no namespaces", "as the same user"],
}


@pytest.mark.parametrize("prefix, weaknesses", OTHER_USERS.items(), ids=OTHER_USERS)
def test_with_fewer_rights(prefix, weaknesses):
    if os.geteuid() or not shutil.which(prefix.split()[0]):
        pytest.skip(f"needs root and {prefix.split()[0]}")
    script = """
from openrlhf_pf.code_reward import Pool
from test_code_reward_pool import BAD, GOOD, SAME
with Pool(1, packages=()) as pool:
    print(*pool.weaknesses, sep=";")
    programs = [GOOD, BAD, "import os; os._exit(0)", "import os\\nwhile True: os.fork()", "open('/tmp/x', 'w')"]
    print([result.reward for result in pool.check_all((program, SAME) for program in programs)])
""".replace("\\\\", "\\")
    run = run_script(script, *prefix.split())
    if not run.stdout:
        pytest.skip(f"{prefix} is refused here: {run.stderr[-200:]}")
    lines = run.stdout.splitlines()
    assert len(lines[0].split(";")) == len(weaknesses), lines
    assert all(text in lines[0] for text in weaknesses)
    assert lines[1] == "[1.0, 0.0, 0.0, 0.0, 0.0]"


def test_a_program_that_stops_listening_runs_out_of_time(pool):
    """It answers and falls asleep; its second question is larger than any buffer."""
    deaf = """
import sys, time
def f(x):
    frame = sys._getframe()
    while "talk" not in frame.f_locals:
        frame = frame.f_back
    answer = frame.f_globals["codec"].encode((frame.f_locals["number"], frame.f_locals["place"], "value", x))
    frame.f_globals["codec"].send_encoded(frame.f_locals["talk"], answer)
    time.sleep(3600)
"""
    cases = [([1], {}, 1), (["x" * (2 << 20)], {}, "")]
    problem = Problem("cases", {"path": ["f"], "cases": cases, "tolerance": 0.0})
    result = pool.check(deaf, problem, Limits(wall_seconds=1.0))
    assert (result.verdict, result.test, result.detail) == (Verdict.TIMEOUT, 1, "no end within 1.0 seconds")
