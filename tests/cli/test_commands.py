"""The commands as a user runs them, against real instances."""

import os
import signal
import time
from pathlib import Path

import grpc
import pytest
import yaml

import swerve as serve
from swerve.config import HTTPOptions
from swerve.generated import control_pb2
from swerve.instance_options import where_it_serves
from tests.conftest import find_free_port, wait_for

APP = """
import os
import swerve as serve

@serve.deployment
class Echo:
    def __init__(self, prefix=""):
        self.prefix = prefix

    def Unary(self, note):
        return type(note)(text=self.prefix + note.text + VERSION, number=os.getpid())

    def Stream(self, note):
        for name in note.text.split():
            yield type(note)(text=os.environ.get(name, "-"))

VERSION = ""
app = Echo.bind()

def builder(args):
    return Echo.bind(args["prefix"])
"""
ADD = "probe_pb2_grpc.add_ProbeServicer_to_server"


@pytest.fixture
def folder(swerve_command):
    (swerve_command.cwd / "echo_app.py").write_text(APP)
    return swerve_command.cwd


@pytest.fixture
def stub(probe, free_port):
    with grpc.insecure_channel(f"localhost:{free_port}") as channel:
        yield probe.rpc.ProbeStub(channel)


@pytest.fixture
def unary(probe, stub):
    def call(text="x", application="default"):
        note = probe.pb.Note(text=text)
        return stub.Unary(note, timeout=5, metadata=(("application", application),), wait_for_ready=True).text

    return call


def read_until(process, text):
    """The output of a command in the foreground up to the line with `text`."""
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"ended without {text!r}: {read}")


def answers(call, *args):
    """`call`'s answer, None while there is none."""
    try:
        return call(*args)
    except grpc.RpcError:
        return None


def test_start_deploy_status_config_and_shutdown(swerve_command, folder, free_port, unary):
    started = swerve_command("start", "--grpc-port", str(free_port), "--grpc-servicer-functions", ADD)
    assert started.returncode == 0, started.stderr
    assert f"gRPC on localhost:{free_port}" in started.stdout

    (folder / "config.yaml").write_text("applications: [{name: one, route_prefix: /one, import_path: 'echo_app:app'}]")
    assert swerve_command("deploy", "config.yaml").returncode == 0
    assert wait_for(lambda: answers(unary, "x", "one"), what="the answer") == "x"

    status = yaml.safe_load(swerve_command("status").stdout)
    assert list(status["proxies"].values()) == ["HEALTHY"]
    assert status["applications"]["one"]["status"] == "RUNNING"
    assert status["applications"]["one"]["deployments"]["Echo"]["replica_states"] == {"RUNNING": 1}
    assert yaml.safe_load(swerve_command("status", "--name", "one").stdout)["status"] == "RUNNING"
    applied = yaml.safe_load(swerve_command("config").stdout)
    assert applied["applications"] == [{"name": "one", "route_prefix": "/one", "import_path": "echo_app:app"}]
    assert yaml.safe_load(swerve_command("config", "-n", "one").stdout)["import_path"] == "echo_app:app"

    stopped = swerve_command("shutdown", "-y")
    assert (stopped.returncode, stopped.stdout) == (0, "Serve has stopped.\n")
    assert swerve_command("shutdown", "-y").returncode == 0


def test_start_says_where_it_serves_and_where_its_logs_are(swerve_command, state_dir, folder, free_port):
    http_port = find_free_port()
    flags = ("--grpc-port", str(free_port), "--grpc-servicer-functions", ADD, "--http-port", str(http_port))

    started = swerve_command("start", *flags)

    assert started.stdout.splitlines() == [
        "Serve is running:",
        f"  gRPC on localhost:{free_port}",
        f"  HTTP on http://127.0.0.1:{http_port}",
        f"  state folder: {state_dir}",
        f"  logs: {state_dir}/logs",
    ]


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (
            ("--http-port", "0"),
            ["no gRPC server: no servicer functions given (--grpc-servicer-functions)", "HTTP is off"],
        ),
        (("--http-port", "0", "--grpc-port", "0"), ["gRPC is off (port 0)", "HTTP is off"]),
        (("--proxy-location", "Disabled"), ["gRPC and HTTP are off (proxy location Disabled)"]),
    ],
)
def test_run_says_why_it_does_not_serve(swerve_command, folder, flags, lines):
    with swerve_command.foreground("run", "echo_app:app", *flags) as process:
        output = read_until(process, "Application 'default' is running.")

    assert output.splitlines()[1 : 1 + len(lines)] == [f"  {line}" for line in lines]


