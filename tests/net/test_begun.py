"""What a client learns of the calls that its server had begun when it died."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from swerve.net import begun
from swerve.net.begun import Board, Look, board_path
from swerve.net.client import Channel
from swerve.net.client_call import ClientCall, request_headers
from swerve.net.listener import ListenOptions, listen
from swerve.net.streams import CONNECTION_LOST
from swerve.wire.frames import ErrorCode
from tests.conftest import wait_for

NAME = b"\0002a3f"
TIMEOUT_S = 20


@pytest.fixture
def path():
    # Short: a socket path holds 107 bytes.
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        yield f"{folder}/replica.sock"


@pytest.fixture
def board(path):
    made = Board(path)
    yield made
    made.close()


def settled(path, name=NAME, board=None, calls=lambda region: None):
    """A look at a connection that began before `calls` and was lost after."""
    look = Look(path, name)
    if board is not None:
        calls(board.admit(name))
    look.settle(final=True)
    return look


def test_only_marked_streams_have_begun(path, board):
    look = settled(path, board=board, calls=lambda region: region.mark(5))
    assert not look.never_began(5)
    assert look.never_began(3)
    assert look.never_began(7)


def test_calls_in_bundles_are_apart_from_streams(path, board):
    look = settled(path, board=board, calls=lambda region: region.mark_bundled(3))
    assert look.never_began(3)
    assert not look.never_began_bundled(3)
    assert look.never_began_bundled(4)


@pytest.mark.parametrize("number", [1, (1 << 31) - 1])
def test_a_call_whose_slot_a_later_one_took_counts_as_begun(path, board, number):
    later = number + 2 * begun._SLOTS
    look = settled(path, board=board, calls=lambda region: region.mark(later))
    assert not look.never_began(number)
    assert not look.never_began(later)


def test_a_call_that_begins_late_leaves_the_mark_of_a_later_one(path, board):
    early, later = 1, 1 + 2 * begun._SLOTS

    def begin(region):
        region.mark(later)
        region.mark(early)

    look = settled(path, board=board, calls=begin)
    assert not look.never_began(early)
    assert not look.never_began(later)


def test_a_connection_that_was_never_accepted_has_begun_nothing(path, board):
    assert settled(path).never_began(1)


def test_a_connection_that_found_no_room_may_have_begun_everything(path, board):
    look = Look(path, NAME)
    for number in range(begun._REGIONS):
        assert board.admit(b"\0%05x" % number) is not None
    assert board.admit(NAME) is None
    look.settle(final=True)
    assert not look.never_began(1)


def test_a_region_is_used_again_without_its_old_marks(path, board):
    for number in range(begun._REGIONS):
        region = board.admit(b"\0%05x" % number)
        region.mark(1)
        board.release(region)
    look = settled(path, board=board)
    assert look.never_began(1)


def test_a_name_that_the_system_gave_again_has_the_marks_of_its_new_connection(path, board):
    first = board.admit(NAME)
    first.mark(1)
    board.release(first)
    look = settled(path, board=board, calls=lambda region: region.mark(5))
    assert not look.never_began(5)
    assert look.never_began(1)


def test_a_connection_whose_region_was_given_to_another_may_have_begun_everything(path, board):
    look = Look(path, NAME)
    region = board.admit(NAME)
    region.mark(1)
    board.release(region)
    for number in range(begun._REGIONS):
        board.release(board.admit(b"\0%05x" % number))
    look.settle(final=True)
    assert not look.never_began(1)


def test_nothing_is_certain_while_the_server_lives(path, board):
    look = Look(path, NAME)
    board.admit(NAME)
    look.settle(final=False)
    assert not look.never_began(1)


def test_a_server_without_a_board_cannot_be_looked_at(path):
    with pytest.raises(FileNotFoundError):
        Look(path, NAME)


def test_a_look_at_the_board_of_an_earlier_server_is_not_current(path, board):
    look = Look(path, NAME)
    assert look.is_current()
    later = Board(path)
    assert not look.is_current()
    later.close()
    assert not look.is_current()
    look.settle(final=False)


def test_a_client_that_is_left_out_as_it_connects_knows_that(path):
    async def connect():
        listener = listen(f"unix:{path}", lambda *_: None, ListenOptions(notes_begun=True))
        board = listener._board
        while board._free:
            board.admit(b"\0%05x" % len(board._free))
        loop = asyncio.get_running_loop()
        sock_connect = loop.sock_connect

        accepted = asyncio.Event()
        admit = board.admit

        def admitted(name):
            accepted.set()
            return admit(name)

        async def slowly(sock, address):
            await sock_connect(sock, address)
            await accepted.wait()

        board.admit = admitted
        loop.sock_connect = slowly
        channel = Channel(f"unix:{path}", learns_begun=True)
        look = (await channel.connect()).look
        look.settle(final=True)
        await channel.close()
        await listener.close(0)
        return look

    assert not asyncio.run(asyncio.wait_for(connect(), TIMEOUT_S)).never_began(1)


def test_no_descriptor_is_left(path):
    before = len(os.listdir("/proc/self/fd"))
    board = Board(path)
    look = Look(path, NAME)
    look.settle(final=True)
    look.settle(final=True)
    board.close()
    del board
    assert len(os.listdir("/proc/self/fd")) == before
    assert not os.path.lexists(board_path(path))


# ---------------------------------------------------------------------------------------------------------------------
# A server that is killed

SERVER = """
    import asyncio, sys
    from swerve.net.listener import ListenOptions, listen

    class Call:
        def __init__(self, connection, stream_id):
            self.connection, self.stream_id = connection, stream_id
        def on_data(self, data, end_stream):
            if data.endswith(b"begin"):
                self.connection.mark_begun(self.stream_id)
            open(sys.argv[2], "a").write("x")
        def on_closed(self, error_code):
            pass

    async def main():
        accept = lambda connection, stream_id, headers, end: Call(connection, stream_id)
        listen(f"unix:{sys.argv[1]}", accept, ListenOptions(notes_begun=True))
        print("listening", flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


class Recorded(ClientCall):
    def __init__(self):
        super().__init__()
        self.code = None

    def on_closed(self, error_code):
        self.code = error_code


@pytest.mark.parametrize("learns", [True, False])
def test_a_call_that_a_killed_server_had_not_begun_ends_as_refused(path, learns):
    heard = Path(path).with_name("heard")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), path, str(heard)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"listening\n"
        asyncio.run(kill_while_called(process, path, heard, learns))
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


async def kill_while_called(process, path, heard, learns):
    channel = Channel(f"unix:{path}", learns_begun=learns)
    connection = await channel.connect()
    one, other = Recorded(), Recorded()
    one.begin(connection, request_headers("/a/B", "x"), [b"begin"])
    other.begin(connection, request_headers("/a/B", "x"), [b"wait!"])
    await asyncio.to_thread(wait_for, lambda: heard.exists() and len(heard.read_text()) >= 2, TIMEOUT_S)
    process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(TIMEOUT_S):
        await connection.wait_unusable()
    await asyncio.sleep(0)
    assert one.code == CONNECTION_LOST
    assert other.code == (ErrorCode.REFUSED_STREAM if learns else CONNECTION_LOST)
    await channel.close()
