"""What the models of all options have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(le=65535)]


class Options(BaseModel):
    """Base of all options. A model's validator is made when it is first used: each process uses only a few of them."""

    model_config = ConfigDict(defer_build=True)


def import_path_of(target: Any) -> str:
    """`module:qualname` of a class or function; strings pass unchanged."""
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def require_json(name: str, value: Any) -> None:
    """See that JSON can hold the option `name`.

    Raises:
        ValueError: it cannot.
    """
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not JSON-serializable: {error}.") from error


def ignored_keys(made: BaseModel, content: Mapping[str, Any], place: str = "") -> list[str]:
    """The keys of `content` that the model made of it does not know, deeper ones as `applications.0.nam`.

    Keys are what people wrote: of other kinds than str too.
    """
    found: list[str] = []
    for key, given in content.items():
        if key not in type(made).model_fields:
            found.append(f"{place}{key}")
            continue
        value = getattr(made, key)
        pairs = zip(value, given, strict=False) if isinstance(value, list) and isinstance(given, list) else None
        inner = [(f"{key}", value, given)] if pairs is None else [(f"{key}.{i}", *pair) for i, pair in enumerate(pairs)]
        for name, part, its_content in inner:
            if isinstance(part, BaseModel) and isinstance(its_content, Mapping):
                found += ignored_keys(part, its_content, f"{place}{name}.")
    return found


def explain(error: ValidationError) -> str:
    """What is wrong, one line a fault, each with the place of the value: `applications.0.name: ...`."""
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "missing" and isinstance(fault["input"], Mapping):
            keys = ", ".join(f"'{key}'" for key in fault["input"])
            lines.append(f"{place}: Field required (there are: {keys or 'none':.200})")
            continue
        if fault["type"] != "value_error":
            lines.append(f"{place}: {fault['msg']} (got {fault['input']!r:.100})")
            continue
        # A message of ours names its option; the place helps only deeper down.
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if len(fault["loc"]) > 1 else message)
    return "\n".join(lines)
