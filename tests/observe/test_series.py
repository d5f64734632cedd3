"""The series of each part, from what it has seen."""

import asyncio
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swerve import batch_metrics, multiplex
from swerve.batching import batch
from swerve.observe.metrics import merge, text_of
from swerve.proxy.http_observer import HttpObserver
from swerve.proxy.observer import ProxyObserver
from swerve.wire.status import StatusCode

REPLICA = (("application", "app"), ("deployment", "D"), ("replica", "r"))
OF_REPLICA = dict(REPLICA)
PROXY = (("proxy", "p"),)


def read(text, **labels):
    """Values by sample name (without buckets), of samples that have these labels."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if labels.items() <= sample.labels.items() and "le" not in sample.labels
    }


@pytest.fixture
def counts(monkeypatch):
    """Nothing has been counted yet."""
    monkeypatch.setattr(batch_metrics, "_counts", {})
    monkeypatch.setattr(multiplex, "_counts", multiplex._Counts())


def test_batches_are_counted_by_function(counts):
    @batch(max_batch_size=4, batch_wait_timeout_s=0.01)
    async def double(items):
        return [2 * item for item in items]

    async def main():
        await asyncio.gather(*(double(number) for number in range(5)))

    asyncio.run(main())
    found = read(text_of(batch_metrics.batch_lines(REPLICA)), **OF_REPLICA, function_name="double")
    assert found["ray_serve_batches_processed_total"] == 2
    assert found["ray_serve_actual_batch_size_sum"] == 5
    assert found["ray_serve_batch_utilization_percent_sum"] == 125
    assert found["ray_serve_batch_wait_time_ms_count"] == 2
    assert found["ray_serve_batch_wait_time_ms_sum"] >= 10
    assert found["ray_serve_batch_execution_time_ms_count"] == 2
    assert found["ray_serve_batch_queue_length"] == 0


def test_a_batch_has_the_size_that_its_function_weighs(counts):
    @batch(max_batch_size=10, batch_wait_timeout_s=0.01, batch_size_fn=sum)
    async def double(items):
        return items

    async def main():
        await asyncio.gather(*(double(number) for number in (3, 5)))

    asyncio.run(main())
    found = read(text_of(batch_metrics.batch_lines(REPLICA)))
    assert found["ray_serve_actual_batch_size_sum"] == 8


def test_items_that_wait_for_a_batch_are_its_queue(counts):
    @batch(max_batch_size=2, batch_wait_timeout_s=30)
    async def hold(items):
        await asyncio.sleep(30)

    async def main():
        tasks = [asyncio.ensure_future(hold(number)) for number in range(5)]
        await asyncio.sleep(0)
        waiting = read(text_of(batch_metrics.batch_lines(REPLICA)))["ray_serve_batch_queue_length"]
        for task in tasks:
            task.cancel()
        return waiting

    assert asyncio.run(main()) == 3


def test_a_failed_batch_is_counted(counts):
    @batch(max_batch_size=1)
    async def fail(items):
        raise ValueError("odd")

    async def main():
        with pytest.raises(ValueError, match="odd"):
            await fail(1)

    asyncio.run(main())
    assert read(text_of(batch_metrics.batch_lines(REPLICA)))["ray_serve_batches_processed_total"] == 1


def test_models_are_counted_and_named(counts):
    @multiplex.multiplexed(max_num_models_per_replica=2)
    async def load(model_id):
        assert f'model_id="{model_id}"' not in text_of(multiplex.model_lines(REPLICA)), "it is not held yet"
        return model_id

    async def main():
        for model_id in "aabca":
            await load(model_id)

    asyncio.run(main())
    text = text_of(multiplex.model_lines(REPLICA))
    found = read(text, **OF_REPLICA)
    assert found["ray_serve_num_multiplexed_models"] == 2
    assert found["ray_serve_multiplexed_get_model_requests_counter_total"] == 5
    assert found["ray_serve_multiplexed_models_load_counter_total"] == 4
    assert found["ray_serve_multiplexed_models_unload_counter_total"] == 2
    assert found["ray_serve_multiplexed_model_load_latency_ms_count"] == 4
    assert read(text, model_id="c") == {"ray_serve_registered_multiplexed_model_id": 1}
    assert read(text, model_id="b") == {}


def test_grpc_calls_are_counted_by_outcome_and_deployment():
    observer = ProxyObserver(None)
    for code in (StatusCode.OK, StatusCode.OK, StatusCode.INTERNAL):
        observer.ongoing += 1
        observer.series("app", b"/p.S/M").ended(b"id", code, 0.003)
    observer.refused(b"/client/made", b"id", StatusCode.UNIMPLEMENTED)
    observer.ongoing += 1
    text = observer.prometheus_text(PROXY, {("app", ""): "D"})
    call = {"application": "app", "method": "/p.S/M", "route": "app", "proxy": "p"}
    succeeded = read(text, **call, status_code="OK")
    assert succeeded["ray_serve_num_grpc_requests_total"] == 2
    assert succeeded["ray_serve_grpc_request_latency_ms_sum"] == pytest.approx(6)
    failed = read(text, **call, error_code="INTERNAL")
    assert failed["ray_serve_num_grpc_error_requests_total"] == 1
    assert failed["ray_serve_num_deployment_grpc_error_requests_total"] == 1
    assert read(text, deployment="D") == {"ray_serve_num_deployment_grpc_error_requests_total": 1}
    assert read(text, error_code="UNIMPLEMENTED", method="")["ray_serve_num_grpc_error_requests_total"] == 1
    assert read(text, proxy="p")["ray_serve_num_ongoing_grpc_requests"] == 1


def test_the_texts_of_two_proxies_merge():
    texts = []
    for name in "pq":
        observer = HttpObserver(None)
        observer.ended("app", "D", "/", "GET", 500, "id", "/x", 0.1)
        texts.append(observer.prometheus_text((("proxy", name),)))
    merged = merge(texts)
    for name in "pq":
        found = read(merged, proxy=name)
        assert found["ray_serve_num_deployment_http_error_requests_total"] == 1
        assert found["ray_serve_http_request_latency_ms_count"] == 1


def test_calls_of_a_replica_are_counted_by_outcome_and_timed_in_any_case(monkeypatch):
    from types import SimpleNamespace

    from swerve.replica import observer as module

    observer = module.ReplicaObserver("app", "D", "r", None)
    monkeypatch.setattr(module.time, "monotonic", lambda: 10.0)
    for code in (StatusCode.OK, StatusCode.OK, StatusCode.ABORTED):
        context = SimpleNamespace(route="/x")
        observer.ended(SimpleNamespace(started_at=9.0, context=context, status=code, logged_by_proxy=True))
    text = text_of(observer.lines(7))
    found = read(text, **OF_REPLICA, route="/x")
    assert found["ray_serve_deployment_request_counter_total"] == 2
    assert found["ray_serve_deployment_error_counter_total"] == 1
    assert found["ray_serve_deployment_processing_latency_ms_count"] == 3
    assert found["ray_serve_deployment_processing_latency_ms_sum"] == 3000
    assert read(text, **OF_REPLICA)["ray_serve_replica_processing_queries"] == 7


def test_a_collector_of_user_code_that_fails_hides_nothing_else(monkeypatch, caplog):
    import prometheus_client

    from swerve.caller import runtime
    from swerve.replica.metrics import metrics_of
    from swerve.replica.observer import ReplicaObserver

    def broken():
        raise RuntimeError("no sensor")

    async def main():
        monkeypatch.setattr(runtime, "_runtime", runtime.CallerRuntime.in_replica("unix:/nowhere", "r"))
        return await metrics_of(ReplicaObserver("app", "D", "r", None), 3)

    monkeypatch.setattr(prometheus_client, "generate_latest", broken)
    with caplog.at_level(logging.ERROR):
        text = asyncio.run(main())
    assert read(text)["ray_serve_replica_processing_queries"] == 3
    assert "no sensor" in caplog.text
