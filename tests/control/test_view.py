"""What others see of the state: the view, its publication, and requests made into events."""

import asyncio

import pytest
from control_support import World, application, target

from swerve.control.deploy import Rejected
from swerve.control.events import Delete, Phase, ReplicaReported, Shutdown
from swerve.control.options import num_proxies
from swerve.control.publisher import Publisher
from swerve.control.requests import deploy_event
from swerve.control.specs import replica_process
from swerve.control.view import view
from swerve.engine.layout import Layout
from swerve.generated import control_pb2 as pb


def shown(world):
    return view(world.state, lambda replica_id: f"unix:/run/{replica_id}.sock", str.encode)


def test_replicas_are_in_the_view_from_running_to_stopping():
    world = World()
    world.deploy(application(Model=target(max_ongoing_requests=7, max_queued_requests=3)))
    assert [list(item.replicas) for item in shown(world).deployments] == [[]]
    world.run()
    (replica,) = world.replicas()
    world.feed(ReplicaReported(world.now, replica.id, Phase.RUNNING, model_ids=("m1", "m2")))
    (deployment,) = shown(world).deployments
    assert deployment.max_queued_requests == 3
    assert deployment.replicas == [
        pb.ReplicaView(
            replica_id=replica.id,
            address=f"unix:/run/{replica.id}.sock",
            max_ongoing_requests=7,
            multiplexed_model_ids=["m1", "m2"],
        )
    ]
    world.feed(Delete(world.now, ("app",)))
    assert not shown(world).applications
    assert [list(item.replicas) for item in shown(world).deployments] == [[]]


def test_a_deployment_that_failed_with_nothing_left_is_unavailable():
    world = World(broken={"v1"})
    world.deploy(application())
    world.run()
    assert not shown(world).deployments[0].unavailable
    world.pass_time(60)
    assert shown(world).deployments[0].unavailable


def test_the_route_prefix_may_be_unset():
    world = World()
    world.deploy(application("hidden", None), application("shown", "/"))
    assert [app.HasField("route_prefix") for app in shown(world).applications] == [False, True]


def test_a_new_route_prefix_is_the_proxies_matter():
    world = World()
    world.deploy(application("app", "/old"))
    world.run()
    world.commands.clear()
    world.deploy(application("app", "/new"))
    assert [app.route_prefix for app in shown(world).applications] == ["/new"]
    assert world.commands == []


def test_shutting_down_drains():
    world = World()
    world.deploy(application())
    assert not shown(world).draining
    world.feed(Shutdown(world.now))
    assert shown(world).draining


def test_watchers_get_the_newest_view_only_and_in_order():
    async def scenario():
        publisher = Publisher()
        publisher.publish(pb.View(draining=False, options=pb.InstanceOptions(num_proxies=1)))
        seen = []

        async def watch():
            async for message in publisher.watch():
                seen.append(pb.View.FromString(message))
                if seen[-1].options.num_proxies == 9:
                    return

        task = asyncio.create_task(watch())
        while not seen:  # noqa: ASYNC110 (the publisher's task is the event)
            await asyncio.sleep(0)
        for number in range(2, 10):
            publisher.publish(pb.View(options=pb.InstanceOptions(num_proxies=number)))
        await asyncio.wait_for(task, 5)
        return seen

    seen = asyncio.run(scenario())
    assert [item.options.num_proxies for item in seen] == [1, 9]
    assert seen[0].version < seen[1].version


def test_a_view_that_says_nothing_new_is_not_published():
    async def scenario():
        publisher = Publisher()
        publisher.publish(pb.View(options=pb.InstanceOptions(num_proxies=1)))
        watch = publisher.watch()
        await anext(watch)
        publisher.publish(pb.View(options=pb.InstanceOptions(num_proxies=1)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.05)

    asyncio.run(scenario())


def test_a_deploy_waits_for_the_proxies_that_serve_but_not_for_one_that_hangs():
    async def scenario():
        publisher = Publisher()
        publisher.publish(pb.View(options=pb.InstanceOptions(num_proxies=1)))
        version = pb.View.FromString(await anext(publisher.watch())).version
        serving = ["one", "two"]
        waiting = asyncio.create_task(publisher.until_seen(lambda: serving, 20))
        publisher.saw("one", version)
        publisher.saw("two", version - 1)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        publisher.saw("two", version)
        await asyncio.wait_for(waiting, 5)
        serving.append("hangs")
        await asyncio.wait_for(publisher.until_seen(lambda: serving, 0.05), 5)

    asyncio.run(scenario())


def request(**deployment):
    config = deployment.pop("config_json", target().config_json)
    app = pb.Application(
        name="app",
        ingress="D",
        deployments=[pb.Deployment(name="D", code=b"code", code_version="1", config_json=config)],
        sys_path=["/app"],
        runtime_env_json='{"env_vars": {"A": "app", "B": "app"}, "working_dir": "/there"}',
        **deployment,
    )
    return pb.DeployRequest(applications=[app])


def test_a_request_becomes_an_event_with_its_code_apart():
    event, code = deploy_event(request(), 5.0, 1000.0)
    ((app, targets),) = event.applications
    assert app.name == "app"
    assert app.route_prefix is None
    assert app.last_deployed_time_s == 1000.0
    assert code[targets["D"].code_digest] == b"code"
    assert targets["D"].is_ingress


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"num_replicas": 1}'])
def test_a_configuration_that_is_not_complete_is_refused(config):
    with pytest.raises(Rejected, match='deployment "D" in application "app"'):
        deploy_event(request(config_json=config), 0, 0)


def test_a_replica_is_started_with_its_environment_and_its_deployments_own_over_it(tmp_path):
    own = target(ray_actor_options={"runtime_env": {"env_vars": {"B": "own"}}}).config_json
    event, _ = deploy_event(request(config_json=own), 0, 0)
    world = World()
    world.feed(event)
    options = pb.InstanceOptions(
        grpc_options_json='{"port": 9000, "grpc_servicer_functions": ["m.add"]}', sys_path=["/instance"]
    )
    process = replica_process(Layout(tmp_path), options, world.pending[0], b"code")
    spec = pb.ReplicaSpec.FromString(process.payload)
    assert process.env == {"A": "app", "B": "own"}
    assert process.cwd == "/there"
    assert list(spec.sys_path) == ["/app", "/instance"]
    assert list(spec.grpc_servicer_functions) == ["m.add"]
    assert spec.code == b"code"
    assert spec.address == f"unix:{tmp_path}/run/{spec.replica_id}.sock"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (pb.InstanceOptions(), 0),
        (pb.InstanceOptions(grpc_options_json='{"port": 9000}'), 0),
        (pb.InstanceOptions(grpc_options_json='{"port": 0}', grpc_methods=[pb.GrpcMethod()]), 0),
        (pb.InstanceOptions(grpc_options_json='{"port": 9000}', grpc_methods=[pb.GrpcMethod()]), 1),
        (pb.InstanceOptions(grpc_options_json='{"port": 1}', grpc_methods=[pb.GrpcMethod()], num_proxies=3), 3),
        (
            pb.InstanceOptions(
                grpc_options_json='{"port": 1}', grpc_methods=[pb.GrpcMethod()], proxy_location="Disabled"
            ),
            0,
        ),
    ],
)
def test_proxies_run_when_there_is_a_port_to_serve(options, expected):
    assert num_proxies(options) == expected
