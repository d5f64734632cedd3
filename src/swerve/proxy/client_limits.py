"""The limits on gRPC clients, from the instance's options."""

from __future__ import annotations

import functools
import logging
import resource
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from swerve.net.limits import ConnectionLimits
from swerve.net.listener import ListenOptions
from swerve.proxy.forward import CLIENT_WINDOW
from swerve.proxy.request_watch import RequestLimits
from swerve.wire.limits import Http2Limits

logger = logging.getLogger("swerve.proxy")

# File descriptors that a proxy needs beside its clients' connections: replicas, logs, the event loop, HTTP.
_OTHER_FILES = 256


def listen_options(options: Mapping[str, Any]) -> ListenOptions:
    """What the gRPC port takes from its clients (`options`: JSON of `swerve.config.gRPCOptions`)."""
    return ListenOptions(
        limits=Http2Limits(stream_window=CLIENT_WINDOW, **_named(Http2Limits, options)),
        connection_limits=ConnectionLimits(**_named(ConnectionLimits, options)),
        max_connections=options.get("max_connections"),
        max_connections_per_client=options.get("max_connections_per_client"),
    )


def request_limits(options: Mapping[str, Any]) -> RequestLimits:
    """What requests may hold in the proxy."""
    return RequestLimits(**_named(RequestLimits, options))


def _named(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have the names of `kind`'s fields; others keep their defaults."""
    return {field.name: options[field.name] for field in fields(kind) if field.name in options}


@functools.cache
def room_for(*wanted: int) -> tuple[int, ...]:
    """How many of the connections that each port wants fit into the files that this process may open, after raising
    that to the system's hard limit: a process that has used up its descriptors can reach no replica either."""
    total = sum(wanted)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < total + _OTHER_FILES:
        soft = total + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(total + _OTHER_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = max(0, soft - _OTHER_FILES)
    if total <= room:
        return wanted
    fitting = tuple(max(1, count * room // total) if count else 0 for count in wanted)
    logger.warning(
        "Taking %d connections and not %d (max_connections): the system lets a process open %d files (ulimit -n)",
        sum(fitting),
        total,
        soft,
    )
    return fitting
