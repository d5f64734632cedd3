"""`request_router_config`: Ray's names, the routers' arguments, and the queue."""

import pytest

import swerve as serve
from swerve.config import RequestRouterConfig


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter",
            "swerve.request_router:PowerOfTwoChoicesRequestRouter",
        ),
        ("ray.serve.experimental.round_robin_router:RoundRobinRouter", "swerve.request_router:RoundRobinRouter"),
        ("ray.serve.experimental.round_robin_router.RoundRobinRouter", "swerve.request_router:RoundRobinRouter"),
        (
            "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
            "swerve.request_router:ConsistentHashRouter",
        ),
        ("mine:RoundRobinRouter", "mine:RoundRobinRouter"),
    ],
)
def test_the_names_of_ray_s_routers_are_names_of_those_built_in(given, kept):
    assert RequestRouterConfig(request_router_class=given).request_router_class == kept


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"initial_backoff_s": 0}, "initial_backoff_s"),
        (
            {
                "request_router_class": "swerve.request_router:ConsistentHashRouter",
                "request_router_kwargs": {"virtual_nodes": 0},
            },
            "virtual_nodes must be an integer of at least 1, got 0.",
        ),
        ({"request_router_kwargs": {"x": object()}}, "request_router_kwargs is not JSON-serializable"),
        ({"queue": {"tenant_key": "X-Tenant"}}, "tenant_key must be a metadata key"),
        ({"queue": {"tenant_key": "grpc-timeout"}}, "tenant_key must be a metadata key"),
        ({"queue": {"tenant_key": "tenant-bin"}}, "tenant_key must name text"),
        ({"queue": {"tenant_key": "auth:"}}, "tenant_key must name a property after 'auth:'"),
        ({"queue": {"max_tenants": 0}}, "queue.max_tenants"),
        ({"queue": {"priority_key": "class"}}, "priority_key and priorities must be provided together"),
        ({"queue": {"priorities": ["high"]}}, "priority_key and priorities must be provided together"),
        ({"queue": {"priority_key": "c", "priorities": ["a", "a"]}}, "priorities must be unique"),
        (
            {"queue": {"priority_key": "c", "priorities": ["a"], "default_priority": "b"}},
            "default_priority 'b' is none of the priorities ['a'].",
        ),
        ({"queue": {"tenant": "x"}}, "queue.tenant"),
    ],
)
def test_what_is_wrong_is_named(config, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        serve.deployment(request_router_config=config)(type("Model", (), {}))
