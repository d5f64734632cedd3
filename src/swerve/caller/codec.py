"""How the arguments and results of handle calls stand in a gRPC message.

Layout, little endian: u32 number of buffers, u64 size of each, u64 size of the pickle, the pickle, the buffers. The
pickle is protocol 5; whatever offers its memory as a `pickle.PickleBuffer` (a numpy array, say) travels as a buffer: it
is copied once when it is encoded, because its owner may write to it before the last of it has been sent, and not at all
when it is read-only or when it is decoded. Each buffer begins at a multiple of `_ALIGNMENT` bytes from the start of the
message, because arithmetic on unaligned arrays is slow: the pickle counts its padding, for `pickle.loads` ignores what
follows the end of a pickle, and the gaps between buffers follow from the sizes.

A reply has one byte before that: `VALUE` or `EXCEPTION`.

Large buffers may be lent instead (`caller/lending.py`): the number of buffers has `_LENT` added then, and a reference
stands in their place. In the lent memory they lie as they would in the message.

What is decoded shares the message's memory, or the lent one: an array that arrives is read-only, as one that Ray hands
out is.
"""

from __future__ import annotations

import pickle
import struct
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import cloudpickle

from swerve.caller.lending import REFERENCE_SIZE, LendingError, Loan, borrow
from swerve.exceptions import RayServeException
from swerve.net.client_call import CallerSide
from swerve.net.server_call import CallSide

Pieces: TypeAlias = list[bytes | memoryview]
# Gives memory for so many bytes of buffers, or None when they have to be in the message.
Lend: TypeAlias = Callable[[int], Loan | None]

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
_LENT = 1 << 31


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in another process; the `__cause__` of that exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


@dataclass(frozen=True, slots=True)
class Lent:
    """A message whose buffers are in shared memory. `head` is what comes before them, in its plain form."""

    head: bytes
    count_at: int
    loan: Loan

    def to(self, side: CallSide | CallerSide) -> Pieces:
        """The message as the process at the other end of `side` gets it."""
        reference = self.loan.reference(side)
        if reference is None:
            return [self.plain()]
        flag_at = self.count_at + _COUNT.size - 1
        head = bytearray(self.head)
        head[flag_at] |= _LENT >> 24
        return [bytes(head + reference)]

    def plain(self) -> bytes:
        """A copy of the message with its buffers in it, which may outlive the loan."""
        return self.head + self.loan.view

    def __len__(self) -> int:
        """The size of the message with its buffers in it."""
        return len(self.head) + len(self.loan)


Encoded: TypeAlias = Pieces | Lent


class Claimed(bytes):
    """A message and the lent memory that it refers to, or why that cannot be had."""

    memory: memoryview | LendingError


def claim(message: bytes, side: CallSide | CallerSide, start: int = 0) -> bytes:
    """`message`, which came from `side`, with the memory that it refers to: to be called when it arrives, while its
    sender keeps that memory for it."""
    if len(message) <= REFERENCE_SIZE or not message[start + _COUNT.size - 1] & (_LENT >> 24):
        return message
    claimed = Claimed(message)
    try:
        claimed.memory = borrow(message[-REFERENCE_SIZE:], side)
    except LendingError as error:
        claimed.memory = error
    return claimed


def encode(value: object, lend: Lend | None = None) -> Encoded:
    """`value` as one message: its pieces, to be sent one after the other; or as `Lent`, if `lend` gives memory.

    Raises:
        Exception: what pickling `value` raised (`pickle.PicklingError`, `TypeError` and the like).
    """
    return _encode(value, b"", lend)


def encode_reply(value: object, lend: Lend | None = None) -> Encoded:
    """A result or one item of a stream, as `decode_reply` reads it. Raises as `encode`."""
    return _encode(value, VALUE, lend)


def encode_exception(error: BaseException) -> Pieces:
    """A reply that says that the call raised `error`. Never fails: what cannot be pickled travels as its text."""
    text = "".join(traceback.format_exception(error)).rstrip()
    return cast(Pieces, _encode((_pickle_exception(error), _repr(error), text), EXCEPTION, None))


