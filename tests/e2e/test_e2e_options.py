"""Services, ports and options that change while an instance serves."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import grpc
import httpx
import pytest
import yaml
from e2e_support import Load, failure_of
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import swerve as serve
from swerve import instances
from swerve.engine.layout import Layout
from tests.conftest import find_free_port, processes_of, wait_for

LAB = "lab_pb2_grpc.add_LabServicer_to_server"
PROBE = "probe_pb2_grpc.add_ProbeServicer_to_server"
SECOND = "probe_pb2_grpc.add_SecondServicer_to_server"


@serve.deployment(num_replicas=2, max_ongoing_requests=20)
class Changing:
    async def Unary(self, note):
        return type(note)(text=note.text, number=os.getpid())

    async def Stream(self, note):
        import asyncio

        for number in range(note.number):
            await asyncio.sleep(0.02)
            yield type(note)(number=number)

    async def Other(self, note):
        return type(note)(text="other", number=os.getpid())

    async def Plain(self, note):
        return type(note)(text="plain", number=os.getpid())

    async def __call__(self, request):
        return "answer"


@pytest.fixture
def port(state_dir, proto_dir, free_port):
    serve.start(grpc_options={"port": free_port, "grpc_servicer_functions": [PROBE]}, http_options={"port": 0})
    serve.run(Changing.bind())
    return free_port


def pids_of_replicas(state_dir):
    return {
        pid for pid in processes_of(state_dir) if b"swerve.replica.process" in open(f"/proc/{pid}/cmdline", "rb").read()
    }


def test_a_new_service_is_served_without_a_restart_and_a_removed_one_finishes_its_calls(state_dir, port):
    with Load(port) as load:
        replicas = pids_of_replicas(state_dir)
        lab = importlib.import_module("lab_pb2_grpc").LabStub(load.channel)
        assert failure_of(lambda: lab.Plain(load.note(), timeout=20)).code().name == "UNIMPLEMENTED"
        serve.start(grpc_options={"grpc_servicer_functions": [PROBE, LAB]})
        assert lab.Plain(load.note(), timeout=20).text == "plain"
        load.goes_on()
        assert pids_of_replicas(state_dir) == replicas
        stream = load.stub.Stream(load.note(number=50), timeout=30)
        next(stream)
        assert load.failures == []
        serve.start(grpc_options={"grpc_servicer_functions": [LAB]})
        assert len(list(stream)) == 49
        assert lab.Plain(load.note(), timeout=20).text == "plain"
        wait_for(lambda: load.failures)
        assert {code.name for code, _ in load.failures} == {"UNIMPLEMENTED"}
    assert pids_of_replicas(state_dir) == replicas


def test_a_port_moves_and_calls_on_the_old_one_finish(state_dir, port):
    new = find_free_port()
    with Load(port) as load:
        stream = load.stub.Stream(load.note(number=50), timeout=30)
        next(stream)
        serve.start(grpc_options={"port": new})
        with Load(new) as after:
            after.goes_on()
            assert len(list(stream)) == 49
            assert after.failures == []


def healthy_proxies():
    return {proxy.pid for proxy in instances.connected().status().proxies if proxy.status == "HEALTHY"}


def test_proxies_are_added_and_taken_away_under_load(state_dir, port):
    with Load(port, fresh=True) as load:
        for number in (3, 1, 2):
            serve.start(grpc_options={"num_proxies": number})
            wait_for(lambda number=number: len(instances.connected().status().proxies) == number, what="proxies")
            load.goes_on()
        stream = load.stub.Stream(load.note(number=50), timeout=30)
        next(stream)
        for pid in healthy_proxies():
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda pid=pid: pid not in healthy_proxies() and len(healthy_proxies()) == 2, what="a successor")
            load.goes_on()
        assert len(list(stream)) == 49
    assert load.failures == []


def test_a_single_proxy_that_is_terminated_keeps_its_clients_until_its_successor_listens(state_dir, port):
    status = instances.connected().status()
    (before,) = status.proxies
    ready = Layout(state_dir).of_process(before.proxy_id, "ready")
    with Load(port, fresh=True) as load:
        states = []
        load.channel.subscribe(states.append)
        wait_for(lambda: states == [grpc.ChannelConnectivity.READY], what="the state of the connection")
        stream = load.stub.Stream(load.note(number=100), timeout=30)
        next(stream)
        os.kill(status.controller_pid, signal.SIGSTOP)  # so that there is no successor yet
        try:
            os.kill(before.pid, signal.SIGTERM)
            wait_for(lambda: json.loads(ready.read_text())["draining"], what="a proxy that is about to stop")
            load.goes_on()
            # A client that is asked to go leaves the connection.
            assert states == [grpc.ChannelConnectivity.READY]
        finally:
            os.kill(status.controller_pid, signal.SIGCONT)
        wait_for(lambda: len(states) > 1, what="the end of the connection")
        assert len(list(stream)) == 99
        wait_for(lambda: before.pid not in {proxy.pid for proxy in instances.connected().status().proxies})
        load.goes_on()
    assert load.failures == []
    assert (before.status, len(instances.connected().status().proxies)) == ("HEALTHY", 1)


def test_reflection_is_turned_off_and_on_for_the_connections_that_there_are(port):
    with Load(port) as load:
        reflected = ProtoReflectionDescriptorDatabase(load.channel)
        assert "probe.v1.Probe" in reflected.get_services()
        serve.start(grpc_options={"enable_reflection": False})
        assert failure_of(ProtoReflectionDescriptorDatabase(load.channel).get_services).code().name == "UNIMPLEMENTED"
        serve.start(grpc_options={"enable_reflection": True})
        assert "probe.v1.Probe" in ProtoReflectionDescriptorDatabase(load.channel).get_services()
        load.goes_on()
    assert load.failures == []


CONFIG = """
grpc_options: {grpc}
http_options: {http}
applications:
- {{name: {name}, route_prefix: /{name}, import_path: "changing:app"}}
"""
APP = """
import swerve as serve

