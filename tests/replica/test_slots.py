"""Who gets a slot of a replica, who waits for one in line, and who is turned away."""

import asyncio
import contextvars
from typing import ClassVar

import pytest
from replica_lab import COLLECT, UNARY, run, until

from swerve.replica.slots import Slots
from swerve.wire.message import frame
from swerve.wire.status import StatusCode

mark = contextvars.ContextVar("mark", default="unset")


class Gated:
    """`Unary` runs until the test lets it go on."""

    gates: ClassVar[list[asyncio.Event]] = []
    seen: ClassVar[list[str]] = []
    running = 0
    most = 0

    def __init__(self):
        cls = type(self)
        cls.gates, cls.seen, cls.running, cls.most = [], [], 0, 0

    async def Unary(self, note):
        cls = type(self)
        cls.seen.append(note.text)
        cls.running += 1
        cls.most = max(cls.most, cls.running)
        gate = asyncio.Event()
        cls.gates.append(gate)
        try:
            await gate.wait()
        finally:
            cls.running -= 1
        return note

    async def Collect(self, stream):
        async for note in stream:
            last = note
        return await self.Unary(last)


class EndsAtOnce:
    """A call whose caller cannot send it again, and whose handler waits for nothing."""

    repeatable = False

    def __init__(self, slots):
        self.slots = slots

    def enter(self):
        self.slots.release()


class Brief:
    most = running = 0

    async def Unary(self, note):
        cls = type(self)
        cls.running += 1
        cls.most = max(cls.most, cls.running)
        try:
            await asyncio.sleep(0.003)
        finally:
            cls.running -= 1
        return note


class Marking:
    async def Unary(self, note):
        before = mark.get()
        mark.set(note.text)
        await asyncio.sleep(0.01)
        return type(note)(text=before)


async def one_runs_and_one_waits(lab):
    first, second = await lab.caller(), await lab.caller()
    running = first.call(text="runs")
    await until(lambda: Gated.seen == ["runs"])
    waiting = second.call(text="waits")
    await until(lambda: lab.replica.slots.waiting == 1)
    return first, second, running, waiting


def test_three_callers_share_a_busy_replica_fairly(probe):
    async def scenario(lab):
        served = [0, 0, 0]

        async def drive(index):
            caller = await lab.caller()
            while sum(served) < 150:
                call = caller.call()
                if (await call.over()).code == StatusCode.OK:
                    served[index] += 1
                else:
                    assert call.refused
                    await asyncio.sleep(0.025)

        await asyncio.gather(*(drive(index) for index in range(3)))
        assert min(served) > 40, served
        assert Brief.most == 1
        assert lab.replica.ongoing == 0

    run(scenario, Brief, probe)


def test_a_call_in_line_begins_when_a_slot_is_free(probe):
    async def scenario(lab):
        _, _, running, waiting = await one_runs_and_one_waits(lab)
        Gated.gates[0].set()
        assert (await running.over()).code == StatusCode.OK
        await until(lambda: Gated.seen == ["runs", "waits"])
        Gated.gates[1].set()
        assert (await waiting.over()).code == StatusCode.OK
        assert Gated.most == 1
        assert lab.replica.ongoing == 0

    run(scenario, Gated, probe)


def test_a_second_call_of_a_caller_in_line_is_turned_away_unseen(probe):
    async def scenario(lab):
        _, second, _, _ = await one_runs_and_one_waits(lab)
        third = second.call(text="too many")
        await third.over()
        assert third.refused
        assert Gated.seen == ["runs"]
        assert lab.replica.slots.waiting == 1

    run(scenario, Gated, probe)


def test_a_request_too_large_to_be_sent_again_waits_in_any_case(probe):
    async def scenario(lab):
        _, second, _, _ = await one_runs_and_one_waits(lab)
        large = second.call(text="x" * 1_500_000)
        await until(lambda: lab.replica.slots.waiting == 2)
        for index in range(3):
            await until(lambda index=index: len(Gated.gates) > index)
            Gated.gates[index].set()
        assert (await large.over()).code == StatusCode.OK

    run(scenario, Gated, probe)


def test_a_cancelled_call_leaves_the_line(probe):
    async def scenario(lab):
        _, _, running, waiting = await one_runs_and_one_waits(lab)
        waiting.cancel()
        await until(lambda: lab.replica.slots.waiting == 0)
        Gated.gates[0].set()
        await running.over()
        await until(lambda: lab.replica.ongoing == 0)
        assert Gated.seen == ["runs"]

    run(scenario, Gated, probe)


def test_a_call_expires_in_line(probe):
    async def scenario(lab):
        first, second = await lab.caller(), await lab.caller()
        first.call(text="runs")
        await until(lambda: Gated.seen == ["runs"])
        waiting = second.call(text="waits", metadata=((b"grpc-timeout", b"30m"),))
        assert (await waiting.over()).code == StatusCode.DEADLINE_EXCEEDED
        assert lab.replica.slots.waiting == 0
        assert Gated.seen == ["runs"]

    run(scenario, Gated, probe)


