"""The slots of a replica, and the line of calls that wait for one.

A call takes a slot when its user code is about to begin. Who finds none waits in line if no other call of the same
caller does, so several callers share a busy replica fairly: each has one call in line. Others are turned away, as
HTTP/2 defines it: before user code has seen them, to be sent again.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

from swerve.net.bundles import BundleServer

if TYPE_CHECKING:
    from swerve.replica.user_call import UserCall


class Slots:
    """At most `limit` calls at a time. Closed at first; a caller is a connection, its bundle stream included."""

    def __init__(self, limit: int) -> None:
        self.taken = 0
        self.is_open = False
        self._limit = limit
        self._line: dict[UserCall, None] = {}
        self._letting_in = False
        # What a call sets in its context must not reach the one that it makes room for.
        self._context = contextvars.copy_context()

    @property
    def waiting(self) -> int:
        """Calls in line."""
        return len(self._line)

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._let_in()

    def take(self) -> bool:
        """Take a slot, `release` gives it back. False when there is none."""
        if self.taken < self._limit and self.is_open:
            self.taken += 1
            return True
        return False

    def wait(self, call: UserCall) -> bool:
        """Put `call` in line; its `enter` is called when it has a slot. False when it has to be turned away.

        A call that its caller cannot send again always waits, also in a replica that drains.
        """
        if call.repeatable and (not self.is_open or any(_caller(other) is _caller(call) for other in self._line)):
            return False
        self._line[call] = None
        self._let_in()
        return True

    def leave(self, call: UserCall) -> None:
        """Take `call` out of the line, if it is there."""
        self._line.pop(call, None)

    def release(self) -> None:
        """User code of a call has ended."""
        self.taken -= 1
        if self._line:
            self._let_in()

    def _let_in(self) -> None:
        if self._letting_in:
            return  # a call that was let in has ended at once
        self._letting_in = True
        try:
            while self._line and self.taken < self._limit:
                call = next(iter(self._line))
                del self._line[call]
                self.taken += 1
                self._context.copy().run(call.enter)
        finally:
            self._letting_in = False


def _caller(call: UserCall) -> object:
    side = call.connection
    return side.connection if isinstance(side, BundleServer) else side
