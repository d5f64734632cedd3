"""Large buffers in memory that two processes share: who may write to it when, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerve.caller import codec, lending
from swerve.caller.lending import MAX_LENT, SHARED_FROM, Lender, LendingError, borrow

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory is lent on Linux")

MB = 1 << 20


class Link:
    """A connection of this process with itself, as far as lending looks at one."""

    def __init__(self, family: int = socket.AF_UNIX) -> None:
        self.closed = False
        self.loop = asyncio.new_event_loop()
        self.transport = self
        if family == socket.AF_UNIX:
            self._sockets = socket.socketpair()
        else:
            self._sockets = (socket.socket(family),)

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._sockets[0]

    def close(self) -> None:
        self.closed = True
        self.loop.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def link():
    made = Link()
    yield made
    made.close()


@pytest.fixture
def lender(monkeypatch):
    made = Lender(8 * MB)
    monkeypatch.setattr(lending, "LENDER", made)
    yield made
    made._tidy(time.monotonic() + 1000, 0.0)


def array(value: int, size: int = MB):
    return numpy.full(size, value, dtype=numpy.uint8)


def sent(value: object, lender: Lender, link: Link) -> bytes:
    message = codec.encode(value, lender.lend)
    return codec.joined(message.to(link) if isinstance(message, codec.Lent) else message)


def received(message: bytes, link: Link):
    return codec.decode(codec.claim(message, link))


def test_an_array_arrives_without_being_in_the_message(lender, link):
    message = sent({"a": array(1), "b": [array(2, 1000), array(3)]}, lender, link)
    assert len(message) < 1000
    value = received(message, link)
    assert [value["a"].tolist(), value["b"][0].tolist()] == [array(1).tolist(), array(2, 1000).tolist()]
    assert (value["b"][1] == 3).all()


def test_a_reply_is_lent_as_arguments_are(lender, link):
    (message,) = codec.encode_reply(array(5), lender.lend).to(link)
    assert (codec.decode_reply(codec.claim(message, link, 1)) == array(5)).all()


def test_what_arrives_is_read_only(lender, link):
    value = received(sent(array(1), lender, link), link)
    assert not value.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        value.flags.writeable = True


def test_the_sender_may_write_to_its_array_at_once(lender, link):
    mine = array(1)
    message = sent(mine, lender, link)
    mine[:] = 2
    assert (received(message, link) == 1).all()


sizes = st.lists(st.integers(0, 700_000), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(sizes, st.booleans())
def test_a_lent_message_and_one_that_is_sent_say_the_same(sizes, lends):
    link, lender = Link(), Lender(8 * MB)
    value = [pickle.PickleBuffer(bytes([index]) * size) for index, size in enumerate(sizes)]
    message = sent(value, lender, link) if lends else codec.joined(codec.encode(value))
    lent = lends and sum(sizes) >= SHARED_FROM
    assert lent == (len(message) < SHARED_FROM and sum(sizes) >= SHARED_FROM)
    got = received(message, link)
    assert [bytes(part) for part in got] == [bytes([index]) * size for index, size in enumerate(sizes)]
    del got
    lender._tidy(time.monotonic() + 1000, 0.0)
    link.close()


# --- using memory again ----------------------------------------------------------------------------------------------


def test_memory_is_used_again_when_the_receiver_has_let_go(lender, link):
    for value in range(20):
        assert (received(sent(array(value), lender, link), link) == value).all()
    assert lender.size == MB


def test_memory_is_not_written_to_while_the_receiver_has_any_part_of_it(lender, link):
    part = received(sent(array(1), lender, link), link)[100:200]
    others = [received(sent(array(value), lender, link), link).sum() for value in (2, 3)]
    assert others == [2 * MB, 3 * MB]
    assert (part == 1).all()
    assert lender.size == 2 * MB


def test_memory_is_not_written_to_before_its_reference_was_followed(lender, link):
    first = sent(array(1), lender, link)
    second = sent(array(2), lender, link)
    assert (received(first, link) == 1).all()
    assert (received(second, link) == 2).all()


def test_memory_is_not_written_to_while_its_message_may_be_sent_again(lender, link):
    message = codec.encode(array(1), lender.lend)
    (first,) = message.to(link)
    assert (received(first, link) == 1).all()
    assert (received(sent(array(2), lender, link), link) == 2).all()
    (again,) = message.to(link)
    assert (received(again, link) == 1).all()


def test_memory_whose_reference_was_refused_is_used_again(lender, link):
    message = codec.encode(array(1), lender.lend)
    message.to(link)
    message.loan.refused(link)
    (again,) = message.to(link)
    assert (received(again, link) == 1).all()
    del message
    sent(array(2), lender, link)
    assert lender.size == MB


def test_a_child_of_the_receiver_keeps_what_it_inherited(lender, link):
    value = received(sent(array(1), lender, link), link)
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.read(told, 1)
        os._exit(0 if (value == 1).all() else 1)
    del value
    try:
        assert (received(sent(array(2), lender, link), link) == 2).all()
        os.write(tell, b"!")
    finally:
        _, status = os.waitpid(child, 0)
        os.close(told)
        os.close(tell)
    assert status == 0
    sent(array(3), lender, link)
    assert lender.size == 2 * MB


RECEIVER = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(file, 4096, prot=mmap.PROT_READ)
os.pwrite(file, b"\\1", int(sys.argv[2]))
print("mapped", flush=True)
sys.stdin.read()
"""


