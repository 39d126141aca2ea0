"""The pool over nodes, without Ray: who runs what, and what becomes of programs whose node is lost."""

import contextlib
import math
import threading
from collections import deque
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_record import wait_for

from openrlhf_pf.code_reward import Limits, Problem, Result, Unavailable, Verdict
from openrlhf_pf.code_reward.nodes import pool as pool_module
from openrlhf_pf.code_reward.nodes.pool import NodePool
from openrlhf_pf.code_reward.nodes.schedule import Job, Schedule

SAME = Problem("cases", {"path": ["f"], "cases": [([1], {}, 1)], "tolerance": 0.0})


def schedule_of(programs, retries=2, **nodes):
    schedule = Schedule(retries)
    schedule.waiting.extend(Job(program) for program in range(programs))
    for name, workers in nodes.items():
        schedule.join(name, workers)
    return schedule


def programs_of(found):
    return found and (found[0], [job.program for job in found[2]])


# ── Who runs what ──


def test_a_node_is_handed_two_programs_a_worker_and_no_more():
    schedule = schedule_of(9, a=2)
    assert [programs_of(schedule.next_batch(0.0)) for _ in range(5)] == [*(("a", [n]) for n in range(4)), None]
    assert (schedule.running("a"), len(schedule.waiting)) == (4, 5)


def test_quick_batches_open_the_window_and_slow_ones_halve_it():
    schedule = schedule_of(1000, a=1)
    sizes = []
    for seconds in [0.9] * 6 + [1.1, 1.1, 1.1]:
        name, number, batch = schedule.next_batch(0.0)
        sizes.append(len(batch))
        assert schedule.finish(name, number, seconds) == batch
    # The window is 2, 3, .. 8, then 4, 2 and 2; a batch is half of it.
    assert sizes == [1, 1, 2, 2, 3, 3, 4, 2, 1]


def test_the_window_and_a_batch_end_somewhere():
    schedule = schedule_of(10_000, a=1)
    for _ in range(200):
        name, number, batch = schedule.next_batch(0.0)
        schedule.finish(name, number, 0.0)
    assert len(batch) == 16
    while schedule.next_batch(0.0):
        pass
    assert schedule.running("a") == 64


def test_programs_go_where_most_room_is_for_each_worker():
    schedule = schedule_of(9, small=1, large=3)
    names = [schedule.next_batch(0.0)[0] for _ in range(8)]
    assert schedule.next_batch(0.0) is None
    assert (names.count("small"), names.count("large")) == (2, 6)
    assert names[:4].count("small") == 1


def test_no_batch_is_larger_than_the_queue_calls_for():
    schedule = schedule_of(1000, a=8, b=8)
    for _ in range(40):
        name, number, batch = schedule.next_batch(0.0)
        schedule.finish(name, number, 0.0)
    assert len(batch) > 2
    schedule.waiting = deque([Job(0), Job(1), Job(2)])
    assert [programs_of(schedule.next_batch(0.0))[1] for _ in range(2)] == [[0, 1], [2]]


def test_what_a_lost_node_had_comes_first_alone_and_in_order():
    schedule = schedule_of(6, a=2)
    for _ in range(3):
        schedule.next_batch(0.0)
    assert schedule.lose("a") == []
    assert [job.program for job in schedule.waiting] == [0, 1, 2, 3, 4, 5]
    schedule.join("b", 8)
    schedule._nodes["b"].window = 16
    assert [programs_of(schedule.next_batch(0.0))[1] for _ in range(4)] == [[0], [1], [2], [3, 4, 5]]


def test_what_three_nodes_were_lost_with_is_given_back():
    schedule = schedule_of(1)
    for _ in range(2):
        schedule.join("a", 1)
        schedule.next_batch(0.0)
        assert schedule.lose("a") == []
    schedule.join("a", 1)
    job = schedule.next_batch(0.0)[2][0]
    assert (schedule.lose("a"), job.losses, schedule.busy) == ([job], 3, False)


def test_a_batch_of_a_lost_node_is_not_finished_twice():
    schedule = schedule_of(1, a=1)
    _, number, _ = schedule.next_batch(0.0)
    schedule.lose("a")
    schedule.join("a", 1)
    assert schedule.finish("a", number, 0.0) == []
    _, again, batch = schedule.next_batch(0.0)
    assert schedule.finish("a", number, 0.0) == [] and schedule.finish("a", again, 0.0) == batch


