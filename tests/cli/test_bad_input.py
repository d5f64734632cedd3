"""Bad input to the commands: one clear message on stderr, a non-zero exit code, nothing applied or left running."""

import re
import textwrap

import pytest

import swerve as serve
from swerve import canary_command, commands
from swerve.exceptions import RayServeException

TLS_FILES = ("--grpc-ssl-keyfile", "/nowhere/server.key", "--grpc-ssl-certfile", "/nowhere/server.pem")
ADD = "probe_pb2_grpc.add_ProbeServicer_to_server"
APP = """
import swerve as serve

@serve.deployment
class Echo:
    def Unary(self, note):
        return note

@serve.deployment
class Broken:
    def __init__(self):
        raise KeyError("no weights")

app = Echo.bind()
broken = Broken.options(max_constructor_retry_count=1).bind()
unbound = Echo
text = "x"

def nothing(servicer, server):
    pass

def builder(args):
    return Echo.options(num_replicas=int(args["count"])).bind()
"""


@pytest.fixture
def folder(swerve_command):
    (swerve_command.cwd / "app_module.py").write_text(APP)
    (swerve_command.cwd / "raising.py").write_text("import json\njson.loads('{')\n")
    (swerve_command.cwd / "typo.py").write_text("def f(:\n")
    return swerve_command.cwd


def assert_refused(done, message, swerve_command):
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert swerve_command("status").returncode == 1


def write_config(folder, text):
    (folder / "config.yaml").write_text(textwrap.dedent(text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none:app",), "Importing 'none:app' failed: ModuleNotFoundError: No module named 'none'"),
        (("app_module:none",), "module 'app_module' has no attribute 'none'"),
        (("app_module:unbound",), "is a deployment that was not bound. Bind it: `app = Echo.bind(...)`."),
        (("app_module:text",), "'app_module:text' is no application but <class 'str'>"),
        (("raising:app",), "raising.py, line 2)"),
        (("typo:app",), "Importing 'typo:app' failed: SyntaxError"),
        (("app_module",), "no config file 'app_module', and it is no import path"),
        (("a:b:c",), "An import path may have at most one colon."),
        (("none.yaml",), "The config file none.yaml does not exist."),
        (("app_module:builder", "count"), "Invalid application argument 'count', must be of the form '<key>=<val>'."),
        (("app_module:builder", "count=x"), "Building the application 'app_module:builder' failed: ValueError"),
        (("app_module:app", "count=1"), "Arguments can only be passed to an application builder function"),
        (("app_module:app", "--route-prefix", "x"), "Invalid route_prefix 'x'"),
        (("app_module:app", "--app-dir", "none"), "The app folder none does not exist."),
        (("app_module:app", "--runtime-env-json", "{"), "The runtime_env cannot be read"),
        (("app_module:app", "--runtime-env-json", '{"pip": []}'), "runtime_env field 'pip' is not supported"),
        (("app_module:app", "--working-dir", "none"), "does not exist"),
        (("app_module:app", "--http-port", "70000"), "Wrong HTTP option: port: Input should be less than"),
        (
            ("app_module:app", "--proxy-location", "Moon"),
            "--proxy-location must be one of Disabled, HeadOnly, EveryNode, got: 'Moon'.",
        ),
        (("app_module:app", "--grpc-port", "70000"), "port: Input should be less than or equal to 65535"),
        (
            ("app_module:app", "--grpc-servicer-functions", ""),
            "Error: A servicer function is empty and can't be imported!",
        ),
        (
            ("app_module:app", "--grpc-host", "no.invalid", "--grpc-servicer-functions", ADD),
            "The gRPC port no.invalid:9000 cannot be bound: the host 'no.invalid' cannot be resolved (",
        ),
        (
            ("app_module:app", "--grpc-servicer-functions", "probe_pb2_grpc.add_None"),
            "Module 'probe_pb2_grpc'",
        ),
        (
            ("app_module:app", "--grpc-servicer-functions", "none.add"),
            "none.add can't be imported! Please make sure there are no typo in those functions.",
        ),
        (
            ("app_module:app", "--grpc-servicer-functions", "app_module.text"),
            "app_module.text is not a callable function! Please make sure the function is imported correctly.",
        ),
        (
            ("app_module:app", "--grpc-servicer-functions", "app_module.nothing"),
            "app_module.nothing registers no gRPC method.",
        ),
        (
            ("app_module:app", "--grpc-ssl-keyfile", "server.key"),
            "Both ssl_keyfile and ssl_certfile must be provided together to enable TLS.",
        ),
        (
            ("app_module:app", "--grpc-ssl-ca-certs", "ca.pem"),
            "ssl_ca_certs verifies clients on a TLS port: it needs ssl_keyfile and ssl_certfile.",
        ),
        (
            ("app_module:app", "--grpc-ssl-client-certificate", "optional"),
            "ssl_client_certificate needs ssl_ca_certs, the authorities of clients' certificates.",
        ),
        (
            ("app_module:app", "--grpc-servicer-functions", ADD, *TLS_FILES),
            "The TLS files of the gRPC port cannot be used: /nowhere/server.key: No such file or directory.",
        ),
        (
            ("app_module:app", "--grpc-servicer-functions", ADD, "--grpc-interceptors", "none:guard"),
            "The interceptor 'none:guard' cannot be used. Importing 'none:guard' failed: ModuleNotFoundError",
        ),
        (
            ("app_module:app", "--grpc-servicer-functions", ADD, "--grpc-interceptors", "raising:guard"),
            "The interceptor 'raising:guard' cannot be used. Importing 'raising:guard' failed: JSONDecodeError",
        ),
        (("app_module:broken",), "KeyError: 'no weights'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_run_refuses(swerve_command, arguments, message):
    if "app_module:broken" in arguments:
        done = swerve_command("run", *arguments)
        # The constructor's own traceback is the message here.
        assert done.returncode == 1
        assert message in done.stderr
        assert swerve_command("status").returncode == 1
    else:
        assert_refused(swerve_command("run", *arguments), message, swerve_command)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "is not valid YAML"),
        ("applications: 3", "applications: Input should be a valid list"),
        (
            """
            applications:
              - {name: one, route_prefix: /1, import_path: "app_module:app"}
              - {name: one, route_prefix: /2, import_path: "app_module:app"}
            """,
            'Found multiple configs for application "one". Please remove all duplicates.',
        ),
        (
            """
            applications:
              - {name: one, import_path: "app_module:app"}
              - {name: two, import_path: "app_module:app"}
            """,
            'Found duplicate applications for route prefix "/".',
        ),
        (
            """
            applications:
              - {name: good, route_prefix: /good, import_path: "app_module:app"}
              - {name: bad, route_prefix: /bad, import_path: "none:app"}
            """,
            "Application 'bad': Importing 'none:app' failed: ModuleNotFoundError: No module named 'none'",
        ),
        (
            "applications: [{import_path: 'app_module:app', deployments: [{name: None, num_replicas: 2}]}]",
            "Deployment 'None' does not exist. Available: ['Echo'].",
        ),
        (
            "applications: [{import_path: 'app_module:app', runtime_env: {working_dir: 's3://b/x.zip'}}]",
            "Application 'default': runtime_env.working_dir: 's3://b/x.zip' is not on this machine.",
        ),
        (
            "grpc_options: {grpc_servicer_functions: [none.add]}\napplications: [{import_path: 'app_module:app'}]",
            "none.add can't be imported!",
        ),
    ],
)
def test_run_refuses_a_config_file(swerve_command, folder, text, message):
    write_config(folder, text)

    assert_refused(swerve_command("run", "config.yaml"), message, swerve_command)


