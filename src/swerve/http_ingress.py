"""`@serve.ingress`: a deployment's class answers HTTP with an ASGI application."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar, cast

Class = TypeVar("Class", bound=type)

# The attribute of a class that holds its application.
INGRESS_APP = "__serve_ingress_app__"


def is_ingress(instance: object) -> bool:
    """Whether `@serve.ingress` made the instance's class."""
    return hasattr(type(instance), INGRESS_APP)


def ingress(app: Any) -> Callable[[Class], Class]:
    """Wraps a class so that its deployment serves HTTP with `app`; decorate the result with `@serve.deployment`.

    `app` is a FastAPI application (its routes may be methods of the class), any other ASGI application, a function that
    builds one, or None: then the class's `__serve_build_asgi_app__` method builds it. Building happens in the replica.

    Raises:
        ValueError: what it decorates is no class, or has a `__call__` method.
    """

    def decorator(cls: Class) -> Class:
        if not inspect.isclass(cls):
            raise ValueError("@serve.ingress must be used with a class.")
        if "__call__" in dir(cls):
            raise ValueError("Classes passed to @serve.ingress may not have __call__ method.")
        if app is None and not callable(getattr(cls, "__serve_build_asgi_app__", None)):
            raise ValueError("@serve.ingress(None) needs a class with a `__serve_build_asgi_app__` method.")
        if hasattr(app, "routes"):
            from swerve.fastapi_routes import make_picklable

            make_picklable()
        # A class of its own: the one given may get other applications elsewhere.
        attributes = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            INGRESS_APP: app,
        }
        return cast(Class, types.new_class(cls.__name__, (cls,), exec_body=lambda body: body.update(attributes)))

    return decorator
