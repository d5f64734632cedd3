"""Both ends of a bundle stream, over two connections joined in memory."""

import math
from dataclasses import dataclass, field

import msgpack
import pytest

from swerve.net.bundles import BundleCaller, BundleServer
from swerve.net.connection import CALLS_PER_WRITE
from swerve.net.pace import Pace
from swerve.net.server_call import RESPONSE_HEADERS
from swerve.net.streams import CONNECTION_LOST
from swerve.wire import bundle
from swerve.wire.frames import ErrorCode
from tests.net.net_support import REQUEST, TRAILERS, Pair

FAILED = ((b":status", b"200"), (b"grpc-status", b"5"))


@dataclass
class Asked:
    """A call as its caller sees it. It gives credit when `reads`."""

    bundles: BundleCaller
    number: int = 0
    reads: bool = True
    headers: object = None
    body: bytes = b""
    trailers: object = None
    parts: int = 0
    resets: list[int] = field(default_factory=list)

    def on_answer(self, headers, body, trailers):
        self.headers = headers or self.headers
        self.parts += 1
        self.body += body or b""
        self.trailers = trailers
        if body and trailers is None and self.reads:
            self.bundles.give_credit(self.number, len(body))

    def on_reset(self, error_code):
        self.resets.append(error_code)


@dataclass
class Served:
    """A call as its server sees it."""

    headers: object
    body: bytes = b""
    ended: bool = False
    closed: list[int] = field(default_factory=list)

    def on_data(self, data, end_stream):
        self.body += data
        self.ended = end_stream

    def on_closed(self, error_code):
        self.closed.append(error_code)


class Ends:
    """A caller and a server. `served` are the calls that arrived, by number; `turn_away` the next ones that do not."""

    def __init__(self):
        self.pair = Pair(accept=self._accept_stream)
        self.served: dict[int, Served] = {}
        self.turn_away = False
        self.pace = Pace()
        self.server: BundleServer | None = None
        self.pair.run()
        self.caller = BundleCaller(self.pair.client)
        self.pair.run()

    def _accept_stream(self, connection, stream_id, headers, end_stream):
        assert (b":path", bundle.PATH) in headers
        self.server = BundleServer(connection, stream_id, self._accept, self.pace)
        return self.server

    def _accept(self, side, number, shared, added, end_stream):
        if self.turn_away:
            side.reset(number, ErrorCode.REFUSED_STREAM)
            return None
        call = self.served[number] = Served(shared.headers + added, ended=end_stream)
        return call

    def ask(self, body=b"body", **options) -> Asked:
        call = Asked(self.caller, **options)
        call.number = self.caller.call(REQUEST, body, call)
        return call


@pytest.fixture
def ends():
    made = Ends()
    assert made.caller.ready
    return made


def test_a_request_arrives_whole(ends):
    call = ends.ask(b"question")
    ends.pair.run()
    served = ends.served[call.number]
    assert (served.headers, served.body, served.ended) == (REQUEST, b"question", True)


@pytest.mark.parametrize("times", [1, 3])
def test_headers_that_come_packed_arrive_as_they_were(ends, times):
    own = (b"request_id", b"one")
    for _ in range(times):
        call = Asked(ends.caller)
        call.number = ends.caller.call((msgpack.packb(REQUEST), own), b"question", call)
    ends.pair.run()
    assert [served.headers for served in ends.served.values()] == [(*REQUEST, own)] * times


def test_headers_that_cannot_be_unpacked_end_their_call_alone(ends):
    broken, sound = Asked(ends.caller), ends.ask(b"question")
    broken.number = ends.caller.call((b"\xc1",), b"question", broken)
    ends.pair.run()
    assert broken.resets == [ErrorCode.INTERNAL_ERROR]
    assert ends.served[sound.number].body == b"question"
    assert not ends.pair.client.closed


def test_a_request_without_a_body_ends_with_its_headers(ends):
    call = ends.ask(b"")
    ends.pair.run()
    assert ends.served[call.number].ended


def test_a_small_answer_is_one_record(ends):
    call = ends.ask()
    ends.pair.run()
    ends.server.respond(call.number, RESPONSE_HEADERS, b"answer", TRAILERS)
    ends.pair.run()
    assert (call.headers, call.body, call.trailers, call.parts) == (None, b"answer", TRAILERS, 1)
    assert not ends.caller.calls
    assert not ends.server.calls


def test_headers_of_the_answers_own_come_with_it(ends):
    call = ends.ask()
    ends.pair.run()
    headers = (*RESPONSE_HEADERS, (b"x-made", b"here"))
    ends.server.respond(call.number, headers, b"answer", TRAILERS)
    ends.pair.run()
    assert call.headers == headers


def test_an_answer_without_a_body_has_one_header_block(ends):
    call = ends.ask()
    ends.pair.run()
    ends.server.send_headers(call.number, FAILED, end_stream=True)
    ends.pair.run()
    assert (call.headers, call.body, call.trailers) == (None, b"", FAILED)


