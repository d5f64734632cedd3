"""From a bound graph to what the controller deploys."""

import json
import pickle
import subprocess
import sys
import threading
import traceback
from types import ModuleType

import pytest

import swerve as serve
from swerve.build import BuildOptions, build, deployments_of, own_sys_path
from swerve.deployment_code import DeploymentCode, importable, pickled
from swerve.exceptions import RayServeException
from swerve.handle import DeploymentHandle
from swerve.import_path import load_application, stable_code_version
from swerve.schema import DeploymentSchema


@serve.deployment
class Leaf:
    pass


@serve.deployment
class Root:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


def code_of(built, name):
    (deployment,) = [deployment for deployment in built.deployments if deployment.name == name]
    return pickle.loads(deployment.code)


def test_nested_applications_become_handles_wherever_they_are():
    leaf = Leaf.bind()
    app = Root.bind(leaf, [1, {"deep": (leaf, 2)}], named={leaf})

    code = code_of(build(app, BuildOptions(name="app")), "Root")

    direct, (one, nested) = code.init_args
    handles = [direct, nested["deep"][0], *code.init_kwargs["named"]]
    assert all(isinstance(handle, DeploymentHandle) for handle in handles)
    assert {(handle.deployment_name, handle.app_name) for handle in handles} == {("Leaf", "app")}
    assert (one, nested["deep"][1]) == (1, 2)


def test_a_shared_node_is_one_deployment_and_the_root_is_the_ingress():
    leaf = Leaf.bind()

    built = build(Root.bind(leaf, Root.options(name="Middle").bind(leaf)), BuildOptions())

    assert built.ingress == "Root"
    assert [deployment.name for deployment in built.deployments] == ["Root", "Leaf", "Middle"]


def test_different_nodes_of_one_name_are_numbered_with_a_warning(caplog):
    built = build(Root.bind(Leaf.bind(), Leaf.bind(), Root.bind()), BuildOptions())

    assert [deployment.name for deployment in built.deployments] == ["Root", "Leaf", "Leaf_1", "Root_1"]
    assert "this one is deployed as 'Leaf_1'" in caplog.text


def test_a_target_of_autoscaling_that_no_replica_can_reach_is_warned_of(caplog):
    scaled = {"max_replicas": 3, "target_ongoing_requests": 5}

    build(Leaf.options(autoscaling_config=scaled, max_ongoing_requests=5).bind(), BuildOptions())
    assert caplog.text == ""
    build(Leaf.options(autoscaling_config=scaled, max_ongoing_requests=4).bind(), BuildOptions())
    assert "(max_ongoing_requests 4) than autoscaling wants it to have (target_ongoing_requests 5)" in caplog.text


def test_arguments_without_applications_are_not_copied():
    shared = {"weights": [1, 2, 3]}

    ((_, code),) = deployments_of(Root.bind(shared), "app").values()

    assert code.init_args[0] is shared


def test_an_application_in_another_object_is_refused_clearly():
    class Box:
        def __init__(self, app):
            self.app = app

    with pytest.raises(ValueError, match=r"The application of deployment 'Leaf' cannot be pickled. Pass it to"):
        build(Root.bind(Box(Leaf.bind())), BuildOptions())


def test_only_applications_can_be_built():
    with pytest.raises(TypeError, match="expects an `Application` returned by"):
        build(Leaf, BuildOptions())


def test_the_files_options_override_the_codes_one_by_one():
    app = Root.options(num_replicas=2, max_ongoing_requests=7, ray_actor_options={"num_gpus": 1}).bind(Leaf.bind())
    override = DeploymentSchema.model_validate(
        {"name": "Root", "num_replicas": 3, "ray_actor_options": {"num_cpus": 2}, "health_check_period_s": 1}
    )

    built = build(app, BuildOptions(overrides=[override]))

    config = json.loads(built.deployments[0].config_json)
    assert (config["num_replicas"], config["max_ongoing_requests"], config["health_check_period_s"]) == (3, 7, 1)
    assert config["ray_actor_options"] == {"num_cpus": 2}
    assert json.loads(built.deployments[1].config_json)["num_replicas"] == 1


