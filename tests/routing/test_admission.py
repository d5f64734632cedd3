"""When a call goes to a replica: waiting, shedding, refusals, changes of the view."""

import contextlib
import gc
import weakref

import pytest

from swerve.routing.calls import Shed, Unavailable
from swerve.routing.lines import QueueOptions
from swerve.routing.options import CONSISTENT_HASH, RouterOptions
from swerve.routing.replicas import ReplicaInfo
from swerve.routing.router import Router
from tests.routing.routing_support import Call, Shared, in_session


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock) -> Router[Call]:
    return Router(clock=clock, rng=lambda: 0.0)


def info(name: str, limit: int = 1, models: str = "") -> ReplicaInfo:
    return ReplicaInfo(name, f"unix:/{name}", limit, frozenset(models))


def calls(*names: str) -> list[Call]:
    return [Call(name) for name in names]


def test_a_call_goes_to_a_free_replica_at_once(router):
    router.update([info("a")])
    assert router.submit(Call("x")) is router.replicas["a"]


def test_a_call_waits_while_all_replicas_are_busy_and_takes_the_next_slot(router):
    router.update([info("a")])
    x, y = calls("x", "y")
    replica = router.submit(x)
    assert router.submit(y) is None
    assert router.queued == 1
    assert list(router.release(replica)) == [(y, replica)]
    assert replica.ongoing == 1


def test_calls_leave_the_queue_in_order(router):
    waiting = calls("x", "y", "z")
    for call in waiting:
        assert router.submit(call) is None
    router.update([info("a", 2), info("b", 1)])
    assert [call for call, _ in router.poll()] == waiting


def test_calls_that_have_waited_are_spread_though_their_caller_is_busy(router):
    router.together.calls = 100
    router.together.turn_over()
    for call in calls(*range(8)):
        router.submit(call)
    for one in router.update([info("a", 40), info("b", 40)]):
        one.shared = Shared()
    router.poll()
    assert [one.ongoing for one in router.replicas.values()] == [4, 4]


def test_a_full_queue_sheds(router):
    router.max_queued = 1
    router.submit(Call("x"))
    with pytest.raises(Shed) as raised:
        router.submit(Call("y"))
    assert (raised.value.queued, raised.value.limit) == (1, 1)


def test_a_call_that_was_shed_does_not_wait_for_the_collector(router):
    router.max_queued = 0
    call = Call("x")
    left = weakref.ref(call)
    gc.disable()
    try:
        with contextlib.suppress(Shed):
            router.submit(call)
        del call
        assert left() is None
    finally:
        gc.enable()


def test_a_call_is_not_shed_while_a_replica_is_free(router):
    router.max_queued = 0
    router.update([info("a")])
    assert router.submit(Call("x")) is not None


def test_a_call_with_a_model_is_not_shed_while_any_replica_is_free(router):
    """Loading the model once more is better than turning a call away."""
    router.update([info("holder", models="m"), info("other")])
    router.max_queued = 0
    assert router.submit(Call("x", "m")) is router.replicas["holder"]
    assert router.submit(Call("y", "m")) is router.replicas["other"]


def test_a_failed_deployment_takes_no_call(router):
    router.unavailable = True
    with pytest.raises(Unavailable):
        router.submit(Call("x"))


def test_a_withdrawn_call_gets_no_replica(router):
    x, y = calls("x", "y")
    router.submit(x)
    router.submit(y)
    assert router.withdraw(x)
    assert not router.withdraw(x)
    router.update([info("a", 5)])
    assert [call for call, _ in router.poll()] == [y]


def test_a_refused_call_goes_to_another_replica_before_those_that_wait(router):
    router.update([info("a"), info("b")])
    first, second, third = calls("first", "second", "third")
    a = router.submit(first)
    b = router.submit(second)
    router.submit(third)
    router.refused(a, first)
    assert list(router.release(b)) == [(first, b)]


