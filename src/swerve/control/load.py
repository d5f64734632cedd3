"""How much a deployment has had to do lately, from what its replicas and its callers report."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Set
from itertools import pairwise

# Changes closer together than this are one (Ray Serve rounds to as much), so a series has a bounded number of points.
_RESOLUTION_S = 0.01
# A caller repeats a number that is not 0 each second. One that has not for so long is gone or hangs.
STALE_S = 10.0


class Series:
    """A number over time; each value holds until the next. Remembers what `look_back_s` needs."""

    def __init__(self, look_back_s: float) -> None:
        self.look_back_s = look_back_s
        self._points: deque[tuple[float, float]] = deque()

    def set(self, value: float, now: float) -> None:
        """The number is `value` from `now` on."""
        points = self._points
        if points and points[-1][1] == value:
            return
        if points and now - points[-1][0] < _RESOLUTION_S:
            now = points.pop()[0]
        points.append((now, value))
        self._forget(now)

    def aggregate(self, function: str, now: float) -> float:
        """The time-weighted `mean`, the `max` or the `min` of the last `look_back_s` seconds; 0 before any value."""
        self._forget(now)
        points = self._points
        if not points:
            return 0.0
        if function == "max":
            return max(value for _, value in points)
        if function == "min":
            return min(value for _, value in points)
        start = max(points[0][0], now - self.look_back_s)
        if now <= start:
            return points[-1][1]
        total = sum(value * (end - max(begin, start)) for (begin, value), (end, _) in pairwise([*points, (now, 0.0)]))
        return total / (now - start)

    def points(self) -> Iterator[tuple[float, float]]:
        """(time, value) of each change, oldest first."""
        return iter(self._points)

    def _forget(self, now: float) -> None:
        # The value that held when the time looked at began is the oldest that counts.
        points = self._points
        while len(points) > 1 and points[1][0] <= now - self.look_back_s:
            points.popleft()


class Load:
    """The requests of one deployment: running in its replicas, waiting in its callers; and the replicas' metrics."""

    def __init__(self, look_back_s: float) -> None:
        self.total = Series(look_back_s)
        self.queued = Series(look_back_s)
        # By name, then by replica.
        self.metrics: dict[str, dict[str, Series]] = {}
        self._running: dict[str, int] = {}
        self._waiting: dict[str, tuple[int, float]] = {}

    def look_back(self, look_back_s: float) -> None:
        """Remember as much from now on."""
        own = (series for by_replica in self.metrics.values() for series in by_replica.values())
        for series in (self.total, self.queued, *own):
            series.look_back_s = look_back_s

    def runs(self, replica_id: str, ongoing: int, stats: Mapping[str, float], now: float) -> None:
        """A replica reports."""
        self._running[replica_id] = ongoing
        for name, value in stats.items():
            series = self.metrics.setdefault(name, {}).setdefault(replica_id, Series(self.total.look_back_s))
            series.set(value, now)
        self._sum(now)

    def waits(self, caller: str, queued: int, now: float) -> None:
        """A caller reports."""
        if queued:
            self._waiting[caller] = (queued, now)
        else:
            self._waiting.pop(caller, None)
        self._sum(now)

    def keep(self, replicas: Set[str], callers: Set[str], now: float) -> None:
        """Forget the replicas that do not serve any more, and the callers that are gone."""
        for replica_id in self._running.keys() - replicas:
            del self._running[replica_id]
        for by_replica in self.metrics.values():
            for replica_id in by_replica.keys() - replicas:
                del by_replica[replica_id]
        for caller in self._waiting.keys() - callers:
            del self._waiting[caller]
        self._sum(now)

    @property
    def callers(self) -> Set[str]:
        """Those that said last that calls wait."""
        return self._waiting.keys()

    def expire(self, now: float) -> None:
        """Forget the callers that have not been heard of for STALE_S."""
        for caller in [caller for caller, (_, seen) in self._waiting.items() if now - seen >= STALE_S]:
            del self._waiting[caller]
        self._sum(now)

    def _sum(self, now: float) -> None:
        queued = sum(count for count, _ in self._waiting.values())
        self.queued.set(queued, now)
        self.total.set(queued + sum(self._running.values()), now)