def test_an_override_of_an_unknown_deployment_is_refused():
    override = DeploymentSchema(name="Other", num_replicas=1)

    with pytest.raises(ValueError, match=r"Deployment 'Other' does not exist. Available: \['Leaf'\]."):
        build(Leaf.bind(), BuildOptions(overrides=[override]))


def test_a_deployments_runtime_env_extends_the_applications(tmp_path):
    (tmp_path / "lib").mkdir()
    own = {"runtime_env": {"env_vars": {"B": "2"}, "py_modules": ["lib"]}}
    app = Leaf.options(ray_actor_options=own).bind()

    built = build(app, BuildOptions(runtime_env={"env_vars": {"A": "1", "B": "1"}}, base=tmp_path))

    merged = json.loads(built.deployments[0].config_json)["ray_actor_options"]["runtime_env"]
    assert merged == {"env_vars": {"A": "1", "B": "2"}, "working_dir": None, "py_modules": [str(tmp_path / "lib")]}
    assert json.loads(built.runtime_env_json)["working_dir"] == str(tmp_path)


def test_user_config_for_a_function_is_refused():
    app = serve.deployment(user_config={"a": 1})(lambda request: request).bind()

    with pytest.raises(ValueError, match="deployment_def must be a class to use user_config or rank"):
        build(app, BuildOptions())


def test_running_again_has_a_new_version_unless_one_is_given():
    first, second = (build(Leaf.bind(), BuildOptions()).deployments[0].code_version for _ in range(2))

    assert first != second
    assert build(Leaf.bind(), BuildOptions(code_version="v")).deployments[0].code_version == "v"


def test_an_import_paths_version_changes_with_its_source_and_arguments_only(tmp_path, monkeypatch):
    file = tmp_path / "versioned_app.py"
    file.write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("versioned_app")

    first = stable_code_version("versioned_app:x", {}, {})
    assert stable_code_version("versioned_app:x", {}, {}) == first
    assert stable_code_version("versioned_app:x", {}, {"a": 1}) != first
    file.write_text("x = 2\n")
    assert stable_code_version("versioned_app:x", {}, {}) != first


# ---------------------------------------------------------------------------------------------------------------------
# Code


def test_a_class_of_a_module_that_only_exists_here_goes_by_value(monkeypatch, tmp_path):
    module = ModuleType("made_here")
    exec("class Made:\n    def answer(self):\n        return helper()\ndef helper():\n    return 42\n", vars(module))
    monkeypatch.setitem(sys.modules, "made_here", module)

    file = tmp_path / "code"
    file.write_bytes(pickled("Made", DeploymentCode(module.Made)))

    script = f"import pickle; print(pickle.load(open({str(file)!r}, 'rb')).target().answer())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "42\n"


def test_a_traceback_of_code_by_value_shows_the_files_lines(tmp_path, monkeypatch):
    (tmp_path / "raising_app.py").write_text(
        "import swerve as serve\n\n"
        "@serve.deployment\nclass Raising:\n    def __init__(self):\n        (lambda: 1 / 0)()  # here\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import raising_app

    code = pickle.loads(pickled("Raising", DeploymentCode(raising_app.Raising.func_or_class)))

    with pytest.raises(ZeroDivisionError) as raised:
        code.target()
    frames = traceback.extract_tb(raised.value.__traceback__)[1:]
    assert [(frame.filename, frame.line) for frame in frames] == [
        (str(tmp_path / "raising_app.py"), "(lambda: 1 / 0)()  # here")
    ] * 2


def test_code_that_cannot_be_pickled_goes_by_name(tmp_path, monkeypatch):
    (tmp_path / "locked_app.py").write_text(
        "import threading\nimport swerve as serve\nlock = threading.Lock()\n\n"
        "@serve.deployment\nclass Locked:\n    def held(self):\n        return lock.locked()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import locked_app

    code = pickle.loads(pickled("Locked", DeploymentCode(locked_app.Locked.func_or_class, (1,))))

    assert code.target is locked_app.Locked.func_or_class
    assert code.init_args == (1,)


def test_what_cannot_be_pickled_at_all_is_named():
    with pytest.raises(ValueError, match=r"Deployment 'Root' cannot be sent to its replicas.*cannot pickle"):
        build(Root.bind(threading.Lock()), BuildOptions())


def test_importable_asks_the_finders_and_not_what_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "made_here", ModuleType("made_here"))

    assert importable("json.decoder")
    assert importable("swerve.build")
    assert not importable("made_here")
    assert not importable("json.nothing")


def test_the_sys_path_that_travels_is_absolute_and_without_the_environments_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "gone"), *sys.path])

    path = own_sys_path()

    assert path[0] == str(tmp_path)
    assert not [entry for entry in path if "site-packages" in entry or "lib-dynload" in entry or "gone" in entry]


