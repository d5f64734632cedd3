"""What a deployment's replicas should run, and which change of it needs what.

Source of the update classes: Ray Serve's `DeploymentConfig` (controller only, reconfigure in place, restart).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from swerve.control.autoscale import Scaling

# Replicas take a change of these by `Reconfigure`.
_RECONFIGURED = (
    "user_config",
    "max_ongoing_requests",
    "graceful_shutdown_wait_loop_s",
    "backpressure_config",
    "autoscaling_config",
    "request_router_config",
    "logging_config",
)
# Replicas are restarted for a change of these, of the code, or of what surrounds it.
_RESTARTED = (
    "ray_actor_options",
    "placement_group_bundles",
    "placement_group_strategy",
    "placement_group_bundle_label_selector",
    "max_replicas_per_node",
    "gang_scheduling_config",
    "deployment_actors",
)
# All other options are the controller's own and change nothing in a replica. A route prefix does not either: the proxy
# sends it with each request.


@dataclass(frozen=True, slots=True)
class Options:
    """The options that the controller itself goes by; names and units as in `swerve.config.DeploymentConfig`."""

    max_ongoing_requests: int
    max_queued_requests: int
    graceful_shutdown_timeout_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    max_constructor_retry_count: int
    rolling_update_percentage: float
    max_surge_percent: int


@dataclass(frozen=True)
class DeploymentTarget:
    """A deployment as deployed, without its code: `code_digest` finds that in the store.

    `config_json` is a complete `swerve.config.DeploymentConfig`, checked where it was built.
    """

    code_digest: str
    code_version: str
    config_json: str
    sys_path: tuple[str, ...] = ()
    runtime_env_json: str = ""
    logging_config_json: str = ""
    is_ingress: bool = False
    # Of an ingress: the services that its replicas must know and cannot learn while they run, "" if they can.
    servicers: str = ""
    # Finds the code of the user's autoscaling policy in the store, "" for the default one.
    policy_digest: str = ""
    # Finds the code of the user's request router there, "" for one that is built in.
    router_digest: str = ""

    @cached_property
    def config(self) -> Mapping[str, Any]:
        parsed = json.loads(self.config_json)
        if not isinstance(parsed, dict):
            raise ValueError("The deployment's configuration is no JSON object.")
        return parsed

    @cached_property
    def options(self) -> Options:
        """The controller's options.

        Raises:
            KeyError: the configuration is not complete.
        """
        return Options(**{field.name: self.config[field.name] for field in fields(Options)})

    @cached_property
    def scaling(self) -> Scaling | None:
        """Between which bounds and how fast the number of replicas follows the load; None: it is `num_replicas`.

        Raises:
            KeyError: the configuration is not complete.
        """
        config = self.config["autoscaling_config"]
        return None if config is None else Scaling.of(config)

    @property
    def num_replicas(self) -> int:
        """How many replicas to run unless they are autoscaled."""
        return int(self.config["num_replicas"])

    @cached_property
    def version(self) -> str:
        """Changes when replicas must be restarted."""
        options = {name: self.config[name] for name in _RESTARTED}
        return _digest(
            self.code_version, options, self.sys_path, self.runtime_env_json, self.is_ingress, self.servicers
        )

    @cached_property
    def config_version(self) -> str:
        """Changes when replicas must be reconfigured."""
        return _digest({name: self.config[name] for name in _RECONFIGURED})

    @cached_property
    def env_vars(self) -> Mapping[str, str]:
        """The environment that replicas get, the deployment's own over the application's."""
        return {**self._runtime_env.get("env_vars", {}), **self._own_runtime_env.get("env_vars", {})}

    @cached_property
    def working_dir(self) -> str | None:
        """The folder that replicas start in, None for the instance's."""
        return self._own_runtime_env.get("working_dir") or self._runtime_env.get("working_dir")

    @property
    def import_dirs(self) -> list[str]:
        """What comes first on the replicas' `sys.path`, the deployment's own folders before the application's."""
        own = self._own_runtime_env
        folders = [own.get("working_dir"), *own.get("py_modules", ())]
        return [*filter(None, folders), *self.sys_path]

    @property
    def _runtime_env(self) -> Mapping[str, Any]:
        return json.loads(self.runtime_env_json) if self.runtime_env_json else {}

    @property
    def _own_runtime_env(self) -> Mapping[str, Any]:
        return (self.config["ray_actor_options"] or {}).get("runtime_env") or {}

    def to_json(self) -> str:
        """All fields, for the store."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> DeploymentTarget:
        values = json.loads(text)
        return DeploymentTarget(**{**values, "sys_path": tuple(values["sys_path"])})


def _digest(*values: object) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()
