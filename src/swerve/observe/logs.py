"""Where a process's log lines go: a rotating file of its own, in Ray Serve's layout, as text or as JSON."""

from __future__ import annotations

import functools
import json
import logging
import logging.handlers
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Ray Serve's rotation.
_MAX_BYTES = 512 * 1024 * 1024
_BACKUPS = 5


class TextFormatter(logging.Formatter):
    """`LEVEL time component id [request_id] -- message`, Ray Serve's line."""

    def __init__(self, component: str, ident: str) -> None:
        super().__init__()
        self._component = f"{component} {ident}"

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        request_id = getattr(record, "request_id", "")
        middle = f" {request_id}" if request_id else ""
        return f"{record.levelname} {timestamp(record.created)} {self._component}{middle} -- {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, component: str, ident: str) -> None:
        super().__init__()
        self._base = {"component_name": component, "component_id": ident}

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "asctime": timestamp(record.created),
            "levelname": record.levelname,
            "logger": record.name,
            **self._base,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", "")
        if request_id:
            fields["request_id"] = request_id
        if record.exc_info:
            fields["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def timestamp(seconds: float) -> str:
    """Local time with milliseconds, as `logging` writes it."""
    whole = int(seconds)
    return f"{_whole_second(whole)},{int((seconds - whole) * 1000):03d}"


# The lines of a batch are of the same second, or of two.
@functools.lru_cache(maxsize=4)
def _whole_second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def configure(component: str, ident: str, folder: Path, name: str, config: Mapping[str, Any]) -> logging.Handler:
    """Send the loggers `swerve` and `ray.serve` (which user code may use) to `folder/name.log`.

    `config` is the JSON of `swerve.config.LoggingConfig`. Returns the handler, which the access log shares.

    Raises:
        OSError: the file cannot be opened.
    """
    directory = Path(config.get("logs_dir") or folder)
    directory.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        directory / f"{name}.log", maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8"
    )
    json_lines = config.get("encoding") == "JSON"
    handler.setFormatter(JsonFormatter(component, ident) if json_lines else TextFormatter(component, ident))
    level = config.get("log_level") or "INFO"
    for logger_name in ("swerve", "ray.serve"):
        logger = logging.getLogger(logger_name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    return handler
