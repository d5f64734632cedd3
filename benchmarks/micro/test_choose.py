"""The router: choosing among replicas, by their number."""

from typing import Any

import pytest

from swerve.routing.calls import CallDescription, Shed
from swerve.routing.replicas import Replica, ReplicaInfo
from swerve.routing.router import Router


class Call:
    __slots__ = ("model_id",)

    def __init__(self) -> None:
        self.model_id = ""

    def field(self, name: bytes) -> str:
        return ""

    def send(self, replica: Replica) -> None:
        raise AssertionError("a router sends nothing itself")

    def shed(self, why: Shed) -> None:
        raise why

    def unavailable(self) -> None:
        raise AssertionError("a router ends nothing itself")

    def describe(self) -> CallDescription:
        raise AssertionError("no user's router is there")


@pytest.mark.parametrize("replicas", [1, 8, 64])
def test_submit_and_release(benchmark: Any, replicas: int) -> None:
    router: Router[Call] = Router()
    router.update([ReplicaInfo(str(number), "unix:/none", 5) for number in range(replicas)])
    call = Call()

    def one() -> bool:
        replica = router.submit(call)
        assert replica is not None
        return not router.release(replica)

    assert benchmark(one)


@pytest.mark.parametrize("waiting", [1, 10_000])
def test_wait_and_take_over(benchmark: Any, waiting: int) -> None:
    router: Router[Call] = Router()
    router.update([ReplicaInfo("one", "unix:/none", 1)])
    running = router.submit(Call())
    assert running is not None
    for _ in range(waiting - 1):
        router.submit(Call())
    call = Call()

    def one() -> None:
        nonlocal call
        assert router.submit(call) is None
        ((call, _),) = router.release(running)

    benchmark(one)