# ---------------------------------------------------------------------------------------------------------------------
# Import paths

APPS = """
import swerve as serve
from pydantic import BaseModel

class Plain: pass

@serve.deployment
class Model: pass

class Args(BaseModel):
    count: int

app = Model.bind()
def builder(args): return Model.options(num_replicas=int(args["count"])).bind()
def typed(args: Args): return Model.options(num_replicas=args.count).bind()
def none(args): return None
def two(a, b): return app
text = "x"
"""


@pytest.fixture
def apps(tmp_path, monkeypatch):
    (tmp_path / "some_apps.py").write_text(APPS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("some_apps", None)


@pytest.mark.usefixtures("apps")
@pytest.mark.parametrize("path", ["some_apps:app", "some_apps.app"])
def test_an_import_path_gives_its_application(path):
    assert repr(load_application(path, {})) == 'Application(ingress="Model")'


@pytest.mark.usefixtures("apps")
@pytest.mark.parametrize("name", ["builder", "typed"])
def test_a_builder_gets_the_arguments(name):
    app = load_application(f"some_apps:{name}", {"count": "3"})

    assert build(app, BuildOptions()).deployments[0].name == "Model"
    assert json.loads(build(app, BuildOptions()).deployments[0].config_json)["num_replicas"] == 3


@pytest.mark.usefixtures("apps")
@pytest.mark.parametrize(
    ("path", "args", "kind", "message"),
    [
        ("no_such_app:app", {}, ImportError, "Importing 'no_such_app:app' failed: ModuleNotFoundError"),
        ("some_apps:nothing", {}, ImportError, "module 'some_apps' has no attribute 'nothing'"),
        ("some_apps:Model", {}, TypeError, "is a deployment that was not bound. Bind it: `app = Model.bind(...)`."),
        ("some_apps:Plain", {}, TypeError, "is no application but <class 'some_apps.Plain'>"),
        ("some_apps:text", {}, TypeError, "is no application but <class 'str'>"),
        ("some_apps:app", {"a": 1}, ValueError, "Arguments can only be passed to an application builder function"),
        ("some_apps:two", {}, TypeError, "should take exactly one parameter"),
        ("some_apps:none", {}, TypeError, "must return an `Application`"),
        ("some_apps:builder", {}, ValueError, "some_apps.py, line 14)"),
        ("some_apps:typed", {"count": "x"}, ValueError, "count: Input should be a valid integer"),
    ],
)
def test_what_gives_no_application_is_refused(path, args, kind, message):
    with pytest.raises(kind) as caught:
        load_application(path, args)

    assert message in str(caught.value)


def test_errors_of_the_python_api_come_before_anything_starts(state_dir):
    app = Leaf.bind()
    with pytest.raises(ValueError, match=r"No applications provided."):
        serve.run_many([])
    with pytest.raises(RayServeException, match=r"Application name must a non-empty string."):
        serve.run(app, name="")
    with pytest.raises(TypeError, match=r"`serve.run` expects an `Application` returned by `Deployment.bind\(\)`."):
        serve.run(Leaf)
    for prefix, message in [("x", "must start with a forward slash"), ("/x/", "may not end"), ("/{x}", "wildcards")]:
        with pytest.raises(ValueError, match=message):
            serve.run(app, route_prefix=prefix)
    with pytest.raises(ValueError, match=r"`http_port` of `serve.start` has been removed"):
        serve.start(http_port=1)
    with pytest.raises(TypeError, match=r"Must be a `ProxyLocation` or str, got: <class 'int'>."):
        serve.start(proxy_location=3)
    assert not (state_dir / "agent.lock").exists()
