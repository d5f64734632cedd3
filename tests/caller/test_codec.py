"""What leaves through the codec arrives, with its identity, without needless copies."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import types
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerve.caller import codec
from swerve.exceptions import BackPressureError, RayServeException


class Array:
    """Offers its memory out of band, as a numpy array does."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = data

    def __reduce_ex__(self, protocol):
        return Array, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other):
        return isinstance(other, Array) and bytes(self.data) == bytes(other.data)

    def __hash__(self):
        return hash(bytes(self.data))


@dataclass
class Point:
    x: int
    y: float


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars | st.builds(Point, st.integers(), st.floats(allow_nan=False)) | st.builds(Array, st.binary(max_size=200)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(values)
def test_any_value_comes_back_equal(value):
    assert codec.decode(codec.joined(codec.encode(value))) == value
    assert codec.decode_reply(codec.joined(codec.encode_reply(value))) == value


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(8, 100), min_size=1, max_size=5), st.booleans())
def test_buffers_are_not_copied_and_begin_at_aligned_offsets(sizes, reply):
    encode, decode = (codec.encode_reply, codec.decode_reply) if reply else (codec.encode, codec.decode)
    datas = [(b"<#%d#>" % index).ljust(size, b".") for index, size in enumerate(sizes)]
    message = codec.joined(encode([Array(bytearray(data)) for data in datas]))

    arrays = decode(message)

    assert [bytes(array.data) for array in arrays] == datas
    assert all(array.data.obj is message for array in arrays)
    assert all(message.index(data) % 16 == 0 for data in datas)


def test_a_writable_buffer_is_sent_as_it_was_when_it_was_encoded():
    memory = bytearray(b"before")
    pieces = codec.encode(Array(memory))
    memory[:] = b"after!"
    assert bytes(codec.decode(codec.joined(pieces)).data) == b"before"


def test_a_read_only_buffer_is_sent_without_a_copy():
    data = bytes(100_000)
    assert any(isinstance(piece, memoryview) and piece.obj is data for piece in codec.encode(Array(data)))


def test_a_large_pickle_is_not_joined_to_its_header():
    pieces = codec.encode((b"x" * 100_000,))
    assert [len(piece) < 100 for piece in pieces] == [True, False]


def test_a_small_value_is_one_piece():
    assert len(codec.encode(((1, "a"), {}))) == 1


def test_a_message_in_writable_memory_gives_writable_buffers():
    message = bytearray(codec.joined(codec.encode(Array(bytearray(b"abc")))))
    assert not codec.decode(message).data.readonly


@pytest.mark.parametrize("cut", [0, 3, 11, 20, -1])
def test_a_cut_message_is_refused(cut):
    message = codec.joined(codec.encode([Array(b"a" * 30), Array(b"b" * 30)]))
    with pytest.raises(ValueError, match="handle message"):
        codec.decode(message[:cut])


def test_a_lambda_travels_by_value():
    double = codec.decode(codec.joined(codec.encode(lambda x: x * 2)))
    assert double(21) == 42


def test_what_cannot_be_pickled_raises_for_the_sender():
    with pytest.raises(TypeError, match="pickle"):
        codec.encode(threading.Lock())


MAIN = """
import base64, subprocess, sys
from swerve.caller import codec

class Local:
    def __init__(self, x): self.x = x

class LocalError(Exception): pass

peer = '''
import base64, sys
from swerve.caller import codec
class Local: "not the sender's"
value, error = codec.decode(base64.b64decode(sys.argv[1]))
value.x += 1
for pieces in (codec.encode_reply(value), codec.encode_exception(error)):
    print(base64.b64encode(codec.joined(pieces)).decode())
'''
sent = base64.b64encode(codec.joined(codec.encode((Local(1), LocalError("no"))))).decode()
ran = subprocess.run([sys.executable, "-c", peer, sent], stdout=subprocess.PIPE, check=True, text=True)
value, error = ran.stdout.split()
back = codec.decode_reply(base64.b64decode(value))
assert type(back) is Local and back.x == 2
assert type(codec.decode_exception(base64.b64decode(error))) is LocalError
"""


def test_a_class_of_main_is_the_same_class_when_it_comes_back():
    subprocess.run([sys.executable, "-c", MAIN], check=True, timeout=30)


class NeedsTwo(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Unpicklable:
    def __reduce__(self):
        raise ZeroDivisionError


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def _sent(error: BaseException) -> BaseException:
    return codec.decode_exception(codec.joined(codec.encode_exception(_raised(error))))


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError("k"), BackPressureError(3, 2)])
def test_an_exception_keeps_its_type_and_arguments(error):
    sent = _sent(error)
    assert type(sent) is type(error)
    assert sent.args == error.args


def test_an_exception_is_caused_by_its_remote_traceback():
    cause = _sent(ValueError("bad")).__cause__
    assert isinstance(cause, codec.RemoteTraceback)
    assert "in _raised" in str(cause)
    assert str(cause).endswith("ValueError: bad")


@pytest.mark.parametrize("error", [NeedsTwo(1, 2), ValueError(Unpicklable())], ids=["init", "argument"])
def test_an_exception_that_does_not_unpickle_arrives_as_text(error):
    sent = _sent(error)
    assert type(sent) is RayServeException
    assert str(sent) == repr(error)
    assert type(error).__name__ in str(sent.__cause__)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), StopIteration(3), GeneratorExit()])
def test_an_exception_that_steers_the_interpreter_arrives_as_text(error):
    sent = _sent(error)
    assert type(sent) is RayServeException
    assert str(sent) == repr(error)


def test_an_exception_of_a_module_that_the_caller_lacks_arrives_as_text(monkeypatch):
    module = types.ModuleType("only_over_there")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("class OddError(Exception): pass", module.__dict__)
    message = codec.joined(codec.encode_exception(_raised(module.OddError("hm"))))
    monkeypatch.delitem(sys.modules, module.__name__)

    sent = codec.decode_exception(message)

    assert type(sent) is RayServeException
    assert str(sent) == "OddError('hm')"


def test_a_reply_with_an_exception_raises_it():
    with pytest.raises(ValueError, match="bad"):
        codec.decode_reply(codec.joined(codec.encode_exception(ValueError("bad"))))
