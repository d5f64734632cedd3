"""What the controller is told of ended calls: each once, also when it was away."""

import asyncio

import pytest

from swerve.proxy import call_reporter
from swerve.proxy.call_reporter import CallReporter
from swerve.proxy.observer import Tally
from swerve.wire.status import RpcError, Status, StatusCode


class Controller:
    """Answers with `error` if there is one, and `hears` all the same; `told` are the calls and errors by release."""

    def __init__(self):
        self.error: Exception | None = None
        self.hears = True
        self.asked = 0
        self.told: list[dict[str, tuple[int, int]]] = []

    async def report_calls(self, request):
        self.asked += 1
        await asyncio.sleep(0)
        if self.hears:
            self.told.append({item.release: (item.calls, item.errors) for item in request.ended})
        if self.error is not None:
            raise self.error

    def total(self, release: str) -> tuple[int, int]:
        reports = [report.get(release, (0, 0)) for report in self.told]
        return sum(calls for calls, _ in reports), sum(errors for _, errors in reports)


def away():
    return RpcError(Status(StatusCode.UNAVAILABLE, "away"))


@pytest.fixture
def controller(monkeypatch):
    monkeypatch.setattr(call_reporter, "_INTERVAL_S", 0.001)
    return Controller()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (the reporter's timer is the event)
            await asyncio.sleep(0.001)


def test_calls_that_nobody_heard_of_are_told_later_and_once(controller):
    tallies = {("app", ""): Tally(), ("app", "r"): Tally()}

    async def body():
        reporter = CallReporter(controller)
        controller.error, controller.hears = away(), False
        tallies["app", "r"].add(error=True)
        reporter.update(tallies)
        await until(lambda: controller.asked >= 3)
        # Calls go on ending meanwhile.
        tallies["app", ""].add(error=False)
        controller.error, controller.hears = None, True
        await until(lambda: controller.total("r") == (1, 1) and controller.total("") == (1, 0))
        asked = controller.asked
        await asyncio.sleep(0.01)
        assert controller.asked == asked
        reporter.update({})

    asyncio.run(body())


@pytest.mark.parametrize(
    "error", [RpcError(Status(StatusCode.DEADLINE_EXCEEDED, "slow")), OSError("odd"), ValueError("a fault")]
)
def test_calls_that_may_have_been_heard_of_are_not_told_again_and_later_ones_are(controller, error, caplog):
    tally = Tally()

    async def body():
        reporter = CallReporter(controller)
        controller.error = error
        tally.add(error=False)
        reporter.update({("app", "r"): tally})
        await until(lambda: controller.asked == 1)
        tally.add(error=False)
        await until(lambda: controller.asked == 2)
        controller.error = None
        tally.add(error=True)
        await until(lambda: controller.total("r") == (3, 1))
        reporter.update({})

    asyncio.run(body())
    assert len(caplog.records) == 1


def test_a_report_that_is_broken_off_is_not_told_again(controller):
    tally = Tally()

    async def body():
        reporter = CallReporter(controller)
        tally.add(error=False)
        reporter.update({("app", "r"): tally})
        await until(lambda: controller.asked == 1)
        reporter.update({})
        reporter.update({("app", "r"): tally})
        await asyncio.sleep(0.01)
        reporter.update({})

    asyncio.run(body())
    assert controller.asked == 1
