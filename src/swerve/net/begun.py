"""Which calls a server has begun, written where a kill cannot take it: in memory that its clients have open too.

A call whose server died may be made again elsewhere only if nothing of it was done. The connection cannot tell that: a
server that is killed says nothing. So it notes each call's number in shared memory right before user code begins, which
costs a store and no system call, and clients look there when the connection is lost.

    Board     a server's memory: a directory of its connections, and a region for each
    Region    one connection's part, for calls with streams of their own and for those in bundles
    Look      what a client sees of its connection's region

A connection is known by the name that the system gave the client's end of the unix socket, which both ends can ask for.
What cannot be told for certain counts as begun.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path

# Connections that a board has room for: those of proxies, and of processes with handles. Those beyond it are not noted.
_REGIONS = 256
# So many calls of a connection and a kind may begin after one that has not, before its slot is used again. A client has
# at most `max_ongoing_requests` under way.
_SLOTS = 2048
_WORD = 8
_REGION_SIZE = 2 * _SLOTS * _WORD
# A name that the system chose: a NUL and five hexadecimal digits (unix(7), "Autobind feature").
_NAME_SIZE = 8
# How many connections were left out, or forgotten: while that stays the same, one that is not listed was never
# accepted.
_MISSED_SIZE = 8
_HEADER_SIZE = _MISSED_SIZE + _REGIONS * _NAME_SIZE
_SIZE = _HEADER_SIZE + _REGIONS * _REGION_SIZE


def board_path(socket_path: str) -> str:
    """Where the board of the server at this socket is found."""
    return str(Path(socket_path).with_suffix(".begun"))


def _entry(number: int) -> slice:
    """Where the directory has the name of a region's connection."""
    begin = _MISSED_SIZE + number * _NAME_SIZE
    return slice(begin, begin + _NAME_SIZE)


def _slot(stream_id: int) -> int:
    # A client's streams have odd numbers.
    return (stream_id >> 1) % _SLOTS


def _bundled_slot(number: int) -> int:
    return _SLOTS + number % _SLOTS


class Region:
    """One connection's part of its server's board: in each slot the number of the last call that began. The methods may
    be called in any thread."""

    __slots__ = ("_words", "number")

    def __init__(self, number: int, words: memoryview) -> None:
        self.number = number
        self._words = words

    def mark(self, stream_id: int) -> None:
        """The call of this stream begins now."""
        # `_slot`, written out: this is part of every call.
        slot = (stream_id >> 1) % _SLOTS
        # A request that was long in coming must not take the mark from a later one, which would count as not begun.
        # Calls in bundles come whole, and begin in order.
        if self._words[slot] < stream_id:
            self._words[slot] = stream_id

    def mark_bundled(self, number: int) -> None:
        """The call of this number in the connection's bundles begins now."""
        self._words[_SLOTS + number % _SLOTS] = number


class Board:
    """The board of this process, found at `board_path(socket_path)`: a link to memory, which lives for as long as a
    process has it open."""

    def __init__(self, socket_path: str) -> None:
        self._file = os.memfd_create("swerve-begun")
        os.ftruncate(self._file, _SIZE)
        self._memory = mmap.mmap(self._file, _SIZE)
        self._words = memoryview(self._memory)[_HEADER_SIZE:].cast("Q")
        self._missed = 0
        # The last is the next to be used: those never used, then the one that has been free for longest.
        self._free = list(range(_REGIONS - 1, -1, -1))
        self._path = board_path(socket_path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os.symlink(f"/proc/{os.getpid()}/fd/{self._file}", self._path)

    def admit(self, name: object) -> Region | None:
        """A region for the connection from a socket of this name; None when it has none, or there is no room."""
        if not isinstance(name, bytes) or not 0 < len(name) <= _NAME_SIZE:
            return None
        name = name.ljust(_NAME_SIZE, b"\0")
        # The system gives a name again when its connection is closed; who looks for it must not find the old marks.
        for number in range(_REGIONS):
            if self._memory[_entry(number)] == name:
                self._clear(number)
        if not self._free:
            self._miss()
            return None
        number = self._free.pop()
        if any(self._memory[_entry(number)]):
            self._miss()
            self._clear(number)
        self._memory[_entry(number)] = name
        return Region(number, self._region(number))

    def _region(self, number: int) -> memoryview:
        return self._words[number * 2 * _SLOTS : (number + 1) * 2 * _SLOTS]

    def _clear(self, number: int) -> None:
        self._memory[_entry(number)] = bytes(_NAME_SIZE)
        self._region(number).cast("B")[:] = bytes(_REGION_SIZE)

    def release(self, region: Region) -> None:
        """The connection is closed. Its client may still look, for as long as other regions are free."""
        self._free.insert(0, region.number)

    def _miss(self) -> None:
        self._missed += 1
        self._memory[:_MISSED_SIZE] = struct.pack("=Q", self._missed)

    def close(self) -> None:
        """Remove the path."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._file)


class Look:
    """What the client at a socket of this name sees. It knows nothing before `settle`.

    To be made before the client connects, so that it is known how many the server had left out by then; whether it is
    the board of the server that took the connection, `is_current` says after that.

    Raises:
        OSError: the server has no board, or has died.
    """

    def __init__(self, socket_path: str, name: bytes) -> None:
        self._name = name.ljust(_NAME_SIZE, b"\0")
        self._path = board_path(socket_path)
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._missed = os.pread(self._file, _MISSED_SIZE, 0)
        # The region's last state, None while it may change or is not known.
        self._marks: memoryview | None = None

    def is_current(self) -> bool:
        """Whether the server that listens at the path now has this board."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False

    def settle(self, *, final: bool) -> None:
        """The connection is lost; `final`: its server has gone, and begins no more."""
        file, self._file = self._file, -1
        if file >= 0:
            if final:
                self._marks = self._read(file)
            os.close(file)

    def _read(self, file: int) -> memoryview | None:
        header = os.pread(file, _HEADER_SIZE, 0)
        for number in range(_REGIONS):
            if header[_entry(number)] == self._name:
                return memoryview(os.pread(file, _REGION_SIZE, _HEADER_SIZE + number * _REGION_SIZE)).cast("Q")
        # It is not listed. If nobody was left out since this connection began, it was not accepted yet.
        if header[:_MISSED_SIZE] == self._missed:
            return memoryview(bytes(_REGION_SIZE)).cast("Q")
        return None

    def never_began(self, stream_id: int) -> bool:
        """Whether the call of this stream certainly never began."""
        # A mark that is higher than a call's number may have been written over its own.
        return self._marks is not None and self._marks[_slot(stream_id)] < stream_id

    def never_began_bundled(self, number: int) -> bool:
        """Whether the call of this number in the connection's bundles certainly never began."""
        return self._marks is not None and self._marks[_bundled_slot(number)] < number
