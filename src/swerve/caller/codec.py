"""How the arguments and results of handle calls stand in a gRPC message. Pure.

Layout, little endian: u32 number of buffers, u64 size of each, u64 size of the pickle, the pickle, the buffers. The
pickle is protocol 5; whatever offers its memory as a `pickle.PickleBuffer` (a numpy array, say) travels as a buffer: it
is copied once when it is encoded, because its owner may write to it before the last of it has been sent, and not at all
when it is read-only or when it is decoded. Each buffer begins at a multiple of `_ALIGNMENT` bytes from the start of the
message, because arithmetic on unaligned arrays is slow: the pickle counts its padding, for `pickle.loads` ignores what
follows the end of a pickle, and the gaps between buffers follow from the sizes.

A reply has one byte before that: `VALUE` or `EXCEPTION`.

What is decoded shares the message's memory: an array that arrives in a `bytes` object is read-only, as one that Ray
hands out is.
"""

from __future__ import annotations

import pickle
import struct
import traceback
from collections.abc import Sequence
from typing import TypeAlias, cast

import cloudpickle

from swerve.exceptions import RayServeException

Pieces: TypeAlias = list[bytes | memoryview]

VALUE = b"\0"
EXCEPTION = b"\1"

# What malloc aligns to on 64-bit machines, and so the most that an offset within a message can promise.
_ALIGNMENT = 16
# Below this, one joined piece is cheaper to send than two.
_JOIN_BELOW = 16 * 1024

_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")
_PLAIN = struct.Struct("<IQ")
_GAP = b"\0" * _ALIGNMENT


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in another process; the `__cause__` of that exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


def encode(value: object) -> Pieces:
    """`value` as the pieces of one message, to be sent one after the other.

    Raises:
        Exception: what pickling `value` raised (`pickle.PicklingError`, `TypeError` and the like).
    """
    return _encode(value, b"")


def encode_reply(value: object) -> Pieces:
    """A result or one item of a stream, as `decode_reply` reads it. Raises as `encode`."""
    return _encode(value, VALUE)


def encode_exception(error: BaseException) -> Pieces:
    """A reply that says that the call raised `error`. Never fails: what cannot be pickled travels as its text."""
    text = "".join(traceback.format_exception(error)).rstrip()
    return _encode((_pickle_exception(error), _repr(error), text), EXCEPTION)


def decode(message: bytes | bytearray | memoryview, start: int = 0) -> object:
    """The value of a message made by `encode`, which begins at byte `start`.

    Raises:
        ValueError: the message was cut.
        Exception: what unpickling raised, such as ModuleNotFoundError for a class that this process cannot import.
    """
    view = memoryview(message)
    end = view.nbytes
    if end < start + _PLAIN.size:
        raise ValueError(f"A handle message of {end} bytes is too short to have a header.")
    count, pickle_size = _PLAIN.unpack_from(view, start)
    offset = start + _PLAIN.size
    buffers = []
    if count:
        # What stood there was the size of the first buffer.
        sizes = start + _COUNT.size
        offset = sizes + (count + 1) * _SIZE.size
        if end < offset:
            raise ValueError(f"A handle message of {end} bytes is too short to have the sizes of {count} buffers.")
        (pickle_size,) = _SIZE.unpack_from(view, offset - _SIZE.size)
    pickled = view[offset : offset + pickle_size]
    offset += pickle_size
    if count:
        for (size,) in _SIZE.iter_unpack(view[sizes : sizes + count * _SIZE.size]):
            offset += -offset % _ALIGNMENT
            buffers.append(view[offset : offset + size])
            offset += size
    if offset != end:
        raise ValueError(f"A handle message says that it has {offset} bytes, and has {end}.")
    return pickle.loads(pickled, buffers=buffers)


def decode_reply(message: bytes | bytearray | memoryview) -> object:
    """The value of a reply.

    Raises:
        Exception: the exception that the reply holds, with the remote traceback as its cause; else as `decode`.
    """
    if message[0]:
        raise decode_exception(message)
    return decode(message, 1)


def decode_exception(message: bytes | bytearray | memoryview) -> BaseException:
    """The exception of a reply made by `encode_exception`, caused by a `RemoteTraceback`.

    A `RayServeException` with the text of the original stands in for one that cannot be had here. Raises as `decode`
    when the message is no such reply.
    """
    pickled, text, remote = cast("tuple[bytes | None, str, str]", decode(message, 1))
    error = _load_exception(pickled)
    if error is None:
        error = RayServeException(text)
    error.__cause__ = RemoteTraceback(remote)
    return error


def _encode(value: object, kind: bytes) -> Pieces:
    buffers: list[pickle.PickleBuffer] = []
    pickled = _dumps(value, buffers)
    if not buffers:
        header = kind + _PLAIN.pack(0, len(pickled))
        return [header + pickled] if len(pickled) < _JOIN_BELOW else [header, pickled]
    views = [_snapshot(buffer) for buffer in buffers]
    header_size = len(kind) + _COUNT.size + (len(views) + 1) * _SIZE.size
    gap = -(header_size + len(pickled)) % _ALIGNMENT
    sizes = [len(view) for view in views]
    header = kind + struct.pack(f"<I{len(views) + 1}Q", len(views), *sizes, len(pickled) + gap)
    pieces: Pieces = [header, pickled, _GAP[:gap]]
    for view in views:
        pieces += (view, _GAP[: -len(view) % _ALIGNMENT])
    pieces.pop()
    return [piece for piece in pieces if len(piece)]


def _snapshot(buffer: pickle.PickleBuffer) -> bytes | memoryview:
    view = buffer.raw()
    return view if view.readonly else bytes(view)


def _dumps(value: object, buffers: list[pickle.PickleBuffer]) -> bytes:
    try:
        pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
    except Exception:  # any __reduce__ may raise anything; cloudpickle raises it again when it is not ours to solve
        pickled = None
    # A class of `__main__` must go by value: the other side's `__main__` is another module. cloudpickle tracks such
    # classes, so one that comes back is the class that left.
    if pickled is None or b"__main__" in pickled:
        buffers.clear()
        pickled = cloudpickle.dumps(value, 5, buffer_callback=buffers.append)
    return pickled


def _pickle_exception(error: BaseException) -> bytes | None:
    """The pickle of `error`, None when it would not arrive as what it is.

    That is so for an exception whose `__init__` does not take its `args`, which pickles and then fails to unpickle, and
    for those that would steer the caller's interpreter instead of reaching its `except`: SystemExit, StopIteration.
    """
    if not isinstance(error, Exception) or isinstance(error, StopIteration | StopAsyncIteration):
        return None
    try:
        pickled: bytes = cloudpickle.dumps(error, 5)
    except Exception:  # an attribute of the user's exception may be anything
        return None
    return pickled if type(_load_exception(pickled)) is type(error) else None


def _load_exception(pickled: bytes | None) -> BaseException | None:
    if pickled is None:
        return None
    try:
        error = pickle.loads(pickled)
    except Exception:  # the user's __init__ or a module that is not here
        return None
    return error if isinstance(error, BaseException) else None


def _repr(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:  # the user's __repr__
        return type(error).__qualname__


def joined(pieces: Sequence[bytes | memoryview]) -> bytes:
    """The message as one object, for those that cannot send pieces."""
    return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces)
