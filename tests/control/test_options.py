"""The instance's options: resumed, checked, changed by a deploy, told to those who go by them."""

import socket

import pytest
from control_support import World, application, options_for, stored, target

from swerve.control.converge import PROXY_START_TIMEOUT_S
from swerve.control.deploy import Rejected
from swerve.control.events import Deploy, ProxyReported, Recovered, Shutdown, StartProxy, StopProxy, TellOptions
from swerve.control.model import DeploymentKey
from swerve.control.options import ServedOptions, resume
from swerve.control.ports import PortError, check_ports
from swerve.control.view import view
from swerve.generated import control_pb2 as pb
from swerve.statuses import ProxyStatus
from tests.conftest import find_free_port

KEY = DeploymentKey("app", "Model")


def options(port=9000, methods=("/a.B/C",), **fields):
    return pb.InstanceOptions(
        grpc_options_json=f'{{"host": "127.0.0.1", "port": {port}}}',
        grpc_methods=[pb.GrpcMethod(path=path) for path in methods],
        **fields,
    )


def served(**fields):
    """A world whose proxies and two replicas of an ingress serve."""
    world = World()
    world.feed(Recovered(world.now, {}, options_for(1, **fields)))
    world.deploy(application(Model=target(num_replicas=2)))
    world.run()
    world.commands.clear()
    return world


def change(world, wanted, *applications, base=None, outdated=()):
    world.feed(Deploy(world.now, applications, options=wanted, base_options=base, outdated=frozenset(outdated)))
    commands = list(world.pending)
    world.run()
    return commands


# ---------------------------------------------------------------------------------------------------------------------
# Starting


def test_a_first_start_has_what_it_asks_for():
    started = options()
    assert resume(ServedOptions(), started) == ServedOptions(started, started, started)


def test_a_start_as_the_one_before_brings_back_what_was_deployed_since():
    before = ServedOptions(options(1), options(2), options())
    assert resume(before, options()) is before


def test_a_start_that_asks_for_something_else_is_newer_than_what_was_deployed():
    started = options(9001)
    assert resume(ServedOptions(options(1), options(2), options()), started) == ServedOptions(started, started, started)


def test_a_start_that_finds_other_methods_brings_them_where_the_options_are_its_own():
    deployed, started = options(1), options(methods=("/a.B/C", "/a.B/New"))
    resumed = resume(ServedOptions(deployed, options(), options()), started)
    assert (resumed.in_force, resumed.base, resumed.started) == (deployed, started, started)


# ---------------------------------------------------------------------------------------------------------------------
# Ports


@pytest.fixture
def taken():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_port_that_others_have_is_refused(taken):
    with pytest.raises(PortError, match=rf"The gRPC port 127.0.0.1:{taken} cannot be bound: Address already in use"):
        check_ports(options(taken), options(find_free_port()))


def test_a_port_that_stays_is_ours(taken):
    check_ports(options(taken, num_proxies=2), options(taken))


def test_a_default_http_port_that_is_taken_is_gone_without_unless_proxies_would_share_it(taken):
    http = f'{{"host": "127.0.0.1", "port": {taken}}}'
    check_ports(options(find_free_port(), http_options_json=http), options())
    for more in ({"http_port_required": True}, {"num_proxies": 2}):
        with pytest.raises(PortError, match="The HTTP port"):
            check_ports(options(find_free_port(), http_options_json=http, **more), options())


def test_two_protocols_do_not_meet_at_one_port():
    def both(grpc, http):
        return options(grpc, http_options_json=f'{{"host": "127.0.0.1", "port": {http}}}', http_port_required=True)

    one, two = find_free_port(), find_free_port()
    with pytest.raises(PortError, match=f"Port {one} cannot be the gRPC port and the HTTP port"):
        check_ports(both(one, one), options(two))
    with pytest.raises(PortError, match=f"The gRPC port cannot be {two} yet, because that is the HTTP port"):
        check_ports(both(two, one), both(one, two))


# ---------------------------------------------------------------------------------------------------------------------
# Changing


def test_options_and_applications_change_together_or_not_at_all():
    world = served()
    before = world.state
    with pytest.raises(Rejected):
        change(world, options(9001), application("other", "/"))
    assert world.state is before

    change(world, options(9001), application("other", "/other"), base=options(9002))
    assert (world.state.options.in_force, world.state.options.base) == (options(9001), options(9002))
    assert set(world.state.applications) == {"app", "other"}
    assert stored(world.state).options.in_force == options(9001)
    assert stored(world.state).options.base == options(9002)


def test_replicas_of_ingresses_are_told_once():
    world = served()
    told = [command.id for command in change(world, options(9001)) if isinstance(command, TellOptions)]
    assert sorted(told) == sorted(replica.id for replica in world.replicas())
    world.pass_time(30)
    assert sum(isinstance(command, TellOptions) for command in world.commands) == len(told)


def test_replicas_that_started_with_other_options_are_told_when_they_run():
    world = served()
    world.feed(Deploy(world.now, (application(Model=target(num_replicas=3)),)))
    (starting,) = [replica for replica in world.replicas() if not replica.serves]
    told = [command.id for command in change(world, options(9001)) if isinstance(command, TellOptions)]
    assert starting.id not in told
    assert TellOptions(starting.id) in world.commands


