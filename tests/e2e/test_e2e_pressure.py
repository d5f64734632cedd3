"""Many calls that end in every way: no slot, no credit and no byte is lost on the way."""

import random
import time

import pytest
from e2e_support import Occupied, in_threads

from tests.conftest import wait_for


@pytest.fixture
def own(world):
    """A client of the lab on a connection of its own, whose windows no other test has touched."""
    client = world.new_client()
    yield client
    client.channel.close()


@pytest.fixture
def own_narrow(world):
    client = world.new_client("narrow")
    yield client
    client.channel.close()


def all_slots_are_free(pool) -> None:
    """Six calls that each take a while run at once, on three replicas with two slots."""

    def together():
        begun = time.monotonic()
        futures = [pool.begin("Nap") for _ in range(6)]
        most = [future.result() for future in futures]
        return len({note.text for note in most}) == 3 and time.monotonic() - begun < 0.9

    wait_for(together, 30, "six naps of half a second at once")


def test_calls_that_are_cancelled_at_any_moment_lose_no_slot(world):
    clients = [world.new_client("pool") for _ in range(3)]

    def work(index):
        chance = random.Random(index)
        for _ in range(60):
            method = chance.choice(["Plain", "Coroutine", "Nap"])
            if chance.random() < 0.5:
                call = clients[index].begin(method)
                time.sleep(chance.random() * 0.02)
                call.cancel()
            else:
                clients[index].begin(method, timeout=chance.random() * 0.03).code()

    with in_threads(3, work):
        pass

    all_slots_are_free(clients[0])
    for client in clients:
        client.channel.close()


def test_a_cancelled_plain_handler_keeps_its_slot_until_it_ends(world):
    pool = world.new_client("pool")
    most = 0
    for _ in range(12):
        call = pool.begin("Plain")
        time.sleep(0.002)
        call.cancel()
        most = max(most, pool.ask("Plain").number)

    assert most <= 2
    pool.channel.close()


def test_uploads_that_are_cancelled_leave_the_connection_s_window_whole(own):
    for i in range(12):

        def notes(key=f"cancelled-upload {i}"):
            for _ in range(100):
                yield own.note(key, 1, b"x" * 200_000)

        call = own.lab.Total.future(notes(), metadata=(("application", "lab"),))
        time.sleep(0.02)
        call.cancel()

    payload = b"y" * 20_000_000
    assert own.ask("Plain", "after", payload=payload).payload == payload


def test_uploads_that_nobody_reads_to_their_end_leave_the_connection_s_window_whole(own):
    for _ in range(12):
        notes = [own.note("enough", 1), *(own.note("more", 1, b"x" * 200_000) for _ in range(20))]
        assert own.upload("Total", iter(notes))[0].text == "early"

    payload = b"y" * 20_000_000
    assert own.ask("Plain", "after", payload=payload).payload == payload


def test_requests_that_expire_in_the_queue_leave_the_connection_s_window_whole(own_narrow):
    occupied = Occupied(own_narrow)
    for _ in range(20):
        own_narrow.failure("Plain", payload=b"x" * 900_000, timeout=0.05)
    occupied.free()

    payload = b"y" * 20_000_000
    assert own_narrow.ask("Plain", "after", payload=payload).payload == payload


def test_streams_that_are_cancelled_leave_the_connection_s_window_whole(own):
    for method in ("Generator", "AsyncGenerator") * 6:
        stream = own.stream(method, "cancelled download", 50, payload=b"x" * 300_000)
        next(stream)
        stream.cancel()

    payload = b"y" * 20_000_000
    assert own.ask("Plain", "after", payload=payload).payload == payload


def test_an_upload_that_waits_for_its_turn_arrives_whole(own_narrow):
    occupied = Occupied(own_narrow)

    def notes():
        for i in range(30):
            yield own_narrow.note("queued", i, b"x" * 100_000)

    waiting = own_narrow.lab.Total.future(notes(), metadata=(("application", "narrow"),), timeout=30)
    time.sleep(0.3)
    assert not waiting.done()
    occupied.free()

    assert waiting.result().number == sum(range(30))


def test_requests_of_competing_proxies_arrive_whole(tuned):
    """Two proxies compete for four slots: many requests are turned away once and sent again."""
    clients = [tuned.new_client() for _ in range(6)]

    def work(index):
        for i in range(10):
            payload = bytes([index, i]) * 30_000
            note = clients[index].ask("Coroutine", f"{index} {i}", 2, payload)
            assert note.payload == payload
            assert note.number <= 4

    with in_threads(6, work):
        pass
    for client in clients:
        client.channel.close()


def test_more_calls_than_a_connection_takes_at_a_time_are_all_answered(own):
    futures = [own.begin("__call__", str(i), timeout=30) for i in range(2500)]

    assert [future.result().text for future in futures] == [f"Hello {i}" for i in range(2500)]
