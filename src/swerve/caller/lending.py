"""Large buffers of handle calls go through shared memory between processes of one machine.

The sender copies them once, into a segment of memory that has no name in any file system (`memfd_create`), and sends a
reference. The receiver opens it through `/proc/<pid>/fd`, which the system grants to the same user alone, and maps it
read-only: its arrays lie in the sender's pages. What is left behind is the system's to free, whoever is killed when:
a segment lives as long as a process has it open or mapped.

A segment is used again when nobody else has it: every receiver that was sent a reference has left its mark in the
segment when it mapped it, and the system, asked for a lease (`fcntl(2)`, F_SETLEASE), says that no other file is open
on it. A receiver that keeps an array, or has forked while it had one, so keeps the segment from being written to.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import signal
import socket
import struct
import threading
import time
import weakref
from typing import Final, cast

from swerve.net.bundles import BundleCaller, BundleServer
from swerve.net.client_call import CallerSide
from swerve.net.connection import Connection
from swerve.net.server_call import CallSide

# Buffers of a message that have this many bytes together are worth the system calls.
SHARED_FROM = 256 * 1024
# What one process lends at a time, at most; above, buffers travel in the message.
MAX_LENT = 512 << 20
# Each segment takes its sender two file descriptors and its receiver one, of the 1,024 that a process may have by
# default. A process lends so many segments at a time, and keeps so many mapped; of more it takes copies.
MAX_SEGMENTS = 64
# A segment that is not used for so long is given back, and one that a receiver keeps is left to it.
_IDLE_S = 2.0
# A reference that nobody has followed in this time was lost: with a call that was cancelled on its way, for instance.
_LOST_S = 300.0
# How often a segment can be lent before it must have come back: one call that is made again, or one to every replica.
_MARKS = 256
# Segments are of a power of two, so that they fit the next message.
_MIN_SEGMENT = 1 << 20
_PAGE = mmap.PAGESIZE

# The descriptor at the sender, its inode, the length of the buffers, where the receiver leaves its mark.
_REFERENCE = struct.Struct("<IQQQ")
REFERENCE_SIZE = _REFERENCE.size
# SO_PEERCRED: pid, user, group.
_CREDENTIALS = struct.Struct("3i")
# Not in the `fcntl` module before Python 3.13; <fcntl.h> of Linux.
_F_SETSIG = 10


class LendingError(Exception):
    """The memory that a message refers to cannot be had."""


class Loan:
    """The buffers of one message in a segment: a piece of the message. The segment is not written to while it lives."""

    __slots__ = ("__weakref__", "_segment", "_size", "view")

    def __init__(self, segment: _Segment, size: int) -> None:
        self._segment = segment
        self._size = size
        self.view = memoryview(segment.memory)[:size]

    def __len__(self) -> int:
        return self._size

    def reference(self, side: CallSide | CallerSide) -> bytes | None:
        """What stands for the buffers in a message to the process at the other end of `side`; None when they have to be
        sent, because that process cannot follow a reference or too many have been given. From any thread."""
        connection = _connection(side)
        if not _is_near(connection):
            return None
        connection.loop.call_soon_threadsafe(LENDER.look_after, connection.loop)
        return self._segment.reference(connection, self._size)

    def refused(self, side: CallSide | CallerSide) -> None:
        """The process at the other end of `side` will not follow the reference that it was sent, if it has not yet."""
        self._segment.refused(_connection(side))


class _Segment:
    """Shared memory with a byte for each mark at its end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        made = os.memfd_create("swerve", os.MFD_CLOEXEC)
        try:
            os.ftruncate(made, capacity + _MARKS)
            # A lease is given on files that were opened by a path.
            self.fd = os.open(f"/proc/self/fd/{made}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(made)
        try:
            # Whoever opens the file in the moment of a lease has a signal sent here: one that does nothing.
            fcntl.fcntl(self.fd, _F_SETSIG, signal.SIGURG)
            self._inode = os.fstat(self.fd).st_ino
            self.memory = mmap.mmap(self.fd, capacity + _MARKS)
        except OSError:
            os.close(self.fd)
            raise
        self.loan: weakref.ref[Loan] | None = None
        self.used_at = 0.0
        self._borrowers: list[weakref.ref[Connection]] = []

    def lend(self, size: int, now: float) -> Loan:
        loan = Loan(self, size)
        self.loan = weakref.ref(loan)
        self.used_at = now
        self.memory[self.capacity : self.capacity + len(self._borrowers)] = bytes(len(self._borrowers))
        self._borrowers = []
        return loan

    def refused(self, connection: Connection) -> None:
        for number, borrower in enumerate(self._borrowers):
            if borrower() is connection:
                self.memory[self.capacity + number] = 1

    def reference(self, connection: Connection, size: int) -> bytes | None:
        mark = self.capacity + len(self._borrowers)
        if mark == self.capacity + _MARKS:
            return None
        self._borrowers.append(weakref.ref(connection))
        self.used_at = time.monotonic()
        return _REFERENCE.pack(self.fd, self._inode, size, mark)

    @property
    def lent(self) -> bool:
        """True while a message with it is being made or may be sent again."""
        return self.loan is not None and self.loan() is not None

    def awaited(self) -> bool:
        """True while a reference may still be followed."""
        marks = self.memory[self.capacity : self.capacity + len(self._borrowers)]
        for mark, borrower in zip(marks, self._borrowers, strict=True):
            connection = borrower()
            if not mark and connection is not None and not connection.closed:
                return True
        return False

    def all_followed(self) -> bool:
        """True when nobody can come any more to whom a reference was sent."""
        return self.memory.find(b"\0", self.capacity, self.capacity + len(self._borrowers)) < 0

    def returned(self) -> bool:
        """True when no other process has it open or mapped."""
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return False
        return True

    def close(self) -> None:
        os.close(self.fd)
        # The last loan's view may live a little longer; the memory goes with it.
        with contextlib.suppress(BufferError):
            self.memory.close()


class Lender:
    """The segments of this process. Every method may be called on any thread."""

    def __init__(self, max_lent: int = MAX_LENT) -> None:
        self._max_lent = max_lent
        self._segments: list[_Segment] = []
        self._lock = threading.Lock()
        self._looks_after: asyncio.AbstractEventLoop | None = None

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.capacity for segment in self._segments)

    def lend(self, size: int) -> Loan | None:
        """Memory for the `size` bytes of a message's buffers. None when they are few, or too much is lent."""
        if size < SHARED_FROM or size > self._max_lent or not hasattr(os, "memfd_create"):
            return None
        capacity = max(_MIN_SEGMENT, 1 << (size - 1).bit_length())
        now = time.monotonic()
        with self._lock:
            for segment in self._segments:
                if segment.capacity == capacity and _is_free(segment):
                    return segment.lend(size, now)
            if not self._has_room(capacity):
                self._tidy(now, idle_s=0.0)
                if not self._has_room(capacity):
                    return None
            try:
                segment = _Segment(capacity)
            except OSError:
                return None  # no more descriptors, or the system has no such memory
            self._segments.append(segment)
            return segment.lend(size, now)

    def _has_room(self, capacity: int) -> bool:
        return self.size + capacity <= self._max_lent and len(self._segments) < MAX_SEGMENTS

    def look_after(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give back in time what is not used any more, by a timer of `loop`. On its thread."""
        if self._looks_after is None or self._looks_after.is_closed():
            self._looks_after = loop
            loop.call_later(_IDLE_S, self._look)

    def _look(self) -> None:
        loop, self._looks_after = self._looks_after, None
        with self._lock:
            self._tidy(time.monotonic(), _IDLE_S)
        if self._segments and loop is not None:
            self.look_after(loop)

    def _tidy(self, now: float, idle_s: float) -> None:
        kept = []
        for segment in self._segments:
            idle = now - segment.used_at
            if segment.lent or idle < idle_s or (segment.awaited() and idle < _LOST_S):
                kept.append(segment)
            else:
                segment.close()
        self._segments = kept

    def forget(self) -> None:
        """In a child of this process: the segments are the parent's."""
        self._segments = []
        self._lock = threading.Lock()
        self._looks_after = None


def _is_free(segment: _Segment) -> bool:
    return not segment.lent and segment.all_followed() and segment.returned()


# What is lent is bounded for the process as a whole.
LENDER: Final = Lender()
os.register_at_fork(after_in_child=LENDER.forget)


def borrow(reference: bytes | memoryview, side: CallSide | CallerSide) -> memoryview:
    """The buffers that a message from `side` refers to, read-only, for as long as anything looks at them.

    Raises:
        LendingError: the memory cannot be had.
    """
    fd, inode, size, mark = _REFERENCE.unpack(reference)
    try:
        opened = os.open(f"/proc/{_peer(_connection(side))}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(opened)
            if found.st_ino != inode or not size <= mark < found.st_size:
                raise LendingError("The sender of a handle message has given up the memory that it refers to.")
            memory = _map(opened, size)
            os.pwrite(opened, b"\1", mark)
        finally:
            os.close(opened)
    except OSError as error:
        raise LendingError(f"The memory that a handle message refers to cannot be opened: {error}.") from error
    return memoryview(memory)


# The memory of others that this process has mapped.
_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def _map(file: int, size: int) -> mmap.mmap | bytes:
    if len(_mapped) >= MAX_SEGMENTS:
        return os.pread(file, size, 0)
    memory = mmap.mmap(file, size, prot=mmap.PROT_READ)
    _mapped.add(memory)
    return memory


def _connection(side: CallSide | CallerSide) -> Connection:
    return side.connection if isinstance(side, BundleCaller | BundleServer) else cast(Connection, side)


# By connection, the process at its other end; 0 where it is not one that sees this process's memory.
_near: weakref.WeakKeyDictionary[Connection, int] = weakref.WeakKeyDictionary()


def _is_near(connection: Connection) -> bool:
    """True when the process at the other end can open this one's memory: it runs on this machine, in the same
    namespace of process ids, for the same user."""
    pid = _near.get(connection)
    if pid is None:
        pid = _near[connection] = _nearby(connection)
    return pid > 0


def _nearby(connection: Connection) -> int:
    pid = _peer(connection)
    if not pid:
        return 0
    try:
        # Readable by those alone who may open the other's files too.
        same = os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
    return pid if same else 0


def _peer(connection: Connection) -> int:
    """The process at the other end of a unix socket, as the system knows it; 0 for one that is of another user or
    elsewhere."""
    sock = None if connection.transport is None else connection.transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return 0
    pid, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid if user == os.geteuid() else 0
