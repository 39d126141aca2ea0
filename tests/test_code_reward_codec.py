"""Plain data comes back as it was, in exact types; anything else does not come back."""

import math
import os
import socket
import threading
from collections import Counter, OrderedDict, namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_pf.code_reward.judge import codec

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3)
)
plain = st.recursive(
    hashable | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(hashable, inner, max_size=4)
    | st.sets(hashable, max_size=4),
)


def types_in(value):
    """The types of a value and of all in it, in an order that both sides share."""
    if isinstance(value, dict):
        return [type(value), *(types_in(part) for pair in value.items() for part in pair)]
    if isinstance(value, (list, tuple)):
        return [type(value), *map(types_in, value)]
    return [type(value)]


@given(plain)
def test_round_trip(value):
    back = codec.decode(codec.encode(value))
    assert back == value
    assert types_in(back) == types_in(value)


def test_subclasses_become_what_they_are_made_of():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Text(str):
        pass

    pair = namedtuple("pair", "a b")(Liar(1), Text("x"))
    back = codec.decode(codec.encode([pair, Counter("aab"), OrderedDict(a=1), bytearray(b"x")]))
    assert back == [(1, "x"), {"a": 2, "b": 1}, {"a": 1}, b"x"]
    assert [type(back[0]), type(back[0][0]), type(back[0][1]), *map(type, back[1:])] == [
        tuple,
        int,
        str,
        dict,
        dict,
        bytearray,
    ]


def test_numpy_scalars_become_numbers():
    numpy = pytest.importorskip("numpy")
    back = codec.decode(codec.encode([numpy.int64(3), numpy.float32(0.5), numpy.bool_(True)]))
    assert back == [3, 0.5, True]
    assert list(map(type, back)) == [int, float, bool]


def test_special_numbers():
    back = codec.decode(codec.encode([math.inf, -math.inf, -0.0, 10**5000, -(2**63), 2**63, "\ud800"]))
    assert back == [math.inf, -math.inf, 0.0, 10**5000, -(2**63), 2**63, "\ud800"]
    assert math.copysign(1, back[2]) == -1
    assert math.isnan(codec.decode(codec.encode(math.nan)))


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def cyclic():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [object(), len, int, (x for x in ()), range(3), nested(101), cyclic(), "x" * codec.MAX_BYTES, {1: object()}],
    ids=["object", "function", "type", "generator", "range", "deep", "cyclic", "large", "inside"],
)
def test_what_is_not_plain_is_not_sent(value):
    with pytest.raises(codec.NotPlain):
        codec.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        *b"""{ [1 {"x":[]} {"t":[],"s":[]} {} {"t":1} {"s":[[1]]} {"d":[[[1],2]]} {"d":[1]} {"i":"x"} {"i":1} {"b":"0"}
        {"c":["1","2"]} {"c":[1.0]} {"d":[[{"d":[]},1]]}""".split(),
        *[b"", b"\x80\x04K\x07.", b"[" * 100000, b"9" * 10000, '"é"'.encode()],
    ],
)
def test_what_encode_never_writes_is_refused(data):
    with pytest.raises(codec.NotPlain):
        codec.decode(data)


def test_frames():
    left, right = socket.socketpair()
    with left, right:
        found = codec.Receiver(right.recv)
        codec.send_encoded(left, codec.encode([1, (2, {3})]), codec.encode("next"))
        assert found.receive() == [1, (2, {3})]
        assert found.frame() == b'"next"'
        long = "x" * 100_000  # more than is read at a time
        codec.send(left, long)
        assert found.receive() == long
        left.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(codec.NotPlain, match="a frame of 4294967295 bytes"):
            found.receive()
        left.sendall(b"\x05\x00\x00\x00x")
        left.close()
        with pytest.raises(codec.Closed):
            found.receive()


def test_a_connection_by_its_file_s_number():
    left, right = socket.socketpair()
    with right:
        talk = codec.Connection()
        talk.file = left.detach()
        long = "x" * (1 << 20)  # more than is written at a time
        reader = threading.Thread(target=lambda: got.append(codec.Receiver(right.recv).receive()))
        got = []
        reader.start()
        codec.send(talk, long)
        reader.join()
        codec.send(right, (1, "é"))
        assert (codec.Receiver(talk.recv).receive(), got) == ((1, "é"), [long])
        right.close()
        with pytest.raises(codec.Closed):
            codec.send(talk, 1)
        assert talk.recv(1) == b""
        os.close(talk.file)


def test_one_list_in_two_places_arrives_as_two():
    """As it does in the other form: a program that changes an argument must not find it changed in its next call."""
    shared = [1]
    first, second = codec.decode_plain(codec.encode_plain([shared, shared]))
    assert first is not second
