"""However user code ends, its call ends: once, with a status, a log line where it is a fault, and its slot free."""

import asyncio
import gc
import logging
import threading
import time
from typing import ClassVar

import grpc
import pytest
from replica_lab import COLLECT, HANDLE_STREAM, STREAM, run, until

from swerve.caller import codec
from swerve.exceptions import ReplicaUnavailableError, gRPCStatusError
from swerve.grpc_util import gRPCInputStream
from swerve.net.connection import Connection
from swerve.replica.grpc_call import GrpcCall
from swerve.replica.handle_call import HandleCall
from swerve.replica.threads import ThreadPool
from swerve.wire.message import frame
from swerve.wire.status import Status, StatusCode


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class UnprintableStatus(gRPCStatusError):
    def __str__(self):
        raise RuntimeError("no text")


ERRORS = {
    "bad code": lambda: gRPCStatusError(None, "no code", "text"),
    "code out of range": lambda: gRPCStatusError(None, 99, "text"),
    "details that are no text": lambda: gRPCStatusError(None, grpc.StatusCode.ABORTED, 17),
    "unprintable": Unprintable,
    "unprintable status": UnprintableStatus,
    "own timeout": lambda: TimeoutError("the database"),
    "lost": lambda: ReplicaUnavailableError("The price list is gone.", 0.5),
    "abort": lambda: gRPCStatusError(None, grpc.StatusCode.ABORTED, "on purpose"),
    "value": lambda: ValueError("boom"),
}


def fail(name):
    raise ERRORS[name]()  # noqa: RSE102 (a factory)


class Failing:
    made = 0

    async def Unary(self, note, grpc_context):
        if note.text == "late timeout":
            try:
                await asyncio.sleep(5)
            finally:
                raise TimeoutError
        if note.text in ERRORS:
            fail(note.text)
        return note

    async def agen(self, one):
        yield one

    def gen(self, one):
        yield one

    def plain(self, one):
        return one

    async def coro(self, one):
        return one

    def Stream(self, note):
        for number in range(note.number):
            type(self).made = number + 1
            # Slower than the loop, faster than its reader.
            time.sleep(0.001)
            yield type(note)(payload=b"x" * 50_000)

    async def Collect(self, stream):
        async for note in stream:
            last = note
        return last


class Plain:
    def Unary(self, note):
        if note.text in ERRORS:
            fail(note.text)
        return note


FAULTS = ("bad code", "code out of range", "details that are no text", "unprintable", "unprintable status")


@pytest.mark.parametrize("target", [Failing, Plain])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_exception_that_makes_no_status_ends_the_call_as_internal(probe, target, fault):
    async def scenario(lab):
        caller = await lab.caller()
        call = caller.call(text=fault)
        assert (await call.over()).code == StatusCode.INTERNAL
        assert (await caller.call(text="next").over()).code == StatusCode.OK
        assert lab.replica.ongoing == 0

    run(scenario, target, probe)


@pytest.mark.parametrize("target", [Failing, Plain])
def test_a_call_that_lost_another_s_replica_says_when_to_try_again(probe, target):
    async def scenario(lab):
        call = (await lab.caller()).call(text="lost")
        assert await call.over() == Status(StatusCode.UNAVAILABLE, "The price list is gone.")
        assert call.trailers[b"grpc-retry-pushback-ms"] == b"500"

    run(scenario, target, probe)


@pytest.mark.parametrize("method", ["agen", "gen", "plain", "coro"])
def test_wrong_arguments_end_the_call_with_the_error(probe, method):
    async def scenario(lab):
        caller = await lab.caller()
        call = caller.handle_call(method, 1, 2, 3)
        await call.over()
        with pytest.raises(TypeError, match="positional argument"):
            codec.decode_reply(call.messages[0])
        await until(lambda: lab.replica.ongoing == 0)

    run(scenario, Failing, probe)


def test_a_call_whose_trailers_cannot_be_sent_ends_as_internal(probe, monkeypatch):
    async def scenario(lab):
        monkeypatch.setattr(GrpcCall, "trailers", lambda self: ((b"bad", "no bytes"),))
        call = (await lab.caller()).call()
        assert (await call.over()).code == StatusCode.INTERNAL
        assert lab.replica.ongoing == 0

    run(scenario, Failing, probe)


@pytest.mark.parametrize("target", [Failing, Plain])
@pytest.mark.parametrize(
    ("text", "code", "lines"),
    [
        ("value", StatusCode.INTERNAL, 1),
        ("own timeout", StatusCode.DEADLINE_EXCEEDED, 1),
        ("bad code", StatusCode.INTERNAL, 1),
        ("abort", StatusCode.ABORTED, 0),
        ("fine", StatusCode.OK, 0),
    ],
)
def test_faults_of_user_code_are_logged_once_with_the_request_id(probe, caplog, target, text, code, lines):
    async def scenario(lab):
        status = await (await lab.caller()).call(text=text).over()
        assert status.code == code
        if text == "own timeout":
            assert status.details == "Request timed out."

    with caplog.at_level(logging.ERROR):
        run(scenario, target, probe)
    assert [record.request_id for record in caplog.records] == ["r-1"] * lines
    assert all(record.name == "swerve.replica" and "Error" in record.getMessage() for record in caplog.records)


