"""Deadlines and cancellation: what they end, and what they keep from starting."""

import asyncio
import json
import time

import pytest
from e2e_support import Occupied, failure_of, open_raw, raw_call, raw_cancelled_call, raw_headers, read, trailer

from tests.conftest import wait_for

TIMED_OUT = "Request timed out after 1.5s."


def wait_for_event(client, event: str, of_helper: bool = False) -> None:
    wait_for(lambda: event in client.events(event.split()[-1], of_helper), what=event)


@pytest.fixture
def narrow(client):
    occupied = Occupied(client.of("narrow"))
    yield occupied
    occupied.free()


# --- the instance's timeout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Script", "ScriptPlain"])
def test_a_call_that_takes_longer_than_the_timeout_is_ended(tuned, method):
    error = failure_of(lambda: tuned.client.script(["sleep", 3], method=method, request_id="t1"))

    assert (error.code().name, error.details()) == ("DEADLINE_EXCEEDED", TIMED_OUT)
    assert trailer(error, "request_id") == "t1"


def test_the_timeout_covers_the_whole_stream(tuned):
    stream = tuned.client.script_stream(["return", "one"], ["sleep", 0.9], ["return", "two"], ["sleep", 3])
    received = []

    error = failure_of(lambda: received.extend(note.text for note in stream))

    assert received == ["one", "two"]
    assert (error.code().name, error.details()) == ("DEADLINE_EXCEEDED", TIMED_OUT)


def test_the_timeout_covers_uploads(tuned):
    def notes():
        yield tuned.client.note(number=1)
        time.sleep(3)

    error = failure_of(lambda: tuned.client.upload("Total", notes()))

    assert (error.code().name, error.details()) == ("DEADLINE_EXCEEDED", TIMED_OUT)


def test_calls_that_wait_for_a_handle_at_the_timeout_have_the_same_text(tuned):
    """The handler's own call runs out of time at the same moment, and must not be heard first."""
    futures = [tuned.client.begin("Hold", f"handle-{i}", 30) for i in range(4)]

    errors = [failure_of(future.result) for future in futures]

    assert {(error.code().name, error.details()) for error in errors} == {("DEADLINE_EXCEEDED", TIMED_OUT)}


def test_the_timeout_covers_waiting_for_a_replica(tuned):
    futures = [tuned.client.begin("Hold", f"crowd-{i}") for i in range(8)]

    errors = [failure_of(future.result) for future in futures]

    assert {error.details() for error in errors} == {TIMED_OUT}


def test_the_handler_of_an_expired_call_is_cancelled(tuned):
    failure_of(tuned.client.begin("Hold", "expired-here").result)

    wait_for_event(tuned.client, "cancelled expired-here")


def test_a_handle_call_inherits_the_deadline(tuned):
    left = json.loads(tuned.client.ask("Compose", "request").text)["left"]

    assert 0 < left <= 1.5


# --- the client's deadline -------------------------------------------------------------------------------------------


def test_a_client_s_deadline_cancels_the_handler_and_the_calls_it_made(client):
    error = client.failure("Hold", "client-deadline", 30, timeout=0.5)

    assert error.code().name == "DEADLINE_EXCEEDED"
    wait_for_event(client, "cancelled client-deadline")
    wait_for_event(client, "cancelled client-deadline", of_helper=True)


def test_the_shorter_of_both_deadlines_counts(tuned):
    left = json.loads(tuned.client.ask("Compose", "request", timeout=0.9).text)["left"]

    # A client starts its clock a little before the headers leave it, and rounds up.
    assert left <= 1.1


def test_a_handle_call_inherits_the_client_s_deadline_and_its_request_id(client):
    said = json.loads(client.ask("Compose", "request", timeout=7, request_id="inherited-id").text)

    assert 0 < said["left"] <= 7.5
    assert (said["request_id"], said["app"]) == ("inherited-id", "lab")


def test_an_expired_call_that_waited_never_starts(narrow):
    error = narrow.client.failure("Hold", "too-late", timeout=0.3)

    narrow.free()

    assert error.code().name == "DEADLINE_EXCEEDED"
    assert narrow.client.events("too-late") == []


def test_a_deadline_that_has_passed_at_the_start_is_exceeded(client, world):
    raw = raw_call(
        world.port,
        "/lab.v1.Lab/Hold",
        client.note("past-at-start").SerializeToString(),
        [(b"application", b"lab"), (b"grpc-timeout", b"0n")],
    )

    assert raw.trailer(b"grpc-status") == b"4"
    assert client.events("past-at-start") == []


# --- cancellation ----------------------------------------------------------------------------------------------------


