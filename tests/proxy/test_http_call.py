"""A request's call on the link to its replica, in memory."""

import asyncio
from types import SimpleNamespace

import pytest

from swerve.generated.http_pb2 import HttpEvent, HttpRequest
from swerve.proxy.http_call import HttpCall
from swerve.wire.frames import ErrorCode
from swerve.wire.message import frame
from tests.net.net_support import RESPONSE, TRAILERS, Pair

PART = frame(HttpEvent(body=bytes(10_000)).SerializeToString())


class Target:
    """A deployment whose router is not asked."""

    app = "app"

    def __init__(self):
        self.released = []
        self.router = SimpleNamespace(retry_after_s=lambda: 3.0)

    def release(self, replica, call):
        self.released.append(replica)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def begin(pair: Pair) -> HttpCall:
    call = HttpCall(Target(), HttpEvent(request=HttpRequest()), None)
    call.send(SimpleNamespace(link=pair.client))
    pair.run()
    return call


def answer(pair: Pair, parts: int) -> None:
    """The replica sends so many parts of an answer."""
    (served,) = pair.served
    pair.server.send_headers(served.stream_id, RESPONSE)
    for _ in range(parts):
        pair.server.send_data(served.stream_id, PART)
    pair.run()


def answered(pair: Pair, parts: int) -> HttpCall:
    """A call of which so many parts of the answer have come. Nobody has read them yet."""
    call = begin(pair)
    answer(pair, parts)
    return call


def test_an_answer_that_is_not_read_keeps_its_credit(pair):
    answered(pair, 3)
    assert pair.client.unacknowledged == 3 * len(PART)


def test_a_call_that_is_given_up_leaves_the_credit_of_what_was_not_read(pair):
    call = answered(pair, 3)
    call.cancel()
    pair.run()
    assert pair.client.unacknowledged == 0
    assert len(call.target.released) == 1


def test_what_comes_behind_the_end_of_a_call_is_credited_at_once(pair):
    call = begin(pair)
    received = call.event_received

    def give_up(message):
        received(message)
        call.cancel()

    call.event_received = give_up
    answer(pair, 3)
    assert pair.client.unacknowledged == 0


def test_an_answer_that_is_complete_gives_its_credit_back_and_can_be_read(pair):
    call = answered(pair, 3)
    asyncio.run(call.write(None, last=True))
    pair.server.send_trailers(pair.served[0].stream_id, TRAILERS)
    pair.run()
    assert pair.client.unacknowledged == 0

    async def read_all():
        return [event async for event in aiter_events(call)]

    assert len(asyncio.run(read_all())) == 3
    assert pair.client.unacknowledged == 0


def test_a_call_whose_replica_is_lost_knows_when_to_come_again(pair):
    call = begin(pair)
    pair.client.connection_lost(None)
    assert call.retry_after_s == 3.0


def test_a_call_that_fails_otherwise_is_not_asked_to_come_again(pair):
    call = begin(pair)
    pair.server.reset(pair.served[0].stream_id, ErrorCode.INTERNAL_ERROR)
    pair.run()
    assert call.retry_after_s is None


async def aiter_events(call: HttpCall):
    while (event := await call.read()) is not None:
        yield event
