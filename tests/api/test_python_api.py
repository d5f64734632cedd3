"""The Python API against a real instance."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap

import grpc
import pytest

import swerve as serve
from swerve import instances
from swerve.config import gRPCOptions
from swerve.control.instance import InstanceError
from swerve.exceptions import RayServeException
from swerve.statuses import ApplicationStatus, DeploymentStatus, ReplicaState
from tests.conftest import wait_for


@serve.deployment
class Doubler:
    def __call__(self, value):
        return value * 2


@serve.deployment
class Caller:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, value):
        return await self.inner.remote(value) + 1

    def where(self):
        return serve.get_replica_context().app_name, serve.get_deployment_handle("Doubler").remote(4).result(5)

    def environment(self, name):
        return os.environ.get(name)


@serve.deployment
class Broken:
    def __init__(self):
        raise KeyError("no weights")


def run_script(code, *, cwd, **kwargs):
    (cwd / "script.py").write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, "script.py"], cwd=cwd, capture_output=True, text=True, timeout=45, check=False, **kwargs
    )


def test_run_starts_an_instance_and_returns_a_handle_to_the_running_ingress(state_dir):
    handle = serve.run(Caller.bind(Doubler.bind()), name="app")

    assert handle.remote(3).result(10) == 7
    overview = serve.status().applications["app"]
    assert overview.status == ApplicationStatus.RUNNING
    assert overview.deployments["Doubler"].status == DeploymentStatus.HEALTHY
    assert overview.deployments["Doubler"].replica_states == {ReplicaState.RUNNING: 1}


def test_a_replica_knows_its_application_and_reaches_its_other_deployments(state_dir):
    handle = serve.run(Caller.bind(Doubler.bind()), name="app")

    assert handle.where.remote().result(10) == ("app", 8)


def test_an_application_can_be_updated_deleted_and_found_by_name(state_dir):
    serve.run(Doubler.bind(), name="app")
    serve.run(Caller.bind(Doubler.bind()), name="app")

    assert serve.get_app_handle("app").remote(1).result(10) == 3
    assert serve.get_deployment_handle("Doubler", "app").remote(1).result(10) == 2
    with pytest.raises(KeyError, match=r"Deployment\(name='None', app='app'\) does not exist."):
        serve.get_deployment_handle("None", "app")
    with pytest.raises(RayServeException, match="Please specify an application name"):
        serve.get_deployment_handle("Doubler")

    serve.delete("app")

    assert serve.status().applications == {}
    with pytest.raises(RayServeException, match=r"Application 'app' does not exist."):
        serve.get_app_handle("app")


def test_run_many_applies_all_and_gives_their_handles(state_dir):
    targets = [serve.RunTarget(Doubler.bind(), name=name, route_prefix=f"/{name}") for name in ("one", "two")]

    handles = serve.run_many(targets)

    assert [handle.remote(2).result(10) for handle in handles] == [4, 4]


def test_two_applications_cannot_have_one_route_prefix(state_dir):
    serve.run(Doubler.bind(), name="one")

    with pytest.raises(RayServeException) as caught:
        serve.run(Doubler.bind(), name="two")

    assert 'Prefix / is being used by application "one". Failed to deploy application "two".' in str(caught.value)
    assert list(serve.status().applications) == ["one"]


def test_a_constructor_that_raises_fails_its_application_and_no_other(state_dir):
    good = serve.run(Doubler.bind(), name="good", route_prefix="/good")
    broken = Broken.options(max_constructor_retry_count=1).bind()

    with pytest.raises(RuntimeError) as caught:
        serve.run(broken, name="bad", route_prefix="/bad")

    assert str(caught.value).startswith("Deploying application bad failed: ")
    overview = serve.status().applications["bad"]
    assert overview.status == ApplicationStatus.DEPLOY_FAILED
    assert "KeyError: 'no weights'" in overview.deployments["Broken"].message
    assert good.remote(1).result(10) == 2


def test_without_an_instance_there_is_nothing_to_see_or_stop(state_dir):
    assert serve.status() == serve.schema.ServeStatus()
    serve.shutdown()
    with pytest.raises(RayServeException, match="There is no Serve instance running"):
        serve.delete("app")


def test_shutdown_ends_everything_and_a_new_start_works(state_dir):
    first = serve.run(Doubler.bind())
    asyncio.run(serve.shutdown_async())
    assert serve.status().applications == {}

    assert serve.run(Doubler.bind()).remote(5).result(10) == 10
    assert first.remote(5).result(10) == 10


def test_start_on_a_running_instance_changes_the_options_that_it_names(instance, probe):
    @serve.deployment
    class Greeter:
        def Unary(self, note):
            return type(note)(text=f"hello {note.text}")

    serve.run(Greeter.bind())
    serve.start(grpc_options={"request_timeout_s": 5, "max_message_size": 10})
    serve.start()

    options = json.loads(instances.connected().status().options.grpc_options_json)
    assert (options["port"], options["request_timeout_s"]) == (instance.port, 5)
    with grpc.insecure_channel(instance.address) as channel:
        stub = probe.rpc.ProbeStub(channel)
        assert stub.Unary(probe.pb.Note(text="x"), timeout=10).text == "hello x"
        with pytest.raises(grpc.RpcError, match="larger than max"):
            stub.Unary(probe.pb.Note(text="x" * 20), timeout=10)


def test_start_names_options_that_nobody_knows(instance, caplog):
    serve.start(grpc_options={"request_timeouts": 5})

    assert "gRPCOptions: request_timeouts is no option" in caplog.text


def test_a_port_in_use_is_named_and_nothing_stays(instance, probe, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="swerve-") as other:
        monkeypatch.setenv("SWERVE_STATE_DIR", other)
        with pytest.raises(InstanceError, match=str(instance.port)):
            serve.start(grpc_options=gRPCOptions(port=instance.port, grpc_servicer_functions=[probe.add]))
        assert serve.status().proxies == {}


def test_a_wrong_servicer_function_starts_nothing(state_dir):
    with pytest.raises(ModuleNotFoundError, match="can't be imported! Please make sure"):
        serve.start(grpc_options=gRPCOptions(grpc_servicer_functions=["nothing.add"]))

    assert not (state_dir / "agent.lock").exists()


def test_classes_of_a_script_and_its_modules_reach_the_replicas(state_dir, tmp_path):
    (tmp_path / "beside.py").write_text("def triple(x):\n    return 3 * x\n")

    done = run_script(
        """
        import os
        import beside
        import swerve as serve

        OFFSET = 1

        @serve.deployment
        class Model:
            def __call__(self, x):
                return beside.triple(x) + OFFSET, os.getcwd()

        print(*serve.run(Model.bind()).remote(2).result(10))
        """,
        cwd=tmp_path,
    )

    assert done.stdout == f"7 {tmp_path}\n", done.stderr


def test_an_instance_that_run_started_ends_with_the_program(state_dir, tmp_path):
    done = run_script(
        """
        import swerve as serve

        @serve.deployment
        def one(x): return 1

        print(serve.run(one.bind()).remote(0).result(10))
        """,
        cwd=tmp_path,
    )

    assert done.stdout == "1\n", done.stderr
    # The fixture checks that no process is left.


def test_an_instance_that_start_started_outlives_the_program_with_its_applications(state_dir, tmp_path):
    done = run_script(
        """
        import swerve as serve

        @serve.deployment
        def one(x): return 1

        serve.start()
        serve.run(one.bind(), name="kept")
        """,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert serve.get_app_handle("kept").remote(0).result(10) == 1


def test_blocking_run_ends_at_an_interrupt_and_takes_its_instance_along(state_dir, tmp_path):
    (tmp_path / "script.py").write_text(
        "import swerve as serve\n\n@serve.deployment\ndef one(x): return 1\n\n"
        "try:\n    serve.run(one.bind(), blocking=True)\n"
        "except KeyboardInterrupt:\n    print('left', serve.status().applications)\n"
    )
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: "default" in serve.status().applications and _running("default"), what="the application")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "left {}\n"
    finally:
        process.kill()
        process.wait()


def _running(name):
    return serve.status().applications[name].status == ApplicationStatus.RUNNING


def test_local_testing_mode_needs_no_instance(state_dir, monkeypatch):
    assert serve.run(Caller.bind(Doubler.bind()), _local_testing_mode=True).remote(1).result(10) == 3
    monkeypatch.setenv("RAY_SERVE_FORCE_LOCAL_TESTING_MODE", "1")
    assert serve.run(Doubler.bind()).remote(1).result(10) == 2
    assert not (state_dir / "agent.lock").exists()


def test_user_code_may_raise_its_own_errors_through_a_handle(state_dir):
    @serve.deployment
    def fail(value):
        raise ZeroDivisionError(value)

    with pytest.raises(ZeroDivisionError, match="7"):
        serve.run(fail.bind()).remote(7).result(10)
