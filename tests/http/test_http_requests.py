"""Requests to plain handlers: what they are told, and what becomes of what they return."""

import json
import threading

import httpx
import pytest

from tests.conftest import wait_for


def test_a_handler_sees_the_request_below_its_route_prefix(client):
    answer = client.put("/plain/some/thing?a=1&a=2").json()
    assert answer == {
        "method": "PUT",
        "path": "/plain/some/thing",
        "root_path": "/plain",
        "http_version": "1.1",
        "scheme": "http",
        "query": "a=1&a=2",
        "client": "127.0.0.1",
    }


def test_a_body_comes_back_as_it_was_sent(client):
    body = bytes(range(256)) * 1000
    answer = client.post("/plain/echo", content=body)
    assert answer.content == body
    assert answer.headers["content-type"] == "text/plain"


def test_text_becomes_plain_text(client):
    answer = client.get("/plain/text")
    assert (answer.text, answer.headers["content-type"]) == ("grüße", "text/plain; charset=utf-8")


def test_other_values_become_json(client):
    answer = client.get("/plain/counted")
    assert (answer.content, answer.headers["content-type"]) == (b"0", "application/json")


def test_a_response_is_sent_as_it_is(client):
    answer = client.get("/plain/response")
    assert (answer.status_code, answer.text, answer.headers["x-kind"]) == (418, "teapot", "own")


def test_repeated_headers_arrive_one_by_one(client):
    assert client.get("/plain/headers", headers=[("x-many", "a"), ("x-many", "b")]).json() == ["a", "b"]


def test_head_has_no_body(client):
    answer = client.head("/plain/text")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "7")


def test_a_function_without_parameters_is_called_without_the_request(client):
    assert client.get("/hello").text == "hello"


def test_a_plain_def_handler_runs_in_a_thread_with_the_context(client):
    answer = client.get("/threaded", headers={"x-request-id": "abc"}).json()
    assert answer == {"main": False, "id": "abc"}


@pytest.mark.parametrize("path", ["raise", "unserializable", "generator"])
def test_a_failing_handler_gives_500_without_details(client, web, path):
    answer = client.get(f"/plain/{path}", headers={"x-request-id": f"failed-{path}"})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["x-request-id"] == f"failed-{path}"
    assert f"failed-{path} -- The request failed:\n" in web.log("replica_plain")


def test_backpressure_that_a_handler_raises_keeps_its_status(client):
    answer = client.get("/plain/overload")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.text == "Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=2)."


def test_the_headers_of_ray_serve_reach_the_context(client):
    headers = {
        "x-request-id": "my-id",
        "serve_multiplexed_model_id": "m1",
        "x-session-id": "s1",
    }
    answer = client.get("/plain/context", headers=headers)
    assert answer.json() == {
        "request_id": "my-id",
        "model_id": "m1",
        "session_id": "s1",
        "route": "/plain",
        "app": "plain",
    }
    assert answer.headers["x-request-id"] == "my-id"


def test_the_model_id_header_may_have_dashes(client):
    assert client.get("/plain/context", headers={"serve-multiplexed-model-id": "m2"}).json()["model_id"] == "m2"


def test_a_request_without_an_id_gets_one(client):
    answer = client.get("/plain/context")
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@pytest.mark.parametrize("given", [b"nel\x85", b"i" * 257])
def test_a_request_id_that_logs_cannot_carry_is_replaced(client, given):
    answer = client.get("/plain/context", headers={b"x-request-id": given})
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_a_forged_request_id_of_an_application_is_replaced(client):
    answer = client.get("/plain/response", headers={"x-request-id": "real"})
    assert answer.headers.get_list("x-request-id") == ["real"]


def test_requests_of_one_connection_follow_each_other(client, web):
    for number in range(20):
        assert client.post("/plain/echo", content=str(number)).text == str(number)
    assert client.get("/plain/raise").status_code == 500
    assert client.get("/plain/text").status_code == 200


def test_a_full_queue_answers_with_the_configured_status(web, gate):
    def ask() -> httpx.Response:
        return httpx.get(f"{web.url}/narrow", params={"until": str(gate)}, timeout=30)

    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answers) == 2, what="two requests shed")
    gate.touch()
    for thread in threads:
        thread.join()
    shed = [answer for answer in answers if answer.status_code == 429]
    assert len(shed) == 2
    assert shed[0].headers["retry-after"] == "7"
    assert shed[0].text == "Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1)."
    assert sorted(answer.text for answer in answers if answer.status_code == 200) == ["done", "done"]


def test_the_access_log_has_one_line_a_request(client, web):
    client.get("/plain/raise?q=1", headers={"x-request-id": "logged"})
    line = wait_for(lambda: [text for text in web.log("proxy").splitlines() if " logged -- " in text])
    assert len(line) == 1
    assert " logged -- GET /plain/raise 500 " in line[0]


def test_json_of_the_routes(client):
    routes = json.loads(client.get("/-/routes").text)
    assert routes["/plain"] == "plain"
    assert routes["/shop"] == "shop"