@given(st.lists(st.tuples(st.sampled_from("shfl"), st.integers(0, 3), st.floats(0, 3)), max_size=200))
def test_every_program_ends_once_whatever_happens(events):
    """s: hand out; h, f: a batch comes back; l: a node is lost, and another one takes its place."""
    schedule = schedule_of(40, **{"0": 1, "1": 2, "2": 8})
    out, ended, names = [], [], iter(range(3, 1000))

    def step(kind, which, seconds):
        if kind == "s" and (found := schedule.next_batch(0.0)):
            out.append(found)
        elif kind in "hf" and out:
            name, number, _ = out.pop(which % len(out))
            ended.extend(schedule.finish(name, number, seconds))
        elif kind == "l":
            ended.extend(schedule.lose(schedule.nodes[which % len(schedule.nodes)]))
            schedule.join(str(next(names)), 1 + which)
        assert all(schedule.running(name) <= 64 * schedule._nodes[name].workers for name in schedule.nodes)

    for event in events:
        step(*event)
    while schedule.busy:
        step("s", 0, 0.0)
        step("f", 0, 0.0)
    assert sorted(job.program for job in ended) == list(range(40))


# ── The pool ──


class Nodes:
    """A cluster whose nodes answer at once, when they are told to, or never."""

    def __init__(self, **workers):
        self.alive = dict(workers)
        self.asked, self.dropped, self.closed = [], [], False
        self.broken = {}  # node: why it does not start
        self.holds = set()  # nodes that keep what they are asked
        self.mute = set()  # nodes that answer nothing
        self.kept, self.unstarted = [], []

    def nodes(self):
        return dict(self.alive)

    def start(self, node, workers):
        future = Future()
        if node in self.broken:
            future.set_exception(Unavailable(self.broken[node]))
        elif node not in self.mute:
            future.set_result((f"weakness of {node}",))
        else:
            self.unstarted.append(future)
        return future

    def run(self, node, programs):
        self.asked.append((node, [source for source, _, _ in programs]))
        if node not in self.alive:
            raise ConnectionError(f"{node} is dead")
        future = Future()
        if node in self.holds:
            self.kept.append((node, future, programs))
        else:
            future.set_result(list(map(self.result, programs)))
        return future

    @staticmethod
    def result(program):
        return Result(Verdict.PASSED, detail=program[0])

    def ping(self, node):
        future = Future()
        if node not in self.mute:
            future.set_result(None)
        return future

    def drop(self, node):
        self.dropped.append(node)

    def close(self):
        self.closed = True

    def die(self, node):
        del self.alive[node]
        self.holds.discard(node)
        for name, future, _ in self.kept:
            if name == node and not future.done():
                future.set_exception(ConnectionError(f"{node} is dead"))

    def answer(self):
        for _, future, programs in self.kept:
            if not future.done():
                future.set_result(list(map(self.result, programs)))


