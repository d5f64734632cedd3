"""Canaries by the commands and the configuration file, against real instances."""

import contextlib
import os
import signal

import grpc
import pytest
import yaml

import swerve as serve
from swerve import canary
from swerve.instances import required
from swerve.schema import CanaryPhase
from tests.conftest import wait_for

APP = """
import swerve as serve

@serve.deployment
class Echo:
    def __init__(self, version, broken):
        self.version = version
        self.broken = broken

    def Unary(self, note):
        if self.broken:
            raise ValueError("not yet")
        return type(note)(text=self.version)

def builder(args):
    return Echo.bind(args["version"], args.get("broken") == "yes")
"""
CONFIG = """
http_options: {{port: 0}}
grpc_options: {{port: {port}, grpc_servicer_functions: [probe_pb2_grpc.add_ProbeServicer_to_server]}}
applications:
  - name: shop
    import_path: shop_app:builder
    args: {{version: v1}}
"""
CANARY = """\
    canary:
      args: {version: v2}
      weight: 100
      rollback: {min_calls: 10, for_s: 0}
"""
SERVICERS = ("--grpc-servicer-functions", "probe_pb2_grpc.add_ProbeServicer_to_server")


@pytest.fixture
def folder(swerve_command):
    (swerve_command.cwd / "shop_app.py").write_text(APP)
    return swerve_command.cwd


@pytest.fixture
def ask(probe, free_port):
    with grpc.insecure_channel(f"localhost:{free_port}") as channel:
        stub = probe.rpc.ProbeStub(channel)

        def call():
            return stub.Unary(probe.pb.Note(), timeout=20, wait_for_ready=True).text

        yield call


@pytest.fixture
def swerve(swerve_command, folder):
    """Run the command, which must succeed."""

    def run(*arguments):
        done = swerve_command(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def phase():
    present = canary.status("shop")
    return None if present is None else present.phase


def test_a_file_and_commands_lead_a_canary_to_its_promotion(swerve, swerve_command, folder, free_port, ask):
    file = folder / "config.yaml"
    file.write_text(CONFIG.format(port=free_port))
    swerve("start", "--grpc-port", str(free_port), "--http-port", "0", *SERVICERS)
    swerve("deploy", str(file))
    assert ask() == "v1"
    file.write_text(CONFIG.format(port=free_port) + CANARY)
    swerve("deploy", str(file))
    wait_for(lambda: phase() is CanaryPhase.RUNNING, 30, "the canary")
    wait_for(lambda: ask() == "v2", what="its calls")
    shown = yaml.safe_load(swerve("status"))["applications"]["shop"]
    assert list(shown["deployments"]) == ["Echo"]
    assert (shown["canary"]["phase"], shown["canary"]["weight"]) == ("RUNNING", 100)
    assert shown["canary"]["deployments"]["Echo"]["replica_states"] == {"RUNNING": 1}
    (beside,) = yaml.safe_load(swerve("canary", "status", "shop")).values()
    assert beside.keys() == shown["canary"].keys()
    assert swerve("canary", "weight", "shop", "0") == "The canary of application 'shop' gets 0 % of the calls.\n"
    assert {ask() for _ in range(10)} == {"v1"}
    # What the command set stays, as the file says nothing new.
    swerve("deploy", str(file))
    assert canary.status("shop").weight == 0
    assert "the replicas of the other version drain" in swerve("canary", "promote", "shop")
    assert ask() == "v2"
    assert "has no canary" in swerve("canary", "status", "shop")
    (entry,) = yaml.safe_load(swerve("config"))["applications"]
    assert entry == {"name": "shop", "import_path": "shop_app:builder", "args": {"version": "v2"}}
    refused = swerve_command("canary", "rollback", "shop")
    assert refused.returncode == 1
    assert refused.stderr == "Error: Application 'shop' has no canary.\n"


def test_a_canary_and_its_end_outlive_the_controller(swerve, folder, free_port, ask):
    file = folder / "config.yaml"
    file.write_text(CONFIG.format(port=free_port))
    swerve("start", "--grpc-port", str(free_port), "--http-port", "0", *SERVICERS)
    swerve("deploy", str(file))
    limits = ("--max-error-percent", "20", "--min-calls", "10", "--for-s", "0")
    arguments = ("version=v2", "broken=yes", "--weight", "50", "--match", "x-version=new", *limits)
    assert "starts" in swerve("canary", "start", "shop", "shop_app:builder", *arguments)
    wait_for(lambda: phase() is CanaryPhase.RUNNING, 30, "the canary")
    kill_controller()
    present = canary.status("shop")
    assert (present.phase, present.weight, present.match) == (CanaryPhase.RUNNING, 50, {"x-version": "new"})

    def calls_until_rolled_back():
        for _ in range(20):
            with contextlib.suppress(grpc.RpcError):
                ask()
        return phase() is CanaryPhase.ROLLED_BACK

    wait_for(calls_until_rolled_back, 40, "the rollback")
    kill_controller()
    assert "of the last 60 s failed" in canary.status("shop").message
    assert phase() is CanaryPhase.ROLLED_BACK
    assert {ask() for _ in range(10)} == {"v1"}


def kill_controller():
    pid = required().status().controller_pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: required().status().controller_pid != pid, 30, "a new controller")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("start", "nobody", "shop_app:builder", "version=v2"), "Application 'nobody' does not exist."),
        (("start", "shop", "shop_app"), 'Got invalid import path "shop_app".'),
        (("start", "shop", "shop_app:none"), "has no attribute 'none'"),
        (("start", "shop", "shop_app:builder", "version=v2", "--weight", "101"), "weight: Input should be less than"),
        (("start", "shop", "shop_app:builder", "version=v2", "--match", "x"), "must be of the form '<key>=<val>'"),
        (("start", "shop", "shop_app:builder", "version=v2", "--match", "grpc-x=1"), "for a metadata key"),
        (("weight", "shop", "5"), "Application 'shop' has no canary."),
        (("status", "nobody"), "Application 'nobody' does not exist."),
    ],
)
def test_what_cannot_be_is_said_in_a_line(swerve_command, running_shop, arguments, message):
    done = swerve_command("canary", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert serve.status().applications["shop"].canary is None


@pytest.fixture
def running_shop(shop, folder, monkeypatch):
    """An application of the shared instance."""
    from swerve import instances

    monkeypatch.setenv("SWERVE_STATE_DIR", str(shop.state_dir))
    instances.disconnect()

    @serve.deployment
    class One:
        def Unary(self, note):
            return note

    serve.run(One.bind(), name="shop", route_prefix="/shop")
    yield
    serve.delete("shop")
    instances.disconnect()