def test_memory_that_a_killed_process_had_is_used_again(lender, link):
    fd, _, _, mark = lending._REFERENCE.unpack(sent(array(1), lender, link)[-lending.REFERENCE_SIZE :])
    command = [sys.executable, "-c", RECEIVER, f"/proc/{os.getpid()}/fd/{fd}", str(mark)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mapped\n"
        sent(array(2), lender, link)
        assert lender.size == 2 * MB
        process.send_signal(signal.SIGKILL)
    sent(array(3), lender, link)
    assert lender.size == 2 * MB


# --- bounds and fallback ---------------------------------------------------------------------------------------------


def test_small_buffers_stay_in_the_message(lender, link):
    message = sent(array(1, SHARED_FROM - 1), lender, link)
    assert len(message) > SHARED_FROM
    assert lender.size == 0
    assert (received(message, link) == 1).all()


def test_above_the_bound_buffers_are_sent(lender, link):
    kept = [received(sent(array(value, 2 * MB), lender, link), link) for value in range(6)]
    assert lender.size <= 8 * MB
    assert [int(value[0]) for value in kept] == list(range(6))
    message = codec.encode(array(9, 9 * MB), lender.lend)
    assert not isinstance(message, codec.Lent)


def test_many_arrays_take_few_file_descriptors(lender, link):
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for value in range(200):
        kept.append(received(sent(array(value, SHARED_FROM), lender, link), link))
        lender._tidy(time.monotonic() + 1000, 0.0)
    assert len(os.listdir("/proc/self/fd")) <= before + lending.MAX_SEGMENTS
    assert [int(value[-1]) for value in kept] == list(range(200))
    assert not any(value.flags.writeable for value in kept)


def test_a_process_lends_a_bounded_number_of_segments(link):
    lender = Lender(1 << 40)
    messages = [codec.encode(array(value, SHARED_FROM), lender.lend) for value in range(lending.MAX_SEGMENTS + 1)]
    assert [isinstance(message, codec.Lent) for message in messages] == [True] * lending.MAX_SEGMENTS + [False]
    del messages
    lender._tidy(time.monotonic() + 1000, 0.0)
    assert lender.size == 0


def test_memory_that_only_receivers_have_does_not_count(lender, link):
    kept = [received(sent(array(value, 2 * MB), lender, link), link) for value in range(20)]
    assert lender.size <= 8 * MB
    assert [int(value[-1]) for value in kept] == list(range(20))


def test_the_bound_is_large_enough_to_matter_and_small_enough_to_bear():
    assert 64 * MB <= MAX_LENT <= 1024 * MB


def test_a_peer_on_another_machine_is_sent_the_buffers(lender):
    link = Link(socket.AF_INET)
    message = sent(array(1), lender, link)
    assert len(message) > MB
    assert (received(message, link) == 1).all()
    link.close()


def test_a_plain_copy_of_a_lent_message_is_whole_and_outlives_it(lender, link):
    message = codec.encode(array(1), lender.lend)
    copy = message.plain()
    assert len(copy) == len(message) > MB
    del message
    sent(array(2), lender, link)
    assert (codec.decode(copy) == 1).all()


def test_a_message_that_went_to_too_many_is_sent_whole(lender, link):
    message = codec.encode(array(1), lender.lend)
    references = [message.to(link) for _ in range(lending._MARKS)]
    assert all(len(pieces) == 1 for pieces in references)
    assert sum(map(len, message.to(link))) > MB


# --- what is left ----------------------------------------------------------------------------------------------------


def test_idle_memory_is_given_back(lender, link):
    received(sent(array(1), lender, link), link)
    lender._tidy(time.monotonic(), lending._IDLE_S)
    assert lender.size == MB
    lender._tidy(time.monotonic() + lending._IDLE_S, lending._IDLE_S)
    assert lender.size == 0


def test_memory_that_a_receiver_keeps_is_left_to_it(lender, link):
    value = received(sent(array(7), lender, link), link)
    lender._tidy(time.monotonic() + lending._IDLE_S, lending._IDLE_S)
    assert lender.size == 0
    assert (value == 7).all()


def test_a_reference_under_way_keeps_its_memory_until_its_connection_is_closed(lender, link):
    message = sent(array(7), lender, link)
    lender._tidy(time.monotonic() + 10 * lending._IDLE_S, lending._IDLE_S)
    assert (received(message, link) == 7).all()
    sent(array(8), lender, link)
    link.closed = True
    lender._tidy(time.monotonic() + lending._IDLE_S, lending._IDLE_S)
    assert lender.size == 0


def test_a_reference_that_was_lost_keeps_its_memory_for_a_time(lender, link):
    sent(array(7), lender, link)
    lender._tidy(time.monotonic() + lending._LOST_S - 1, lending._IDLE_S)
    assert lender.size == MB
    lender._tidy(time.monotonic() + lending._LOST_S, lending._IDLE_S)
    assert lender.size == 0


def test_a_reference_to_memory_that_was_given_up_is_an_error_for_who_reads_the_message(lender, link):
    message = sent(array(7), lender, link)
    lender._tidy(time.monotonic() + lending._LOST_S, lending._IDLE_S)
    claimed = codec.claim(message, link)
    with pytest.raises(LendingError):
        codec.decode(claimed)


def test_another_file_in_the_place_of_the_memory_is_not_mapped(lender, link, tmp_path):
    message = sent(array(7), lender, link)
    lender._tidy(time.monotonic() + lending._LOST_S, lending._IDLE_S)
    with (tmp_path / "other").open("w+b") as other:
        other.truncate(2 * MB)
        reference = bytearray(message[-lending.REFERENCE_SIZE :])
        reference[:4] = other.fileno().to_bytes(4, "little")
        with pytest.raises(LendingError, match="given up"):
            borrow(bytes(reference), link)


def test_a_lent_message_that_was_not_claimed_is_refused(lender, link):
    with pytest.raises(ValueError, match="not claimed"):
        codec.decode(sent(array(7), lender, link))


def test_the_timer_of_a_loop_gives_back_what_is_idle(lender, monkeypatch):
    monkeypatch.setattr(lending, "_IDLE_S", 0.01)

    async def scenario():
        link = Link()
        link.loop.close()
        link.loop = asyncio.get_running_loop()
        received(sent(array(1), lender, link), link)
        deadline = time.monotonic() + 20
        while lender.size:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    asyncio.run(scenario())
