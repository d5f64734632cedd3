"""Streaming in both directions, deadlines and clients that go away."""

import asyncio
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import wait_for


def test_parts_of_a_response_arrive_when_they_are_made(client, gate):
    with client.stream("GET", "/plain/stream", params={"until": str(gate)}) as answer:
        parts = answer.iter_text()
        assert next(parts) == "first"
        gate.touch()
        assert next(parts) == "second"
        assert list(parts) == []


def test_parts_of_a_request_arrive_when_they_are_sent(client, web):
    def parts():
        yield b"x" * 1000
        wait_for(lambda: httpx.get(f"{web.url}/plain/counted").json() == 1000)
        yield b"x" * 500

    assert client.post("/plain/count", content=parts()).json() == 1500


def test_a_large_response_waits_for_a_slow_reader(client, web):
    with client.stream("GET", "/plain/flood") as answer:
        assert answer.status_code == 200
        previous = -1

        def settled() -> bool:
            nonlocal previous
            time.sleep(0.2)
            before, previous = previous, httpx.get(f"{web.url}/plain/flooded").json()
            return before == previous

        wait_for(settled)
        # Sockets and windows on the way hold some megabytes, not the 100 MB that the handler would send.
        assert previous < 30_000_000


def test_a_large_request_waits_for_a_slow_handler(web, gate):
    connection = socket.create_connection(("127.0.0.1", web.port))
    connection.setblocking(False)
    sent = 0
    head = f"POST /plain/count?until={gate} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n"
    connection.send(head.encode())
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            sent += connection.send(b"x" * 65536)
            deadline = time.monotonic() + 1
        except BlockingIOError:
            time.sleep(0.01)
    gate.touch()
    connection.close()
    assert sent < 30_000_000


def test_a_response_that_breaks_off_is_no_complete_response(client):
    with client.stream("GET", "/plain/break") as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


def test_a_request_may_bring_its_own_timeout(client, tmp_path):
    note = tmp_path / "note"
    headers = {"x-request-timeout-seconds": "0.3", "x-request-id": "late"}
    answer = client.get("/plain/hang", params={"note": str(note)}, headers=headers)
    assert (answer.status_code, answer.text) == (408, "Request late timed out after 0.3s.")
    wait_for(lambda: note.read_text() == "cancelled")


def test_a_timeout_covers_the_wait_for_a_replica(client, web, gate):
    first = socket.create_connection(("127.0.0.1", web.port))
    first.send(f"GET /narrow?until={gate} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    answer = client.get("/narrow", params={"until": "/"}, headers={"x-request-timeout-seconds": "0.3"})
    # The one that came first holds the only slot; without it this one would be answered at once.
    assert answer.status_code in (200, 408)
    gate.touch()
    assert b"200 OK" in first.recv(1000)
    first.close()


def send_and_leave(web, path: str, headers: str = "") -> None:
    with socket.create_connection(("127.0.0.1", web.port)) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode())
        note = Path(path.partition("note=")[2].partition("&")[0])
        wait_for(lambda: note.exists() and note.read_text() == "started")


def test_a_client_that_leaves_cancels_its_request(web, tmp_path):
    note = tmp_path / "note"
    send_and_leave(web, f"/plain/hang?note={note}", "x-request-id: gone\r\n")
    wait_for(lambda: note.read_text() == "cancelled")
    wait_for(lambda: " gone -- GET /plain/hang 499 " in web.log("proxy"))


def test_a_request_may_ask_to_outlive_its_client(web, tmp_path):
    note = tmp_path / "note"
    send_and_leave(web, f"/plain/hang?note={note}&s=0.5", "x-request-disconnect-disabled: ?1\r\n")
    wait_for(lambda: note.read_text() == "finished")


def test_cancelled_requests_free_their_slots(web, client, tmp_path):
    for number in range(25):  # more than the deployment's slots
        send_and_leave(web, f"/plain/hang?note={tmp_path / str(number)}")
    assert client.get("/plain/text").status_code == 200


def test_a_slot_stays_taken_while_its_thread_runs(client, web):
    async def leave_early() -> None:
        async with httpx.AsyncClient(base_url=web.url) as impatient:
            calls = [impatient.get("/threaded?s=1", timeout=0.3) for _ in range(5)]  # all slots of the deployment
            await asyncio.gather(*calls, return_exceptions=True)

    started = time.monotonic()
    asyncio.run(leave_early())
    assert client.get("/threaded", headers={"x-request-id": "next"}).status_code == 200
    assert time.monotonic() - started >= 0.95
