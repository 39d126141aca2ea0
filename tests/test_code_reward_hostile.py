"""Programs that want a pass for nothing, or to break something: none scores, none harms the next one, nothing is
left.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from hostile_programs import CHECK, FOOL_NAIVE, FORGED, HARM, LEFT_BEHIND, PROBES, SOLUTION, TALK

from openrlhf_pf.code_reward import Limits, Pool, Problem, Verdict

LIMITS = Limits(cpu_seconds=1, wall_seconds=1.5, memory_bytes=256 << 20)
PATIENT = Limits(memory_bytes=256 << 20)  # for what is to pass, on a busy machine too
FUNCTION = Problem("function", {"preamble": "", "test": CHECK, "entry_point": "f", "function": "check"})
CASES = Problem("cases", {"path": ["f"], "cases": [([n], {}, n * n + 7) for n in range(3)], "tolerance": 0.0})
ASSERTS = Problem(
    "asserts",
    {"imports": "", "setup": "", "asserts": [f"assert f({n}) == {n * n + 7}" for n in range(3)], "names": []},
)
HOSTILE = FOOL_NAIVE | FORGED | HARM


def descendants(root):
    """Processes below ours, zombies included."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = set(), {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.005)


def shared_memory():
    return set(os.listdir("/tmp")) | {f"shm {name}" for name in os.listdir("/dev/shm")}


@pytest.fixture(scope="module")
def pool():
    with Pool(1, LIMITS, packages=()) as pool:
        yield pool


def naive(program, folder):
    """The exit code decides: how several published harnesses do it."""
    file = folder / "program.py"
    file.write_text(f"{program}\n{CHECK}\ncheck(f)\n")
    return subprocess.run([sys.executable, str(file)], timeout=60, capture_output=True).returncode == 0


@pytest.mark.parametrize("name", FOOL_NAIVE)
def test_the_program_fools_a_naive_runner(name, tmp_path):
    assert naive(FOOL_NAIVE[name], tmp_path)
    assert not naive("def f(n):\n    return 0\n", tmp_path)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_scores_nothing_and_harms_no_other(pool, name):
    result = pool.check(HOSTILE[name], FUNCTION)
    assert result.reward == 0.0, result
    after = pool.check(SOLUTION, FUNCTION, PATIENT)
    assert (after.verdict, after.calls) == (Verdict.PASSED, 3)


@pytest.mark.parametrize("problem", [CASES, ASSERTS], ids=["cases", "asserts"])
def test_the_other_kinds_of_tests_are_not_fooled_either(pool, problem):
    quick = FOOL_NAIVE | FORGED
    results = pool.check_all((source, problem) for source in quick.values())
    assert {name for name, result in zip(quick, results) if result.reward != 0.0} == set()
    assert pool.check(SOLUTION, problem, PATIENT).passed


@pytest.mark.parametrize(
    "name, verdict",
    [
        ("memory: one block", "memory"),
        ("memory: a string", "memory"),
        ("hang: in C, a sum", "timeout"),
        ("hang: asleep", "timeout"),
        ("hang: swallows everything", "timeout"),
        ("signals: ignores all", "timeout"),
        ("signals: crash", "crashed"),
        ("early exit: os._exit", "crashed"),
        ("early exit: sys.exit", "failed"),
        ("recursion: in the parser", "syntax_error"),
        ("recursion: endless", "failed"),
    ],
)
def test_the_verdict_names_what_happened(pool, name, verdict):
    limits = LIMITS if name == "hang: asleep" else replace(LIMITS, wall_seconds=40.0)
    assert pool.check(HOSTILE[name], FUNCTION, limits).verdict.value == verdict


CONSTANT = Problem("cases", {"path": ["f"], "cases": [([n], {}, 7) for n in range(3)], "tolerance": 0.0})
# Which calls there will be is not to be seen in this one, so that each is asked for by itself.
LOOP = replace(FUNCTION, data=FUNCTION.data | {"test": "def check(f):\n    for n in range(3): assert f(n) == 7\n"})


