"""Credit that is owed for forwarded bytes: it is given back where they came from when they have left here."""

from __future__ import annotations

from collections.abc import Callable

from swerve.net.streams import CreditSource


class Owed(dict[int, tuple[CreditSource, int, int]]):
    """By stream here: where to give credit, the stream there, and the bytes."""

    __slots__ = ()

    def owe(self, stream_id: int, source: CreditSource, source_id: int, amount: int) -> None:
        """`amount` more bytes of `source` are on their way out on this stream."""
        before = self.get(stream_id)
        self[stream_id] = (source, source_id, amount if before is None else amount + before[2])

    def pay(self, waits: Callable[[int], int] | None = None) -> None:
        """Give credit for all streams but those of which bytes wait, as `waits` counts them."""
        entries = list(self.items())
        # Whoever is paid may forward more, which is owed anew.
        self.clear()
        sources = set()
        for stream_id, entry in entries:
            if waits is None or not waits(stream_id):
                source, source_id, amount = entry
                source.give_credit(source_id, amount)
                sources.add(source)
            else:
                self[stream_id] = entry
        for source in sources:
            source.send_credit()