def decode(message: bytes | bytearray | memoryview, start: int = 0) -> object:
    """The value of a message made by `encode`, which begins at byte `start`. One that was lent must be `Claimed`.

    Raises:
        ValueError: the message was cut.
        LendingError: what was lent cannot be had.
        Exception: what unpickling raised, such as ModuleNotFoundError for a class that this process cannot import.
    """
    view = memoryview(message)
    end = view.nbytes
    if end < start + _PLAIN.size:
        raise ValueError(f"A handle message of {end} bytes is too short to have a header.")
    count, pickle_size = _PLAIN.unpack_from(view, start)
    offset = start + _PLAIN.size
    buffers = []
    lent = False
    if count:
        lent, count = count >= _LENT, count & ~_LENT
        # What stood there was the size of the first buffer.
        sizes = start + _COUNT.size
        offset = sizes + (count + 1) * _SIZE.size
        if end < offset:
            raise ValueError(f"A handle message of {end} bytes is too short to have the sizes of {count} buffers.")
        (pickle_size,) = _SIZE.unpack_from(view, offset - _SIZE.size)
    pickled = view[offset : offset + pickle_size]
    offset += pickle_size
    body = view
    if lent:
        body, offset, end = _lent_to(message, offset, end)
    if count:
        for (size,) in _SIZE.iter_unpack(view[sizes : sizes + count * _SIZE.size]):
            offset += -offset % _ALIGNMENT
            buffers.append(body[offset : offset + size])
            offset += size
    if offset != end:
        raise ValueError(f"A handle message says that it has {offset} bytes, and has {end}.")
    return pickle.loads(pickled, buffers=buffers)


def _lent_to(message: bytes | bytearray | memoryview, offset: int, end: int) -> tuple[memoryview, int, int]:
    """Where the buffers lie, where the first begins, and where the last ends."""
    if not isinstance(message, Claimed) or offset + REFERENCE_SIZE != end:
        raise ValueError("A handle message refers to memory that was not claimed.")
    if isinstance(message.memory, LendingError):
        raise message.memory
    return message.memory, 0, message.memory.nbytes


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


def _encode(value: object, kind: bytes, lend: Lend | None) -> Encoded:
    buffers: list[pickle.PickleBuffer] = []
    pickled = _dumps(value, buffers)
    if not buffers:
        header = kind + _PLAIN.pack(0, len(pickled))
        return [header + pickled] if len(pickled) < _JOIN_BELOW else [header, pickled]
    views = [buffer.raw() for buffer in buffers]
    header_size = len(kind) + _COUNT.size + (len(views) + 1) * _SIZE.size
    gap = -(header_size + len(pickled)) % _ALIGNMENT
    sizes = [len(view) for view in views]
    header = kind + struct.pack(f"<I{len(views) + 1}Q", len(views), *sizes, len(pickled) + gap)
    if lend is not None:
        begins, size = _places(sizes)
        loan = lend(size)
        if loan is not None:
            for begin, view in zip(begins, views, strict=True):
                loan.view[begin : begin + len(view)] = view
            return Lent(header + pickled + _GAP[:gap], len(kind), loan)
    pieces: Pieces = [header, pickled, _GAP[:gap]]
    for view in views:
        pieces += (view if view.readonly else bytes(view), _GAP[: -len(view) % _ALIGNMENT])
    pieces.pop()
    return [piece for piece in pieces if len(piece)]


def _places(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each buffer begins, and where the last one ends."""
    begins, end = [], 0
    for size in sizes:
        begins.append(end + -end % _ALIGNMENT)
        end = begins[-1] + size
    return begins, end


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


def joined(message: Encoded) -> bytes:
    """The message as one object, for those that cannot send pieces. Nothing of it may be lent."""
    assert not isinstance(message, Lent)
    return message[0] if len(message) == 1 and isinstance(message[0], bytes) else b"".join(message)
