"""The handler straight on the HTTP/2 engine, with nothing between: `engine_server.py ADDRESS`.

No routing, deadlines, limits, logs or isolation, and every request is taken for a complete one. It is no contender but
a measure: what one Python process can do at most, and so a proxy that has the same clients before it.
"""

import asyncio
import signal
import sys
from typing import cast

import uvloop
from bench_pb2 import Request
from handlers import greet

from swerve.net.server_call import OK_TRAILERS, RESPONSE_HEADERS
from swerve.wire.events import BODY, WHOLE_REQUEST
from swerve.wire.http2 import Http2
from swerve.wire.limits import Http2Limits
from swerve.wire.message import PREFIX_SIZE, frame

WRITE_SIZE = 1 << 18


class Direct(asyncio.Protocol):
    """One client's connection."""

    def __init__(self) -> None:
        self.http2 = Http2(server=True, limits=Http2Limits())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        http2 = self.http2
        http2.receive(data)
        for event in http2.events():
            if event[0] == WHOLE_REQUEST:
                self.answer(event[1], event[3])
            elif event[0] == BODY:
                self.answer(event[1], event[2])
        self.flush()

    def answer(self, stream_id: int, body: bytes) -> None:
        reply = greet(Request.FromString(body[PREFIX_SIZE:])).SerializeToString()
        self.http2.acknowledge(len(body), stream_id)
        self.http2.respond(stream_id, RESPONSE_HEADERS, frame(reply), OK_TRAILERS)

    def flush(self) -> None:
        data = self.http2.data_to_send(WRITE_SIZE)
        if data:
            self.transport.write(data)


async def main(address: str) -> None:
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Direct, host, int(port))
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, stopped.set)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
