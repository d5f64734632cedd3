"""The options of an instance: those in force, and what they would be without the applied configuration file. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swerve.generated import control_pb2 as pb


@dataclass(frozen=True, slots=True)
class ServedOptions:
    """What an instance serves, and where.

    `base` is what `in_force` becomes when an applied file names no options. `started` is what the last start of the
    instance asked for: when the next one asks for the same, what was deployed since stays in force. `version` counts
    the changes in a controller's life.
    """

    in_force: pb.InstanceOptions = field(default_factory=pb.InstanceOptions)
    base: pb.InstanceOptions = field(default_factory=pb.InstanceOptions)
    started: pb.InstanceOptions = field(default_factory=pb.InstanceOptions)
    version: int = 1

    @property
    def digest(self) -> str:
        """Differs where options in force or base options do."""
        text = json.dumps([_text(self.in_force), _text(self.base)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """For the store."""
        return json.dumps([_text(self.in_force), _text(self.base), _text(self.started)])

    @staticmethod
    def from_json(text: str) -> ServedOptions:
        in_force, base, started = (pb.InstanceOptions.FromString(base64.b64decode(item)) for item in json.loads(text))
        return ServedOptions(in_force, base, started)


def _text(options: pb.InstanceOptions) -> str:
    return base64.b64encode(options.SerializeToString(deterministic=True)).decode()


def resume(stored: ServedOptions, started: pb.InstanceOptions) -> ServedOptions:
    """The options of an instance that starts, or whose controller does, with what is stored of it.

    The newest decision counts: that of the start if it asks for anything else than the start before it, else what was
    deployed since. A start that asks for the same has looked at the servicer functions again, so its methods are newer.
    """
    if started == stored.started:
        return stored
    if _asked(started) != _asked(stored.started):
        return ServedOptions(started, started, started)
    in_force, base = (
        started if _asked(options) == _asked(started) else options for options in (stored.in_force, stored.base)
    )
    return ServedOptions(in_force, base, started)


def _asked(options: pb.InstanceOptions) -> pb.InstanceOptions:
    """The options without what comes of the servicer functions' code and of where the command ran."""
    asked = pb.InstanceOptions()
    asked.CopyFrom(options)
    for name in ("grpc_methods", "file_descriptors", "sys_path"):
        asked.ClearField(name)
    return asked


def grpc_options(options: pb.InstanceOptions) -> Mapping[str, Any]:
    """The gRPC options by name, none where there is no gRPC."""
    parsed: dict[str, Any] = json.loads(options.grpc_options_json or "{}")
    return parsed


def listening(options: pb.InstanceOptions) -> dict[str, tuple[str, int]]:
    """Host and port of each protocol, "gRPC" and "HTTP", that the proxies are to serve."""
    found = {}
    if options.proxy_location != "Disabled":
        if options.grpc_methods:
            found["gRPC"] = _where(options.grpc_options_json)
        if options.http_options_json:
            found["HTTP"] = _where(options.http_options_json)
    return {protocol: where for protocol, where in found.items() if where[1] > 0}


def _where(options_json: str) -> tuple[str, int]:
    options = json.loads(options_json or "{}")
    return options.get("host") or "", int(options.get("port") or 0)


def num_proxies(options: pb.InstanceOptions) -> int:
    """How many proxies the options ask for: none when there is no port to serve."""
    return max(options.num_proxies, 1) if listening(options) else 0


def servicers_version(options: pb.InstanceOptions) -> str:
    """Changes when the services or their messages do."""
    paths = sorted(method.path.encode() for method in options.grpc_methods)
    return hashlib.blake2b(b"\0".join((*paths, *options.file_descriptors)), digest_size=8).hexdigest()
