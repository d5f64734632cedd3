"""A deployment's `request_router_config` as the callers' routers take it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swerve.routing.calls import Affinity
from swerve.routing.choose import Pick, RoundRobin, least_loaded, shorter_of_two
from swerve.routing.lines import QueueOptions
from swerve.routing.sessions import FALLBACK_REPLICAS, VIRTUAL_NODES, SessionAffinity

# The names that `request_router_class` has for the choices that are built in.
POWER_OF_TWO = "swerve.request_router:PowerOfTwoChoicesRequestRouter"
LEAST_LOADED = "swerve.request_router:LeastLoadedRequestRouter"
ROUND_ROBIN = "swerve.request_router:RoundRobinRouter"
CONSISTENT_HASH = "swerve.request_router:ConsistentHashRouter"
BUILT_IN = frozenset({POWER_OF_TWO, LEAST_LOADED, ROUND_ROBIN, CONSISTENT_HASH})


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Times in seconds. `queue` is None for calls that wait in the order of their arrival."""

    request_router_class: str = POWER_OF_TWO
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    # How long a replica that turned a call away gets no new one: at first, times this each time, and at most.
    initial_backoff_s: float = 0.025
    backoff_multiplier: float = 2.0
    max_backoff_s: float = 0.5
    queue: QueueOptions | None = None

    @staticmethod
    def of(config_json: str) -> RouterOptions:
        """From the JSON of `swerve.config.RequestRouterConfig`, checked where it was made; "" for the default."""
        if not config_json:
            return RouterOptions()
        config: dict[str, Any] = json.loads(config_json)
        queue = config.get("queue")
        return RouterOptions(
            request_router_class=config["request_router_class"],
            kwargs=config["request_router_kwargs"],
            initial_backoff_s=config["initial_backoff_s"],
            backoff_multiplier=config["backoff_multiplier"],
            max_backoff_s=config["max_backoff_s"],
            queue=None if queue is None else QueueOptions.of(queue),
        )

    def pick(self) -> Pick:
        """The choice for calls that may go anywhere."""
        match self.request_router_class:
            case "swerve.request_router:LeastLoadedRequestRouter":
                return least_loaded
            case "swerve.request_router:RoundRobinRouter":
                return RoundRobin()
        return shorter_of_two

    def affinity(self) -> Affinity | None:
        """The built-in choice that looks at the call; None where none does."""
        if self.request_router_class != CONSISTENT_HASH:
            return None
        nodes = self.kwargs.get("virtual_nodes", VIRTUAL_NODES)
        return SessionAffinity(nodes, self.kwargs.get("fallback_replicas", FALLBACK_REPLICAS))