def test_a_controller_that_starts_again_tells_the_options():
    world = served()
    world.restart_controller(stored(world.state), 1)
    told = [command.id for command in world.pending if isinstance(command, TellOptions)]
    assert sorted(told) == sorted(replica.id for replica in world.replicas())


def test_replicas_that_cannot_learn_are_replaced_one_after_the_other_and_stay_so():
    world = served()
    old = {replica.id for replica in world.replicas()}
    fewest = []
    world.check = lambda world, commands: fewest.append(sum(replica.serves for replica in world.replicas()))
    change(world, options(methods=("/a.B/New",)), outdated=[KEY])
    new = {replica.id for replica in world.replicas()}
    assert not old & new
    assert min(fewest) == 1

    change(world, options(9001), application(Model=target(num_replicas=2)))
    assert {replica.id for replica in world.replicas()} == new


def test_replicas_that_fail_with_the_new_services_leave_the_old_ones_serving():
    world = served()
    old = {replica.id for replica in world.replicas()}
    world.broken.add("v1")
    change(world, options(methods=("/a.B/New",)), outdated=[KEY])
    world.pass_time(120)
    assert world.deployment().failed
    assert {replica.id for replica in world.replicas() if replica.serves} & old


# ---------------------------------------------------------------------------------------------------------------------
# Proxies


def proxies(world, state=ProxyStatus.HEALTHY):
    return [proxy.id for proxy in world.state.proxies.values() if proxy.state is state]


def test_the_number_of_proxies_follows_the_options():
    world = served()
    (first,) = proxies(world)
    started = [command for command in change(world, options(num_proxies=3)) if isinstance(command, StartProxy)]
    assert [command.shares_ports for command in started] == [True, True]
    assert len(proxies(world)) == 3

    stopped = [command.id for command in change(world, options(num_proxies=1)) if isinstance(command, StopProxy)]
    assert len(stopped) == 2
    assert proxies(world) == [first]

    change(world, options(proxy_location="Disabled"))
    assert not world.state.proxies


def test_a_proxy_that_stops_of_its_own_has_its_successor_at_once():
    world = served()
    (old,) = proxies(world)
    world.feed(ProxyReported(world.now, old, draining=True))
    assert [command.shares_ports for command in world.pending] == [True]
    world.run()
    (new,) = proxies(world)
    assert list(view(world.state, str, str.encode).proxy_ids) == [new]
    world.end(old, "The process ended with exit code 0.")
    assert proxies(world) == [new]
    assert world.state.proxy_failures == 0


def test_the_successor_of_a_proxy_that_drains_stays_under_the_next_controller():
    world = served()
    (old,) = proxies(world)
    world.feed(ProxyReported(world.now, old, draining=True))
    world.run()
    (new,) = proxies(world)
    world.commands.clear()
    world.restart_controller(stored(world.state), num_proxies=1)
    world.feed(ProxyReported(world.now, old, draining=True))
    world.feed(ProxyReported(world.now, new, grpc_address="127.0.0.1:9000"))
    world.run()
    assert list(world.state.proxies) == proxies(world) == [new]
    # Once more, because the order may not have arrived.
    assert [item for item in world.commands if isinstance(item, StartProxy | StopProxy)] == [StopProxy(old)]


def test_a_proxy_that_drains_and_does_not_end_is_killed_by_the_next_controller():
    world = served()
    (old,) = proxies(world)
    world.feed(ProxyReported(world.now, old, draining=True))
    world.run()
    world.restart_controller(stored(world.state), num_proxies=1)
    world.pending.clear()
    world.pass_time(PROXY_START_TIMEOUT_S + 30)
    assert old not in world.state.proxies


def test_a_proxy_that_does_not_end_is_killed():
    world = served()
    (old,) = proxies(world)
    world.feed(ProxyReported(world.now, old, draining=True))
    world.run()
    world.pass_time(PROXY_START_TIMEOUT_S + 30)
    assert old not in world.state.proxies


def test_no_successor_starts_while_the_instance_ends():
    world = served()
    (old,) = proxies(world)
    world.feed(Shutdown(world.now))
    world.pending.clear()
    world.feed(ProxyReported(world.now, old, draining=True))
    assert not world.pending


def test_a_proxy_that_cannot_serve_new_options_is_unhealthy_until_it_can():
    world = served()
    (proxy,) = proxies(world)
    world.feed(ProxyReported(world.now, proxy, grpc_address="127.0.0.1:9000", error="The gRPC port cannot be bound."))
    assert world.state.proxies[proxy].message == "The gRPC port cannot be bound."
    assert proxies(world, ProxyStatus.UNHEALTHY) == [proxy]
    world.pass_time(60)
    world.feed(ProxyReported(world.now, proxy, grpc_address="127.0.0.1:9001"))
    assert proxies(world) == [proxy]
    assert world.state.proxies[proxy].grpc_address == "127.0.0.1:9001"


def test_a_proxy_that_serves_on_as_before_does_so_under_the_next_controller_too():
    world = served()
    (proxy,) = proxies(world)
    world.restart_controller(stored(world.state), num_proxies=1)
    world.feed(ProxyReported(world.now, proxy, grpc_address="127.0.0.1:9000", error="The gRPC port cannot be bound."))
    world.pass_time(2 * PROXY_START_TIMEOUT_S)
    assert proxies(world, ProxyStatus.UNHEALTHY) == [proxy]
    assert world.state.proxies[proxy].grpc_address == "127.0.0.1:9000"
