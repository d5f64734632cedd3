"""Instances of real processes: started, found, killed part by part, and ended."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import cloudpickle
import pytest
from control_support import is_gone, open_files

from swerve.build import DeploymentCode
from swerve.config import DeploymentConfig, gRPCOptions
from swerve.control import instance
from swerve.control.client import ControllerClient
from swerve.engine.layout import Layout
from swerve.generated import control_pb2 as pb
from swerve.wire.status import RpcError, StatusCode
from tests.conftest import find_free_port, processes_of, wait_for

NO_PORT = pb.InstanceOptions()
SERVICER = "swerve.generated.serve_pb2_grpc.add_RayServeAPIServiceServicer_to_server"


class Fine:
    def __call__(self):
        return "fine"


class Broken:
    def __init__(self):
        raise ValueError("this constructor fails")


class Dying:
    def __init__(self):
        print("the driver is too old", flush=True)
        os._exit(3)


cloudpickle.register_pickle_by_value(sys.modules[__name__])


def grpc_options(port):
    options = gRPCOptions(port=port, grpc_servicer_functions=[SERVICER], host="127.0.0.1")
    return pb.InstanceOptions(
        grpc_options_json=options.model_dump_json(), grpc_methods=[pb.GrpcMethod(path="/a.B/C")], num_proxies=1
    )


def application(name="app", code=Fine, version="1", **options):
    deployment = pb.Deployment(
        name="Model",
        code=cloudpickle.dumps(DeploymentCode(code, (), {})),
        code_version=version,
        config_json=DeploymentConfig(graceful_shutdown_wait_loop_s=0.01, **options).model_dump_json(),
    )
    return pb.Application(name=name, route_prefix=f"/{name}", ingress="Model", deployments=[deployment])


@pytest.fixture
def folder():
    """A state folder with a short path; at the end no process of it may be left."""
    made = Path(tempfile.mkdtemp(prefix="swerve-"))
    yield made
    if (running := instance.find(made)) is not None:
        call(running, ControllerClient.shutdown)
        instance.wait_stopped(running, 20)
    # Whatever a controller prints is a fault that nobody handled.
    printed = made / "logs" / "controller.out"
    unhandled = printed.read_text() if printed.exists() else ""
    left = processes_of(made)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(made)
    assert not left
    assert unhandled == ""


def call(running, method, *arguments):
    async def once():
        client = ControllerClient(running.controller_address)
        try:
            return await method(client, *arguments)
        finally:
            await client.close()

    return asyncio.run(once())


def deploy(running, *applications):
    call(running, ControllerClient.deploy, pb.DeployRequest(applications=applications))


def status(running):
    """The status, None while the controller is away."""
    try:
        return call(running, ControllerClient.status)
    except RpcError:
        return None


def statuses(running):
    found = status(running)
    return {} if found is None else {app.name: app.status for app in found.applications}


def wait_running(running, name="app"):
    wait_for(lambda: statuses(running).get(name) == "RUNNING", what=f"{name} RUNNING")
    return next(app for app in status(running).applications if app.name == name).deployments[0].replicas


def test_an_instance_is_found_while_it_runs(folder):
    assert instance.find(folder) is None
    started = instance.start(folder, NO_PORT, owner_pid=None)
    assert instance.find(folder) == started
    call(started, ControllerClient.shutdown)
    assert instance.wait_stopped(started, 10)
    assert instance.find(folder) is None
    assert list((folder / "run").iterdir()) == []
    assert not processes_of(folder)


def test_its_files_are_private(folder):
    instance.start(folder, NO_PORT, owner_pid=None)
    for path in (folder, folder / "run", folder / "logs"):
        assert path.stat().st_mode & 0o077 == 0
    for path in (folder / "state.db", folder / "options.pb", folder / "run" / "agent.sock"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_second_start_says_that_one_runs(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    pid = status(started).agent_pid
    with pytest.raises(instance.InstanceError, match=rf"already running \(state folder {folder}, pid {pid}\)"):
        instance.start(folder, NO_PORT, owner_pid=None)
    assert status(started) is not None


def test_a_port_in_use_is_named_and_nothing_is_left(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(instance.InstanceError, match=f"127.0.0.1:{port}"):
            instance.start(folder, grpc_options(port), owner_pid=None)
    assert not processes_of(folder)


def test_one_port_for_both_protocols_is_refused_and_nobody_looks_for_who_has_it(folder):
    port = find_free_port()
    options = grpc_options(port)
    options.http_options_json = f'{{"host": "127.0.0.1", "port": {port}}}'
    options.http_port_required = True
    with pytest.raises(instance.InstanceError, match=f"Port {port} cannot be the gRPC port and the HTTP port"):
        instance.start(folder, options, owner_pid=None)
    assert not processes_of(folder)


def test_a_folder_whose_sockets_do_not_fit_is_refused(tmp_path):
    with pytest.raises(instance.InstanceError, match=r"\d+ bytes too long"):
        instance.start(tmp_path / ("x" * 100), NO_PORT, owner_pid=None)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(instance.InstanceError, match=r"cannot be used: Not a directory\. Choose another folder with"):
        instance.start(tmp_path / "file" / "s", NO_PORT, owner_pid=None)


def test_a_store_that_cannot_be_read_fails_the_start_with_its_reason(folder):
    Layout(folder).make()
    (folder / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(instance.InstanceError, match=r"state\.db cannot be read"):
        instance.start(folder, NO_PORT, owner_pid=None)
    assert not processes_of(folder)
    (folder / "logs" / "controller.out").unlink()


def test_an_application_runs_and_is_deleted(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application())
    (replica,) = wait_running(started)
    assert not is_gone(replica.pid)
    assert call(started, ControllerClient.delete, ["app", "nobody"]) == ["nobody"]
    wait_for(lambda: statuses(started) == {}, what="the application's end")
    assert is_gone(replica.pid)


def test_a_constructor_that_raises_ends_with_its_traceback_and_others_serve(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application("good"), application("bad", Broken))
    wait_for(lambda: statuses(started) == {"good": "RUNNING", "bad": "DEPLOY_FAILED"}, what="the failure")
    (bad,) = (app for app in status(started).applications if app.name == "bad")
    assert "ValueError: this constructor fails" in bad.message


def test_a_process_that_dies_in_its_constructor_is_given_up_with_its_last_words(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application(code=Dying, max_constructor_retry_count=2))
    wait_for(lambda: statuses(started).get("app") == "DEPLOY_FAILED", what="DEPLOY_FAILED")
    (app,) = status(started).applications
    (deployment,) = app.deployments
    assert deployment.status_trigger == "REPLICA_STARTUP_FAILED"
    assert "failed to start 2 times in a row" in deployment.message
    assert "exit code 3. Its last output:\nthe driver is too old" in deployment.message
    assert not deployment.replicas
    assert len([path for path in (folder / "run").iterdir() if path.suffix in (".spec", ".sock", ".begun")]) == 2


def test_a_refused_request_says_why(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    with pytest.raises(RpcError) as error:
        deploy(started, application("twin"), application("twin"))
    assert error.value.status.code is StatusCode.INVALID_ARGUMENT
    assert "multiple configs" in error.value.status.details
    assert statuses(started) == {}


def test_a_killed_controller_comes_back_and_adopts_replicas_and_proxies(folder):
    started = instance.start(folder, grpc_options(find_free_port()), owner_pid=None)
    deploy(started, application(num_replicas=2))
    wait_running(started)
    before = status(started)
    os.kill(before.controller_pid, signal.SIGKILL)
    wait_for(lambda: (now := status(started)) and now.controller_pid != before.controller_pid, what="a new controller")
    replicas = wait_running(started)
    assert {item.pid for item in replicas} == {item.pid for item in before.applications[0].deployments[0].replicas}
    wait_for(lambda: status(started).proxies[0].status == "HEALTHY", what="the proxy's adoption")
    assert status(started).proxies[0].pid == before.proxies[0].pid


def test_a_killed_agent_comes_back_and_adopts_everything(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application())
    (replica,) = wait_running(started)
    before = status(started)
    os.kill(before.agent_pid, signal.SIGKILL)
    wait_for(lambda: status(started).agent_pid != before.agent_pid, what="a new agent")
    after = status(started)
    assert after.controller_pid == before.controller_pid
    assert [item.pid for item in wait_running(started)] == [replica.pid]
    # The new agent sees the end of a process that is no child of its own.
    os.kill(replica.pid, signal.SIGKILL)
    wait_for(lambda: replica.pid not in {item.pid for item in wait_running(started)}, what="the replacement")


def test_a_replica_that_dies_while_the_agent_is_away_is_replaced(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application())
    (replica,) = wait_running(started)
    agent = status(started).agent_pid
    os.kill(agent, signal.SIGKILL)
    os.kill(replica.pid, signal.SIGKILL)
    wait_for(lambda: status(started).agent_pid != agent, what="a new agent")
    wait_for(lambda: replica.pid not in {item.pid for item in wait_running(started)}, what="the replacement")
    wait_running(started)
    (deployment,) = status(started).applications[0].deployments
    assert (deployment.status, deployment.status_trigger) == ("HEALTHY", "HEALTH_CHECK_FAILED")
    assert "was replaced" in deployment.message


def test_a_killed_proxy_is_back_on_its_port(folder):
    port = find_free_port()
    started = instance.start(folder, grpc_options(port), owner_pid=None)
    (before,) = status(started).proxies
    assert before.grpc_address == f"127.0.0.1:{port}"
    os.kill(before.pid, signal.SIGKILL)

    def back():
        (now, *_) = [*status(started).proxies, None]
        return now is not None and now.status == "HEALTHY" and now.pid != before.pid

    wait_for(back, what="the new proxy")
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_a_terminated_instance_comes_back_with_what_was_deployed(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application())
    (replica,) = wait_running(started)
    os.kill(status(started).agent_pid, signal.SIGTERM)
    assert instance.wait_stopped(started, 20)
    assert is_gone(replica.pid)
    again = instance.start(folder, NO_PORT, owner_pid=None)
    wait_running(again)


def test_an_instance_whose_every_process_was_killed_comes_back_with_what_was_deployed(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application())
    wait_running(started)
    now = status(started)
    replicas = [item.pid for item in now.applications[0].deployments[0].replicas]
    # The agent and the controller first: each would start the other again.
    os.kill(now.controller_pid, signal.SIGSTOP)
    for pid in (now.agent_pid, now.controller_pid, *replicas):
        os.kill(pid, signal.SIGKILL)
    assert instance.wait_stopped(started, 10)
    again = instance.start(folder, NO_PORT, owner_pid=None)
    assert [item.pid for item in wait_running(again)] != replicas


def test_a_shut_down_instance_forgets_what_was_deployed(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application())
    wait_running(started)
    call(started, ControllerClient.shutdown)
    assert instance.wait_stopped(started, 20)
    again = instance.start(folder, NO_PORT, owner_pid=None)
    assert statuses(again) == {}


def test_an_instance_ends_with_its_owner_and_forgets(folder):
    script = f"""
        import os, signal, sys
        from pathlib import Path
        from swerve.control import instance
        from swerve.generated import control_pb2 as pb
        instance.start(Path({str(folder)!r}), pb.InstanceOptions(), owner_pid=os.getpid())
        print("started", flush=True)
        signal.pause()
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"started\n"
    running = instance.find(folder)
    assert running is not None
    deploy(running, application())
    wait_running(running)
    owner.kill()
    owner.wait(10)
    owner.stdout.close()
    assert instance.wait_stopped(running, 20)
    wait_for(lambda: not processes_of(folder), what="the end of all processes")
    assert not (folder / "state.db").exists()


