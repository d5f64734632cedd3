"""The methods that the user's generated `add_X_to_server` functions register: what the gRPC port serves.

The functions are called with a server that only records. Nothing here knows a user's `.proto`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

    from swerve.generated import control_pb2


@dataclass(frozen=True, slots=True)
class ServedMethod:
    """One RPC. The message classes are None where the generated code does not tell (not protobuf)."""

    path: str
    client_streaming: bool
    server_streaming: bool
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    request_class: type | None
    response_class: type | None
    # The RPC's name, which is the name of the deployment's method.
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.path.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Servicers:
    """`methods` by path; `file_descriptors` are serialized FileDescriptorProtos, each after those it imports."""

    methods: Mapping[str, ServedMethod]
    file_descriptors: tuple[bytes, ...]

    def grpc_methods(self) -> list[control_pb2.GrpcMethod]:
        """The method table as it travels to proxies."""
        from swerve.generated import control_pb2

        return [
            control_pb2.GrpcMethod(
                path=method.path, client_streaming=method.client_streaming, server_streaming=method.server_streaming
            )
            for method in self.methods.values()
        ]


class _Servicer:
    """Has every method; generated code reads them, nobody calls them."""

    def __getattr__(self, name: str) -> None:
        return None


class _Recorder:
    """Stands in for a `grpc.Server`. Newer generated code calls both methods, older only the generic one."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        for handler in handlers:
            self.handlers.update(getattr(handler, "_method_handlers", {}))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})


def import_function(path: str) -> Callable[..., Any]:
    """The function that `path` ("pkg.mod.attr" or "pkg.mod:attr") names.

    Raises:
        ModuleNotFoundError: the path is empty, no such module, or one that it imports is missing.
        ImportError: the module raised when it was imported.
        AttributeError: the module has no such attribute.
        ValueError: the attribute is not callable.
    """
    if not path:
        raise ModuleNotFoundError(
            "A servicer function is empty and can't be imported! "
            "Name one as pkg.my_pb2_grpc.add_MyServiceServicer_to_server."
        )
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        if not module_name or not attribute:
            raise ModuleNotFoundError("it must have the form pkg.mod.function")
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} can't be imported! Please make sure there are no typo in those functions. Or you might want to "
            f"rebuild service definitions if .proto file is changed. ({error})"
        ) from error
    except Exception as error:
        raise ImportError(
            f"{path} can't be imported! Module '{module_name}' raised {type(error).__name__}: {error}"
        ) from error
    try:
        function: Callable[..., Any] = getattr(module, attribute)
    except AttributeError as error:
        raise AttributeError(
            f"{path} can't be imported! Module '{module_name}' ({module.__file__}) has no attribute '{attribute}'."
        ) from error
    if not callable(function):
        raise ValueError(f"{path} is not a callable function! Please make sure the function is imported correctly.")
    return function


def load(functions: Iterable[str]) -> Servicers:
    """Imports and calls the functions named by these import paths.

    Raises:
        ImportError, AttributeError, ValueError: as `import_function`; ValueError also for a function that cannot be
            called as `f(servicer, server)` or registers no method.
    """
    methods: dict[str, ServedMethod] = {}
    files: dict[str, bytes] = {}
    for path in functions:
        function = import_function(path)
        recorder = _Recorder()
        try:
            function(_Servicer(), recorder)
        except Exception as error:
            raise ValueError(
                f"{path} failed when it was called with a servicer and a server: {type(error).__name__}: {error}. "
                "Name a generated function such as my_pb2_grpc.add_MyServiceServicer_to_server."
            ) from error
        if not recorder.handlers:
            raise ValueError(
                f"{path} registers no gRPC method. "
                "Name a generated function such as my_pb2_grpc.add_MyServiceServicer_to_server."
            )
        _import_messages(function)
        for method_path, handler in recorder.handlers.items():
            service = _service_of(handler, method_path)
            methods[method_path] = _served_method(method_path, handler, service)
            if service is not None:
                _collect_files(service.file, files)
    return Servicers(methods, tuple(files.values()))


def _import_messages(function: Callable[..., Any]) -> None:
    """Import the `_pb2` module beside a `_pb2_grpc` one: it describes the service. A file that takes all its messages
    from others is not imported by its own generated code."""
    module_name = getattr(function, "__module__", None) or ""
    if module_name.endswith("_pb2_grpc"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module_name.removesuffix("_grpc"))


def _request_class(handler: Any) -> type[Any] | None:
    # Generated code passes the bound class method `Message.FromString`.
    owner = getattr(handler.request_deserializer, "__self__", None)
    return owner if isinstance(owner, type) and hasattr(owner, "DESCRIPTOR") else None


def _service_of(handler: Any, path: str) -> ServiceDescriptor | None:
    request_class = _request_class(handler)
    if request_class is None:
        return None
    try:
        service: ServiceDescriptor = request_class.DESCRIPTOR.file.pool.FindServiceByName(path.split("/")[1])
    except KeyError:
        return None
    return service


def _served_method(path: str, handler: Any, service: ServiceDescriptor | None) -> ServedMethod:
    from google.protobuf.message_factory import GetMessageClass

    descriptor = None if service is None else service.methods_by_name.get(path.rpartition("/")[2])
    return ServedMethod(
        path=path,
        client_streaming=handler.request_streaming,
        server_streaming=handler.response_streaming,
        # grpc's own convention: no serializer means that messages are bytes.
        deserialize=handler.request_deserializer or bytes,
        serialize=handler.response_serializer or bytes,
        request_class=_request_class(handler),
        response_class=None if descriptor is None else GetMessageClass(descriptor.output_type),
    )


def _collect_files(file: FileDescriptor, into: dict[str, bytes]) -> None:
    for dependency in file.dependencies:
        _collect_files(dependency, into)
    into.setdefault(file.name, file.serialized_pb)
