"""FastAPI routes that are methods of a deployment's class: bound to the replica's instance, and sent to it.

FastAPI is the user's choice, so it is used only where it has been imported already.
"""

from __future__ import annotations

import copyreg
import inspect
import sys
import threading
from typing import Any

_LOCK = type(threading.Lock())


def bind_methods(app: Any, instance: object) -> None:
    """Replace each route of `app` that is a method of the instance's class by one that calls it on `instance`."""
    routing = sys.modules.get("fastapi.routing")
    if routing is None:
        return
    owners = {(cls.__module__, cls.__qualname__) for cls in type(instance).__mro__}
    _bind(app, instance, owners, (routing.APIRoute, routing.APIWebSocketRoute))


def _bind(router: Any, instance: object, owners: set[tuple[str, str]], kinds: tuple[type[Any], ...]) -> None:
    routes = router.routes
    for index, route in enumerate(routes):
        included = getattr(route, "original_router", None)
        if included is not None:
            # Newer FastAPI keeps a router that was included as one route.
            _bind(included, instance, owners, kinds)
        elif isinstance(route, kinds) and _owner(route.endpoint) in owners:
            routes[index] = _rebuilt(route, route.endpoint.__get__(instance))


def _owner(endpoint: Any) -> tuple[str, str]:
    qualname: str = getattr(endpoint, "__qualname__", "")
    return getattr(endpoint, "__module__", ""), qualname.rpartition(".")[0]


def _rebuilt(route: Any, endpoint: Any) -> Any:
    """A route like `route` with another endpoint: its constructor's arguments are attributes of the same names."""
    kind = type(route)
    names = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "path", "endpoint")]
    return kind(route.path, endpoint, **{name: getattr(route, name) for name in names if hasattr(route, name)})


def make_picklable() -> None:
    """Let Starlette and FastAPI applications go to their replicas, which some parts of them forget to allow."""
    from starlette.datastructures import State

    copyreg.pickle(State, _reduce_state)
    # Newer FastAPI keeps a lock in each router that was included.
    included = getattr(sys.modules.get("fastapi.routing"), "_IncludedRouter", None)
    if included is not None:
        copyreg.pickle(included, _reduce)


def _reduce_state(state: Any) -> Any:
    return type(state), (state._state,)


def _reduce(route: Any) -> Any:
    locks = [name for name, value in vars(route).items() if isinstance(value, _LOCK)]
    state = {name: value for name, value in vars(route).items() if name not in locks}
    return copyreg.__newobj__, (type(route),), (state, locks), None, None, _restore  # type: ignore[attr-defined]  # typeshed leaves it out


def _restore(route: Any, state: tuple[dict[str, Any], list[str]]) -> None:
    vars(route).update(state[0])
    for name in state[1]:
        setattr(route, name, threading.Lock())
