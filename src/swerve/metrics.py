"""Metrics of user code: Counter, Gauge and Histogram with Ray Serve's surface and tags, over prometheus-client.

Inside a replica each series is tagged with `deployment`, `replica` and `application` by itself; a metric that declares
the tag key `route` gets the current request's. They stand in prometheus-client's default registry as `ray_<name>`,
as Ray exports them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import prometheus_client

from swerve.context import _request_context, current_replica_context

DEPLOYMENT_TAG, REPLICA_TAG, APPLICATION_TAG = "deployment", "replica", "application"
_REPLICA_TAGS = (DEPLOYMENT_TAG, REPLICA_TAG, APPLICATION_TAG)
ROUTE_TAG = "route"
_PREFIX = "ray_"

# A metric of one name may be made at several places; prometheus-client wants it registered once.
_registered: dict[str, tuple[tuple[Any, ...], Any]] = {}
_registering = threading.Lock()


class _Metric:
    _kind: ClassVar[Any]

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None, **options: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"A metric's name must be a string, got {name!r}.")
        if not name:
            raise ValueError("A metric's name must not be empty.")
        tag_keys = () if tag_keys is None else tag_keys
        if isinstance(tag_keys, str) or not all(isinstance(key, str) for key in tag_keys):
            raise TypeError(f"tag_keys must be a tuple of strings, got {tag_keys!r}.")
        replica = current_replica_context()
        self._own_tags: dict[str, str] = {}
        if replica is not None:
            for key in _REPLICA_TAGS:
                if key in tag_keys:
                    raise ValueError(f"'{key}' tag is reserved for Ray Serve metrics")
            values = (replica.deployment, replica.replica_tag, replica.app_name)
            self._own_tags = dict(zip(_REPLICA_TAGS, values, strict=True))
        self._name = name
        self._description = description
        self._tag_keys = (*self._own_tags, *tag_keys)
        self._default_tags: dict[str, str] = {}
        self._metric = _register(self._kind, name, description, self._tag_keys, options)

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys and default tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def set_default_tags(self, default_tags: Mapping[str, str]) -> None:
        """Values of tags that a call may leave out.

        Raises:
            ValueError: a key was not declared.
            TypeError: a value is no string.
        """
        self._check(default_tags)
        self._default_tags = dict(default_tags)

    def _series(self, tags: Mapping[str, str] | None) -> Any:
        given: Mapping[str, str] = tags or {}
        self._check(given)
        if not self._tag_keys:
            return self._metric
        values = {**self._own_tags, **self._default_tags, **given}
        if ROUTE_TAG in self._tag_keys and ROUTE_TAG not in values:
            context = _request_context.get()
            if context is not None:
                values[ROUTE_TAG] = context.route
        missing = [key for key in self._tag_keys if key not in values]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        return self._metric.labels(*(values[key] for key in self._tag_keys))

    def _check(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be strings, got {value!r} for '{key}'.")


class Counter(_Metric):
    """A number that only grows."""

    _kind = prometheus_client.Counter

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add `value`.

        Raises:
            ValueError: `value` is not above 0, a tag is missing or unknown.
        """
        if not isinstance(value, int | float):
            raise TypeError(f"value must be a number, got {value!r}.")
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        self._series(tags).inc(value)


class Gauge(_Metric):
    """A number that goes up and down."""

    _kind = prometheus_client.Gauge

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """Replace the value; None changes nothing.

        Raises:
            ValueError: a tag is missing or unknown.
        """
        if value is None:
            return
        if not isinstance(value, int | float):
            raise TypeError(f"value must be a number, got {value!r}.")
        self._series(tags).set(value)


class Histogram(_Metric):
    """A distribution, counted in buckets whose upper bounds are `boundaries`."""

    _kind = prometheus_client.Histogram

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        if not boundaries:
            raise ValueError("boundaries argument should be provided when using the Histogram class.")
        if any(boundary <= 0 for boundary in boundaries):
            raise ValueError(f"Invalid `boundaries`: all must be above 0, got {list(boundaries)}.")
        super().__init__(name, description, tag_keys, buckets=tuple(boundaries))
        self.boundaries = list(boundaries)

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count `value`.

        Raises:
            ValueError: a tag is missing or unknown.
        """
        if not isinstance(value, int | float):
            raise TypeError(f"value must be a number, got {value!r}.")
        self._series(tags).observe(value)


def _register(kind: Any, name: str, description: str, tag_keys: tuple[str, ...], options: dict[str, Any]) -> Any:
    made_as = (kind, tag_keys, *sorted(options.items()))
    with _registering:
        known = _registered.get(name)
        if known is None:
            metric = kind(_PREFIX + name, description, tag_keys, **options)
            _registered[name] = (made_as, metric)
            return metric
    if known[0] != made_as:
        raise ValueError(f"Metric '{name}' was made before as another kind, or with other tag keys or boundaries.")
    return known[1]
