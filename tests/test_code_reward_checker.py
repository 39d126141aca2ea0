"""The checker's side of the conversation, with the program's in a thread: what is asked, when, and what it means."""

import contextlib
import os
import socket
import threading

import pytest

from openrlhf_pf.code_reward.judge import checker, checks, codec
from openrlhf_pf.code_reward.judge.remote import Remote
from openrlhf_pf.code_reward.sandbox import candidate

SQUARE = "def f(n):\n    return n * n\n"


class Talk:
    """The checker's end of a conversation; keeps the questions of each message."""

    def __init__(self, connection):
        self.connection, self.messages = connection, []
        self.fileno, self.settimeout = connection.fileno, connection.settimeout

    def sendall(self, data):
        _, questions = codec.decode_plain(data[4:])
        self.messages.append([question[0] for question in questions])
        self.connection.sendall(data)


def converse(kind, data, source=SQUARE):
    """The verdict, the failing test, the number of calls, and the operations asked for, a list a message."""
    ours, theirs = socket.socketpair()
    bell, their_bell = os.pipe()

    def serve():
        with theirs, contextlib.suppress(codec.Closed):
            candidate.serve(theirs.fileno(), their_bell)
        os.close(their_bell)

    program = threading.Thread(target=serve)
    program.start()
    talk = Talk(ours)
    with ours:
        remote = Remote(talk, bell, 20.0)
        verdict, test, _ = checker._decide(remote, checks.CHECKS[kind], source, data)
    program.join()
    os.close(bell)
    return verdict, test, remote.calls, talk.messages


def cases(*pairs):
    return {"path": ["f"], "cases": [((n,), {}, expected) for n, expected in pairs], "tolerance": 0.0}


def function(test, preamble=""):
    return {"preamble": preamble, "test": test, "entry_point": "f", "function": "check"}


def test_small_cases_go_in_one_message():
    assert converse("cases", cases((2, 4), (3, 9))) == ("passed", None, 2, [["load", "call", "call", "end"]])
    assert converse("cases", cases((2, 4), (3, 8), (4, 16)))[:3] == ("failed", 1, 2)


def test_large_cases_go_in_as_many_as_they_need():
    long = [[0] * 10000 for _ in range(5)]
    data = {"path": ["f"], "cases": [((item,), {}, 10000) for item in long], "tolerance": 0.0}
    verdict, _, calls, messages = converse("cases", data, "def f(n):\n    return len(n)\n")
    assert (verdict, calls) == ("passed", 5)
    assert [question for message in messages for question in message] == ["load", *["call"] * 5, "end"]
    assert 1 < len(messages) < 7


@pytest.mark.parametrize(
    "body, sure, whole",
    [
        ("assert candidate(2) == 4\n    assert candidate(-3) == 9, 'message'", 2, True),
        ("assert abs(candidate(2) - 4.0) < 1e-6\n    assert candidate(n=3) == 9", 2, True),
        ("assert candidate(1) + candidate(2) == 5", 2, True),
        ("x = candidate(2)\n    import math\n    assert x == 4\n    assert math.sqrt(candidate(3)) == 3", 2, True),
        ("assert candidate(candidate(2)) == 16", 0, False),
        ("n = 2\n    assert candidate(n) == 4", 0, False),
        ("assert candidate(1) == 1\n    for n in range(3):\n        assert candidate(n) == n * n", 1, False),
        ("assert candidate(1) == 1 and candidate(2) == 4", 0, False),
        ("assert 0 < candidate(1) < candidate(2)", 0, False),
        ("assert [candidate(1) for _ in range(2)] == [1, 1]", 0, False),
        ("assert (candidate(1) if True else candidate(2)) == 1", 0, False),
        ("assert list(map(candidate, [1, 2])) == [1, 4]\n    assert candidate(1) == 1", 0, False),
        ("g = candidate\n    assert g(1) == 1", 0, False),
        ("assert candidate(**{'n': 2}) == 4", 0, False),
        ("assert candidate(2) == 4\n    assert f(3) == 9", 1, False),
        ("assert candidate(2) == 4\n    assert eval('f(3)') == 9", 1, False),
        ("assert candidate(2) == 4\n    assert eval('candidate(3)') == 9", 1, False),
        ("assert candidate(2) == 4\n    assert locals()['candidate'](3) == 9", 1, False),
    ],
)
def test_calls_that_are_made_for_sure_are_sent_ahead(body, sure, whole):
    """And the end with them, if they are all."""
    test = f"def check(candidate):\n    {body}\n"
    expected = ["load", *["call"] * sure, *["end"] * whole]
    assert [question[0] for question in checks.certain_questions(test, "check", "f")] == expected[1:]
    verdict, _, _, messages = converse("function", function(test))
    assert (verdict, messages[0]) == ("passed", expected)
    assert whole == (len(messages) == 1)


def test_what_was_sent_ahead_and_is_not_asked_next_is_asked_again():
    test = """
def helper():
    return f(5)
def check(candidate):
    assert candidate(1) == 1
    assert helper() == 25
    assert candidate(2) == 4
"""
    verdict, _, calls, messages = converse("function", function(test))
    assert (verdict, calls) == ("passed", 3)
    assert messages == [["load", "call", "call"], ["change"], ["change"], ["end"]]


def test_equal_arguments_of_other_types_are_other_questions():
    test = "def check(candidate):\n    assert candidate(1) is True\n    assert candidate(True) is False\n"
    assert converse("function", function(test), "def f(n):\n    return type(n) is int\n")[0] == "passed"


def test_no_test_goes_on_after_a_verdict():
    test = """
def check(candidate):
    for n in (1, 2, 3):
        try:
            candidate(object())
        except BaseException:
            pass
"""
    verdict, _, _, messages = converse("function", function(test))
    assert (verdict, messages) == ("infrastructure", [["load"]])