def test_run_takes_the_http_options_and_says_when_the_default_port_is_taken(swerve_command, folder, free_port):
    flags = ("--http-host", "127.0.0.1", "--http-port", str(free_port))
    with swerve_command.foreground("run", "echo_app:app", *flags) as process:
        assert f"HTTP on http://127.0.0.1:{free_port}" in read_until(process, "Application 'default' is running.")

    status = control_pb2.InstanceStatus()
    status.options.http_options_json = HTTPOptions(port=free_port).model_dump_json()
    assert f"no HTTP: port {free_port} of 127.0.0.1 is taken (--http-port names another)" in where_it_serves(status)


def test_config_shows_no_deleted_application(swerve_command, folder):
    swerve_command("start", "--http-port", "0")
    two = "{name: %s, route_prefix: /%s, import_path: 'echo_app:app'}"
    (folder / "config.yaml").write_text(f"applications: [{two % ('a', 'a')}, {two % ('b', 'b')}]")
    assert swerve_command("deploy", "config.yaml").returncode == 0

    serve.delete("a")

    assert [app["name"] for app in yaml.safe_load(swerve_command("config").stdout)["applications"]] == ["b"]
    assert (
        "'a' of the applied config file does not exist. Available: 'b'." in swerve_command("config", "-n", "a").stderr
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_builds_applications_ends_with_the_command_and_prints_nothing(swerve_command, folder, number):
    (folder / "slow_app.py").write_text(
        "import os, subprocess, time\n"
        "helper = subprocess.Popen(['sleep', '60'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {helper.pid} ')\n"
        "time.sleep(60)\n"
    )
    (folder / "config.yaml").write_text("applications: [{import_path: 'slow_app:app'}]")
    swerve_command("start", "--http-port", "0")
    pids = folder / "pids"
    with swerve_command.foreground("deploy", "config.yaml") as process:
        wait_for(lambda: pids.exists() and pids.read_text().endswith(" "), what="the import")
        # As a terminal does: the whole foreground group gets it.
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=30)

    assert process.returncode != 0
    assert "Traceback" not in output
    for pid in pids.read_text().split():
        wait_for(lambda pid=pid: not _lives(pid), what=f"the end of {pid}")


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_deploy_takes_a_route_prefix(swerve_command, folder):
    swerve_command("start", "--http-port", "0")

    assert swerve_command("deploy", "echo_app:app", "--route-prefix", "/p").returncode == 0

    assert yaml.safe_load(swerve_command("config").stdout)["applications"][0]["route_prefix"] == "/p"
    assert "Invalid route_prefix" in swerve_command("deploy", "echo_app:app", "--route-prefix", "p").stderr


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupted_run_deletes_no_application_of_others(swerve_command, folder, before):
    """Those that were there before it, and those that were deployed again since."""
    swerve_command("start", "--http-port", "0")
    again = ("run", "echo_app:builder", "prefix=other", "--non-blocking")
    if before:
        swerve_command(*again)
    with swerve_command.foreground("run", "echo_app:app") as process:
        read_until(process, "Application 'default' is running.")
        if not before:
            swerve_command(*again)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output

    assert serve.status().applications["default"].status == "RUNNING"


