"""A deployment's class or function with its arguments, and how it gets into a replica's process.

Kept apart from `build`, so that a replica imports nothing that only the building side needs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import CodeType, ModuleType
from typing import Any, ClassVar

import cloudpickle


@dataclass(frozen=True, slots=True)
class DeploymentCode:
    """What a replica constructs: a class with its arguments, or a function. `Deployment.code` is its cloudpickle."""

    target: Callable[..., Any]
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _CodeByName:
    """Unpickles to DeploymentCode; the target is imported then."""

    module: str
    qualname: str
    init_args: tuple[Any, ...]
    init_kwargs: dict[str, Any]

    def __reduce__(self) -> Any:
        return _code_by_name, (self.module, self.qualname, self.init_args, self.init_kwargs)


def _code_by_name(module: str, qualname: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DeploymentCode:
    return DeploymentCode(_target(importlib.import_module(module), qualname), args, kwargs)


def _target(module: ModuleType, qualname: str) -> Any:
    from swerve.application import Deployment

    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found.func_or_class if isinstance(found, Deployment) else found


def pickled(name: str, code: DeploymentCode) -> bytes:
    """The code by value, so that replicas import only what it uses and later edits of a file change nothing.

    Code that cannot be pickled goes by name if replicas can import its module.

    Raises:
        ValueError: neither way works.
    """
    module = sys.modules.get(code.target.__module__)
    reachable = module is not None and module.__name__ != "__main__" and importable(module.__name__)
    try:
        return _dumps(code, None if reachable else module)
    except Exception as error:
        if module is not None and reachable and _target(module, code.target.__qualname__) is code.target:
            by_name = _CodeByName(module.__name__, code.target.__qualname__, code.init_args, code.init_kwargs)
            with contextlib.suppress(Exception):
                return _dumps(by_name, None)
        raise ValueError(
            f"Deployment '{name}' cannot be sent to its replicas, because it or its arguments cannot be pickled: "
            f"{type(error).__name__}: {error}"
        ) from error


def pickled_extra(target: Callable[..., Any], kwargs: dict[str, Any], what: str, whom: str) -> bytes:
    """Code that does not run in a replica, an autoscaling policy or a request router, as DeploymentCode. `what` it is
    and `whom` it goes to are for messages.

    By value, because those import nothing from where the application does but what the code itself uses.

    Raises:
        ValueError: it cannot be pickled.
    """
    try:
        return _dumps(DeploymentCode(target, (), kwargs), sys.modules.get(target.__module__))
    except Exception as error:
        raise ValueError(
            f"The {what} {target!r} cannot be sent to {whom}, because it cannot be "
            f"pickled: {type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True, slots=True)
class _WithRayCompat:
    """Pickled code that needs the `ray.serve` alias: unpickling it switches the alias on first."""

    pickled: bytes

    def __reduce__(self) -> Any:
        return _load_with_ray_compat, (self.pickled,)


def _load_with_ray_compat(pickled: bytes) -> Any:
    import swerve.ray_compat  # noqa: F401  (importing it installs the alias)

    return pickle.loads(pickled)


def _reduced_with_its_file(code: CodeType) -> Any:
    build, args = cloudpickle.Pickler.dispatch_table[CodeType](code)
    # Each its own string: one that is shared or not, by how it was compiled, would make two pickles of the same code.
    return _code_of_file, ("".join(code.co_filename), build, args)


def _code_of_file(file: str, build: Callable[..., CodeType], args: tuple[Any, ...]) -> CodeType:
    return build(*args).replace(co_filename=file)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Keeps the name of the file where code is from, which recent releases of cloudpickle take away: without it a
    traceback in a replica neither names the file nor shows its lines."""

    dispatch_table: ClassVar = ChainMap({CodeType: _reduced_with_its_file}, cloudpickle.Pickler.dispatch_table)


def _dumps(code: DeploymentCode | _CodeByName, by_value: ModuleType | None) -> bytes:
    # cloudpickle takes `__main__` by value unasked.
    registered = by_value if by_value is not None and by_value.__name__ != "__main__" else None
    if registered is not None:
        cloudpickle.register_pickle_by_value(registered)
    try:
        out = io.BytesIO()
        _Pickler(out).dump(code)
        pickled = out.getvalue()
    finally:
        if registered is not None:
            cloudpickle.unregister_pickle_by_value(registered)
    return pickle.dumps(_WithRayCompat(pickled)) if "swerve.ray_compat" in sys.modules else pickled


def importable(name: str) -> bool:
    """Whether another process with this one's `sys.path` could import the module."""
    # Asks the finders, not `sys.modules`: a module that was made at run time is loaded here only.
    path: Sequence[str] | None = None
    full_name = ""
    for part in name.split("."):
        full_name = f"{full_name}.{part}" if full_name else part
        specs = (finder.find_spec(full_name, path) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True