@contextlib.contextmanager
def opened(nodes, *arguments, **more):
    """A pool that a failing test closes too, whatever its nodes hold back."""
    pool = NodePool(nodes, *arguments, **more)
    try:
        yield pool
    finally:
        nodes.mute, nodes.holds = set(), set()
        nodes.answer()
        pool.close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(pool_module, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(pool_module, "_LOOK_SECONDS", 0.05)


def details(futures):
    return [future.result(60).detail for future in futures]


def test_results_come_in_the_order_of_the_programs():
    nodes = Nodes(a=1, b=3)
    with opened(nodes) as pool:
        results = pool.check_all((str(n), SAME) for n in range(500))
        assert [result.detail for result in results] == [str(n) for n in range(500)]
        assert {node for node, _ in nodes.asked} == {"a", "b"}
        assert pool.weaknesses in (("weakness of a",), ("weakness of a", "weakness of b"))
    assert nodes.closed


def test_a_program_travels_with_its_problem_and_its_limits():
    class Looks(Nodes):
        def result(self, program):
            return Result(Verdict.PASSED, detail=repr(program))

    own = Problem("cases", {**SAME.data, "limits": {"cpu_seconds": 3}})
    with opened(Looks(a=1), Limits(memory_bytes=7)) as pool:
        assert pool.check("x", SAME).detail == repr(("x", SAME.encoded, Limits(memory_bytes=7)))
        limits = Limits(cpu_seconds=3, memory_bytes=7)
        assert pool.check("x", own).detail == repr(("x", own.encoded, limits))
        assert pool.check("x", SAME, Limits(threads=1)).detail == repr(("x", SAME.encoded, Limits(threads=1)))


def test_a_lost_node_costs_no_result(quick, caplog):
    nodes = Nodes(a=2, b=2)
    nodes.holds = {"a"}
    with opened(nodes) as pool:
        wait_for(lambda: len(pool._schedule.nodes) == 2)
        futures = [pool.submit(str(n), SAME) for n in range(50)]
        wait_for(lambda: nodes.kept)
        nodes.die("a")
        assert details(futures) == [str(n) for n in range(50)]
    assert nodes.dropped == ["a"]
    assert "the code reward lost a, whose programs run again: ConnectionError: a is dead" in caplog.text


def test_an_answer_that_comes_after_its_node_was_lost_is_no_second_one(quick, monkeypatch):
    monkeypatch.setattr(pool_module, "_START_SECONDS", 0.2)
    monkeypatch.setattr(pool_module, "_SILENT_SECONDS", 0.2)
    nodes = Nodes(a=1)
    nodes.holds = {"a"}
    with opened(nodes) as pool:
        nodes.mute = {"a"}
        nodes.alive["b"] = 1
        future = pool.submit("x", SAME)
        assert future.result(60).detail == "x"
        nodes.mute, nodes.holds = set(), set()
        nodes.answer()
        assert pool.check("y", SAME).detail == "y"


def test_a_node_that_falls_silent_is_lost(quick, monkeypatch):
    monkeypatch.setattr(pool_module, "_SILENT_SECONDS", 0.2)
    nodes = Nodes(a=1, b=1)
    nodes.holds = {"a"}
    with opened(nodes) as pool:
        wait_for(lambda: len(pool._schedule.nodes) == 2)
        futures = [pool.submit(str(n), SAME) for n in range(10)]
        wait_for(lambda: nodes.kept)
        nodes.mute = {"a"}
        assert details(futures) == [str(n) for n in range(10)]
    assert "a" in nodes.dropped


def test_a_slow_node_that_answers_is_waited_for(quick, monkeypatch):
    monkeypatch.setattr(pool_module, "_SILENT_SECONDS", 0.2)
    nodes = Nodes(a=1)
    nodes.holds = {"a"}
    with opened(nodes) as pool:
        future = pool.submit("x", SAME)
        wait_for(lambda: nodes.kept)
        threading.Event().wait(0.6)
        assert not future.done() and not nodes.dropped
        nodes.answer()
        assert future.result(60).detail == "x"


def test_what_loses_node_after_node_is_a_missing_reward(quick):
    class Deadly(Nodes):
        def run(self, node, programs):
            self.asked.append((node, programs))
            raise ConnectionError(f"{node} is dead")

    nodes = Deadly(a=1)
    with opened(nodes) as pool:
        result = pool.submit("x", SAME).result(60)
    assert (result.verdict, math.isnan(result.reward), len(nodes.asked)) == (Verdict.INFRASTRUCTURE, True, 3)
    assert result.detail == "a was lost: ConnectionError: a is dead"


def test_a_new_node_takes_part(quick):
    nodes = Nodes(a=1)
    nodes.holds = {"a"}
    with opened(nodes) as pool:
        futures = [pool.submit(str(n), SAME) for n in range(10)]
        wait_for(lambda: nodes.kept)
        nodes.alive["b"] = 1
        wait_for(lambda: sum(future.done() for future in futures) == 8)
        nodes.answer()
        assert details(futures) == [str(n) for n in range(10)]
    assert sum(len(sources) for node, sources in nodes.asked if node == "b") == 8


def test_without_any_node_nobody_waits_for_ever(quick, monkeypatch):
    monkeypatch.setattr(pool_module, "_START_SECONDS", 0.3)
    nodes = Nodes(a=1)
    nodes.holds = {"a"}
    with opened(nodes) as pool:
        futures = [pool.submit(str(n), SAME) for n in range(5)]
        wait_for(lambda: nodes.kept)
        nodes.die("a")
        expected = "no node of the cluster runs programs; the last reason: a was lost: ConnectionError: a is dead"
        assert details(futures) == [expected] * 5
        assert pool.check("x", SAME).verdict is Verdict.INFRASTRUCTURE
        nodes.alive["b"] = 1
        wait_for(lambda: pool.check("x", SAME).passed)


def test_a_node_that_does_not_start_is_done_without(quick, caplog):
    nodes = Nodes(a=1, b=1)
    nodes.broken["a"] = "no package named\n numpy"
    with opened(nodes) as pool:
        assert pool.check("x", SAME).passed
        wait_for(lambda: "a" in nodes.dropped)
        del nodes.broken["a"]
        nodes.holds = {"b"}  # there is something to do
        pool.submit("y", SAME)
        wait_for(lambda: set(pool._schedule.nodes) == {"a", "b"})
        nodes.answer()
    assert "does without a node: a runs no programs: no package named numpy" in caplog.text


def test_a_node_that_starts_when_it_has_been_given_up_is_none(quick, monkeypatch):
    monkeypatch.setattr(pool_module, "_START_SECONDS", 0.2)
    nodes = Nodes(a=1, b=1)
    nodes.mute, nodes.holds = {"a"}, {"b"}
    with opened(nodes) as pool:
        future = pool.submit("x", SAME)
        wait_for(lambda: "a" in nodes.dropped)
        del nodes.alive["a"]
        for start in nodes.unstarted:
            start.set_result(())
        nodes.answer()
        assert future.result(60).detail == "x"
        nodes.holds = set()
        assert pool.check("y", SAME).passed and pool._schedule.nodes == ["b"]


def test_without_a_node_that_starts_there_is_no_pool(quick, monkeypatch):
    monkeypatch.setattr(pool_module, "_START_SECONDS", 0.3)
    broken, mute = Nodes(a=1), Nodes(a=1)
    broken.broken["a"] = "less than the whole jail"
    mute.mute = {"a"}
    with pytest.raises(Unavailable, match="the last reason: a runs no programs: less than the whole jail"):
        NodePool(broken)
    with pytest.raises(Unavailable, match="a runs no programs: it does not start within"):
        NodePool(mute)
    with pytest.raises(Unavailable, match="the cluster has no node with CPUs"):
        NodePool(Nodes())
    assert broken.closed and mute.closed


def test_submit_waits_while_the_queue_is_full():
    nodes = Nodes(a=1)
    nodes.holds = {"a"}
    with opened(nodes, queue_size=3) as pool:
        done = []
        waiting = threading.Thread(target=lambda: done.extend(pool.submit(str(n), SAME) for n in range(6)))
        waiting.start()
        wait_for(lambda: len(nodes.kept) == 2 and len(pool._schedule.waiting) == 3)
        assert len(done) == 5 and waiting.is_alive()  # two run, three wait in the queue, one waits for its place
        nodes.holds = set()
        nodes.answer()
        waiting.join(60)
        assert details(done) == [str(n) for n in range(6)]


def test_a_thread_that_fails_lets_nobody_wait(monkeypatch):
    nodes = Nodes(a=1)
    nodes.holds = {"a"}
    pool = NodePool(nodes)
    future = pool.submit("x", SAME)
    wait_for(lambda: nodes.kept)
    monkeypatch.setattr(pool._schedule, "next_batch", lambda now: 1 / 0)
    other = pool.submit("y", SAME)
    assert details([future, other]) == ["the pool of nodes failed: ZeroDivisionError: division by zero"] * 2
    with pytest.raises(ValueError, match="the pool is closed"):
        pool.submit("z", SAME)


def test_a_closed_pool_has_finished_what_was_queued():
    nodes = Nodes(a=1)
    pool = NodePool(nodes)
    futures = [pool.submit(str(n), SAME) for n in range(100)]
    pool.close()
    pool.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ValueError, match="the pool is closed: open a new one"):
        pool.submit("x", SAME)


def test_what_cannot_be_sent_is_the_labels_fault():
    with opened(Nodes(a=1)) as pool:
        assert pool.check("x", Problem("cases", {"path": object()})).label_at_fault


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="queue_size >= 1 and retries >= 0"):
        NodePool(Nodes(a=1), retries=-1)