def test_run_of_an_import_path_serves_until_interrupted(swerve_command, folder, free_port, unary):
    flags = ("--grpc-port", str(free_port), "--grpc-servicer-functions", ADD)
    with swerve_command.foreground("run", "echo_app:builder", "prefix=hello ", *flags) as process:
        read_until(process, "Application 'default' is running.")
        assert unary() == "hello x"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 0, output
    assert swerve_command("status").returncode == 1


def test_an_import_path_takes_arguments_and_a_runtime_env(swerve_command, folder, free_port, probe, stub, unary):
    swerve_command("start", "--grpc-port", str(free_port), "--grpc-servicer-functions", ADD)
    environment = ("--runtime-env-json", '{"env_vars": {"NAME": "value"}}')

    for command in ("deploy", "run --non-blocking --route-prefix /b"):
        name = command.split()[0]
        done = swerve_command(*command.split(), "echo_app:builder", f"prefix={name} ", "--name", name, *environment)
        assert done.returncode == 0, done.stderr
        assert wait_for(lambda name=name: answers(unary, "x", name), what="the answer") == f"{name} x"
        notes = stub.Stream(probe.pb.Note(text="NAME"), metadata=(("application", name),), timeout=10)
        assert [note.text for note in notes] == ["value"]


def test_run_of_a_config_file_serves_its_applications_with_their_environments(
    swerve_command, folder, free_port, probe, stub, unary
):
    (folder / "config.yaml").write_text(f"""
grpc_options: {{port: {free_port}, grpc_servicer_functions: [{ADD}]}}
applications:
  - name: one
    route_prefix: /one
    import_path: echo_app:builder
    args: {{prefix: "one "}}
    runtime_env: {{env_vars: {{NAME: first}}}}
  - name: two
    route_prefix: /two
    import_path: echo_app:app
    runtime_env: {{env_vars: {{NAME: second}}, working_dir: "."}}
    deployments: [{{name: Echo, num_replicas: 2}}]
""")
    with swerve_command.foreground("run", "config.yaml"):
        assert wait_for(lambda: answers(unary, "x", "one"), what="the answer") == "one x"
        wait_for(lambda: answers(unary, "x", "two"), what="the answer")
        names = []
        for name in ("one", "two"):
            notes = stub.Stream(probe.pb.Note(text="NAME"), metadata=(("application", name),), timeout=10)
            names += [note.text for note in notes]
        assert names == ["first", "second"]
        replicas = wait_for(lambda: _replicas(swerve_command, "two").get("RUNNING") == 2, what="two replicas")
        assert replicas
        # Not this file's applications, so a later `run` leaves them alone.
        assert swerve_command("run", "echo_app:app", "--route-prefix", "/x", "--non-blocking").returncode == 0
        assert unary("x", "default") == "x"


def test_what_the_file_of_a_run_names_is_not_the_next_files(swerve_command, folder, free_port, unary):
    config = "{options}applications: [{{name: {name}, import_path: 'echo_app:app'}}]"
    options = "grpc_options: {request_timeout_s: 7}\nproxy_location: HeadOnly\n"
    (folder / "one.yaml").write_text(config.format(options=options, name="one"))
    (folder / "two.yaml").write_text(config.format(options="", name="two"))
    flags = ("--grpc-port", str(free_port), "--grpc-servicer-functions", ADD, "--http-port", "0", "--non-blocking")
    assert swerve_command("run", "one.yaml", *flags).returncode == 0
    deployed = swerve_command("deploy", "two.yaml")
    assert deployed.stderr.splitlines() == [
        "Changed: grpc_options.request_timeout_s: 7.0 -> null",
        "Changed: proxy_location: HeadOnly -> EveryNode",
    ]
    # What the command line said stays.
    assert wait_for(lambda: answers(unary, "x", "two"), what="the answer") == "x"


def _replicas(swerve_command, name):
    status = yaml.safe_load(swerve_command("status", "-n", name).stdout)
    return status["deployments"]["Echo"]["replica_states"]