def test_the_timeout_of_an_overdue_call_is_not_logged(probe, caplog):
    async def scenario(lab):
        call = (await lab.caller()).call(text="late timeout", metadata=((b"grpc-timeout", b"30m"),))
        assert (await call.over()).code == StatusCode.DEADLINE_EXCEEDED
        await until(lambda: lab.replica.ongoing == 0)

    run(scenario, Failing, probe)
    assert not caplog.records


def test_a_plain_generator_makes_no_more_than_its_reader_takes(probe):
    async def scenario(lab):
        Failing.made = 0
        call = (await lab.caller()).call(STREAM, number=400, reads=False)
        made = -1
        while made != Failing.made:
            made = Failing.made
            await asyncio.sleep(0.3)
        # What is in flow control's window, in the socket and below the mark.
        assert 0 < made < 150
        call.read_on()
        assert (await call.over()).code == StatusCode.OK
        assert len(call.messages) == 400

    run(scenario, Failing, probe)


def test_finished_calls_are_freed_without_the_garbage_collector(probe):
    async def scenario(lab):
        caller = await lab.caller()
        await caller.call().over()
        gc.collect()
        gc.disable()
        try:
            for text in ("fine", "abort", "value"):
                await caller.call(text=text).over()
            cancelled = caller.call(text="late timeout")
            await until(lambda: lab.replica.ongoing == 1)
            cancelled.cancel()
            await until(lambda: lab.replica.ongoing == 0)
            await caller.call(STREAM, number=3).over()
            await caller.handle_call("agen", 1).over()
            upload = caller.open(COLLECT)
            caller.send(upload, "x", last=True)
            await upload.over()
            await asyncio.sleep(0.05)
            left = [item for item in gc.get_objects() if type(item) in (GrpcCall, HandleCall)]
            assert left == []
        finally:
            gc.enable()

    run(scenario, Failing, probe)


def test_two_readers_of_an_input_stream_are_both_woken():
    async def scenario():
        stream = gRPCInputStream()

        async def read():
            return [message async for message in stream]

        readers = [asyncio.create_task(read()) for _ in range(2)]
        await asyncio.sleep(0)
        stream._push("one", 1)
        await asyncio.sleep(0)
        stream._end()
        async with asyncio.timeout(5):
            assert sorted(await asyncio.gather(*readers)) == [[], ["one"]]

    asyncio.run(scenario())


def test_a_call_that_gets_no_thread_ends_and_frees_its_slot(probe, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async def scenario(lab):
        caller = await lab.caller()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            status = await caller.call().over()
        assert status.code == StatusCode.INTERNAL
        assert "can't start new thread" in status.details
        assert (await caller.call(text="next").over()).code == StatusCode.OK

    run(scenario, Plain, probe)


class Blocking:
    entered: ClassVar[list[str]] = []
    go_on = threading.Event()

    def Unary(self, note):
        self.entered.append(note.text)
        self.go_on.wait(10)
        return note


def test_a_call_that_ends_while_it_waits_for_a_thread_never_begins(probe, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async def scenario(lab):
        Blocking.entered.clear()
        Blocking.go_on.clear()
        caller = await lab.caller()
        running = caller.call(text="running")
        await until(lambda: Blocking.entered)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            begun: list[int] = []
            patch.setattr(Connection, "mark_begun", lambda self, stream_id: begun.append(stream_id))
            cancelled = caller.call(text="cancelled")
            await until(lambda: lab.replica.ongoing == 2)
            (connection,) = lab.replica.connections
            waiting = connection.streams[cancelled.stream_id]
            cancelled.cancel()
            await until(lambda: waiting.done)
            Blocking.go_on.set()
            assert (await running.over()).code == StatusCode.OK
            await until(lambda: lab.replica.ongoing == 0)
        assert (Blocking.entered, begun) == (["running"], [])

    run(scenario, Blocking, probe, max_ongoing=2)


def test_a_job_that_gets_no_thread_of_its_own_waits_for_another(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    pool = ThreadPool(2)
    go_on, done = threading.Event(), threading.Semaphore(0)
    pool.submit(lambda: (go_on.wait(10), done.release()))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        pool.submit(done.release)
    go_on.set()
    assert done.acquire(timeout=10)
    assert done.acquire(timeout=10)


def test_a_handle_call_with_two_argument_messages_takes_one_slot(probe):
    async def scenario(lab):
        caller = await lab.caller()
        call = caller.open(HANDLE_STREAM, ((b"swerve-method", b"agen"),))
        message = frame(codec.joined(codec.encode(((1,), {}))))
        caller.connection.send_data(call.stream_id, message + message, end_stream=True)
        assert (await call.over()).code == StatusCode.INTERNAL
        await until(lambda: lab.replica.ongoing == 0)

    run(scenario, Failing, probe)
