"""The access log: one line a call, formatted and written in batches so that a call pays only for an append."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable

from swerve.observe.logs import JsonFormatter, timestamp
from swerve.wire.status import StatusCode

FLUSH_INTERVAL_S = 0.25
# Lines that wait at most. A full batch is written at once, and holds up the event loop for a fraction of a millisecond.
_MAX_LINES = 200

# gRPC's codes. An HTTP status goes by its number.
_NAMES: dict[int, str] = {code.value: code.name for code in StatusCode}


# (wall clock time of the end, request id, method, route, gRPC status code or HTTP status, seconds, version)
Entry = tuple[float, str, str, str, int, float, str]


class AccessLog:
    """Ray Serve's access lines: `{METHOD} {ROUTE} {STATUS} {latency}ms`, through the process's log handler. Those of a
    canary's calls end with its version."""

    def __init__(self, handler: logging.Handler, component: str, ident: str, loop: asyncio.AbstractEventLoop) -> None:
        self._handler = handler
        self._loop = loop
        self._entries: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None
        self._format = self._formatter(isinstance(handler.formatter, JsonFormatter), component, ident)

    def add(self, request_id: str, method: str, route: str, code: int, seconds: float, version: str = "") -> None:
        """Log a call that ended just now. `seconds` is its duration."""
        entries = self._entries
        entries.append((time.time(), request_id, method, route, code, seconds, version))
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL_S, self.flush)
        elif len(entries) >= _MAX_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._entries = self._entries, []
        if entries:
            text = self._format(entries)
            self._handler.acquire()
            try:
                # The lines are formatted already: the handler's formatter must not prefix the batch.
                record = logging.LogRecord("swerve.access", logging.INFO, "", 0, text, None, None)
                formatter = self._handler.formatter
                self._handler.setFormatter(None)
                self._handler.emit(record)
                self._handler.setFormatter(formatter)
            finally:
                self._handler.release()

    def _formatter(self, json_lines: bool, component: str, ident: str) -> Callable[[list[Entry]], str]:
        base = {"component_name": component, "component_id": ident}

        def as_json(entry: Entry) -> str:
            created, request_id, method, route, code, seconds, version = entry
            status = _NAMES.get(code) or str(code)
            fields = {
                "asctime": timestamp(created),
                "levelname": "INFO",
                **base,
                "request_id": request_id,
                "route": route,
                "method": method,
                "status": status,
                "latency_ms": round(seconds * 1000, 1),
                "serve_access_log": True,
                "message": f"{method} {route} {status} {seconds * 1000:.1f}ms",
            }
            if version:
                fields["version"] = version
            return json.dumps(fields)

        label = f"{component} {ident}"

        def as_text(entries: list[Entry]) -> str:
            # What calls of the same millisecond have in common is made once: a busy proxy ends dozens in each.
            lines = []
            last, prefix = 0, ""
            for created, request_id, method, route, code, seconds, version in entries:
                millisecond = int(created * 1000)
                if millisecond != last:
                    last = millisecond
                    prefix = f"INFO {timestamp(created)} {label} "
                status = _NAMES.get(code) or str(code)
                end = f" {version}" if version else ""
                lines.append(f"{prefix}{request_id} -- {method} {route} {status} {seconds * 1000:.1f}ms{end}")
            return "\n".join(lines)

        return (lambda entries: "\n".join(map(as_json, entries))) if json_lines else as_text
