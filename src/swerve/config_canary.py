"""The options of a canary, which are Swerve's own."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator

from swerve.config_base import Options

# Names that gRPC metadata and HTTP headers can have, and values that both can carry as text.
_FIELD_NAME = re.compile(r"[0-9a-z_.-]{1,256}")
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?")


def _check_field_name(name: str) -> str:
    lowered = name.lower()
    if not _FIELD_NAME.fullmatch(lowered) or lowered.startswith("grpc-") or lowered.endswith("-bin"):
        raise ValueError(
            f"Got {name!r} for a metadata key. It may have letters, digits, '_', '-' and '.', must not begin with "
            "'grpc-' and not end with '-bin'."
        )
    return lowered


class CanaryRollback(Options):
    """When a canary is rolled back by itself: more than `max_error_percent` of at least `min_calls` calls within
    `window_s` seconds ended with an error of the server's, and that has been so for `for_s` seconds."""

    model_config = ConfigDict(extra="forbid")

    max_error_percent: Annotated[float, Field(ge=0, lt=100)] = 5.0
    min_calls: Annotated[int, Field(ge=1)] = 50
    window_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    for_s: Annotated[float, Field(ge=0, le=3600)] = 5.0


class CanaryOptions(Options):
    """Which calls go to a canary, and when it is rolled back."""

    model_config = ConfigDict(extra="forbid")

    # Percent of the calls that do not match.
    weight: Annotated[float, Field(ge=0, le=100)] = 10.0
    # Metadata, or HTTP headers, that a call must all have to go to the canary in any case. Empty: none does.
    match: Annotated[dict[str, str], Field(max_length=16)] = Field(default_factory=dict)
    # Calls that have this metadata key are told apart by its value instead of by chance.
    sticky_key: str | None = None
    # None: only by command.
    rollback: CanaryRollback | None = Field(default_factory=CanaryRollback)

    @field_validator("match")
    @classmethod
    def _match(cls, value: dict[str, str]) -> dict[str, str]:
        for text in value.values():
            if not _FIELD_VALUE.fullmatch(text):
                raise ValueError(f"Got {text!r} for a metadata value. It must be visible ASCII characters.")
        return {_check_field_name(name): text for name, text in value.items()}

    @field_validator("sticky_key")
    @classmethod
    def _sticky(cls, value: str | None) -> str | None:
        return None if value is None else _check_field_name(value)
