"""The wire layer alone: both ends of a unary exchange, and message framing."""

from typing import Any

from benchmarks.micro.peers import MESSAGE, client_peer, requests, responses, server_peer
from swerve.wire.message import MessageReader, frame


def test_engine_exchange(benchmark: Any) -> None:
    client, server = client_peer(), server_peer()

    def exchange() -> int:
        client.receive_data(responses(server, requests(client)))
        return len(client.events())

    exchange()
    assert benchmark(exchange) > 0


def test_frame_and_read(benchmark: Any) -> None:
    reader = MessageReader(1 << 20)
    assert benchmark(lambda: reader.feed(frame(MESSAGE))) == [MESSAGE]
