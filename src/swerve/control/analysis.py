"""How the two sides of a split do, and when a canary is rolled back for its errors. Pure, times are given.

Proxies report which calls have ended. None of it is stored: a controller that starts anew looks at a new window.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from swerve.control.model import Canary, Ended, State
from swerve.statuses import CanaryPhase

# A window is kept in so many parts, which leave it one after the other.
_PARTS = 60
# Over what is counted for people when nothing is rolled back by itself.
_SHOWN_S = 60.0
_TOO_MANY_ERRORS = (
    "{errors} of {calls} calls ({percent:.1f} %) of the last {window:g} s failed, and more than {limit:g} % did for "
    "{since:.1f} s."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a canary is rolled back: `swerve.config.CanaryRollback`."""

    max_error_percent: float
    min_calls: int
    window_s: float
    for_s: float

    @staticmethod
    def of(options_json: str) -> Limits | None:
        """From the JSON of complete `CanaryOptions`; None: never by itself.

        Raises:
            KeyError: they are not complete.
        """
        limits = json.loads(options_json)["rollback"]
        return None if limits is None else Limits(**{name: limits[name] for name in Limits.__slots__})


class Window:
    """What has ended within the last `length_s` seconds."""

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        # (time of the first, what ended) of each part, oldest first.
        self._parts: deque[tuple[float, Ended]] = deque()

    def add(self, ended: Ended, now: float) -> None:
        """These have ended just now."""
        if self._parts and now - self._parts[-1][0] < self.length_s / _PARTS:
            began, others = self._parts.pop()
            self._parts.append((began, others.plus(ended)))
        else:
            self._parts.append((now, ended))
        self._forget(now)

    def total(self, now: float) -> Ended:
        self._forget(now)
        total = Ended()
        for _, ended in self._parts:
            total = total.plus(ended)
        return total

    def _forget(self, now: float) -> None:
        while self._parts and self._parts[0][0] <= now - self.length_s:
            self._parts.popleft()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Since when there are too many errors (None: there are not), and why the canary must go, "" if it may stay."""

    exceeded_since: float | None = None
    reason: str = ""


def judge(limits: Limits, ended: Ended, before: Verdict, now: float) -> Verdict:
    """Whether the canary may stay, from the calls of the window that ends now and the verdict before.

    It must go when, with at least `min_calls` calls in the window, more than `max_error_percent` of them failed, and
    that was found again and again for `for_s` seconds.
    """
    if ended.calls < limits.min_calls or ended.error_percent <= limits.max_error_percent:
        return Verdict()
    since = now if before.exceeded_since is None else before.exceeded_since
    if now - since < limits.for_s:
        return Verdict(since)
    reason = _TOO_MANY_ERRORS.format(
        errors=ended.errors,
        calls=ended.calls,
        percent=ended.error_percent,
        window=limits.window_s,
        limit=limits.max_error_percent,
        since=now - since,
    )
    return Verdict(since, reason)


class _Watched:
    """One canary, beside the release that is the application."""

    def __init__(self, canary: Canary, limits: Limits | None) -> None:
        self.release = canary.application.release
        self.options_json = canary.options_json
        self.limits = limits
        length_s = _SHOWN_S if limits is None else limits.window_s
        self.canary = Window(length_s)
        self.stable = Window(length_s)
        self.verdict = Verdict()


class Analysis:
    """The canaries of one instance that take calls."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}

    @property
    def active(self) -> bool:
        """Whether there is a canary that may have to be rolled back."""
        return any(watched.limits is not None for watched in self._watched.values())

    def follow(self, state: State) -> None:
        """The state has changed. A new canary, or one with new options, is looked at anew."""
        running = {name: item for name, item in state.canaries.items() if item.phase is CanaryPhase.RUNNING}
        for name in self._watched.keys() - running.keys():
            del self._watched[name]
        for name, canary in running.items():
            watched = self._watched.get(name)
            known = None if watched is None else (watched.release, watched.options_json)
            if known != (canary.application.release, canary.options_json):
                self._watched[name] = _Watched(canary, Limits.of(canary.options_json))

    def concluded(self, state: State, now: float) -> State:
        """`state` with what was counted of the canaries that it rolls back, for whatever reason. Before `follow`."""
        counts = self.counts(now)
        canaries = {
            name: replace(canary, ended=counts[name][0], stable_ended=counts[name][1])
            for name, canary in state.canaries.items()
            if name in counts and not canary.active
        }
        return replace(state, canaries={**state.canaries, **canaries}) if canaries else state

    def ended(self, app: str, release: str, ended: Ended, now: float) -> None:
        """Calls of one release have ended."""
        watched = self._watched.get(app)
        if watched is not None:
            window = watched.canary if release == watched.release else watched.stable
            window.add(ended, now)

    def decide(self, now: float) -> list[tuple[str, str, str]]:
        """The canaries that must go: application, release and why."""
        gone = []
        for app, watched in self._watched.items():
            if watched.limits is not None:
                watched.verdict = judge(watched.limits, watched.canary.total(now), watched.verdict, now)
                if watched.verdict.reason:
                    gone.append((app, watched.release, watched.verdict.reason))
        return gone

    def counts(self, now: float) -> Mapping[str, tuple[Ended, Ended]]:
        """What has ended within the window, by application: the canary's calls, then the others."""
        return {app: (one.canary.total(now), one.stable.total(now)) for app, one in self._watched.items()}
