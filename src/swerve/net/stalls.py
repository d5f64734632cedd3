"""Which of the things that should shrink have stopped: responses that nobody reads, requests that do not come on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

# Bytes that have to move within the timeout, unless fewer are left: one HTTP/2 frame (RFC 9113, section 4.2). Over a
# minute that is 273 bytes a second, about what Kestrel asks for (240): no network is so slow, and who sends or takes a
# byte at a time does not pass.
PROGRESS = 16 * 1024

Key = TypeVar("Key", bound=Hashable)


class StallWatch(Generic[Key]):
    """Remembers how much of each thing was left, and since when."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        # By key: what was left, of which bytes, and when it was so.
        self._marks: dict[Key, tuple[int, object, float]] = {}

    def stalled(self, now: float, timeout_s: float, waiting: Mapping[Key, tuple[int, object]]) -> list[Key]:
        """The keys of which less than `PROGRESS` bytes went within `timeout_s`.

        `waiting` has all that waits now: how many bytes are left, and an object that stands for just these bytes. While
        it is the same one, what is added does not count as movement.
        """
        marks: dict[Key, tuple[int, object, float]] = {}
        stalled = []
        for key, (left, these) in waiting.items():
            mark = self._marks.get(key)
            if mark is None or mark[1] is not these or left <= mark[0] - PROGRESS:
                mark = (left, these, now)
            elif now - mark[2] >= timeout_s:
                stalled.append(key)
            marks[key] = mark
        self._marks = marks
        return stalled
