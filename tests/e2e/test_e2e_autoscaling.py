"""Replicas that come and go with the calls: from none to several and back, and none of the calls is lost."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import swerve as serve
from swerve import instances
from swerve.autoscaling_policy import default_autoscaling_policy
from tests.conftest import wait_for

FAST = {
    "min_replicas": 0,
    "max_replicas": 3,
    "target_ongoing_requests": 1,
    "look_back_period_s": 0.5,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0.2,
}


@serve.deployment(
    max_ongoing_requests=1, autoscaling_config=FAST, graceful_shutdown_wait_loop_s=0.01, graceful_shutdown_timeout_s=30
)
class Elastic:
    """Answers with its replica's id; waits while a file is there, so that a test decides how long calls run."""

    def Unary(self, note):
        deadline = time.monotonic() + 40
        while note.text and Path(note.text).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return type(note)(text=serve.get_replica_context().replica_id, number=serve.get_replica_context().world_size)

    def __call__(self, path=""):
        while path and Path(path).exists():
            time.sleep(0.01)
        return serve.get_replica_context().replica_id


def deployment_status(app="default"):
    (deployment,) = serve.status().applications[app].deployments.values()
    return deployment


def running(app="default"):
    return deployment_status(app).replica_states.get("RUNNING", 0)


def has_none(app="default"):
    return not deployment_status(app).replica_states and deployment_status(app).status == "HEALTHY"


@pytest.fixture
def stub(instance, probe):
    channel = grpc.insecure_channel(instance.address)
    yield probe.rpc.ProbeStub(channel)
    channel.close()


def test_replicas_follow_the_calls_from_none_to_the_maximum_and_back(stub, probe, tmp_path):
    serve.run(Elastic.bind())
    assert has_none()
    gate = tmp_path / "gate"
    gate.touch()
    calls = [stub.Unary.future(probe.pb.Note(text=str(gate)), timeout=50) for _ in range(8)]
    wait_for(lambda: running() == 3, 30, "three replicas")
    status = serve.status().applications["default"]
    assert status.status == "RUNNING"
    gate.unlink()
    assert len({call.result().text for call in calls}) > 1
    wait_for(has_none, 30, "no replicas")
    assert deployment_status().status_trigger == "DOWNSCALE_COMPLETED"
    # And from none again.
    assert stub.Unary(probe.pb.Note(), timeout=30).text


def test_a_handles_first_call_waits_for_the_first_replica(instance):
    handle = serve.run(Elastic.bind())
    assert has_none()
    assert handle.remote().result(timeout_s=30)
    wait_for(has_none, 30, "no replicas")
    assert handle.remote().result(timeout_s=30)


def test_scaling_down_loses_no_call(stub, probe, tmp_path):
    serve.run(Elastic.options(autoscaling_config={**FAST, "downscale_delay_s": 0, "look_back_period_s": 0.2}).bind())
    stop = threading.Event()
    replicas = set()
    failures = []

    def call_again_and_again():
        while not stop.is_set():
            try:
                replicas.add(stub.Unary(probe.pb.Note(), timeout=40).text)
            except grpc.RpcError as error:
                failures.append(error)
            # Long enough for a replica to be thought idle.
            stop.wait(0.3)

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(call_again_and_again) for _ in range(3)]
        try:
            wait_for(lambda: len(replicas) >= 4 or failures, 40, "replicas that come and go")
        finally:
            stop.set()
        for worker in workers:
            worker.result(60)
    assert not failures


def test_the_first_call_outlives_the_controller(stub, probe, instance):
    serve.run(Elastic.bind())
    os.kill(instances.connected().status().controller_pid, signal.SIGKILL)
    assert stub.Unary(probe.pb.Note(), timeout=40).text