@serve.deployment
class Changing:
    async def Unary(self, note):
        return note

    async def Plain(self, note):
        return note

    async def __call__(self, request):
        return "answer"

app = Changing.bind()
"""


@pytest.fixture
def deploy(swerve_command, free_port):
    """Runs `swerve deploy` with a config file, on an instance that serves nothing else."""
    (swerve_command.cwd / "changing.py").write_text(APP)
    swerve_command("start", "--http-port", "0")

    def run(name="one", http="{port: 0}", **grpc_options):
        text = CONFIG.format(grpc=json.dumps({"port": free_port, **grpc_options}), http=http, name=name)
        (swerve_command.cwd / "config.yaml").write_text(text)
        return swerve_command("deploy", "config.yaml")

    return run


def in_force(swerve_command):
    return yaml.safe_load(swerve_command("status").stdout)


def test_a_deploy_applies_its_options_and_its_applications_together_or_not_at_all(swerve_command, deploy, free_port):
    deployed = deploy(grpc_servicer_functions=[PROBE])
    assert "Changed: newly served: /probe.v1.Probe/Unary" in deployed.stderr
    with Load(free_port) as load, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        before = in_force(swerve_command)
        for wrong, reason in (
            ({"port": taken.getsockname()[1]}, "cannot be bound: Address already in use"),
            ({"grpc_servicer_functions": ["probe_pb2_grpc.nothing"]}, "has no attribute 'nothing'"),
            ({"http": '{port: 1, ssl_keyfile: "no", ssl_certfile: "no"}'}, "TLS files of the HTTP port cannot be used"),
        ):
            refused = deploy(name="two", **{"grpc_servicer_functions": [PROBE, LAB], **wrong})
            assert refused.returncode == 1
            assert reason in refused.stderr
            assert "Traceback" not in refused.stderr
        after = in_force(swerve_command)
        assert after["grpc_options"] == before["grpc_options"]
        assert list(after["applications"]) == ["one"]
        assert load.failures == []


def test_the_options_of_a_file_go_with_it(swerve_command, deploy, free_port):
    http_port = find_free_port()
    deploy(http=f"{{port: {http_port}}}", grpc_servicer_functions=[PROBE], request_timeout_s=7)
    wait_for(lambda: _get(f"http://127.0.0.1:{http_port}/one") == "answer", what="HTTP")
    shown = yaml.safe_load(swerve_command("config").stdout)
    assert (shown["grpc_options"], shown["http_options"]) == (
        {"port": free_port, "grpc_servicer_functions": [PROBE], "request_timeout_s": 7},
        {"port": http_port},
    )

    deploy(grpc_servicer_functions=[PROBE])

    options = in_force(swerve_command)
    assert (options["grpc_options"]["request_timeout_s"], options["http_options"]) == (None, {"port": 0})
    with Load(free_port):
        pass


def _get(url):
    try:
        return httpx.get(url).text
    except httpx.TransportError:
        return None


def test_options_that_were_deployed_survive_the_controller_a_proxy_and_the_instance(
    swerve_command, deploy, free_port, state_dir
):
    deploy(grpc_servicer_functions=[PROBE, LAB], max_message_size=1000)
    with Load(free_port) as load:
        controller = instances.connected().status().controller_pid
        os.kill(controller, signal.SIGKILL)
        wait_for(lambda: instances.connected().status().controller_pid != controller, what="a new controller")
        assert in_force(swerve_command)["grpc_options"]["max_message_size"] == 1000
        load.goes_on()
        assert load.failures == []
    os.kill(instances.connected().status().agent_pid, signal.SIGTERM)
    wait_for(lambda: not processes_of(state_dir), what="the end")
    assert f"gRPC on localhost:{free_port}" in swerve_command("start", "--http-port", "0").stdout
    with Load(free_port) as load:
        lab = importlib.import_module("lab_pb2_grpc").LabStub(load.channel)
        assert lab.Plain(load.note(text="x"), timeout=20).text == "x"
        error = failure_of(lambda: lab.Plain(load.note(text="x" * 1000), timeout=20))
        assert error.code().name == "RESOURCE_EXHAUSTED"
    # Another start is newer than what was deployed.
    swerve_command("shutdown", "-y")


PROTO = """
syntax = "proto3";
package grows.v1;
message Word {{ string text = 1; {field} }}
service Grows {{ rpc Say(Word) returns (Word); {rpc} }}
"""
GROWING = """
import os
import swerve as serve

