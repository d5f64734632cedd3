"""What the handlers of all contenders do, so that nothing but the server differs."""

from bench_pb2 import Chunk, Reply, Request, StreamRequest

# With its tag and its length this makes a message of 100 bytes.
CHUNK = bytes(98)


def greet(request: Request) -> Reply:
    return Reply(greeting=f"Hello {request.name} from {request.origin}", num=request.num * 2)


def chunk() -> Chunk:
    return Chunk(data=CHUNK)


def chunk_for(request: StreamRequest) -> Chunk:
    """A message of the size that `request` asks for."""
    return Chunk(data=bytes(request.size)) if request.size else chunk()
