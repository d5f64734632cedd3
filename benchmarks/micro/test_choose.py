"""The router: choosing among replicas, by their number."""

from typing import Any

import pytest

from swerve.routing.calls import CallDescription, Shed
from swerve.routing.replicas import ReplicaInfo
from swerve.routing.router import Router


class Call:
    __slots__ = ("model_id",)

    def __init__(self) -> None:
        self.model_id = ""

    def field(self, name: bytes) -> str:
        return ""

    def shed(self, why: Shed) -> None:
        raise why

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


def test_wait_and_take_over(benchmark: Any) -> None:
    router: Router[Call] = Router()
    router.update([ReplicaInfo("one", "unix:/none", 1)])
    running = router.submit(Call())
    assert running is not None
    call = Call()

    def one() -> bool:
        assert router.submit(call) is None
        assigned = router.release(running)
        return [waiting for waiting, _ in assigned] == [call]

    assert benchmark(one)
