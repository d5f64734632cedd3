"""What reaches user code and comes back: all kinds of methods and handlers."""

import json
import time

import pytest
from e2e_support import failure_of, raw_call, read, trailer

from tests.conftest import wait_for


def test_dunder_call_answers(client):
    response, call = client.call("__call__", "world", 21)

    assert call.code().name == "OK"
    assert (response.text, response.number) == ("Hello world", 42)


def test_plain_handlers_run_outside_the_loop_s_thread(client):
    assert client.ask("Plain", "here").text == "here in False"


def test_coroutine_handlers_run_on_the_loop_s_thread(client):
    assert client.ask("Coroutine", "here").text == "here in True"


@pytest.mark.parametrize("method", ["Plain", "Coroutine"])
@pytest.mark.parametrize("size", [0, 70_000, 5_000_000])
def test_payloads_of_all_sizes_come_back_whole(client, method, size):
    payload = bytes(range(256)) * (size // 256)

    assert client.ask(method, "p", payload=payload).payload == payload


@pytest.mark.parametrize("method", ["Generator", "AsyncGenerator"])
def test_generators_stream(client, method):
    notes = read(client.stream(method, f"count {method}", 4))

    assert [note.number for note in notes] == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["Generator", "AsyncGenerator"])
def test_large_streams_come_whole_and_in_order(client, method):
    payload = b"z" * 300_000

    notes = read(client.stream(method, f"large {method}", 6, payload=payload))

    assert [note.number for note in notes] == list(range(6))
    assert all(note.payload == payload for note in notes)


def test_a_message_arrives_when_it_is_yielded(client):
    stream = client.stream("AsyncGenerator", "gated-arrival", 3)
    seen = []
    for note in stream:
        # The generator goes on only after this message has been seen.
        seen.append(note.number)
        client.ask("Release", f"gated-arrival/{note.number}")

    assert seen == [0, 1, 2]


def test_an_async_generator_that_blocks_its_loop_is_heard_between_its_steps(client):
    late = [time.monotonic() - float(note.payload) for note in client.stream("Blocking", number=4)]

    assert len(late) == 4
    assert max(late) < 0.25, "messages came only when the next one was made"


def test_messages_of_a_plain_generator_arrive_before_its_end(client):
    stream = client.stream("Generator", "early plain", 20)

    next(stream)

    assert "closed early plain" not in client.events("early plain")
    stream.cancel()


def test_function_deployments_serve_every_method(client):
    function = client.of("func")

    _, call = function.call("Plain", "a")

    assert function.ask("Coroutine", "b").text == "function got b"
    assert trailer(call, "kind") == "function"


def test_client_streaming_gives_every_message(client):
    response, call = client.upload("Total", iter([client.note(number=i) for i in range(100)]))

    assert (response.number, response.text) == (4950, "100 notes, exhausted True")
    assert trailer(call, "request_id")


def test_an_empty_client_stream_is_answered(client):
    response, _ = client.upload("Total", iter([]))

    assert (response.number, response.text) == (0, "0 notes, exhausted True")


def test_a_handler_may_answer_before_the_client_stream_ends(client):
    def notes():
        yield client.note("enough", 7)
        while True:
            time.sleep(0.01)
            yield client.note("more", 1)

    response, call = client.upload("Total", notes())

    assert (response.text, response.number) == ("early", 7)
    assert call.code().name == "OK"


def test_bidi_answers_each_message_before_the_next_is_sent(client):
    answers = []

    def notes():
        for i in range(5):
            wait_for(lambda i=i: len(answers) == i)
            yield client.note(f"turn {i}", i)

    # One by one: what `notes` sends next depends on what has come.
    answers.extend(note.text for note in client.upload("Talk", notes()))

    assert answers == [*(f"echo turn {i}" for i in range(5)), "goodbye"]