def test_headers_may_come_before_the_rest(ends):
    call = ends.ask()
    ends.pair.run()
    ends.server.send_headers(call.number, RESPONSE_HEADERS)
    ends.pair.run()
    assert call.headers == RESPONSE_HEADERS
    ends.server.send_data(call.number, b"answer")
    ends.server.send_trailers(call.number, TRAILERS)
    ends.pair.run()
    assert (call.body, call.trailers) == (b"answer", TRAILERS)


def test_calls_of_one_turn_share_a_message(ends):
    sent = len(ends.pair.up.buffer)
    calls = [ends.ask() for _ in range(CALLS_PER_WRITE - 1)]
    assert len(ends.pair.up.buffer) == sent
    ends.pair.run()
    assert set(ends.served) == {call.number for call in calls}


def test_a_full_bundle_leaves_at_once(ends):
    before = len(ends.pair.up.buffer)
    for _ in range(CALLS_PER_WRITE):
        ends.ask()
    assert len(ends.pair.up.buffer) > before


def answered(ends) -> float:
    """What the caller knows of the server's pace after one more call."""
    call = ends.ask()
    ends.pair.run()
    ends.server.respond(call.number, RESPONSE_HEADERS, b"answer", TRAILERS)
    ends.pair.run()
    assert call.trailers == TRAILERS
    return ends.caller.pace_s


def test_a_caller_that_has_no_answer_knows_no_pace(ends):
    ends.ask()
    ends.pair.run()
    assert ends.caller.pace_s == math.inf


def test_a_caller_hears_of_the_pace_with_the_first_answer(ends):
    ends.pace.seconds = 50e-6
    assert answered(ends) == 50e-6


@pytest.mark.parametrize(("changed", "known"), [(60e-6, 50e-6), (42e-6, 50e-6), (80e-6, 80e-6), (30e-6, 30e-6)])
def test_a_caller_hears_of_a_pace_that_has_changed_enough(ends, changed, known):
    ends.pace.seconds = 50e-6
    answered(ends)
    ends.pace.seconds = changed
    assert answered(ends) == known


def test_a_large_answer_comes_in_parts_that_its_reader_paces(ends):
    call = ends.ask(reads=False)
    ends.pair.run()
    body = bytes(range(256)) * 4096
    ends.server.respond(call.number, RESPONSE_HEADERS, body, TRAILERS)
    ends.pair.run()
    assert call.trailers is None
    assert bundle.WINDOW <= len(call.body) < bundle.WINDOW + bundle.MAX_BODY
    assert ends.server.unsent(call.number) == len(body) - len(call.body)
    call.reads = True
    ends.caller.give_credit(call.number, len(call.body))
    ends.pair.run()
    assert (call.body, call.trailers) == (body, TRAILERS)
    assert ends.server.unsent(call.number) == 0


def test_one_slow_reader_does_not_hold_up_another_call(ends):
    slow, quick = ends.ask(reads=False), ends.ask()
    ends.pair.run()
    for call in (slow, quick):
        ends.server.respond(call.number, RESPONSE_HEADERS, bytes(1 << 20), TRAILERS)
    ends.pair.run()
    assert len(quick.body) == 1 << 20
    assert quick.trailers == TRAILERS


def test_who_waits_for_a_drained_answer_hears_when_its_last_part_has_left(ends):
    call = ends.ask(reads=False)
    ends.pair.run()
    heard = []
    ends.server.send_data(call.number, bytes(1 << 20))
    ends.server.when_drained(call.number, lambda: heard.append(True))
    ends.pair.run()
    assert not heard
    call.reads = True
    ends.caller.give_credit(call.number, len(call.body))
    ends.pair.run()
    assert heard == [True]


def test_an_abandoned_call_ends_at_the_server(ends):
    call = ends.ask()
    ends.pair.run()
    ends.caller.reset(call.number)
    ends.pair.run()
    assert ends.served[call.number].closed == [ErrorCode.CANCEL]
    ends.server.respond(call.number, RESPONSE_HEADERS, b"too late", TRAILERS)
    ends.pair.run()
    assert (call.parts, call.resets) == (0, [])


def test_an_answer_that_crosses_the_end_of_its_call_is_dropped(ends):
    call = ends.ask()
    ends.pair.run()
    ends.caller.reset(call.number)
    ends.server.respond(call.number, RESPONSE_HEADERS, b"too late", TRAILERS)
    ends.pair.run()
    assert (call.parts, call.resets) == (0, [])


def test_an_abandoned_large_answer_stops(ends):
    call = ends.ask(reads=False)
    ends.pair.run()
    ends.server.respond(call.number, RESPONSE_HEADERS, bytes(1 << 20), TRAILERS)
    ends.pair.run()
    ends.caller.reset(call.number)
    ends.pair.run()
    assert ends.server.unsent(call.number) == 0
    assert not ends.server.calls