@serve.deployment(num_replicas=2)
class Growing:
    async def Say(self, word):
        return word

    async def Shout(self, word):
        return type(word)(text=word.text.upper(), loud=True)

app = Growing.bind()
"""


def compile_proto(folder, field="", rpc=""):
    """The modules of the proto, made in `folder` anew."""
    (folder / "grows.proto").write_text(PROTO.format(field=field, rpc=rpc))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--python_out={folder}"]
    subprocess.run([*command, f"--grpc_python_out={folder}", str(folder / "grows.proto")], check=True, timeout=60)


def test_a_method_that_is_added_to_a_proto_is_served_after_a_deploy(swerve_command, free_port):
    folder = swerve_command.cwd
    (folder / "growing.py").write_text(GROWING)
    options = {"port": free_port, "grpc_servicer_functions": ["grows_pb2_grpc.add_GrowsServicer_to_server"]}
    text = f"grpc_options: {json.dumps(options)}\napplications: [{{import_path: 'growing:app'}}]"
    (folder / "config.yaml").write_text(text)
    compile_proto(folder)
    swerve_command("start", "--http-port", "0")
    assert swerve_command("deploy", "config.yaml").returncode == 0
    failures, stop = [], threading.Event()

    def call(method, message, timeout=30):
        return channel.unary_unary(f"/grows.v1.Grows/{method}")(message, timeout=timeout, wait_for_ready=True)

    def load():
        while not stop.is_set():
            try:
                call("Say", b"\n\x02hi")
            except grpc.RpcError as error:
                failures.append(error.details())
                stop.wait(0.05)

    with grpc.insecure_channel(f"localhost:{free_port}") as channel:
        assert call("Say", b"\n\x02hi") == b"\n\x02hi"
        loading = threading.Thread(target=load)
        loading.start()
        try:
            compile_proto(folder, "bool loud = 2;", "rpc Shout(Word) returns (Word);")
            deployed = swerve_command("deploy", "config.yaml")
            assert "newly served: /grows.v1.Grows/Shout" in deployed.stderr
            assert call("Shout", b"\n\x02hi") == b"\n\x02HI\x10\x01"
            wait_for(lambda: "RUNNING" in swerve_command("status", "-n", "default").stdout.splitlines()[0])
            for _ in range(20):
                assert call("Shout", b"\n\x02hi") == b"\n\x02HI\x10\x01"
        finally:
            stop.set()
            loading.join()
    assert failures == []


@serve.deployment
class Rooted:
    async def __call__(self, request):
        return request.scope["root_path"]


def test_http_changes_its_settings_and_its_port_under_load(state_dir, free_port):
    serve.start(http_options={"port": free_port})
    serve.run(Rooted.bind(), route_prefix="/app")
    failures, stop = [], threading.Event()
    url = f"http://127.0.0.1:{free_port}"

    def load():
        while not stop.is_set():
            try:
                assert httpx.get(f"{url}/-/healthz").status_code == 200
            except (httpx.TransportError, AssertionError) as error:
                failures.append(repr(error))
                stop.wait(0.05)

    loading = [threading.Thread(target=load) for _ in range(3)]
    for thread in loading:
        thread.start()
    try:
        for number in range(3):
            serve.start(http_options={"root_path": f"/root{number}", "request_timeout_s": 5 + number})
            wait_for(lambda number=number: httpx.get(f"{url}/app").text == f"/root{number}/app", what="the settings")
    finally:
        stop.set()
        for thread in loading:
            thread.join()
    assert failures == []

    new = find_free_port()
    serve.start(http_options={"port": new})
    assert httpx.get(f"http://127.0.0.1:{new}/app").text == "/root2/app"
    wait_for(lambda: _get(url) is None, what="the end of the old port")


def test_a_port_begins_to_speak_tls_and_stops_again(state_dir, port, authority):
    key, chain = authority.issue("server")
    probe, note = importlib.import_module("probe_pb2_grpc"), importlib.import_module("probe_pb2").Note

    def ask(channel):
        with channel:
            return probe.ProbeStub(channel).Unary(note(text="x"), timeout=20, wait_for_ready=True).text

    with grpc.insecure_channel(f"localhost:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as open_channel:
        stream = probe.ProbeStub(open_channel).Stream(note(number=50), timeout=30)
        next(stream)
        serve.start(grpc_options={"ssl_keyfile": key, "ssl_certfile": chain})
        credentials = grpc.ssl_channel_credentials(authority.ca_pem)
        assert ask(grpc.secure_channel(f"localhost:{port}", credentials)) == "x"
        assert len(list(stream)) == 49
    serve.start(grpc_options={"ssl_keyfile": None, "ssl_certfile": None})
    assert ask(grpc.insecure_channel(f"localhost:{port}")) == "x"
