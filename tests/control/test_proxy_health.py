"""A proxy whose event loop is blocked is noticed and replaced; one that is slow, or ends already, is left alone."""

import asyncio

import pytest
from control_support import World, options_for

from swerve.control import proxy_health
from swerve.control.draft import PROXY_CHECK_PERIOD_S
from swerve.control.events import CheckProxy, Kill, ProxyChecked, ProxyReported, Recovered, Tick
from swerve.net.server import Unary, serve
from swerve.statuses import ProxyStatus


@pytest.fixture
def world() -> World:
    """An instance with one proxy, which listens."""
    made = World()
    made.feed(Recovered(made.now, {}, options_for(1)))
    made.run()
    return made


def only_proxy(world):
    (proxy,) = world.state.proxies.values()
    return proxy


def check(world: World) -> None:
    """Let the next check come and go."""
    world.pass_time(PROXY_CHECK_PERIOD_S)


def begin_check(world: World) -> None:
    """Let the next check come; its answer is the test's."""
    world.now += PROXY_CHECK_PERIOD_S
    assert CheckProxy in [type(command) for command in world.feed(Tick(world.now))]
    world.pending.clear()


def kills(world: World) -> list[str]:
    return [command.id for command in world.commands if isinstance(command, Kill)]


def test_a_blocked_proxy_is_killed_after_three_checks_and_replaced(world):
    blocked = only_proxy(world).id
    world.sick.add(blocked)
    check(world)
    check(world)
    assert only_proxy(world).state is ProxyStatus.HEALTHY
    check(world)
    assert kills(world) == [blocked]
    world.pass_time(1)
    assert only_proxy(world).id != blocked
    assert only_proxy(world).state is ProxyStatus.HEALTHY


def test_until_it_has_ended_the_status_says_why(world):
    proxy_id = only_proxy(world).id
    for _ in range(3):
        begin_check(world)
        world.feed(ProxyChecked(world.now, proxy_id, answered=False))
    assert only_proxy(world).state is ProxyStatus.UNHEALTHY
    assert "did not answer 3 times" in only_proxy(world).message


def test_a_proxy_that_answers_in_between_stays(world):
    proxy_id = only_proxy(world).id
    for _ in range(3):
        world.sick.add(proxy_id)
        check(world)
        check(world)
        world.sick.clear()
        check(world)
    assert kills(world) == []
    assert only_proxy(world).id == proxy_id


def test_a_proxy_that_drains_is_checked_no_more(world):
    proxy_id = only_proxy(world).id
    world.sick.add(proxy_id)
    check(world)
    check(world)
    begin_check(world)
    world.feed(ProxyReported(world.now, proxy_id, draining=True))
    world.feed(ProxyChecked(world.now, proxy_id, answered=False))
    assert world.state.proxies[proxy_id].state is ProxyStatus.DRAINING
    assert kills(world) == []


def test_the_answer_of_a_proxy_that_is_gone_changes_nothing(world):
    proxy_id = only_proxy(world).id
    begin_check(world)
    world.end(proxy_id)
    world.run()
    before = world.state
    world.feed(ProxyChecked(world.now, proxy_id, answered=False))
    assert world.state == before


def test_a_loop_that_runs_answers_and_one_that_is_blocked_does_not(tmp_path):
    address = f"unix:{tmp_path / 'p.sock'}"
    blocked = asyncio.Event()

    async def answer(request, metadata):
        if blocked.is_set():
            await asyncio.sleep(20)
        return b""

    async def scenario():
        listener = serve(address, {"/swerve.control.v1.Proxy/CheckHealth": Unary(answer)})
        assert await proxy_health.answers(address, 20)
        blocked.set()
        assert not await proxy_health.answers(address, 0.1)
        await listener.close(0)
        assert not await proxy_health.answers(address, 20)

    asyncio.run(scenario())