def test_a_replica_that_refused_rests_longer_each_time(router, clock):
    router.update([info("a")])
    call = Call("x")
    router.submit(call)
    pauses = []
    for _ in range(7):
        assert router.refused(router.replicas["a"], call) == []
        pauses.append(router.wake_at - clock.now)
        clock.now = router.wake_at
        assert [one for one, _ in router.poll()] == [call]
    assert pauses == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5])


def test_a_call_that_ends_wakes_a_resting_replica(router):
    router.update([info("a", 2)])
    x, y = calls("x", "y")
    a = router.submit(x)
    router.submit(y)
    assert router.refused(a, y) == []
    assert list(router.release(a)) == [(y, a)]


def test_a_call_that_ends_opens_all_slots_of_a_resting_replica(router):
    router.update([info("a", 2)])
    x, y, z = calls("x", "y", "z")
    a = router.submit(x)
    router.submit(y)
    router.refused(a, y)
    assert router.submit(z) is None
    assert list(router.release(a)) == [(y, a), (z, a)]


def test_a_call_that_ended_well_makes_the_next_rest_short_again(router, clock):
    router.update([info("a")])
    call = Call("x")
    a = router.submit(call)
    for _ in range(3):
        router.refused(a, call)
        clock.now = router.wake_at
        router.poll()
    router.release(a)
    router.refused(router.submit(call), call)
    assert router.wake_at - clock.now == pytest.approx(0.025)


def test_polling_too_early_wakes_nobody(router, clock):
    router.update([info("a")])
    call = Call("x")
    router.refused(router.submit(call), call)
    assert router.poll() == []
    assert router.wake_at == pytest.approx(clock.now + 0.025)


def test_a_call_waits_for_the_holder_of_its_model_and_gets_it(router):
    router.update([info("holder", models="m"), info("other")])
    x, y = Call("x", "m"), Call("y", "m")
    holder = router.submit(x)
    assert router.submit(y) is None
    assert list(router.release(holder)) == [(y, holder)]


def test_a_call_whose_patience_ended_takes_any_replica(router, clock):
    router.update([info("holder", models="m"), info("other")])
    router.submit(Call("x", "m"))
    waiting = Call("y", "m")
    assert router.submit(waiting) is None
    assert router.wake_at == pytest.approx(clock.now + 1.0)
    clock.now = router.wake_at
    assert router.poll() == [(waiting, router.replicas["other"])]


def test_a_plain_call_passes_a_patient_one(router):
    router.update([info("holder", models="m"), info("other")])
    router.submit(Call("x", "m"))
    router.submit(Call("y", "m"))
    assert router.submit(Call("plain")) is router.replicas["other"]


def test_a_raised_limit_admits_waiting_calls(router):
    router.update([info("a", 1)])
    x, y = calls("x", "y")
    router.submit(x)
    router.submit(y)
    router.update([info("a", 2)])
    assert router.poll() == [(y, router.replicas["a"])]


def test_a_lowered_limit_holds_calls_back_until_enough_have_ended(router):
    router.update([info("a", 2)])
    a = router.submit(Call("x"))
    router.submit(Call("y"))
    router.update([info("a", 1)])
    waiting = Call("z")
    assert router.submit(waiting) is None
    assert not router.release(a)
    assert list(router.release(a)) == [(waiting, a)]


def test_a_removed_replica_gets_no_call_when_its_calls_end(router):
    router.update([info("a")])
    a = router.submit(Call("x"))
    router.submit(Call("y"))
    router.update([])
    assert not router.release(a)


def test_a_lost_replica_gets_no_call(router):
    router.update([info("a")])
    router.lost(router.replicas["a"])
    assert router.submit(Call("x")) is None


def test_a_replica_listed_again_after_it_was_lost_is_a_new_one(router):
    router.update([info("a")])
    old = router.submit(Call("x"))
    router.lost(old)
    assert router.update([info("a")]) == [router.replicas["a"]]
    assert router.replicas["a"] is not old
    assert router.replicas["a"].ongoing == 0


def test_a_broadcast_takes_a_slot_over_the_limit_and_plain_calls_still_wait(router):
    router.update([info("a")])
    a = router.submit(Call("x"))
    router.take(a)
    assert router.submit(Call("y")) is None
    assert not router.release(a)
    assert router.release(a)


