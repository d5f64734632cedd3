"""The body of an HTTP request on its way to a replica, when its client is slow, stops or goes away."""

import asyncio
import sys

import pytest

from swerve.generated.http_pb2 import HttpEvent, HttpRequest
from swerve.net.stalls import PROGRESS
from swerve.proxy.http_call import HttpCall
from swerve.proxy.http_exchange import STALLED, upload_body
from swerve.wire.message import MessageReader
from swerve.wire.status import StatusCode


class Call:
    """What an upload tells its call. `pace` seconds pass before the replica takes what is written."""

    def __init__(self, pace: float = 0.0) -> None:
        self.pace = pace
        self.body = b""
        self.complete = False
        self.ended: StatusCode | None = None

    async def write(self, event, *, last=False):
        await asyncio.sleep(self.pace)
        self.body += event.body if event is not None else b""
        self.complete = last

    def give_up(self, code, details):
        self.ended = code

    def cancel(self):
        self.give_up(StatusCode.CANCELLED, "")


def part(size: int, *, more: bool = True) -> dict:
    return {"type": "http.request", "body": bytes(size), "more_body": more}


GONE = {"type": "http.disconnect"}


def upload(*steps, pace: float = 0.0, **given) -> Call:
    """Upload what the client sends: events, and between them seconds in which it sends nothing."""
    left = list(steps)
    call = Call(pace)

    async def receive():
        if left and isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))
        if left:
            return left.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with asyncio.timeout(20):
            await upload_body(receive, call, **{"detached": False, **given})

    asyncio.run(run())
    return call


def test_a_client_that_stops_in_its_body_is_given_up():
    call = upload(part(10), stall_timeout_s=0.05)
    assert call.ended == STALLED
    assert call.body == bytes(10)


def test_a_byte_at_a_time_does_not_put_it_off():
    steps = [0.02, part(1)] * 1000
    assert upload(*steps, stall_timeout_s=0.1).ended == STALLED


def test_a_client_that_goes_on_has_the_time_again():
    steps = [0.4, part(PROGRESS)] * 4
    call = upload(*steps, 0.4, part(1, more=False), GONE, stall_timeout_s=1.5)
    assert call.complete
    assert len(call.body) == 4 * PROGRESS + 1


def test_time_in_which_the_replica_takes_nothing_does_not_count():
    call = upload(part(1), part(1), part(1, more=False), GONE, pace=0.2, stall_timeout_s=0.3)
    assert call.complete


def test_a_complete_request_waits_for_its_answer_as_long_as_it_takes():
    assert upload(part(1, more=False), 0.3, GONE, stall_timeout_s=0.1).ended == StatusCode.CANCELLED


def test_without_a_limit_a_client_may_pause():
    assert upload(part(1), 0.2, part(1, more=False), GONE).complete


@pytest.mark.parametrize(
    ("steps", "ended"),
    [((part(1), GONE), StatusCode.CANCELLED), ((part(1, more=False), GONE), None)],
    ids=["in its body", "after it"],
)
def test_a_client_that_goes_away_ends_a_detached_call_only_in_its_body(steps, ended):
    assert upload(*steps, detached=True).ended == ended


def test_tiny_chunks_that_wait_take_little_more_than_their_bytes():
    class Busy:
        def submit(self, call):
            """No replica has a slot."""

    async def write_all():
        call = HttpCall(Busy(), HttpEvent(request=HttpRequest()), None)
        call.begin(whole=False)
        for _ in range(20_000):
            await call.write(HttpEvent(body=b"x"))
        return call._kept

    kept = asyncio.run(write_all())
    whole = MessageReader(1000).feed(b"".join(kept))
    assert [HttpEvent.FromString(message).body for message in whole[1:]] == [b"x"] * 20_000
    assert sum(map(sys.getsizeof, kept)) < 1.1 * sum(map(len, kept))
