"""Codes that a WebSocket is closed with (RFC 6455, section 7.4.1). Those that say how it ended are never sent."""

from __future__ import annotations

NORMAL_CLOSURE = 1000
GOING_AWAY = 1001
NO_STATUS = 1005
ABNORMAL_CLOSURE = 1006
INTERNAL_ERROR = 1011