def test_a_replica_that_drains_turns_the_line_away_and_ends_what_runs(probe):
    async def scenario(lab):
        _, _, running, waiting = await one_runs_and_one_waits(lab)
        stopping = asyncio.create_task(lab.replica.stop(20))
        await waiting.over()
        assert waiting.refused
        Gated.gates[0].set()
        assert (await running.over()).code == StatusCode.OK
        await stopping
        assert Gated.seen == ["runs"]

    run(scenario, Gated, probe)


def test_a_request_that_is_not_complete_when_the_replica_drains_is_turned_away(probe):
    async def scenario(lab):
        caller = await lab.caller()
        call = caller.open(UNARY)
        # The headers have arrived when a later call has.
        later = caller.call(text="later")
        await until(lambda: Gated.seen == ["later"])
        stopping = asyncio.create_task(lab.replica.stop(20))
        await call.over()
        assert call.refused
        Gated.gates[0].set()
        await later.over()
        await stopping

    run(scenario, Gated, probe)


def test_a_drain_waits_for_a_request_that_is_too_large_to_be_sent_again(probe):
    async def scenario(lab):
        caller = await lab.caller()
        call = caller.open(UNARY)
        message = frame(probe.pb.Note(text="x" * 1_500_000).SerializeToString())
        caller.connection.send_data(call.stream_id, message[:-1])
        (server,) = lab.replica.connections
        await until(lambda: [stream.received for stream in server.streams.values()] == [len(message) - 1])
        stopping = asyncio.create_task(lab.replica.stop(20))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        caller.connection.send_data(call.stream_id, message[-1:], end_stream=True)
        await until(lambda: Gated.running == 1)
        Gated.gates[0].set()
        assert (await call.over()).code == StatusCode.OK
        await stopping

    run(scenario, Gated, probe)


def test_a_request_that_is_not_complete_takes_no_slot(probe):
    async def scenario(lab):
        caller = await lab.caller()
        slow = caller.open(UNARY)
        quick = caller.call(text="quick")
        await until(lambda: Gated.seen == ["quick"])
        Gated.gates[0].set()
        assert (await quick.over()).code == StatusCode.OK
        assert lab.replica.ongoing == 0
        slow.cancel()

    run(scenario, Gated, probe)


def test_an_upload_waits_in_line_with_what_it_has_sent(probe):
    async def scenario(lab):
        first, second = await lab.caller(), await lab.caller()
        first.call(text="runs")
        await until(lambda: Gated.seen == ["runs"])
        upload = second.open(COLLECT)
        second.send(upload, "one")
        second.send(upload, "two", last=True)
        await until(lambda: lab.replica.slots.waiting == 1)
        Gated.gates[0].set()
        await until(lambda: Gated.seen == ["runs", "two"])
        Gated.gates[1].set()
        assert (await upload.over()).code == StatusCode.OK

    run(scenario, Gated, probe)


def test_a_raised_limit_lets_the_line_in(probe):
    async def scenario(lab):
        await one_runs_and_one_waits(lab)
        await lab.replica.reconfigure({**lab.replica._config, "max_ongoing_requests": 2}, 0, 1)
        await until(lambda: Gated.seen == ["runs", "waits"])

    run(scenario, Gated, probe)


def test_a_call_in_line_does_not_inherit_the_context_of_the_call_that_makes_room(probe):
    async def scenario(lab):
        first, second = await lab.caller(), await lab.caller()
        calls = [first.call(text="secret"), second.call(text="other")]
        for call in calls:
            await call.over()
        texts = [probe.pb.Note.FromString(call.messages[0]).text for call in calls]
        assert texts == ["unset", "unset"]

    run(scenario, Marking, probe)


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_holds_whatever_becomes_of_the_calls(probe, limit):
    async def scenario(lab):
        Brief.most = 0

        async def drive(index):
            caller = await lab.caller()
            for number in range(40):
                call = caller.call()
                if (index + number) % 3 == 0:
                    await asyncio.sleep(0.001 * (number % 4))
                    call.cancel()
                await call.over()

        await asyncio.gather(*(drive(index) for index in range(6)))
        await until(lambda: lab.replica.ongoing == 0)
        assert 1 <= Brief.most <= limit

    Brief.running = 0
    run(scenario, Brief, probe, max_ongoing=limit)


def test_a_long_line_of_calls_that_end_at_once_is_let_in_one_after_the_other():
    slots = Slots(1)
    slots.is_open = True
    assert slots.take()
    for _ in range(5_000):
        assert slots.wait(EndsAtOnce(slots))
    slots.release()
    assert (slots.taken, slots.waiting) == (0, 0)
