"""From an import path to an application: `module:app`, or `module:builder` with arguments."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from swerve.application import Application, Deployment
from swerve.config import explain


def load_application(import_path: str, args: Mapping[str, Any]) -> Application:
    """The application that `import_path` names, or that the builder function that it names returns for `args`.

    Raises:
        ImportError: it cannot be imported; the message has the place of the error.
        TypeError, ValueError: it gives no application.
    """
    found = load_object(import_path)
    if isinstance(found, Application):
        if args:
            raise ValueError(
                "Arguments can only be passed to an application builder function, not an already built application "
                f"('{import_path}')."
            )
        return found
    if isinstance(found, Deployment):
        raise TypeError(f"'{import_path}' is a deployment that was not bound. Bind it: `app = {found.name}.bind(...)`.")
    if inspect.isclass(found) or not callable(found):
        what = found if inspect.isclass(found) else type(found)
        raise TypeError(
            f"'{import_path}' is no application but {what}. It must be what `.bind()` of a `@serve.deployment` "
            "returns, or a function that returns that."
        )
    return _built_by(found, import_path, args)


def load_object(import_path: str) -> Any:
    """What `module:attribute` or `module.attribute` names.

    Raises:
        ImportError: it cannot be imported; the message has the place of the error.
    """
    module_name, _, attribute = import_path.partition(":") if ":" in import_path else import_path.rpartition(".")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ImportError(f"Importing '{import_path}' failed: {place_of(error)}") from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ImportError(
                f"Importing '{import_path}' failed: module '{module_name}' has no attribute '{attribute}'."
            ) from error
    return found


def _built_by(builder: Callable[..., Any], import_path: str, args: Mapping[str, Any]) -> Application:
    parameters = list(inspect.signature(builder).parameters.values())
    if len(parameters) != 1:
        raise TypeError(
            "Application builder functions should take exactly one parameter, a dictionary containing the passed "
            f"arguments ('{import_path}')."
        )
    model = typing.get_type_hints(builder).get(parameters[0].name)
    given: Any = dict(args)
    try:
        if inspect.isclass(model) and issubclass(model, BaseModel):
            given = model.model_validate(given)
        app = builder(given)
    except ValidationError as error:
        raise ValueError(f"Arguments of '{import_path}' are wrong: {explain(error)}") from error
    except Exception as error:
        raise ValueError(f"Building the application '{import_path}' failed: {place_of(error)}") from error
    if not isinstance(app, Application):
        raise TypeError(
            "Application builder functions must return an `Application` returned from `Deployment.bind()`, but "
            f"'{import_path}' returned {type(app)}."
        )
    return app


def place_of(error: BaseException) -> str:
    """One line: the error, and the innermost place of user code that it came through."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text


def _is_library(filename: str) -> bool:
    return filename.startswith(("<", os.path.dirname(__file__), os.path.dirname(os.__file__)))


def stable_code_version(import_path: str, runtime_env: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """A version that changes with the import path, the runtime_env, the arguments, or the module's own source file.

    Applying a configuration file again therefore restarts replicas only when one of them changed.
    """
    digest = hashlib.sha256(json.dumps([import_path, runtime_env, args], sort_keys=True, default=str).encode())
    module_name = import_path.partition(":")[0] if ":" in import_path else import_path.rpartition(".")[0]
    source = getattr(sys.modules.get(module_name), "__file__", None)
    if source and os.path.exists(source):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]
