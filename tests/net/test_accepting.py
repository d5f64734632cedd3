"""How connections that wait at a listening socket are taken."""

import asyncio
import errno
import socket

import pytest
import uvloop

from swerve.net import accepting
from swerve.net.accepting import Door

TIMEOUT_S = 20


class Full(socket.socket):
    """A listening socket of a process that has no files left, at first."""

    tries = 0

    def accept(self):
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def turns_of(count: int, kind: type[socket.socket] = socket.socket) -> list[int]:
    """The turns of the event loop in which so many connections are taken that wait together, counted from the first."""

    async def scenario() -> list[int]:
        loop = asyncio.get_running_loop()
        turn, turns, everyone = 0, [], loop.create_future()

        def count_turns() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(count_turns)

        def take(sock: socket.socket, address: object) -> None:
            assert address == sock.getpeername()
            sock.close()
            turns.append(turn)
            if len(turns) == count:
                everyone.set_result(None)

        sock = kind()
        sock.bind(("127.0.0.1", 0))
        door = Door(sock, take)
        clients = [socket.create_connection(sock.getsockname()) for _ in range(count)]
        count_turns()
        await asyncio.wait_for(everyone, TIMEOUT_S)
        door.close()
        for client in clients:
            client.close()
        return [later - turns[0] for later in turns]

    return uvloop.run(scenario())


def test_connections_that_wait_together_are_taken_in_one_turn():
    assert turns_of(20) == [0] * 20


def test_a_turn_takes_no_more_than_a_few(monkeypatch):
    monkeypatch.setattr(accepting, "_MOST_A_TURN", 3)
    assert turns_of(7) == [0, 0, 0, 1, 1, 1, 2]


def test_connections_wait_until_there_are_files_again(monkeypatch, caplog):
    monkeypatch.setattr(accepting, "_RETRY_S", 0.01)
    assert len(turns_of(2, Full)) == 2
    assert "Too many open files" in caplog.text


@pytest.mark.parametrize("kind", [socket.socket, Full])
def test_a_door_that_is_closed_takes_nobody(kind):
    async def scenario() -> None:
        sock = kind()
        sock.bind(("127.0.0.1", 0))
        door = Door(sock, lambda sock, address: pytest.fail("taken"))
        address = sock.getsockname()
        with socket.create_connection(address):
            if kind is Full:
                door.accept()
            door.close()
            door.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    uvloop.run(scenario())
