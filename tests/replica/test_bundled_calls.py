"""Calls that come to a replica in bundles."""

import asyncio

from swerve.context import _get_serve_request_context
from swerve.net.bundles import BundleCaller
from swerve.net.client_call import request_headers
from swerve.wire.bundle import pack_headers
from swerve.wire.message import frame
from tests.replica.replica_lab import UNARY, run, until


class Answer:
    """A call in a bundle, as its caller sees it."""

    def __init__(self) -> None:
        self.body = b""
        self.trailers: dict[bytes, bytes] | None = None

    def on_answer(self, headers, body, trailers):
        self.body += body or b""
        if trailers is not None:
            self.trailers = dict(trailers)

    def on_reset(self, error_code):
        raise AssertionError(f"reset: {error_code}")


class Tells:
    """Answers with what it knows of its call."""

    async def Unary(self, request):
        context = _get_serve_request_context()
        timed = "timed" if context.deadline is not None else "untimed"
        known = [context.request_id, context.multiplexed_model_id, context.metadata_field(b"who"), timed]
        return type(request)(text=" ".join(known))


class Waits:
    """Answers with its call's request id, when all that were with it have begun."""

    async def Unary(self, request):
        context = _get_serve_request_context()
        await asyncio.sleep(0)
        assert _get_serve_request_context() is context
        return type(request)(text=context.request_id)


async def bundles_of(lab) -> BundleCaller:
    connection = (await lab.caller()).connection
    bundles = BundleCaller(connection)
    await until(lambda: bundles.ready, "the replica takes bundles")
    return bundles


def test_what_follows_a_block_that_calls_have_in_common_is_each_calls_own(probe):
    async def scenario(lab):
        bundles = await bundles_of(lab)
        common = ((b"request_id", b"common"), (b"multiplexed_model_id", b"m"), (b"who", b"ada"))
        packed = pack_headers(request_headers(UNARY, "test", common))
        one, two = (b"request_id", b"one"), (b"request_id", b"two")
        answers = []
        for added in [(one,), (two, (b"grpc-timeout", b"10S")), ()]:
            answers.append(Answer())
            bundles.call((packed, *added), frame(probe.pb.Note().SerializeToString()), answers[-1])
        await until(lambda: all(answer.trailers == {} for answer in answers), "all answers")
        texts = [probe.pb.Note.FromString(answer.body[5:]).text for answer in answers]
        assert texts == ["one m ada untimed", "two m ada timed", "common m ada untimed"]

    run(scenario, Tells, probe, max_ongoing=3)


def test_each_of_a_bundles_calls_has_its_own_context(probe):
    async def scenario(lab):
        bundles = await bundles_of(lab)
        packed = pack_headers(request_headers(UNARY, "test"))
        answers = [Answer() for _ in range(10)]
        body = frame(probe.pb.Note().SerializeToString())
        for number, answer in enumerate(answers):
            bundles.call((packed, (b"request_id", b"%d" % number)), body, answer)
        await until(lambda: all(answer.trailers == {} for answer in answers), "all answers")
        assert [probe.pb.Note.FromString(answer.body[5:]).text for answer in answers] == list("0123456789")

    run(scenario, Waits, probe, max_ongoing=10)
