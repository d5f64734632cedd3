"""Whatever becomes of a call, what came of its request is credit of its connection again."""

import pytest
from replica_lab import COLLECT, HANDLE_STREAM, UNARY, run, until

from swerve.caller import codec
from swerve.generated.http_pb2 import HttpEvent, HttpRequest
from swerve.wire.message import frame

HTTP = "/swerve.control.v1.Http/Request"
GARBAGE = frame(b"\xff" * 100)
HEAD = frame(HttpEvent(request=HttpRequest(path="/")).SerializeToString())
BODY = frame(HttpEvent(body=bytes(1000)).SerializeToString())


class Idle:
    """Reads nothing of what it gets."""

    async def Unary(self, note):
        return note

    async def Collect(self, notes, grpc_context):
        await grpc_context.forever()

    async def __call__(self, request):
        await request.forever()


async def settled(lab, call):
    """The replica has no call any more, and owes its caller nothing."""
    await call.over()
    (connection,) = lab.replica.connections
    await until(lambda: not connection.streams, "the end of the stream")
    assert connection.unacknowledged == 0
    assert lab.replica.ongoing == lab.replica.slots.taken == 0


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (UNARY, GARBAGE),
        (COLLECT, GARBAGE),
        (COLLECT, frame(b"") * 3 + GARBAGE),
        (HTTP, GARBAGE),
        (HTTP, HEAD + BODY + GARBAGE + BODY),
        (HANDLE_STREAM, GARBAGE),
    ],
)
def test_a_request_that_does_not_parse(probe, path, data):
    async def scenario(lab):
        caller = await lab.caller()
        call = caller.open(path)
        # The end of a unary call's request is waited for.
        caller.connection.send_data(call.stream_id, data, end_stream=path == UNARY)
        await settled(lab, call)

    run(scenario, Idle, probe)


def test_of_arguments_that_fail_no_second_message_is_looked_at(probe):
    """It would run a handler for a call that is over, in a slot that nobody gives back."""

    async def scenario(lab):
        caller = await lab.caller()
        call = caller.open(HANDLE_STREAM, ((b"swerve-method", b"Unary"),))
        good = frame(codec.joined(codec.encode(((1,), {}))))
        caller.connection.send_data(call.stream_id, GARBAGE + good)
        await settled(lab, call)

    run(scenario, Idle, probe)
