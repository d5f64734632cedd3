"""What the controller tells of the instance, and how it asks the processes."""

import asyncio
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from swerve.control.counts import Counts, state_lines
from swerve.control.events import Deploy
from swerve.control.model import DeploymentKey, Proxy, State
from swerve.control.model import Replica as ReplicaModel
from swerve.control.scrape import scrape
from swerve.generated import control_pb2 as pb
from swerve.net.server import Unary, serve
from swerve.observe.metrics import text_of
from swerve.statuses import ProxyStatus
from tests.control.control_support import World, application, target

KEY = DeploymentKey("app", "Model")


def values(text, name, label):
    """The values of a series by one of its labels."""
    return {
        sample.labels[label]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def deployed(**options):
    world = World()
    world.feed(Deploy(world.now, (application(Model=target(**options)),)))
    return world


def test_statuses_have_rays_numbers():
    world = deployed(num_replicas=2)
    before = text_of(state_lines(world.state))
    assert values(before, "ray_serve_application_status", "application") == {"app": 5}
    assert values(before, "ray_serve_deployment_status", "deployment") == {"Model": 3}
    world.run()
    after = text_of(state_lines(world.state))
    assert values(after, "ray_serve_application_status", "application") == {"app": 6}
    assert values(after, "ray_serve_deployment_status", "deployment") == {"Model": 6}
    assert set(values(after, "ray_serve_deployment_replica_healthy", "replica").values()) == {1}
    assert len(values(after, "ray_serve_deployment_replica_healthy", "replica")) == 2


def test_a_replica_that_failed_its_last_check_is_not_healthy():
    world = deployed()
    world.run()
    (replica,) = world.state.replicas.values()
    state = replace(world.state, replicas={replica.id: replace(replica, strikes=1)})
    text = text_of(state_lines(state))
    assert values(text, "ray_serve_deployment_replica_healthy", "replica") == {replica.id: 0}


def test_only_autoscaled_deployments_have_a_target_of_autoscaling():
    scaled = deployed(autoscaling_config={"min_replicas": 2, "max_replicas": 5})
    text = text_of(state_lines(scaled.state))
    assert values(text, "ray_serve_autoscaling_target_replicas", "deployment") == {"Model": 2}
    text = text_of(state_lines(deployed().state))
    assert values(text, "ray_serve_autoscaling_target_replicas", "deployment") == {}


def test_starts_and_health_checks_are_counted_for_what_exists():
    counts = Counts()
    gone = DeploymentKey("app", "Gone")
    for key in (KEY, gone):
        counts.replica_started(key)
        counts.health_checked(key, 0.25, healthy=True)
        counts.health_checked(key, 0.5, healthy=False)
    text = text_of(counts.lines(deployed().state))
    assert values(text, "ray_serve_deployment_replica_starts_total", "deployment") == {"Model": 1}
    assert values(text, "ray_serve_health_check_failures_total", "deployment") == {"Model": 1}
    assert values(text, "ray_serve_health_check_latency_ms_sum", "deployment") == {"Model": 750}


def test_who_does_not_answer_is_left_out_and_counted(tmp_path):
    """One replica answers, one hangs, one is gone; a proxy answers; a process that has not started is not asked."""

    def answering(name):
        async def metrics(request, metadata):
            text = f'# HELP up Up.\n# TYPE up gauge\nup{{name="{name}"}} 1\n'
            return pb.MetricsResponse(text=text).SerializeToString()

        return Unary(metrics)

    async def hang(request, metadata):
        await asyncio.sleep(60)

    def address_of(ident):
        return f"unix:{tmp_path}/{ident}"

    replicas = [ReplicaModel(name, KEY, "", "", 0, 1, pid=1) for name in ("good", "hung", "gone")]
    replicas.append(replace(replicas[0], id="early", pid=0))
    state = State(
        "seed",
        replicas={replica.id: replica for replica in replicas},
        proxies={"p": Proxy("p", ProxyStatus.HEALTHY, pid=2)},
    )
    counts = Counts()

    async def main():
        path = "/swerve.control.v1.Replica/Metrics"
        servers = [
            serve(address_of("good"), {path: answering("good")}),
            serve(address_of("hung"), {path: Unary(hang)}),
            serve(address_of("p"), {"/swerve.control.v1.Proxy/Metrics": answering("p")}),
        ]
        text = await scrape(state, counts, address_of)
        for server in servers:
            await server.close(0)
        return text

    text = asyncio.run(asyncio.wait_for(main(), 20))
    assert values(text, "up", "name") == {"good": 1, "p": 1}
    assert text.count("# TYPE up gauge") == 1
    assert values(text, "ray_serve_metrics_unanswered_total", "kind") == {"proxy": 0, "replica": 2}
    assert values(text, "ray_serve_proxy_status", "proxy") == {"p": 2}
