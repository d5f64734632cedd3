"""Interceptors: functions of the operator's that see each gRPC call before anything is spent on it.

`interceptors` of the gRPC options names them by import path. Each is a function or an `async def` of one parameter, an
`IncomingCall`, or a class whose objects are called so; every proxy makes one object of it, without arguments. They run
in the proxy, one after another, on its event loop: a plain function must not block.

One refuses the call with `IncomingCall.abort`, or lets it pass and returns None or a mapping of properties. These join
the auth context, which the handler and later interceptors see and no client can forge. In gRPC's C++ servers an
`AuthMetadataProcessor` does the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from swerve.exceptions import InterceptorError
from swerve.grpc_util import GrpcRequest, abort
from swerve.wire import metadata as wire_metadata
from swerve.wire.metadata import Headers, Metadata
from swerve.wire.peer import encode_peer

Properties = Mapping[str, str | bytes | Sequence[str | bytes]]
Interceptor = Callable[["IncomingCall"], Properties | Awaitable[Properties | None] | None]


class IncomingCall(GrpcRequest):
    """A call as an interceptor sees it, with the accessors of a handler's `grpc_context`."""

    def __init__(
        self,
        headers: Headers,
        *,
        method: str,
        application: str,
        request_id: str = "",
        peer: str = "",
        deadline: float | None = None,
    ) -> None:
        super().__init__(headers, request_id=request_id, peer=peer, deadline=deadline)
        self._method = method
        self._application = application
        self._encoded_trailing: Headers = ()

    def method(self) -> str:
        """The RPC's path: "/package.Service/Method"."""
        return self._method

    def application(self) -> str:
        """The application that the call goes to, "" for one of the proxy's own services."""
        return self._application

    def abort(self, code: Any, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Refuse the call with a status other than OK, by raising.

        Raises:
            gRPCStatusError: always; the interceptor should let it pass.
            ValueError: `code` is OK or no status code, or the metadata is such that gRPC cannot carry it.
            TypeError: `details` is no str.
        """
        self._encoded_trailing = wire_metadata.encode(trailing_metadata)
        abort(code, details)

    def _add(self, properties: object) -> None:
        """Take what an interceptor returned.

        Raises:
            TypeError: it is neither None nor a mapping of properties.
            ValueError: the properties are too large together.
        """
        if properties is None:
            return
        if not isinstance(properties, Mapping):
            raise TypeError(
                f"An interceptor must return None or a mapping of properties, and refuse calls by `abort`; "
                f"got {properties!r}."
            )
        context = self.auth_context()
        for key, given in properties.items():
            values = [given] if isinstance(given, str | bytes) else list(given)
            if not isinstance(key, str) or not all(isinstance(value, str | bytes) for value in values):
                raise TypeError(f"A property's key must be a str, its values str or bytes; got {key!r}: {given!r}.")
            context.setdefault(key, []).extend(value.encode() if isinstance(value, str) else value for value in values)
        if properties:
            self._peer = encode_peer(self.peer(), context).decode()


def load(paths: Iterable[str]) -> list[Interceptor]:
    """The interceptors that these import paths ("module:name" or "module.name") name, objects made of classes.

    Raises:
        InterceptorError: one cannot be imported, made, or called with one argument.
    """
    # Only where interceptors are configured, what loads applications is needed.
    from swerve.import_path import place_of

    made: list[Interceptor] = []
    for path in paths:
        found = check(path)
        if inspect.isclass(found):
            try:
                found = found()
            except Exception as error:
                raise InterceptorError(f"The interceptor '{path}' cannot be made: {place_of(error)}") from error
        made.append(found)
    return made


def check(path: str) -> Any:
    """The function or class that an import path names; no object is made of a class.

    Raises:
        InterceptorError: it cannot be imported, or not be called with one argument.
    """
    from swerve.import_path import load_object

    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not name or module == "__main__":
        raise InterceptorError(f"The interceptor '{path}' must be in a module that proxies can import (module:name).")
    try:
        found = load_object(path)
    except ImportError as error:
        raise InterceptorError(f"The interceptor '{path}' cannot be used. {error}") from error
    if fault := _fault(found):
        wanted = "a class whose objects are called with it" if inspect.isclass(found) else "a function of one argument"
        raise InterceptorError(f"The interceptor '{path}' must be {wanted}, an IncomingCall: {fault}.")
    return found


def _fault(found: Any) -> str:
    """Why this is no interceptor and makes none, "" if nothing speaks against it."""
    try:
        if not inspect.isclass(found):
            inspect.signature(found).bind(None)
        elif not any("__call__" in vars(base) for base in found.__mro__):
            return f"{found.__name__} has no __call__"
        else:
            inspect.signature(found).bind()
            inspect.signature(found.__call__).bind(None, None)
    except TypeError as error:
        return str(error)
    except ValueError:
        return ""  # some callables do not tell their signature
    return ""
