"""`swerve.ray_compat`, each in a Python of its own: the alias is for a whole process."""

import subprocess
import sys

import pytest


def python(tmp_path, code, *arguments, module=None):
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, *(["-m", module] if module else []), str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)


def test_every_public_import_of_ray_serve_gives_swerves_module(tmp_path):
    done = python(
        tmp_path,
        """
import swerve.ray_compat
from ray import serve
import ray.serve.config, ray.serve.schema, ray.serve.exceptions, ray.serve.context, ray.serve.batching
import ray.serve.metrics, ray.serve.handle, ray.serve.grpc_util, ray.serve.request_router
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve._private.common import ReplicaID
from ray.serve.generated import serve_pb2, serve_pb2_grpc
from ray.serve.generated.serve_pb2_grpc import RayServeAPIServiceStub
from ray.serve.deployment import Application, Deployment
import swerve, swerve.config
assert serve is swerve
assert ray.serve.config is swerve.config
assert ray.serve.config.gRPCOptions is swerve.config.gRPCOptions
assert callable(serve.deployment) and serve.Application is Application
assert swerve.config.__name__ == swerve.config.__spec__.name == "swerve.config"
print("same")
""",
    )

    assert (done.stdout, done.returncode) == ("same\n", 0), done.stderr


def test_ray_itself_is_a_stand_in_where_it_is_not_installed(tmp_path):
    done = python(
        tmp_path,
        """
import swerve.ray_compat, ray
assert not ray.is_initialized()
ray.init(address="auto", num_cpus=2)
assert ray.is_initialized()
ray.shutdown()
assert not ray.is_initialized()
print("ok")
""",
    )

    assert done.stdout == "ok\n", done.stderr


def test_the_stand_in_says_what_swerve_has_instead(tmp_path):
    code = """
import swerve.ray_compat, ray
from ray import serve
assert not hasattr(ray, "__path_of_mine__")
ray.get(1)
"""
    done = python(tmp_path, code)

    assert "AttributeError: 'ray.get' is not there: Ray is not installed" in done.stderr
    assert "handle.remote(...).result()" in done.stderr


def test_an_option_in_place_of_a_script_is_refused(tmp_path):
    command = [sys.executable, "-m", "swerve.ray_compat", "-c", "print(1)"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("-c is no option of it: only script files run. Usage: python -m swerve.ray_compat")


def test_an_installed_ray_stays_and_only_its_serve_is_replaced(tmp_path):
    (tmp_path / "ray" / "serve").mkdir(parents=True)
    (tmp_path / "ray" / "__init__.py").write_text("marker = 'real'\n")
    (tmp_path / "ray" / "serve" / "__init__.py").write_text("raise AssertionError('must not be imported')\n")

    done = python(tmp_path, "import swerve.ray_compat, ray\nfrom ray import serve\nprint(ray.marker, serve.__name__)\n")

    assert done.stdout == "real swerve\n", done.stderr


def test_it_refuses_to_come_too_late(tmp_path):
    (tmp_path / "ray" / "serve").mkdir(parents=True)
    (tmp_path / "ray" / "__init__.py").touch()
    (tmp_path / "ray" / "serve" / "__init__.py").touch()

    done = python(tmp_path, "import ray.serve\nimport swerve.ray_compat\n")

    assert "Import `swerve.ray_compat` before it." in done.stderr


@pytest.mark.parametrize("module", ["ray.serve.llm", "ray.serve.experimental.capacity_queue_router"])
def test_a_module_that_swerve_lacks_is_named(tmp_path, module):
    done = python(tmp_path, f"import swerve.ray_compat\nimport {module}\n")

    assert f"ModuleNotFoundError: Swerve has no module that stands for '{module}'." in done.stderr


def test_a_script_runs_with_the_alias_as_main(tmp_path):
    (tmp_path / "beside.py").write_text("value = 7\n")
    code = "import sys, beside\nfrom ray import serve\nprint(__name__, sys.argv[1:], beside.value, serve.__name__)\n"

    done = python(tmp_path, code, "--x", "y", module="swerve.ray_compat")

    assert done.stdout == "__main__ ['--x', 'y'] 7 swerve\n", done.stderr


def test_pickled_code_takes_the_alias_with_it(tmp_path):
    code = """
import sys
from ray import serve
from swerve.deployment_code import DeploymentCode, pickled

def handler():
    from ray import serve
    return serve.__name__

sys.stdout.buffer.write(pickled("handler", DeploymentCode(handler)))
"""
    script = tmp_path / "make.py"
    script.write_text(code)
    made = subprocess.run(
        [sys.executable, "-m", "swerve.ray_compat", str(script)], capture_output=True, timeout=30, check=True
    )
    (tmp_path / "code.pickle").write_bytes(made.stdout)

    done = python(tmp_path, "import pickle\nprint(pickle.load(open('code.pickle', 'rb')).target())\n")

    assert done.stdout == "swerve\n", done.stderr