def test_run_on_a_running_instance_changes_its_options_and_takes_only_its_own_application_away(
    swerve_command, folder, free_port, unary
):
    swerve_command("start", "--grpc-port", str(free_port), "--grpc-servicer-functions", ADD)
    assert swerve_command("run", "echo_app:app", "--non-blocking").returncode == 0

    flags = ("--name", "two", "--route-prefix", "/two", "--grpc-request-timeout-s", "7")
    with swerve_command.foreground("run", "echo_app:app", *flags) as process:
        output = read_until(process, "Application 'two' is running.")
        assert unary("x", "two") == "x"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    assert "Changed: grpc_options.request_timeout_s: null -> 7.0" in output
    wait_for(lambda: "two:" not in swerve_command("status").stdout, what="the end of 'two'")
    assert unary("x", "default") == "x"


def test_applying_a_file_again_restarts_only_what_changed(swerve_command, folder, free_port, probe, stub, unary):
    swerve_command("start", "--grpc-port", str(free_port), "--grpc-servicer-functions", ADD)
    config = "applications: [{import_path: 'echo_app:app', deployments: [{name: Echo, max_ongoing_requests: %d}]}]"
    (folder / "config.yaml").write_text(config % 5)
    swerve_command("deploy", "config.yaml")
    wait_for(lambda: answers(unary), what="the answer")
    pid = stub.Unary(probe.pb.Note(), timeout=5).number

    (folder / "config.yaml").write_text(config % 6)
    swerve_command("deploy", "config.yaml")
    wait_for(lambda: "RUNNING" in swerve_command("status", "-n", "default").stdout.splitlines()[0], what="RUNNING")
    assert stub.Unary(probe.pb.Note(), timeout=5).number == pid

    (folder / "echo_app.py").write_text(APP.replace('VERSION = ""', 'VERSION = " 2"'))
    swerve_command("deploy", "config.yaml")
    wait_for(lambda: answers(unary) == "x 2", what="the new code")


def test_reload_deploys_again_when_a_file_changes(swerve_command, folder, free_port, unary):
    flags = ("--reload", "--grpc-port", str(free_port), "--grpc-servicer-functions", ADD)
    with swerve_command.foreground("run", "echo_app:app", *flags):
        assert wait_for(lambda: answers(unary), what="the answer") == "x"
        (folder / "echo_app.py").write_text("broken(")
        time.sleep(1)
        assert unary() == "x"
        (folder / "echo_app.py").write_text(APP.replace('VERSION = ""', 'VERSION = " changed"'))
        wait_for(lambda: answers(unary) == "x changed", what="the new code")


def test_a_run_whose_instance_is_shut_down_ends(swerve_command, folder):
    with swerve_command.foreground("run", "echo_app:app") as process:
        wait_for(lambda: "RUNNING" in swerve_command("status").stdout, what="RUNNING")
        swerve_command("shutdown", "-y")
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "The Serve instance was shut down." in output


def test_one_of_two_applications_failing_leaves_the_other_serving(swerve_command, folder, free_port, unary):
    (folder / "broken_app.py").write_text(
        "import swerve as serve\n@serve.deployment(max_constructor_retry_count=1)\nclass Broken:\n"
        "    def __init__(self):\n        raise KeyError('no weights')\napp = Broken.bind()\n"
    )
    (folder / "config.yaml").write_text(f"""
grpc_options: {{port: {free_port}, grpc_servicer_functions: [{ADD}]}}
applications:
  - {{name: good, route_prefix: /good, import_path: "echo_app:app"}}
  - {{name: bad, route_prefix: /bad, import_path: "broken_app:app"}}
""")
    with swerve_command.foreground("run", "config.yaml"):
        assert wait_for(lambda: answers(unary, "x", "good"), what="the answer") == "x"
        wait_for(lambda: "DEPLOY_FAILED" in swerve_command("status", "-n", "bad").stdout, what="DEPLOY_FAILED")
        bad = yaml.safe_load(swerve_command("status", "-n", "bad").stdout)
        assert "KeyError: 'no weights'" in bad["deployments"]["Broken"]["message"]
        assert bad["message"] == "Failed to update the deployments ['Broken']."
        lines = swerve_command("status", "-n", "bad").stdout.splitlines()
        assert [line.strip() for line in lines].count("KeyError: 'no weights'") == 1
        assert unary("x", "good") == "x"