def test_a_policy_of_the_users_own_decides(stub, probe, instance):
    config = {
        **FAST,
        "downscale_delay_s": 60,
        "policy": {"policy_function": f"{__name__}:Always", "policy_kwargs": {"number": 2}},
    }
    serve.run(Elastic.options(autoscaling_config=config).bind())
    wait_for(lambda: running() == 2, 30, "two replicas")
    assert stub.Unary(probe.pb.Note(), timeout=30).number == 2


class Always:
    def __init__(self, number):
        self.number = number
        self.asked = 0

    def __call__(self, ctx):
        self.asked += 1
        assert ctx.config.max_replicas == 3
        assert default_autoscaling_policy(ctx)
        return self.number, {"asked": self.asked}


def test_replicas_are_told_how_many_they_are(stub, probe, tmp_path):
    serve.run(Elastic.options(autoscaling_config={**FAST, "min_replicas": 1, "downscale_delay_s": 60}).bind())
    assert stub.Unary(probe.pb.Note(), timeout=30).number == 1
    gate = tmp_path / "gate"
    gate.touch()
    calls = [stub.Unary.future(probe.pb.Note(text=str(gate)), timeout=50) for _ in range(6)]
    wait_for(lambda: running() == 3, 30, "three replicas")
    gate.unlink()
    for call in calls:
        call.result()
    wait_for(lambda: stub.Unary(probe.pb.Note(), timeout=30).number == 3, 20, "a world of three")


def test_the_number_of_replicas_can_be_set_from_outside(instance, swerve_command):
    plain = Elastic.options(num_replicas=1)
    serve.run(plain.bind(), name="open", route_prefix="/open", external_scaler_enabled=True)
    serve.run(plain.bind(), name="closed", route_prefix="/closed")
    done = swerve_command("scale", "open", "Elastic", "2")
    assert done.stdout == "Scaling request received. Deployment will get scaled asynchronously.\n"
    wait_for(lambda: running("open") == 2, 30, "two replicas")
    refused = swerve_command("scale", "closed", "Elastic", "2")
    assert refused.returncode == 1
    assert "The external scaling API can only be used when 'external_scaler_enabled' is set to true" in refused.stderr
    assert "Application 'none' does not exist" in swerve_command("scale", "none", "Elastic", "2").stderr
    assert "does not exist" in swerve_command("scale", "open", "Wrong", "2").stderr
    assert swerve_command("scale", "open", "Elastic", "-1").returncode == 2


APP = """
import swerve as serve


@serve.deployment(num_replicas=2)
class Model:
    def __call__(self):
        return "fine"

    def record_autoscaling_stats(self):
        return {"wishes": 3}


app = Model.bind()
"""
POLICY = """
import wishes


def of_the_application(contexts):
    ((name, ctx),) = contexts.items()
    return {name: wishes.highest(ctx)}, {}
"""
WISHES = """
def highest(ctx):
    return max(ctx.aggregated_metrics.get("wishes", {}).values(), default=1)
"""
CONFIG = """
applications:
  - name: default
    route_prefix: /
    import_path: scaled_app:app
    autoscaling_policy:
      policy_function: scaled_policy:of_the_application
    deployments:
      - name: Model
        num_replicas: auto
        autoscaling_config: {upscale_delay_s: 0, max_replicas: 4}
target_capacity: TARGET
"""


def test_a_config_file_names_a_policy_and_a_capacity(instance, swerve_command, tmp_path):
    for name, text in (("scaled_app", APP), ("scaled_policy", POLICY), ("wishes", WISHES)):
        (tmp_path / f"{name}.py").write_text(text)
    for capacity, replicas in ((100, 3), (50, 2)):
        (tmp_path / "config.yaml").write_text(CONFIG.replace("TARGET", str(capacity)))
        done = swerve_command("deploy", "config.yaml")
        assert done.returncode == 0, done.stderr
        wait_for(lambda count=replicas: running() == count, 30, f"{replicas} replicas")
    assert serve.status().target_capacity == 50
    assert "target_capacity: 50" in swerve_command("status").stdout
