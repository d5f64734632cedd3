"""Which application a call goes to, and the request id that every call has."""

import itertools
import json
import re
import time

from e2e_support import failure_of, raw_call, read, trailer

from tests.conftest import wait_for

SEE = "Ping /ray.serve.RayServeAPIService/ListApplications for available applications."
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_a_call_without_application_is_not_found_among_several(client):
    error = client.of(None).failure("Plain", "x")

    assert (error.code().name, error.details()) == ("NOT_FOUND", f"Application metadata not set. {SEE}")
    assert UUID4.fullmatch(trailer(error, "request_id"))


def test_an_empty_application_counts_as_none(client):
    error = client.of(None).failure("Plain", "x", application="")

    assert error.details() == f"Application metadata not set. {SEE}"


def test_an_unknown_application_is_not_found(client):
    error = client.of("nobody").failure("Plain", "x", request_id="kept")

    assert (error.code().name, error.details()) == ("NOT_FOUND", f"Application 'nobody' not found. {SEE}")
    assert trailer(error, "request_id") == "kept"


def test_not_found_is_the_same_for_all_kinds_of_calls(client):
    nobody = client.of("nobody")
    calls = [
        lambda: read(nobody.stream("Generator", "x", 1)),
        lambda: nobody.upload("Total", iter([client.note()] * 3)),
        lambda: read(nobody.upload("Talk", iter([client.note()] * 3))),
    ]

    for call in calls:
        error = failure_of(call)
        assert (error.code().name, error.details()) == ("NOT_FOUND", f"Application 'nobody' not found. {SEE}")


def test_the_last_of_several_values_counts(client):
    metadata = (
        ("application", "nobody"),
        ("request_id", "first"),
        ("application", "lab"),
        ("request_id", "last"),
    )

    response, call = client.lab.Describe.with_call(client.note(), metadata=metadata, timeout=20)

    assert json.loads(response.text)["app"] == "lab"
    assert json.loads(response.text)["request_id"] == "last"
    assert trailer(call, "request_id") == "last"


def test_a_single_application_takes_calls_whatever_they_name(bare):
    # Without a route prefix it is off HTTP, and on gRPC all the same.
    bare.deploy("applications: [{name: only, route_prefix: null, import_path: 'e2e_lab:func'}]")

    for name in (None, "only", "another"):
        assert bare.client.of(name).ask("Plain", "x").text == "function got x"


def test_a_request_id_is_generated_where_there_is_none(client):
    response, call = client.call("Describe")

    request_id = trailer(call, "request_id")
    assert UUID4.fullmatch(request_id)
    said = json.loads(response.text)
    assert said["request_id"] == said["context_request_id"] == request_id


def test_generated_request_ids_differ(client):
    assert len({trailer(client.call("Plain")[1], "request_id") for _ in range(20)}) == 20


def test_the_client_s_request_id_is_used_as_it_is(client):
    assert trailer(client.call("Plain", request_id="any:thing/at~all")[1], "request_id") == "any:thing/at~all"


def test_an_unimplemented_call_has_its_request_id(client):
    assert trailer(client.failure("Missing", request_id="u1"), "request_id") == "u1"


def test_a_call_that_reaches_its_deadline_has_its_request_id_on_the_wire(client, world):
    raw = raw_call(
        world.port,
        "/lab.v1.Lab/Hold",
        client.note("never released").SerializeToString(),
        [(b"application", b"lab"), (b"request_id", b"d1"), (b"grpc-timeout", b"200m")],
    )

    assert raw.trailer(b"grpc-status") == b"4"
    assert raw.trailer(b"request_id") == b"d1"


def test_a_message_that_does_not_parse_has_its_request_id(world):
    raw = raw_call(
        world.port, "/lab.v1.Lab/Plain", b"\xff\xff\xff\xff", [(b"application", b"lab"), (b"request_id", b"p1")]
    )

    assert raw.trailer(b"request_id") == b"p1"


def test_the_request_id_of_a_stream_is_a_trailer_and_no_header(client):
    stream = client.stream("AsyncGenerator", "r", 2, request_id="s1")

    assert len(read(stream)) == 2
    assert trailer(stream, "request_id") == "s1"
    assert "request_id" not in [key for key, _ in stream.initial_metadata()]


def test_a_strict_instance_refuses_a_wrong_name_for_its_only_application(tuned):
    error = tuned.client.of("other").failure("__call__", "x")

    assert (error.code().name, error.details()) == ("NOT_FOUND", f"Application 'other' not found. {SEE}")


def test_a_strict_instance_takes_calls_that_name_no_application(tuned):
    assert tuned.client.of(None).ask("__call__", "x").text == "Hello x"


def test_calls_for_a_model_go_to_the_replica_that_has_it(client):
    models = client.of("models")
    names = (f"model-{i}" for i in itertools.count())

    def stays_at_home():
        name = next(names)
        home = models.ask("Model", multiplexed_model_id=name).text
        # The replica publishes what it has loaded a moment later; on a busy machine another try is needed.
        time.sleep(0.3)
        return {models.ask("Model", multiplexed_model_id=name).text for _ in range(10)} == {home}

    wait_for(stays_at_home, what="ten calls for a model at the replica that has it")


def test_a_call_without_a_model_has_an_empty_model_id(client):
    assert client.of("models").failure("Model").code().name == "INTERNAL"
