"""Runs Ray Serve code unchanged: `ray.serve` and everything below it become Swerve's modules.

Importing this module switches the alias on; do it before anything imports `ray.serve`. For a script,
`python -m swerve.ray_compat script.py` does it; for an application, `swerve run --ray-compat`. Where Ray is installed,
`ray` stays Ray's and only `ray.serve` is replaced. Where it is not, `import ray` gives a stand-in with `init`,
`is_initialized` and `shutdown`.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_ALIAS = "ray.serve"
# Ray's private and experimental modules that request routers are written with.
_PACKAGES = ("_private", "experimental")
_ROUTER_MODULES = (
    "_private.common",
    "_private.replica_result",
    "_private.request_router",
    "experimental.consistent_hash_router",
    "experimental.round_robin_router",
)


class _AliasLoader(Loader):
    """Puts an existing module under a second name."""

    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what it finds in sys.modules afterwards, so both names are one module.
        sys.modules[module.__name__] = importlib.import_module(self._target)
        if module.__name__ == _ALIAS:
            # Set now, because importing it would put the module where the decorator `serve.deployment` is.
            sys.modules[f"{_ALIAS}.deployment"] = importlib.import_module("swerve.application")


class _StandInLoader(Loader):
    """Makes a `ray` for programs that only start and stop it around Serve."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        state = {"initialized": False}

        def init(*args: Any, **kwargs: Any) -> None:
            state["initialized"] = True

        def is_initialized() -> bool:
            return state["initialized"]

        def shutdown(*args: Any, **kwargs: Any) -> None:
            state["initialized"] = False

        def missing(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            raise AttributeError(
                f"'ray.{name}' is not there: Ray is not installed, and Swerve's stand-in for it has only init, "
                "is_initialized, shutdown and serve. Call deployments through handles: `await handle.remote(...)`, or "
                "`handle.remote(...).result()` outside of async code."
            )

        module.__doc__ = "Stands in for Ray: Swerve needs no cluster on one machine."
        vars(module).update(init=init, is_initialized=is_initialized, shutdown=shutdown, __getattr__=missing)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "ray":
            return None if _ray_installed() else ModuleSpec("ray", _StandInLoader(), is_package=True)
        if fullname != _ALIAS and not fullname.startswith(_ALIAS + "."):
            return None
        inner = fullname[len(_ALIAS) + 1 :]
        ours = _name_of(inner)
        if not _exists(ours):
            raise ModuleNotFoundError(f"Swerve has no module that stands for '{fullname}'.", name=fullname)
        return ModuleSpec(fullname, _AliasLoader(ours), is_package=True)


def _name_of(inner: str) -> str:
    """The module of ours that stands for `ray.serve.<inner>`."""
    if not inner or inner in _PACKAGES:
        return "swerve"
    if inner in _ROUTER_MODULES:
        return "swerve.request_router"
    return f"swerve.{inner}"


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # A package on the way there is missing.
        return False


def _ray_installed() -> bool:
    spec = PathFinder.find_spec("ray")
    # A folder that happens to be named "ray" is a namespace package without an origin.
    return spec is not None and spec.origin is not None


def install() -> None:
    """Switches the alias on, once.

    Raises:
        RuntimeError: Ray's own `ray.serve` is already imported.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if _ALIAS in sys.modules:
        raise RuntimeError("Ray's own `ray.serve` is already imported. Import `swerve.ray_compat` before it.")
    sys.meta_path.insert(0, _Finder())


def main(arguments: Sequence[str]) -> None:
    """`python -m swerve.ray_compat script.py ...`: runs a script with the alias on."""
    if not arguments or not Path(arguments[0]).is_file():
        problem = "Name a script."
        if arguments:
            option = arguments[0].startswith("-")
            problem = f"{arguments[0]} is no {'option of it: only script files run' if option else 'file'}."
        raise SystemExit(f"{problem} Usage: python -m swerve.ray_compat SCRIPT [ARGUMENTS]")
    script = arguments[0]
    sys.argv = list(arguments)
    # As `python script.py` does.
    sys.path[0] = str(Path(script).absolute().parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    # This copy is `__main__`; the alias belongs to the module that others import.
    from swerve import ray_compat

    ray_compat.main(sys.argv[1:])
else:
    install()