def test_watchers_keep_watching_while_the_controller_restarts(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)
    deploy(started, application("one"))
    wait_running(started, "one")
    controller = status(started).controller_pid

    async def watch():
        client = ControllerClient(started.controller_address)
        versions = []
        async with asyncio.timeout(20):
            async for view in client.watch_view("driver", "test"):
                versions.append(view.version)
                names = {app.name for app in view.applications}
                assert len(view.deployments[0].replicas) == 1
                if len(versions) == 1:
                    os.kill(controller, signal.SIGKILL)
                    await asyncio.to_thread(wait_for, lambda: status(started) is not None)
                    await client.deploy(pb.DeployRequest(applications=[application("two")]))
                elif names == {"one", "two"}:
                    break
        await client.close()
        return versions

    versions = asyncio.run(watch())
    assert versions == sorted(set(versions))


def test_deploying_and_deleting_leaves_nothing_behind(folder):
    started = instance.start(folder, NO_PORT, owner_pid=None)

    def rounds(number):
        for index in range(number):
            deploy(started, application(version=str(index)))
            wait_running(started)
            call(started, ControllerClient.delete, ["app"])
            wait_for(lambda: statuses(started) == {}, what="the application's end")

    rounds(2)
    now = status(started)
    pids = (now.agent_pid, now.controller_pid)
    before = [open_files(pid) for pid in pids]
    files = sorted(path.name for path in (folder / "run").iterdir())
    rounds(6)
    # Before, a connection may have been closing still; a leak would have grown with each round.
    wait_for(
        lambda: all(open_files(pid) <= count for pid, count in zip(pids, before, strict=True)),
        what="the files being closed again",
    )
    assert sorted(processes_of(folder)) == sorted(pids)
    assert sorted(path.name for path in (folder / "run").iterdir()) == files
