"""What a connection may do in its life, and the decision that follows: pure, with the clock as an argument.

The names are gRPC's where it has them ("gRPC Keepalive", and the channel arguments of its core).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on one connection of a server, in seconds; None switches one off."""

    # Until the peer's SETTINGS have come.
    handshake_timeout_s: float | None = None
    # Silence after which the peer is asked whether it is there, and the time that it has to say anything.
    keepalive_time_s: float | None = None
    keepalive_timeout_s: float = 20.0
    # Without a call.
    max_connection_idle_s: float | None = None
    max_connection_age_s: float | None = None
    max_calls_per_connection: int | None = None
    # For the calls that run when the connection has been asked to end.
    max_connection_age_grace_s: float | None = None
    # Within which some of the bytes that wait for the peer have to move (`net.stalls`).
    stall_timeout_s: float | None = None

    @property
    def shortest_s(self) -> float:
        """The shortest time that is limited; infinity when none is."""
        times = (
            self.handshake_timeout_s,
            self.keepalive_time_s,
            None if self.keepalive_time_s is None else self.keepalive_timeout_s,
            self.max_connection_idle_s,
            self.max_connection_age_s,
            self.max_connection_age_grace_s,
            self.stall_timeout_s,
        )
        return min((seconds for seconds in times if seconds is not None), default=float("inf"))


class Action(Enum):
    """What is due. DRAIN asks the peer to go and lets its calls finish; LOST says that it is not there any more."""

    NOTHING = auto()
    PING = auto()
    DRAIN = auto()
    CLOSE = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """An action and the reason for it, for the log."""

    action: Action
    reason: str = ""


_NOTHING = Decision(Action.NOTHING)
_PING = Decision(Action.PING)
_NO_HANDSHAKE = Decision(Action.CLOSE, "it did not greet within handshake_timeout_s")
_NO_ANSWER = Decision(Action.LOST, "it did not answer within keepalive_timeout_s")
_GRACE_OVER = Decision(Action.CLOSE, "its calls did not end within max_connection_age_grace_s")
_IDLE = Decision(Action.DRAIN, "it had no call for max_connection_idle_s")
_OLD = Decision(Action.DRAIN, "it reached max_connection_age_s")
_USED_UP = Decision(Action.DRAIN, "it reached max_calls_per_connection")


class ConnectionLife:
    """One connection's history, as far as its limits ask for it."""

    __slots__ = ("_asked_at", "_begun_at", "_busy_at", "_calls", "_heard_at", "_leaving_at", "_limits", "_max_age_s")

    def __init__(self, limits: ConnectionLimits, now: float, jitter: float) -> None:
        """`jitter` scales the age, as gRPC does (by 0.9 to 1.1), so that connections made together end one by one."""
        self._limits = limits
        age = limits.max_connection_age_s
        self._max_age_s = float("inf") if age is None else age * jitter
        self._begun_at = self._heard_at = self._busy_at = now
        self._calls = 0
        # When the peer was asked whether it is there, and when it was asked to go.
        self._asked_at: float | None = None
        self._leaving_at: float | None = None

    def decide(self, now: float, *, established: bool, heard: bool, calls: int, running: int) -> Decision:
        """What is due at `now`. `heard`: the peer has sent something since the last time. `calls`: how many it has
        begun in all, `running`: how many of them have not ended."""
        limits = self._limits
        if not established:
            timeout = limits.handshake_timeout_s
            return _NO_HANDSHAKE if timeout is not None and now - self._begun_at >= timeout else _NOTHING
        if running or calls != self._calls:
            self._calls = calls
            self._busy_at = now
        if heard:
            self._heard_at = now
            self._asked_at = None
        elif self._asked_at is not None:
            if now - self._asked_at >= limits.keepalive_timeout_s:
                return _NO_ANSWER
        elif limits.keepalive_time_s is not None and now - self._heard_at >= limits.keepalive_time_s:
            self._asked_at = now
            return _PING
        return self._end_of_life(now)

    def _end_of_life(self, now: float) -> Decision:
        limits = self._limits
        if self._leaving_at is not None:
            grace = limits.max_connection_age_grace_s
            return _GRACE_OVER if grace is not None and now - self._leaving_at >= grace else _NOTHING
        idle, most = limits.max_connection_idle_s, limits.max_calls_per_connection
        if now - self._begun_at >= self._max_age_s:
            decision = _OLD
        elif most is not None and self._calls >= most:
            decision = _USED_UP
        elif idle is not None and now - self._busy_at >= idle:
            decision = _IDLE
        else:
            return _NOTHING
        self._leaving_at = now
        return decision
