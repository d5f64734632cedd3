"""HTTP requests take the slots that all calls of a replica share, and give each back once."""

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path

import httpx

import swerve as serve
from swerve.generated.http_pb2 import HttpEvent, HttpRequest
from swerve.net.client import Channel
from swerve.net.client_call import ClientCall, request_headers
from swerve.wire.message import frame
from tests.conftest import wait_for
from tests.http.http_support import under_way


class Abandoned(ClientCall):
    """A call whose outcome nobody wants."""

    def message_received(self, message):
        pass

    def ended(self, status, trailers):
        pass


class Corked:
    """Keeps what is written."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


def test_a_request_that_a_full_replica_turned_away_is_sent_again_whole(client, web, gate, tmp_path, monkeypatch):
    monkeypatch.setenv("SWERVE_STATE_DIR", str(web.state_dir))
    held = serve.get_app_handle("shared").hold.remote(str(tmp_path / "held"), str(gate))
    wait_for((tmp_path / "held").exists)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.post("/shared", content=b"x" * 500_000)))
    asking.start()
    wait_for(lambda: under_way(web.url) == 1)
    gate.touch()
    held.result(10)
    asking.join()
    assert answers[0].content == b"x" * 500_000


def socket_of(web, deployment: str) -> str:
    (log,) = (web.state_dir / "logs").glob(f"replica_{deployment}_*.log")
    return f"unix:{web.state_dir / 'run' / log.stem.rpartition('_')[2]}.sock"


def test_a_request_that_is_cancelled_before_its_task_begins_frees_its_slot(client, web, tmp_path: Path):
    async def abandon() -> None:
        channel = Channel(socket_of(web, "hello"))
        connection = await channel.connect()
        head = frame(HttpEvent(request=HttpRequest(method="GET", path="/", route="/")).SerializeToString())
        for _ in range(20):  # more than the deployment's slots
            # The replica gets request and reset in one piece, so both before its loop begins a task.
            transport, connection.transport = connection.transport, Corked()
            call = Abandoned()
            call.begin(connection, request_headers("/swerve.control.v1.Http/Request", "x"), [head])
            connection.flush()
            call.cancel()
            connection.flush()
            transport.write(connection.transport.data)
            connection.transport = transport
            await asyncio.sleep(0.01)
        await channel.close()

    asyncio.run(abandon())
    assert client.get("/hello").text == "hello"


def test_requests_without_their_whole_body_take_no_slot(client, web):
    """The application has one slot."""
    head = b"POST /shared HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"
    with contextlib.ExitStack() as stack:
        lazy = [stack.enter_context(socket.create_connection(("127.0.0.1", web.port), 20)) for _ in range(8)]
        for peer in lazy:
            peer.sendall(head)
        wait_for(lambda: under_way(web.url) == 8)
        assert client.post("/shared", content=b"x").content == b"x"
        lazy[0].sendall(b"67890")
        answer = lazy[0].recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: under_way(web.url) == 0)


def test_requests_that_end_in_every_way_leave_nothing_under_way(client, web, tmp_path):
    for path in ("/plain/text", "/plain/raise", "/nowhere", "/plain/break"):
        with client.stream("GET", path) as answer:
            answer.status_code  # noqa: B018 (the body is left unread)
    headers = {"x-request-timeout-seconds": "0.05"}
    assert client.get("/plain/hang", params={"note": str(tmp_path / "n")}, headers=headers).status_code == 408
    wait_for(lambda: under_way(web.url) == 0)


def test_a_slot_stays_taken_while_its_thread_runs(web, monkeypatch):
    async def leave_early() -> None:
        async with httpx.AsyncClient(base_url=web.url) as impatient:
            calls = [impatient.get("/threaded?s=1", timeout=0.3) for _ in range(5)]  # all slots of the deployment
            await asyncio.gather(*calls, return_exceptions=True)

    monkeypatch.setenv("SWERVE_STATE_DIR", str(web.state_dir))
    handle = serve.get_app_handle("threaded")
    handle.quick.remote().result(10)  # connects
    started = time.monotonic()
    asyncio.run(leave_early())
    handle.quick.remote().result(10)
    assert time.monotonic() - started >= 0.95
