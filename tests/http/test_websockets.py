"""WebSockets to applications of `@serve.ingress`."""

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.conftest import wait_for


@pytest.fixture
def address(web):
    return f"ws://127.0.0.1:{web.port}"


def test_messages_go_both_ways(address):
    with connect(f"{address}/shop/chat") as socket:
        for word in ("one", "two"):
            socket.send(word)
            assert socket.recv(10) == f"5 {word}"


def test_binary_messages_keep_their_bytes(address):
    data = bytes(range(256)) * 2000
    with connect(f"{address}/shop/mirror") as socket:
        socket.send(data)
        assert socket.recv(10) == data


def test_the_application_chooses_a_subprotocol_and_sets_headers(address):
    with connect(f"{address}/shop/chat", subprotocols=["chat.v1"], additional_headers={"x-request-id": "w1"}) as socket:
        assert socket.subprotocol == "chat.v1"
        assert socket.response.headers["x-request-id"] == "w1"


def test_the_client_sees_how_the_application_closed(address, web):
    with connect(f"{address}/shop/chat", additional_headers={"x-request-id": "closed"}) as socket:
        socket.send("bye")
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(10)
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "told to")
    wait_for(lambda: " closed -- WEBSOCKET /shop/chat 4001 " in web.log("proxy"))


def test_the_application_sees_how_the_client_closed(address, tmp_path):
    note = tmp_path / "note"
    with connect(f"{address}/shop/leave?path={note}") as socket:
        socket.close(4002, "enough")
    wait_for(lambda: note.exists() and note.read_text() == "4002 enough")


def test_a_client_that_closes_is_no_error(address, web):
    with connect(f"{address}/shop/chat", additional_headers={"x-request-id": "left"}):
        pass
    wait_for(lambda: " left -- WEBSOCKET /shop/chat 1000 " in web.log("proxy"))
    assert "left -- The request failed" not in web.log("replica_shop")


def test_an_exception_closes_with_an_internal_error(address):
    with connect(f"{address}/shop/trip") as socket:
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(10)
        assert caught.value.rcvd.code == 1011


@pytest.mark.parametrize(
    ("path", "status"), [("/nowhere", 404), ("/shop/denied", 418), ("/plain", 500), ("/shop/x", 403)]
)
def test_a_websocket_may_be_denied(address, path, status):
    with pytest.raises(InvalidStatus) as caught:
        connect(address + path)
    assert caught.value.response.status_code == status
    assert "x-request-id" in caught.value.response.headers or status == 403
