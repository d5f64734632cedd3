"""`swerve metrics`: the series of all processes, also where HTTP is off."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

import swerve as serve
from tests.conftest import wait_for


@serve.deployment(num_replicas=2)
class Measured:
    """Counts its calls itself, with the tags of its replica and without."""

    def __init__(self):
        import prometheus_client

        from swerve.metrics import Counter

        self.calls = Counter("measured_calls", "Calls.", tag_keys=("kind",))
        self.plain = prometheus_client.Gauge("measured_plain", "Made with prometheus-client.")

    def __call__(self, note):
        self.calls.inc(tags={"kind": "call"})
        self.plain.set(1)
        return note

    def Plain(self, note):
        raise ValueError(note.text)

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=0.01)
    async def Coroutine(self, notes):
        return notes


@pytest.fixture
def measured(world):
    serve.run(Measured.bind(), name="measured", route_prefix="/measured")
    yield world.client.of("measured")
    serve.delete("measured")


def metrics_of(world):
    """Samples by name: (labels, value)."""
    found = {}
    for family in text_string_to_metric_families(world.command("metrics").stdout):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found, name, **labels):
    return sum(value for given, value in found.get(name, ()) if labels.items() <= given.items())


def test_the_series_of_all_processes_are_one_text(world, measured):
    for _ in range(6):
        measured.ask("__call__", "x")
    measured.ask("Coroutine", "x")
    assert measured.outcome("Plain", "odd") == "INTERNAL"

    text = world.command("metrics").stdout
    names = [line.split()[2] for line in text.split("\n") if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    found = metrics_of(world)
    of_app = {"application": "measured"}
    of_deployment = {**of_app, "deployment": "Measured"}
    assert total(found, "ray_serve_num_grpc_requests_total", **of_app, status_code="OK") == 7
    failed = total(found, "ray_serve_num_deployment_grpc_error_requests_total", **of_deployment, error_code="INTERNAL")
    assert failed == 1
    assert total(found, "ray_serve_deployment_request_counter_total", **of_deployment) == 7
    assert total(found, "ray_serve_deployment_error_counter_total", **of_deployment) == 1
    assert total(found, "ray_serve_deployment_replica_healthy", **of_deployment) == 2
    assert total(found, "ray_serve_deployment_replica_starts_total", **of_deployment) == 2
    assert total(found, "ray_serve_deployment_status", **of_deployment) == 6
    assert total(found, "ray_serve_batches_processed_total", **of_deployment, function_name="Coroutine") == 1
    assert total(found, "ray_serve_deployment_queued_queries", **of_deployment) == 0
    # The user's own, of both replicas.
    assert total(found, "ray_measured_calls_total", **of_deployment, kind="call") == 6
    assert len({labels["replica"] for labels, _ in found["measured_plain"]}) == 2
    # And nothing of prometheus-client where no user code uses it.
    assert {labels["application"] for labels, _ in found["python_info"]} == {"measured"}


def test_calls_that_wait_are_seen(world, client):
    narrow = client.of("narrow")
    calls = [narrow.begin("Hold", f"metrics {number}") for number in range(2)]

    def waiting():
        found = metrics_of(world)
        labels = {"application": "narrow", "deployment": "Narrow"}
        return (
            total(found, "ray_serve_deployment_queued_queries", **labels),
            total(found, "ray_serve_num_ongoing_requests_at_replicas", **labels),
            total(found, "ray_serve_replica_processing_queries", **labels),
        )

    wait_for(lambda: waiting() == (1, 1, 1), what="one call waiting")
    for call in calls:
        call.cancel()


def test_proxies_that_share_a_port_are_counted_together(tuned):
    before = total(metrics_of(tuned), "ray_serve_num_grpc_requests_total", status_code="OK")
    clients = [tuned.new_client("lab") for _ in range(8)]
    for one in clients:
        one.ask("__call__", "x")
        one.channel.close()
    found = metrics_of(tuned)
    assert total(found, "ray_serve_num_grpc_requests_total", status_code="OK") == before + 8
    assert len(found["ray_serve_num_ongoing_grpc_requests"]) == 2