@pytest.mark.parametrize(
    "problem, body, verdict",
    [
        (CONSTANT, "return 7", "passed"),
        (LOOP, "return 7", "passed"),
        (CONSTANT, "everywhere(frame({'t': [number(), place(), 'value', 7]}))\n    return 7", "crashed"),
        (LOOP, "everywhere(frame({'t': [number(), place(), 'value', 7]}))\n    return 7", "crashed"),
        (CONSTANT, "everywhere(frame({'t': ['0' * 16, place(), 'value', 7]}) * 4)\n    os._exit(0)", "crashed"),
        (CONSTANT, "everywhere(frame({'t': [number(), place(), 'value', 7]}) * 4)\n    os._exit(0)", "crashed"),
        (
            LOOP,
            "[everywhere(frame({'t': [number(), k, 'value', 7]})) for k in range(5)]\n    os._exit(0)",
            "crashed",
        ),
    ],
    ids=["once", "once, one by one", "twice", "twice, one by one", "unasked", "for another", "in advance"],
)
def test_each_question_wants_its_own_answer(pool, problem, body, verdict):
    """Even where all answers are right, and the same."""
    result = pool.check(f"{TALK}def f(n):\n    {body}\n", problem, PATIENT)
    assert result.verdict.value == verdict


def test_a_wrong_answer_ends_a_program_that_hangs_in_the_next():
    """All are asked for at once, and one check at the end would be too late."""
    problem = replace(CONSTANT, data=CONSTANT.data | {"cases": [([n], {}, n) for n in range(3)]})
    program = "def f(n):\n    while n == 2: pass\n    return 0\n"
    with Pool(1, Limits(cpu_seconds=20, wall_seconds=60), packages=()) as pool:
        result = pool.check(program, problem)
    assert (result.verdict, result.test) == (Verdict.FAILED, 1)
    assert result.cpu_seconds < 10, "it was ended by its own limit only"


@pytest.mark.parametrize("deed", ["pass", "os.close(bell)", "os.write(bell, b'x' * 9000)", "os.dup2(0, bell)"])
@pytest.mark.parametrize("honest", [True, False])
def test_the_bell_proves_nothing_and_is_needed_for_nothing(pool, deed, honest):
    program = f"""
import os, stat
def is_bell(file):
    try:
        return stat.S_ISFIFO(os.fstat(file).st_mode)
    except OSError:
        return False
bell = next(filter(is_bell, range(3, 256)))
def f(n):
    {deed}
    return 7 if {honest} else 0
"""
    for problem in (CONSTANT, LOOP):
        result = pool.check(program.replace("os.close(bell)", "n or os.close(bell)"), problem, PATIENT)
        assert result.verdict is (Verdict.PASSED if honest else Verdict.FAILED)


def probe_program(port, secret, names):
    body = "".join(
        f"    try:\n        {PROBES[name]}\n        got.append({name!r})\n    except BaseException:\n        pass\n"
        for name in names
    )
    return f"PORT = {port}\nSECRET = {secret!r}\ndef f(n):\n    got = []\n{body}    return got\n"


@pytest.fixture
def bait(tmp_path, monkeypatch):
    """What a program would find if it could: a port, an abstract socket, a readable file, an environment variable."""
    monkeypatch.setenv("TEST_SECRET", "not for programs")
    secret = tmp_path / "secret.txt"
    secret.write_text("not for programs")
    for folder in [tmp_path, *tmp_path.parents]:
        if str(folder).startswith("/tmp/") and folder.owner() == secret.owner():
            folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
        named.bind("\0code-reward-test")
        named.listen()
        yield server.getsockname()[1], str(secret)


NOTHING = Problem("cases", {"path": ["f"], "cases": [([0], {}, [])], "tolerance": 0.0})


def test_probes_find_the_bait_without_a_jail(bait):
    names = ["network: connect", "network: unix", "files: passwords", "files: secret", "environment", "group: fork"]
    space = {}
    exec(probe_program(*bait, [name for name in names if name != "group: fork"]), space)
    assert space["f"](0) == names[:-1]


def test_no_probe_gets_through(bait):
    with Pool(1, LIMITS, packages=()) as pool:
        if pool.weaknesses:
            pytest.skip(f"this kernel grants less than the whole jail: {pool.weaknesses}")
        left = "def f(n):\n    open('/tmp/left behind', 'w').write('x')\n    return []\n"
        assert pool.check(left, NOTHING).passed
        result = pool.check(probe_program(*bait, list(PROBES)), NOTHING)
    assert result.detail == "" and result.passed