def test_dropping_gives_every_waiting_call_once(router):
    router.update([info("a")])
    x, y, z = calls("x", "y", "z")
    router.submit(x)
    router.submit(y)
    router.submit(z)
    router.refused(router.replicas["a"], x)
    assert router.drop_waiting() == [x, y, z]
    assert router.queued == 0


# --- options ---------------------------------------------------------------------------------------------------------


def test_a_replica_that_refused_rests_as_long_as_the_options_say(router, clock):
    router.configure(RouterOptions(initial_backoff_s=0.1, backoff_multiplier=3, max_backoff_s=0.5))
    router.update([info("a")])
    call = Call("x")
    router.submit(call)
    pauses = []
    for _ in range(4):
        router.refused(router.replicas["a"], call)
        pauses.append(router.wake_at - clock.now)
        clock.now = router.wake_at
        router.poll()
    assert pauses == pytest.approx([0.1, 0.3, 0.5, 0.5])


def test_a_session_waits_for_its_replicas_while_another_is_free(router):
    router.configure(RouterOptions(CONSISTENT_HASH, {"fallback_replicas": 0}))
    router.update([info("a"), info("b")])
    first, second = in_session("first", "s"), in_session("second", "s")
    home = router.submit(first)
    assert router.submit(second) is None
    other = router.submit(Call("anywhere"))
    assert other is not home
    assert not router.release(other)
    assert list(router.release(home)) == [(second, home)]


def test_a_session_goes_elsewhere_rather_than_being_shed(router):
    router.configure(RouterOptions(CONSISTENT_HASH, {"fallback_replicas": 0}))
    router.update([info("a"), info("b")])
    router.max_queued = 0
    home = router.submit(in_session("first", "s"))
    assert router.submit(in_session("second", "s")) not in (None, home)


TENANTS = RouterOptions(queue=QueueOptions(tenant_key="t", max_tenants=10))


def of_tenant(name: str) -> Call:
    return Call(name, "", {b"t": name[0]})


def test_tenants_take_turns_at_the_slots(router):
    router.configure(TENANTS)
    router.update([info("a")])
    a = router.submit(Call("x"))
    for name in ("a1", "a2", "a3", "b1"):
        router.submit(of_tenant(name))
    assert [router.release(a)[0][0].name for _ in range(4)] == ["a1", "b1", "a2", "a3"]


def test_in_a_full_queue_the_newest_of_the_tenant_with_the_most_gives_way(router):
    router.configure(TENANTS)
    router.max_queued = 3
    for name in ("a1", "a2", "a3"):
        router.submit(of_tenant(name))
    assert router.submit(of_tenant("b1")) is None
    ((victim, why),) = router.pushed_out
    assert (victim.name, why.queued, why.limit) == ("a3", 3, 3)
    assert router.attention
    assert router.queued == 3
    with pytest.raises(Shed):
        router.submit(of_tenant("a4"))


def test_calls_that_wait_go_on_waiting_when_the_options_change(router):
    waiting = [of_tenant(name) for name in ("a1", "a2", "b1")]
    for call in waiting:
        router.submit(call)
    router.configure(TENANTS)
    assert router.queued == 3
    router.update([info("a", 5)])
    assert [call.name for call, _ in router.poll()] == ["a1", "b1", "a2"]


def test_a_shed_call_is_told_to_come_back_when_the_queue_will_have_drained(router, clock):
    router.max_queued = 4
    router.update([info("a")])
    a = router.submit(Call("x"))
    for _ in range(10):
        router.submit(Call("y"))
        clock.now += 0.05
        router.release(a)
    for _ in range(4):
        router.submit(Call("y"))
    with pytest.raises(Shed) as raised:
        router.submit(Call("z"))
    # 20 calls a second, four wait, and the throw spreads by a quarter downwards.
    assert raised.value.retry_after_s == pytest.approx(4 / 20 * 0.75, rel=0.01)


def test_there_is_no_need_to_wait_for_a_free_replica(router):
    router.update([info("a")])
    assert router.retry_after_s() == 0
