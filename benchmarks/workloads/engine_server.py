"""The handler straight on the HTTP/2 engine, with nothing between: `engine_server.py ADDRESS`.

No routing, deadlines, limits, logs or isolation, and every request is taken for a complete one. It is no contender but
a measure: what one Python process can do at most, and so a proxy that has the same clients before it.
"""

import asyncio
import signal
import struct
import sys
from typing import cast

import ngh2
import uvloop
from bench_pb2 import Request
from handlers import greet

RESPONSE = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS = ((b"grpc-status", b"0"),)
WRITE_SIZE = 1 << 18


class Direct(asyncio.Protocol):
    """One client's connection."""

    def __init__(self) -> None:
        self.engine = ngh2.Connection(ngh2.Role.SERVER, ngh2.Configuration())
        self.engine.initiate_connection({})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        engine = self.engine
        engine.receive_data(data)
        for event in engine.events():
            if type(event) is ngh2.DataReceived:
                reply = greet(Request.FromString(event.data[5:])).SerializeToString()
                engine.send_response(event.stream_id, RESPONSE)
                engine.send_data(event.stream_id, struct.pack(">BI", 0, len(reply)) + reply)
                engine.send_trailers(event.stream_id, TRAILERS)
        self.flush()

    def flush(self) -> None:
        data = self.engine.data_to_send(WRITE_SIZE)
        if data:
            self.transport.write(data)
        self.engine.events()


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
