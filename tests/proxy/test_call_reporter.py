"""What the controller is told of ended calls: each once, also when it was away."""

import asyncio

from swerve.proxy import call_reporter
from swerve.proxy.call_reporter import CallReporter
from swerve.proxy.observer import Tally
from swerve.wire.status import RpcError, Status, StatusCode


class Controller:
    """Is away while `away`; `told` are the calls and errors by release."""

    def __init__(self):
        self.away = False
        self.told: list[dict[str, tuple[int, int]]] = []
        self.tallies: dict[tuple[str, str], Tally] = {}

    async def report_calls(self, request):
        # Calls go on ending while the report is under way.
        for tally in self.tallies.values():
            tally.add(error=False)
        if self.away:
            raise RpcError(Status(StatusCode.UNAVAILABLE, "away"))
        self.told.append({item.release: (item.calls, item.errors) for item in request.ended})


def test_calls_are_told_once_and_those_that_could_not_be_told_later(monkeypatch):
    monkeypatch.setattr(call_reporter, "_INTERVAL_S", 0.001)
    controller = Controller()
    tallies = controller.tallies = {("app", ""): Tally(), ("app", "r"): Tally()}

    async def until(condition):
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 (the reporter's timer is the event)
                await asyncio.sleep(0.001)

    async def body():
        reporter = CallReporter(controller)
        controller.away = True
        tallies["app", "r"].add(error=True)
        reporter.update(tallies)
        # It was tried, since every try ends a call.
        await until(lambda: tallies["app", ""].calls >= 2)
        controller.away = False
        await until(lambda: len(controller.told) >= 3)
        reporter.update({})
        await asyncio.sleep(0)
        count = len(controller.told)
        await asyncio.sleep(0.01)
        assert len(controller.told) == count

    asyncio.run(body())
    for release in ("", "r"):
        told = [report.get(release, (0, 0)) for report in controller.told]
        tally = tallies["app", release]
        assert sum(errors for _, errors in told) == (release == "r")
        # Nothing is lost: what was not told is still there.
        assert tally.errors == 0
        assert tally.calls >= 1
    assert controller.told[0]["r"][1] == 1
