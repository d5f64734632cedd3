"""The RPCs that are called, each with a request and what must come back. Needs the compiled stubs."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from benchmarks import h2load
from benchmarks.h2load import Load

TIMEOUT_S = 30.0
MESSAGES_PER_STREAM = 1000


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC with a request and the messages that answer it, as bytes."""

    path: str
    request: bytes
    replies: Sequence[bytes]
    application: str = ""

    def load(self, connections: int, streams: int, calls_per_s: float | None = None) -> Load:
        size = sum(len(h2load.frame(reply)) for reply in self.replies)
        return Load(self.path, self.request, size, connections, streams, self.application, calls_per_s)

    def check(self, address: str) -> None:
        """Make one call with grpcio; `RuntimeError` unless it ends OK with the right messages."""
        metadata = (("application", self.application),) if self.application else ()
        with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
            # A unary answer is on the wire a stream of one message.
            call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(self.path)
            got = list(call(self.request, timeout=TIMEOUT_S, metadata=metadata))
        if got != self.replies:
            raise RuntimeError(f"{self.path} at {address} answered {len(got)} messages that are not the expected ones")


def unary(application: str = "") -> Method:
    from bench_pb2 import Request
    from handlers import greet

    request = Request(name="foo", origin="bar", num=30)
    return Method("/bench.Bench/Unary", request.SerializeToString(), [greet(request).SerializeToString()], application)


def stream() -> Method:
    from bench_pb2 import StreamRequest
    from handlers import chunk

    request = StreamRequest(messages=MESSAGES_PER_STREAM)
    return Method(
        "/bench.Bench/Stream", request.SerializeToString(), [chunk().SerializeToString()] * MESSAGES_PER_STREAM
    )


def echo(size: int) -> Method:
    """A message of `size` bytes of data, there and back."""
    from bench_pb2 import Chunk

    message = Chunk(data=bytes(size)).SerializeToString()
    return Method("/bench.Bench/Echo", message, [message])