def test_a_slow_reader_holds_back_the_uploading_client(client):
    sent = []

    def notes():
        for i in range(64):
            sent.append(i)
            yield client.pb.Note(text="slow-reader" if i == 0 else "", number=1, payload=b"x" * 1_000_000)

    call = client.lab.Total.future(notes(), metadata=(("application", "lab"),), timeout=30)
    wait_for(lambda: client.events("slow-reader"))
    progress = -1
    while progress != len(sent):
        progress = len(sent)
        time.sleep(0.3)

    assert progress < 40, "the client could send nearly everything although nothing was read"
    client.ask("Release", "slow-reader")
    assert call.result().number == 64


def test_calls_that_are_batched_share_one_call_of_the_handler(client):
    futures = [client.begin("Batched", f"item {i}") for i in range(4)]

    results = [future.result() for future in futures]

    assert [result.text for result in results] == [f"item {i}" for i in range(4)]
    assert {result.number for result in results} == {4}


def test_an_rpc_that_the_deployment_lacks_is_unimplemented_and_named(client):
    error = client.failure("Missing")

    assert error.code().name == "UNIMPLEMENTED"
    assert "'Missing'" in error.details()
    assert "/lab.v1.Lab/Missing" in error.details()


def test_a_streaming_rpc_that_the_deployment_lacks_is_unimplemented(client):
    stream = client.stream("MissingStream")

    error = failure_of(lambda: read(stream))

    assert error.code().name == "UNIMPLEMENTED"
    assert "MissingStream" in error.details()


def test_an_rpc_that_no_servicer_has_is_unimplemented(client):
    call = client.channel.unary_unary("/no.such.Service/Method")

    error = failure_of(lambda: call(b"", timeout=10))

    assert (error.code().name, error.details()) == ("UNIMPLEMENTED", "Method not found!")
    assert trailer(error, "request_id")


@pytest.mark.parametrize("method", ["Plain", "Coroutine"])
def test_a_unary_rpc_that_meets_a_generator_is_internal(client, method):
    error = client.of("kinds").failure(method)

    assert error.code().name == "INTERNAL"
    assert f"Method '{method}' returned a generator." in error.details()


@pytest.mark.parametrize("method", ["Generator", "AsyncGenerator"])
def test_a_streaming_rpc_that_meets_no_generator_is_internal(client, method):
    stream = client.of("kinds").stream(method)

    error = failure_of(lambda: read(stream))

    assert error.code().name == "INTERNAL"
    assert f"Called method '{method}' with `handle.options(stream=True)` but it did not return a generator." in (
        error.details()
    )


def test_requests_that_do_not_parse_are_invalid_arguments(world, client):
    raw = raw_call(world.port, "/lab.v1.Lab/Plain", b"\xff\xff\xff\xff", [(b"application", b"lab")])

    assert raw.trailer(b"grpc-status") == b"3"
    assert b"probe.v1.Note" in raw.trailer(b"grpc-message")


@pytest.mark.parametrize("method", ["Script", "ScriptPlain"])
@pytest.mark.parametrize(("kind", "came"), [("None", "NoneType"), ("str", "str")])
def test_a_wrong_return_type_is_internal_and_names_both_types(client, method, kind, came):
    error = failure_of(lambda: client.script(["return", kind], method=method))

    assert error.code().name == "INTERNAL"
    assert came in error.details()
    assert "probe.v1.Note" in error.details()


@pytest.mark.parametrize("method", ["ScriptStream", "ScriptGenerator"])
def test_a_wrong_type_in_a_stream_is_internal_after_what_came_before(client, method):
    stream = client.script_stream(["return", "good"], ["return", "str"], method=method)
    received = []

    error = failure_of(lambda: [received.append(note.text) for note in stream])

    assert received == ["good"]
    assert error.code().name == "INTERNAL"
    assert "str" in error.details()
    assert "probe.v1.Note" in error.details()


def test_handlers_know_their_call_and_replica(client):
    said = json.loads(client.ask("Describe", request_id="the-id", multiplexed_model_id="m").text)

    assert said["request_id"] == said["context_request_id"] == "the-id"
    assert said["application"] == "lab"
    assert said["model"] == "m"
    assert (said["app"], said["deployment"]) == ("lab", "Lab")