def test_a_port_in_use_is_named(swerve_command, folder):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in (("start",), ("run", "app_module:app")):
            done = swerve_command(*command, "--grpc-port", str(port), "--grpc-servicer-functions", ADD)
            assert_refused(done, str(port), swerve_command)


def test_a_state_folder_with_a_long_path_is_refused(swerve_command, folder):
    done = swerve_command("start", "--state-dir", str(folder / ("x" * 100)))

    assert done.returncode == 1
    assert "Choose another folder with --state-dir" in done.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [("deploy", "app_module:app"), ("status",), ("config",)])
def test_commands_that_need_an_instance_say_so(swerve_command, command):
    done = swerve_command(*command)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: No Serve instance is running (state folder: ")


def test_a_name_that_nothing_has_is_answered_with_those_that_there_are(state_dir, caplog):
    serve.start(proxy_location="Disabled")
    for name in ("shop", "bar"):
        serve.run(serve.deployment(type("Model", (), {})).bind(), name=name, route_prefix=None)
    available = "Application 'shpo' does not exist. Available: 'bar', 'shop'."
    for refused in (
        lambda: commands.scale(None, "shpo", "Model", 2),
        lambda: commands.status(None, "shpo"),
        lambda: canary_command.weigh(None, "shpo", 5),
        lambda: canary_command.status(None, "shpo"),
    ):
        with pytest.raises(RayServeException, match=re.escape(available)):
            refused()
    with pytest.raises(RayServeException, match=r"'Modle' of application 'shop' does not exist\. Available: 'Model'"):
        commands.scale(None, "shop", "Modle", 2)
    serve.delete("shpo")
    assert f"{available} Nothing was deleted." in caplog.text


def test_a_target_that_is_no_file_and_no_import_path_is_called_so(swerve_command):
    for target in ("config", "./deploy/config.yamll", "applications/shop:app"):
        assert f"no config file '{target}', and it is no import path" in swerve_command("run", target).stderr


def test_ray_serve_code_gets_the_hint_to_switch_the_alias_on(swerve_command, folder):
    (folder / "ray_app.py").write_text("from ray import serve\n")

    done = swerve_command("run", "ray_app:app")

    assert_refused(done, "add --ray-compat to run it as it is", swerve_command)


def test_a_second_start_is_refused_and_a_refused_deploy_changes_nothing(swerve_command, folder):
    assert swerve_command("start").returncode == 0
    assert swerve_command("run", "app_module:app", "--non-blocking").returncode == 0

    again = swerve_command("start")
    assert again.returncode == 1
    assert "already running (state folder" in again.stderr

    write_config(folder, "applications: [{name: a, import_path: 'app_module:app'}, {name: b, import_path: 'none:x'}]")
    assert swerve_command("deploy", "config.yaml").returncode == 1
    taken = swerve_command("run", "app_module:app", "--name", "other", "--non-blocking")
    assert taken.returncode == 1
    assert 'Prefix / is being used by application "default". Failed to deploy application "other".' in taken.stderr
    status = swerve_command("status").stdout
    assert "default:" in status
    assert "other:" not in status
    assert "  a:" not in status