def test_build_writes_a_file_that_run_takes(swerve_command, folder):
    made = swerve_command("build", "echo_app:app", "--grpc-servicer-functions", ADD, "-o", "made.yaml")
    assert made.returncode == 0, made.stderr

    content = yaml.safe_load((folder / "made.yaml").read_text())
    # A port in the file would be one that must be free.
    assert "http_options" not in content
    assert content["grpc_options"] == {"port": 9000, "grpc_servicer_functions": [ADD], "enable_reflection": True}
    (app,) = content["applications"]
    assert (app["name"], app["route_prefix"], app["import_path"]) == ("app1", "/", "echo_app:app")
    assert app["deployments"] == [{"name": "Echo"}]
    several = yaml.safe_load(swerve_command("build", "echo_app:app", "echo_app.app").stdout)
    assert [app["route_prefix"] for app in several["applications"]] == ["/app1", "/app2"]


def test_ray_serve_code_runs_unchanged_with_the_alias(swerve_command, folder, free_port, unary):
    (folder / "ray_app.py").write_text(
        "from ray import serve\nimport ray_helpers\n\n@serve.deployment\nclass Echo:\n"
        "    def Unary(self, note):\n        return type(note)(text=ray_helpers.name())\n\napp = Echo.bind()\n"
    )
    (folder / "ray_helpers.py").write_text(
        "from ray.serve.context import _get_serve_request_context as context\n"
        "def name():\n    return context().app_name\n"
    )
    flags = ("--ray-compat", "--grpc-port", str(free_port), "--grpc-servicer-functions", ADD)
    with swerve_command.foreground("run", "ray_app:app", *flags):
        assert wait_for(lambda: answers(unary), what="the answer") == "default"


@pytest.mark.parametrize("command", ["start", "run", "deploy", "config", "status", "shutdown", "build"])
def test_every_command_has_help(swerve_command, command):
    done = swerve_command(command, "--help")

    assert done.returncode == 0
    assert "Usage: swerve" in done.stdout


def test_ray_serve_scripts_run_unchanged_one_after_the_other(swerve_command, folder, free_port, unary):
    (folder / "start_serve.py").write_text(
        "from ray import serve\nfrom ray.serve.config import gRPCOptions\n"
        f"serve.start(grpc_options=gRPCOptions(port={free_port}, grpc_servicer_functions=['{ADD}']))\n"
    )
    (folder / "deploy_app.py").write_text(
        "import ray\nfrom ray import serve\nfrom ray.serve.handle import DeploymentHandle\nray.init()\n\n"
        "@serve.deployment\nclass Inner:\n    def __call__(self, text):\n        return text.upper()\n\n"
        "@serve.deployment\nclass Outer:\n    def __init__(self, inner: DeploymentHandle):\n"
        "        self.inner = inner\n\n"
        "    async def Unary(self, note):\n        return type(note)(text=await self.inner.remote(note.text))\n\n"
        "serve.run(target=Outer.bind(Inner.bind()), name='app1', route_prefix='/app1')\n"
    )
    for script in ("start_serve.py", "deploy_app.py"):
        with swerve_command.foreground(script, module="swerve.ray_compat") as process:
            output, _ = process.communicate(timeout=30)
            assert process.returncode == 0, output

    assert unary("shout", "app1") == "SHOUT"


@pytest.mark.parametrize(
    ("command", "default"), [(("start",), "[default: 9000]"), (("canary", "start"), "[default: 50]")]
)
def test_the_help_says_what_an_option_is_without_being_given(swerve_command, command, default):
    assert default in swerve_command(*command, "--help").stdout
