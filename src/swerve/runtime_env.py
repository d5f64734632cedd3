"""`runtime_env` on one machine: environment variables, a working folder, and folders or archives to import from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# Known to Ray and without meaning where no package is uploaded.
_IGNORED = ("excludes", "config", "_ray_release", "_ray_commit")
_INSTALLERS = ("pip", "uv", "conda", "container", "image_uri", "py_executable")


@dataclass(frozen=True, slots=True)
class RuntimeEnv:
    """A checked runtime_env: all paths are absolute and exist."""

    env_vars: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    py_modules: tuple[str, ...] = ()

    @property
    def sys_path(self) -> list[str]:
        """What it adds in front of `sys.path`."""
        return list(dict.fromkeys([*([self.working_dir] if self.working_dir else []), *self.py_modules]))

    def to_dict(self) -> dict[str, Any]:
        return {"env_vars": dict(self.env_vars), "working_dir": self.working_dir, "py_modules": list(self.py_modules)}

    def to_json(self, default_working_dir: str) -> str:
        return json.dumps({**self.to_dict(), "working_dir": self.working_dir or default_working_dir})


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: variables one by one, everything else as a whole."""
    merged = {**base, **over}
    if base.get("env_vars") and over.get("env_vars"):
        merged["env_vars"] = {**base["env_vars"], **over["env_vars"]}
    return merged


def resolve(runtime_env: Mapping[str, Any], *, base: Path, packages: Path) -> RuntimeEnv:
    """Checks `runtime_env`; relative paths start at `base`, archives are unpacked below `packages`.

    Raises:
        ValueError: a field is unknown, has a wrong type, or needs more than one machine has.
        FileNotFoundError: a folder or archive does not exist.
    """
    for key in runtime_env:
        if key in _INSTALLERS:
            raise ValueError(
                f"runtime_env field '{key}' is not supported on one machine: install what the application needs into "
                "the environment that Swerve runs in."
            )
        if key not in ("env_vars", "working_dir", "py_modules", *_IGNORED):
            raise ValueError(
                f"Unknown runtime_env field '{key}'. Supported on one machine: env_vars, working_dir, py_modules."
            )
    working_dir, modules = runtime_env.get("working_dir"), runtime_env.get("py_modules") or []
    if not isinstance(modules, list):
        raise ValueError(f"runtime_env.py_modules must be a list of paths, got: {modules!r}.")
    return RuntimeEnv(
        env_vars=_env_vars(runtime_env.get("env_vars")),
        working_dir=None if working_dir is None else str(_folder("working_dir", working_dir, base, packages)),
        py_modules=tuple(_import_root(module, base, packages) for module in modules),
    )


def _env_vars(value: Any) -> dict[str, str]:
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise ValueError(f"runtime_env.env_vars must map strings to strings (quote numbers in YAML), got: {value!r}.")
    for name, text in value.items():
        if not name or "=" in name or "\0" in name + text:
            raise ValueError(f"runtime_env.env_vars cannot hold the variable {name!r}={text!r}.")
    return value


def _import_root(module: Any, base: Path, packages: Path) -> str:
    """The folder to import from: a package's parent, or the folder itself when it is no package."""
    path = _folder("py_modules", module, base, packages)
    return str(path.parent if (path / "__init__.py").exists() else path)


def _folder(name: str, value: Any, base: Path, packages: Path) -> Path:
    if hasattr(value, "__path__"):
        value = next(iter(value.__path__))
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"runtime_env.{name} must be a path or a file:// URI, got: {value!r}.")
    path = (base / _local_path(name, os.fspath(value))).absolute()
    if path.is_dir():
        return path.resolve()
    if not path.exists():
        raise FileNotFoundError(f"runtime_env.{name}: {path} does not exist.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"runtime_env.{name}: {path} is neither a folder nor a zip file.")
    return _unpacked(path, packages)


def _local_path(name: str, value: str) -> str:
    if "://" not in value:
        return os.path.expanduser(value)
    uri = urlsplit(value)
    if uri.scheme in ("file", "local") and uri.netloc in ("", "localhost"):
        return unquote(uri.path)
    raise ValueError(
        f"runtime_env.{name}: '{value}' is not on this machine. Fetch it first and name the folder or zip file, or a "
        "file:// URI of it."
    )


def _unpacked(archive: Path, packages: Path) -> Path:
    """The folder with the archive's content, unpacked once for each content.

    An only top folder that is no package is left out, as Ray does for archives of a repository.
    """
    target = packages / hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    if not target.exists():
        packages.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=packages))
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(scratch)
            # Atomic, so that nobody sees half of it; another process may have been first.
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    entries = list(target.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and not (entries[0] / "__init__.py").exists():
        return entries[0]
    return target