# What only the seccomp filter closes: its own empty network, its own process group, processes that end with it.
SECCOMP_ALONE = {name.strip() for name in """
network: listen | network: datagram | network: netlink | group: fork | group: namespaces | group: trace |
group: old system calls | group: clone3 | group: keys | signals: of a file | signals: a timer |
network: a datagram's socket | network: a raw one, which is the same | network: a datagram with flags |
locks: of a file | locks: of a library's file | locks: of an open file | locks: leases | watches: inotify |
watches: inotify1 | asynchronous input | files: in memory | limits: the stack of others |
signals: of a file, chosen | signals: of a socket | priority: processors
""".split("|")}


@pytest.mark.parametrize(
    "without, open_doors",
    [
        (["namespaces"], set()),
        (["mounts"], set()),
        (["landlock"], set()),
        (["user"], {"group: user"}),  # to the one it is already
        (["seccomp"], SECCOMP_ALONE),
        # The library of an interpreter in a home folder, and what lies in it, is readable to its owner.
        (["namespaces", "user"], {"group: user", "files: other packages' folder"}),
        (["namespaces", "seccomp"], SECCOMP_ALONE | {"group: new group"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_rest_of_the_jail_still_holds(bait, without, open_doors, caplog):
    before = descendants(os.getpid())
    with Pool(1, LIMITS, packages=(), without=without) as pool:
        # Landlock is not needed where the file system is its own.
        assert bool(pool.weaknesses) == (without != ["landlock"])
        assert len(caplog.records) == len(pool.weaknesses and [1])
        programs = {name: probe_program(*bait, [name]) for name in PROBES}
        results = [pool.check(source, NOTHING, PATIENT) for source in programs.values()]
        through = {name for name, result in zip(programs, results) if not result.passed}
        assert through <= open_doors
        for name in ("processes: fork bomb", "processes: daemon", "early exit: os._exit", "disk: many files"):
            assert pool.check(HOSTILE[name], FUNCTION).reward == 0.0
            assert pool.check(SOLUTION, FUNCTION, PATIENT).passed
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize("name", LEFT_BEHIND)
@pytest.mark.parametrize("without", [[], ["seccomp"]], ids=["whole", "no seccomp"])
def test_every_program_finds_its_directory_as_the_first_one_did(name, without):
    look = """
import os
def f(n):
    open("new", "w").write("x")
    os.remove("new")
    return [os.getcwd(), os.listdir("."), os.stat("/tmp").st_mode, os.stat("/tmp").st_mtime > 1000]
"""
    clean = Problem("cases", {"path": ["f"], "cases": [([0], {}, ["/tmp", [], 0o40700, True])], "tolerance": 0.0})
    with Pool(1, LIMITS, packages=(), without=without) as pool:
        if set(pool.weaknesses) and not without:
            pytest.skip(f"this kernel grants less than the whole jail: {pool.weaknesses}")
        assert pool.check(look, clean, PATIENT).passed
        leave = f"import os\ndef f(n):\n    {LEFT_BEHIND[name]}\n    return []\n"
        assert pool.check(leave, NOTHING, PATIENT).passed
        assert pool.check(look, clean, PATIENT).passed


def test_a_program_that_kills_itself_is_no_failure_of_the_sandbox():
    with Pool(1, LIMITS, packages=(), without=["seccomp"]) as pool:
        result = pool.check("import os\nos.kill(os.getpid(), 9)\n", FUNCTION)
    assert (result.verdict, result.reward) == (Verdict.CRASHED, 0.0)


def test_a_weak_jail_can_be_refused():
    before = descendants(os.getpid())
    with pytest.raises(ValueError, match="does not isolate .* no namespaces"):
        Pool(1, LIMITS, packages=(), without=["namespaces"], require_isolation=True)
    assert descendants(os.getpid()) == before


def test_nothing_is_left_after_the_suite():
    files, threads, temporary = len(os.listdir("/proc/self/fd")), threading.active_count(), shared_memory()
    before = descendants(os.getpid())
    quick = [name for name in HOSTILE if name.startswith(("early", "forged", "processes", "disk", "signals: to"))]
    with Pool(2, LIMITS, packages=()) as pool:
        results = pool.check_all((HOSTILE[name], FUNCTION) for name in quick)
        # Two halves a worker, a third for rare imports, each inside and outside its PID namespace, and a checker.
        assert len(descendants(os.getpid()) - before) in (10, 12, 14) or pool.weaknesses
    assert {result.reward for result in results} == {0.0}
    assert descendants(os.getpid()) - before == set()
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads
    assert {name for name in shared_memory() - temporary if "code" in name} == set()
