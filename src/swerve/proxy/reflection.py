"""gRPC server reflection over the file descriptors of the served services.

Source: grpc.reflection.v1 and v1alpha. Ray Serve's own service is not listed, as there. All that is listed can be
found: clients that ask for a list mostly ask for everything on it next, and give up at what is not known.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from swerve.wire.status import RpcError, Status, StatusCode

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_STANDARD_SERVICES = frozenset(("grpc.health.v1.Health", *_SERVICES))


class Reflection:
    """Answers reflection requests. The pool is its own: nothing is registered process-wide."""

    PATHS = tuple(f"/{service}/ServerReflectionInfo".encode() for service in _SERVICES)

    def __init__(self) -> None:
        self._serialized: tuple[bytes, ...] = ()
        self._services: frozenset[str] = frozenset()
        self._pool: DescriptorPool | None = None

    def update(self, file_descriptors: Iterable[bytes], services: frozenset[str]) -> None:
        """Serve these files (serialized FileDescriptorProtos, imports first) and list `services`."""
        serialized = tuple(file_descriptors)
        if serialized != self._serialized:
            self._serialized = serialized
            self._pool = None
        self._services = services

    def answer(self, message: bytes) -> bytes:
        """The response to one ServerReflectionRequest.

        Raises:
            RpcError: INVALID_ARGUMENT when `message` is none.
        """
        from grpc_reflection.v1alpha import reflection_pb2 as pb  # only a client that reflects pays for it

        try:
            request = pb.ServerReflectionRequest.FromString(message)
        except Exception as error:
            raise RpcError(Status(StatusCode.INVALID_ARGUMENT, "The request is no ServerReflectionRequest.")) from error
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        if request.HasField("list_services"):
            names = sorted(self._services | _STANDARD_SERVICES)
            response.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in names)
            return bytes(response.SerializeToString())
        try:
            files = self._find(request)
        except KeyError:
            response.error_response.error_code = int(StatusCode.NOT_FOUND)
            response.error_response.error_message = "Nothing of that name is served here."
            return bytes(response.SerializeToString())
        response.file_descriptor_response.file_descriptor_proto.extend(files)
        return bytes(response.SerializeToString())

    def _find(self, request: Any) -> list[bytes]:
        with contextlib.suppress(KeyError):
            return _with_imports(_file_asked_for(self._pool or self._make_pool(), request))
        return _with_imports(_file_asked_for(_standard_pool(), request))

    def _make_pool(self) -> DescriptorPool:
        from google.protobuf.descriptor_pool import DescriptorPool

        self._pool = DescriptorPool()
        for serialized in self._serialized:
            self._pool.AddSerializedFile(serialized)
        return self._pool


@functools.cache
def _standard_pool() -> DescriptorPool:
    """The files of the standard services. Not in one pool with the users', who may have files of the same names."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.text_format import Parse
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    # Version 1 differs by its name alone, and grpcio-reflection does not have it.
    first = Parse(str(alpha).replace("v1alpha", "v1"), FileDescriptorProto())
    first.options.ClearField("deprecated")
    pool = DescriptorPool()
    for serialized in (health_pb2.DESCRIPTOR.serialized_pb, alpha.SerializeToString(), first.SerializeToString()):
        pool.AddSerializedFile(serialized)
    return pool


def _file_asked_for(pool: DescriptorPool, request: Any) -> FileDescriptor:
    if request.HasField("file_by_filename"):
        return pool.FindFileByName(request.file_by_filename)
    if request.HasField("file_containing_symbol"):
        return _file_containing(pool, request.file_containing_symbol)
    # proto3 has no extensions but those of options, which no served file adds.
    raise KeyError


def _file_containing(pool: DescriptorPool, symbol: str) -> FileDescriptor:
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        # The protocol allows a method's name, which the pool does not look for.
        service_name, _, method = symbol.rpartition(".")
        service = pool.FindServiceByName(service_name)
        if method not in service.methods_by_name:
            raise
        return service.file


def _with_imports(file: FileDescriptor) -> list[bytes]:
    """The file and all that it imports, serialized, each once."""
    found: dict[str, bytes] = {}
    pending = [file]
    while pending:
        current = pending.pop()
        if current.name not in found:
            found[current.name] = current.serialized_pb
            pending.extend(current.dependencies)
    return list(found.values())
