"""The options of the way to a replica: which router chooses it, and in which order calls wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from swerve.config_base import Options, PositiveFloat, import_path_of, require_json
from swerve.routing.options import BUILT_IN, CONSISTENT_HASH
from swerve.wire.metadata import KEY
from swerve.wire.peer import AUTH_PREFIX


class QueueConfig(Options):
    """In which order calls wait for a replica, Swerve's own. Off, they wait in the order of their arrival.

    Calls are served by priority class and, within a class, tenants take turns. When `max_queued_requests` calls wait,
    a call of a tenant with fewer takes the place of the newest one of the tenant with the most. A key names metadata
    (or HTTP headers), which clients choose, or as "auth:NAME" a property of the auth context, which interceptors and
    certificates decide.
    """

    model_config = ConfigDict(extra="forbid")

    tenant_key: str | None = None
    # Tenants that wait beyond so many share one turn with those who name none.
    max_tenants: Annotated[int, Field(gt=0, le=10_000)] = 256
    priority_key: str | None = None
    # The classes' names, the most urgent first. A call that names none of them is of the default class.
    priorities: list[str] = Field(default_factory=list)
    default_priority: str | None = None

    @field_validator("tenant_key", "priority_key")
    @classmethod
    def _key(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value.startswith(AUTH_PREFIX):
            if value == AUTH_PREFIX:
                raise ValueError(f"{info.field_name} must name a property after {AUTH_PREFIX!r}; got {value!r}.")
            return value
        if value is not None and (not KEY.fullmatch(value) or value.startswith(("grpc-", "swerve-"))):
            raise ValueError(
                f"{info.field_name} must be a metadata key: lower-case letters, digits, '_', '-' and '.', without the "
                f"prefixes 'grpc-' and 'swerve-'; or {AUTH_PREFIX!r} and a property's name; got {value!r}."
            )
        if value is not None and value.endswith("-bin"):
            raise ValueError(f"{info.field_name} must name text, not binary metadata; got {value!r}.")
        return value

    @model_validator(mode="after")
    def _classes(self) -> QueueConfig:
        if (self.priority_key is None) != (not self.priorities):
            raise ValueError("priority_key and priorities must be provided together.")
        if len(set(self.priorities)) != len(self.priorities):
            raise ValueError(f"priorities must be unique, got: {self.priorities}.")
        if self.default_priority is not None and self.default_priority not in self.priorities:
            raise ValueError(f"default_priority {self.default_priority!r} is none of the priorities {self.priorities}.")
        return self


class RequestRouterConfig(Options):
    """Which router chooses a replica for a call, how it waits, and, Swerve's own, in which order (`queue`)."""

    request_router_class: str | Callable[..., Any] = "swerve.request_router:PowerOfTwoChoicesRequestRouter"
    request_router_kwargs: dict[str, Any] = Field(default_factory=dict)
    request_routing_stats_period_s: PositiveFloat = 10.0
    request_routing_stats_timeout_s: PositiveFloat = 30.0
    initial_backoff_s: PositiveFloat = 0.025
    backoff_multiplier: PositiveFloat = 2.0
    max_backoff_s: PositiveFloat = 0.5
    queue: QueueConfig | None = None

    @field_validator("request_router_class")
    @classmethod
    def _path(cls, value: Any) -> str:
        path = import_path_of(value)
        module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
        # Ray's names for the routers that are built in here.
        ours = f"swerve.request_router:{name}"
        return ours if ours in BUILT_IN and module.startswith(("ray.serve.", "swerve.")) else path

    @field_validator("request_router_kwargs", mode="before")
    @classmethod
    def _json(cls, value: Any) -> Any:
        require_json("request_router_kwargs", value)
        return {} if value is None else value

    @model_validator(mode="after")
    def _hashing(self) -> RequestRouterConfig:
        if self.request_router_class == CONSISTENT_HASH:
            for name, least in (("virtual_nodes", 1), ("fallback_replicas", 0)):
                value = self.request_router_kwargs.get(name, least)
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
        return self
