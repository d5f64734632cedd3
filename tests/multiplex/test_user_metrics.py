"""Counter, Gauge and Histogram of user code."""

from __future__ import annotations

import itertools

import pytest
from prometheus_client import REGISTRY

from swerve.context import ReplicaContext, RequestContext, _request_context, set_replica_context
from swerve.metrics import Counter, Gauge, Histogram

_numbers = itertools.count()


@pytest.fixture
def name():
    """A name of the test's own: the registry lives as long as the process."""
    return f"user_metric_{next(_numbers)}"


@pytest.fixture
def replica():
    set_replica_context(ReplicaContext("app", "model", "model#1", None, None))
    yield {"deployment": "model", "replica": "model#1", "application": "app"}
    set_replica_context(None)


def value(series, tags=None):
    return REGISTRY.get_sample_value(f"ray_{series}", tags or {})


def test_a_counter_counts(name):
    counter = Counter(name, description="how many")
    counter.inc()
    counter.inc(2.5)
    assert value(f"{name}_total") == 3.5


@pytest.mark.parametrize(("amount", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
def test_a_counter_only_grows(name, amount, error):
    with pytest.raises(error, match="value must be"):
        Counter(name).inc(amount)


def test_a_gauge_is_set(name):
    gauge = Gauge(name)
    gauge.set(5)
    gauge.set(None)
    assert value(name) == 5


def test_a_histogram_counts_in_its_buckets(name):
    histogram = Histogram(name, boundaries=[1, 10])
    for observed in (0.5, 5, 50):
        histogram.observe(observed)
    assert [value(f"{name}_bucket", {"le": bound}) for bound in ("1.0", "10.0", "+Inf")] == [1, 2, 3]


@pytest.mark.parametrize("boundaries", [None, [], [0, 1]])
def test_a_histogram_needs_boundaries_above_zero(name, boundaries):
    with pytest.raises(ValueError, match="boundaries"):
        Histogram(name, boundaries=boundaries)


def test_tags_default_and_are_given(name):
    counter = Counter(name, tag_keys=("kind", "place"))
    counter.set_default_tags({"place": "here"})
    counter.inc(tags={"kind": "a"})
    counter.inc(tags={"kind": "a", "place": "there"})
    assert value(f"{name}_total", {"kind": "a", "place": "here"}) == 1
    assert value(f"{name}_total", {"kind": "a", "place": "there"}) == 1


def test_tags_are_checked(name):
    counter = Counter(name, tag_keys=("kind",))
    with pytest.raises(ValueError, match="Missing value for tag key"):
        counter.inc()
    with pytest.raises(ValueError, match="Unrecognized tag key other"):
        counter.inc(tags={"other": "x"})
    with pytest.raises(TypeError, match="must be strings"):
        counter.inc(tags={"kind": 1})


def test_a_replica_tags_by_itself(name, replica):
    Counter(name, tag_keys=("kind",)).inc(tags={"kind": "a"})
    assert value(f"{name}_total", {**replica, "kind": "a"}) == 1


def test_a_replicas_own_tags_are_reserved(name, replica):
    with pytest.raises(ValueError, match="'replica' tag is reserved"):
        Counter(name, tag_keys=("replica",))


def test_a_declared_route_is_the_requests(name):
    counter = Counter(name, tag_keys=("route",))
    token = _request_context.set(RequestContext(route="/app"))
    try:
        counter.inc()
    finally:
        _request_context.reset(token)
    assert value(f"{name}_total", {"route": "/app"}) == 1


def test_a_metric_may_be_made_twice_but_only_alike(name):
    Counter(name, tag_keys=("kind",)).inc(tags={"kind": "a"})
    Counter(name, tag_keys=("kind",)).inc(tags={"kind": "a"})
    assert value(f"{name}_total", {"kind": "a"}) == 2
    with pytest.raises(ValueError, match="was made before"):
        Gauge(name)


def test_names_and_keys_are_checked():
    with pytest.raises(TypeError, match="must be a string"):
        Counter(3)
    with pytest.raises(ValueError, match="must not be empty"):
        Counter("")
    with pytest.raises(TypeError, match="tuple of strings"):
        Counter("fine", tag_keys="kind")


def test_info_says_what_a_metric_is(name):
    counter = Counter(name, description="d", tag_keys=("kind",))
    counter.set_default_tags({"kind": "a"})
    assert counter.info == {"name": name, "description": "d", "tag_keys": ("kind",), "default_tags": {"kind": "a"}}