def test_a_call_that_is_turned_away_is_told_so(ends):
    ends.turn_away = True
    call = ends.ask()
    ends.pair.run()
    assert call.resets == [ErrorCode.REFUSED_STREAM]
    assert not ends.server.calls


def test_a_lost_connection_ends_calls_on_both_ends(ends):
    call = ends.ask()
    ends.pair.run()
    ends.pair.client.connection_lost(None)
    ends.pair.server.connection_lost(None)
    assert call.resets == [CONNECTION_LOST]
    assert ends.served[call.number].closed == [CONNECTION_LOST]
    assert not ends.caller.ready


def test_a_call_that_never_left_may_be_made_elsewhere(ends):
    call = ends.ask()
    ends.pair.client.connection_lost(None)
    assert call.resets == [ErrorCode.REFUSED_STREAM]


def test_a_call_whose_answer_cannot_be_handled_is_reset_and_others_go_on(ends, caplog):
    broken, sound = ends.ask(), ends.ask()

    def fail(*_):
        raise RuntimeError("cannot be handled")

    broken.on_answer = fail
    ends.pair.run()
    for call in (broken, sound):
        ends.server.respond(call.number, RESPONSE_HEADERS, b"answer", TRAILERS)
    ends.pair.run()
    assert broken.resets == [ErrorCode.INTERNAL_ERROR]
    assert sound.body == b"answer"
    assert "cannot be handled" in caplog.text


HUGE = ((b"x-huge", b"x" * (9 << 20)),)


def test_a_request_whose_headers_are_too_large_ends_alone(ends):
    sound = ends.ask()
    huge = Asked(ends.caller)
    huge.number = ends.caller.call(REQUEST + HUGE, b"body", huge)
    ends.pair.run()
    assert huge.resets == [ErrorCode.INTERNAL_ERROR]
    assert list(ends.served) == [sound.number]
    ends.server.respond(sound.number, RESPONSE_HEADERS, b"answer", TRAILERS)
    ends.pair.run()
    assert sound.body == b"answer"


def test_an_answer_whose_trailers_are_too_large_ends_alone(ends):
    huge, sound = ends.ask(), ends.ask()
    ends.pair.run()
    ends.server.respond(huge.number, RESPONSE_HEADERS, b"answer", TRAILERS + HUGE)
    ends.server.respond(sound.number, RESPONSE_HEADERS, b"answer", TRAILERS)
    ends.pair.run()
    assert huge.resets == [ErrorCode.INTERNAL_ERROR]
    assert sound.body == b"answer"


def test_headers_that_are_too_large_before_an_answer_end_it_on_both_ends(ends):
    call = ends.ask()
    ends.pair.run()
    ends.server.send_headers(call.number, RESPONSE_HEADERS + HUGE)
    ends.pair.run()
    assert call.resets == [ErrorCode.INTERNAL_ERROR]
    assert ends.served[call.number].closed == [ErrorCode.INTERNAL_ERROR]


def test_a_broken_bundle_ends_the_connection(ends):
    ends.pair.client.send_data(ends.caller.stream_id, b"\x00\x00\x00\x00\x01\xc1")
    call = ends.ask()
    ends.pair.run()
    assert ends.pair.server.closed
    ends.pair.client.connection_lost(None)
    assert call.resets == [CONNECTION_LOST]


def test_a_draining_connection_waits_for_calls_in_bundles_and_closes_then(ends):
    call = ends.ask()
    ends.pair.run()
    ends.pair.client.drain()
    ends.pair.run()
    assert not ends.pair.client.closed
    ends.server.respond(call.number, RESPONSE_HEADERS, b"answer", TRAILERS)
    ends.pair.run()
    assert call.body == b"answer"
    assert ends.pair.client.closed


def test_a_draining_connection_closes_when_its_last_call_is_abandoned(ends):
    call = ends.ask()
    ends.pair.run()
    ends.pair.client.drain()
    ends.pair.run()
    ends.caller.reset(call.number)
    ends.pair.run()
    assert ends.pair.client.closed


def test_a_draining_server_tells_a_call_that_crossed_the_notice_that_it_is_turned_away(ends):
    ends.turn_away = True
    ends.pair.server.drain()
    calls = []

    def ask_late():
        # In the turn in which the caller hears that the server goes, before the call has left.
        calls.append(ends.ask())

    ends.pair.loop.call_soon(ask_late)
    ends.pair.run()
    assert calls[0].resets == [ErrorCode.REFUSED_STREAM]
    assert ends.pair.client.closed
    assert ends.pair.server.closed


def test_a_draining_server_s_last_answer_arrives(ends):
    call = ends.ask()
    ends.pair.run()
    ends.pair.server.drain()
    ends.pair.run()
    ends.server.respond(call.number, RESPONSE_HEADERS, b"answer", TRAILERS)
    ends.pair.run()
    assert (call.body, call.trailers, call.resets) == (b"answer", TRAILERS, [])
    assert ends.pair.server.closed