def test_cancelling_a_call_cancels_the_handler_and_the_calls_it_made(client):
    call = client.begin("Hold", "client-cancel", 30)
    wait_for_event(client, "started client-cancel", of_helper=True)

    call.cancel()

    wait_for_event(client, "cancelled client-cancel")
    wait_for_event(client, "cancelled client-cancel", of_helper=True)


def test_a_client_that_disconnects_cancels_its_calls(client, world):
    leaving = world.new_client()
    call = leaving.begin("Hold", "disconnect")
    wait_for_event(client, "started disconnect")
    assert not call.done()

    leaving.channel.close()

    wait_for_event(client, "cancelled disconnect")


def test_a_connection_that_breaks_cancels_its_calls(client, world):
    async def hang_up():
        connection = await open_raw(world.port)
        stream_id = connection.open_stream(
            raw_headers("/lab.v1.Lab/Hold", [(b"application", b"lab")]), _Ignore(), end_stream=False
        )
        message = client.note("broken").SerializeToString()
        connection.send_data(stream_id, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
        await asyncio.to_thread(wait_for_event, client, "started broken")
        connection.transport.abort()

    asyncio.run(hang_up())

    wait_for_event(client, "cancelled broken")


class _Ignore:
    def on_headers(self, headers, end_stream): ...

    def on_data(self, data, end_stream): ...

    def on_trailers(self, headers): ...

    def on_closed(self, error_code): ...


def test_an_async_generator_is_closed_when_its_client_cancels(client):
    stream = client.stream("AsyncGenerator", "gated-cancel", 3)
    next(stream)

    stream.cancel()

    wait_for_event(client, "closed gated-cancel")


def test_a_plain_generator_stops_at_its_next_yield_when_its_client_cancels(client):
    stream = client.stream("Generator", "stop-plain", 10_000)
    next(stream)

    stream.cancel()

    wait_for_event(client, "closed stop-plain")
    assert len(client.events("stop-plain")) < 1000


def test_an_upload_that_is_cancelled_does_not_look_complete(client):
    def notes():
        yield client.note("upload-cancel", 1)
        time.sleep(30)

    call = client.lab.Total.future(notes(), metadata=(("application", "lab"),))
    wait_for_event(client, "got 1 upload-cancel")

    call.cancel()

    wait_for_event(client, "cancelled upload-cancel")
    assert "complete upload-cancel" not in client.events("upload-cancel")


def test_a_bidi_call_that_is_cancelled_cancels_the_handler(client):
    def notes():
        yield client.note("talk-cancel", 1)
        time.sleep(30)

    call = client.upload("Talk", notes())
    assert next(call).text == "echo talk-cancel"

    call.cancel()

    wait_for_event(client, "cancelled talk-cancel")


def test_a_queued_call_that_is_cancelled_never_starts(narrow):
    queued = narrow.client.begin("Hold", "cancelled-in-queue")
    # The call after it waits behind it, so both are there when it expires.
    assert narrow.client.failure("__call__", "behind", timeout=0.3).code().name == "DEADLINE_EXCEEDED"

    queued.cancel()
    narrow.free()

    assert narrow.client.events("cancelled-in-queue") == []


def test_a_queued_call_whose_client_disconnects_never_starts(narrow, world):
    leaving = world.new_client("narrow")
    queued = leaving.begin("Hold", "gone-in-queue")
    assert leaving.failure("__call__", "behind", timeout=0.3).code().name == "DEADLINE_EXCEEDED"
    assert not queued.done()

    leaving.channel.close()
    narrow.free()

    assert narrow.client.events("gone-in-queue") == []


@pytest.mark.parametrize("path", ["/lab.v1.Lab/Coroutine", "/lab.v1.Lab/AsyncGenerator", "/lab.v1.Lab/Plain"])
def test_a_call_that_is_cancelled_at_once_gives_its_slot_back(client, world, path):
    async def cancel_some(address, *extra):
        connection = await open_raw(address)
        for _ in range(5):
            await raw_cancelled_call(connection, path, client.note("x").SerializeToString(), extra)
        connection.close()

    sockets = list((world.state_dir / "run").glob("*.sock"))
    narrow = client.of("narrow")
    asyncio.run(cancel_some(world.port, (b"application", b"narrow")))
    for socket in sockets:
        if socket.stem not in ("agent", "controller"):
            # Straight to a replica, where nothing in between can hold the request back.
            asyncio.run(cancel_some(str(socket)))

    assert narrow.ask("__call__", "still").text == "Hello still"
    assert read(narrow.stream("AsyncGenerator", "fine", 2))
