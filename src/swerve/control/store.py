"""What must survive the controller, in SQLite: goals, and which process is which replica.

Each change is one transaction that is on disk before anything acts on it; a kill at any moment leaves the state before
or after it. Code is kept apart, by digest, so that it is in memory only while a replica starts.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from swerve.control.model import Application, Canary, Deployment, DeploymentKey, Ended, Goal, Proxy, Replica, State
from swerve.control.options import ServedOptions
from swerve.control.target import DeploymentTarget
from swerve.statuses import CanaryPhase, DeploymentStatus, DeploymentStatusTrigger, ProxyStatus, ReplicaState

# Changes when what is stored cannot be read by another release.
_FORMAT = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS code (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
"""

_DAMAGED = (
    "The store {path} cannot be read: {error}. Put a copy of it back. To start with nothing deployed, end what runs "
    "(SIGTERM to the process that agent.lock names), and move it and its -wal and -shm files away."
)
_GONE = (
    "The store {path} is gone, of an instance that has served. Put a copy of it back. To start with nothing deployed, "
    "end what runs (SIGTERM to the process that agent.lock names), and start again."
)
_OTHER_FORMAT = (
    "The store {path} has format {found}, this release of Swerve reads {known}. Move it and its -wal and -shm files "
    "away to start with nothing deployed, then deploy anew; or install the release that wrote it."
)

_UNWRITABLE = (
    "The store {path} cannot be written: {error}. Nothing has changed. See that it can (is the disk full?), then try "
    "again."
)

# The kind of the records of proxies that drain.
_DRAINING = "draining proxy"

_T = TypeVar("_T")


class StoreError(Exception):
    """The store cannot be used; the message says why."""


class Store:
    """The store of one instance."""

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        """Open the store, made if there is none unless it `must_exist`.

        Raises:
            StoreError: it is no store of this release, or cannot be opened.
        """
        if must_exist and not path.exists():
            raise StoreError(_GONE.format(path=path))
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode = WAL")
            # A deploy that was answered must survive the machine's crash too.
            self._db.execute("PRAGMA synchronous = FULL")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")
        except sqlite3.Error as error:
            raise StoreError(_DAMAGED.format(path=path, error=error)) from error
        if found not in (0, _FORMAT):
            raise StoreError(_OTHER_FORMAT.format(path=path, found=found, known=_FORMAT))

    def close(self) -> None:
        self._db.close()

    def load(self) -> State:
        """The stored state. Its replicas and proxies may have ended meanwhile.

        Raises:
            StoreError: the file is damaged.
        """
        try:
            return self._load()
        except (sqlite3.Error, DecodeError, ValueError, KeyError, TypeError) as error:
            raise StoreError(_DAMAGED.format(path=self._path, error=error)) from error

    def _load(self) -> State:
        meta = dict(self._db.execute("SELECT key, value FROM records WHERE kind = 'meta'"))
        return State(
            seed=meta.get("seed") or secrets.token_hex(8),
            serial=int(meta.get("serial", "0")),
            config_json=meta.get("config", ""),
            target_capacity=json.loads(meta.get("target_capacity", "null")),
            options=ServedOptions.from_json(meta["options"]) if "options" in meta else ServedOptions(),
            applications={item.name: item for item in self._read("application", _application)},
            canaries={item.application.name: item for item in self._read("canary", _canary)},
            retired={(item.name, item.release): item for item in self._read("retired", _application)},
            deployments={item.key: item for item in self._read("deployment", _deployment)},
            replicas={item.id: item for item in self._read("replica", _replica)},
            proxies={item.id: item for item in (*self._read("proxy", Proxy), *self._read(_DRAINING, _draining_proxy))},
        )

    def _read(self, kind: str, decode: Callable[[Any], _T]) -> list[_T]:
        rows = self._db.execute("SELECT value FROM records WHERE kind = ? ORDER BY key", (kind,))
        return [decode(json.loads(value)) for (value,) in rows]

    def save(self, old: State, new: State, code: Mapping[str, bytes] | None = None) -> None:
        """Store what differs between `old` and `new`; `code` is what `new` needs beyond what is stored, by digest.

        Raises:
            StoreError: it cannot be written, as on a full disk; nothing of it was.
        """
        before, after = _records(old, new), _records(new, old)
        changed = [(kind, key, value) for (kind, key), value in after.items() if before.get((kind, key)) != value]
        gone = before.keys() - after.keys()
        if not (changed or gone or code):
            return
        with self._transaction():
            self._db.executemany("REPLACE INTO records VALUES (?, ?, ?)", changed)
            self._db.executemany("DELETE FROM records WHERE kind = ? AND key = ?", gone)
            if code:
                self._db.executemany("INSERT OR IGNORE INTO code VALUES (?, ?)", code.items())
            unused = _digests(old) - _digests(new)
            self._db.executemany("DELETE FROM code WHERE digest = ?", [(digest,) for digest in unused])

    def code(self, digest: str) -> bytes:
        """The code with this digest.

        Raises:
            KeyError: it is not stored.
        """
        row = self._db.execute("SELECT data FROM code WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise KeyError(digest)
        data: bytes = row[0]
        return data

    def clear(self) -> None:
        """Forget everything.

        Raises:
            StoreError: it cannot be written; nothing was forgotten.
        """
        with self._transaction():
            self._db.execute("DELETE FROM records")
            self._db.execute("DELETE FROM code")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(_UNWRITABLE.format(path=self._path, error=error)) from error
        finally:
            # SQLite ends the transaction itself after some errors, and keeps it after others.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _digests(state: State) -> set[str]:
    goals = [goal for item in state.deployments.values() for goal in (item.goal, item.previous) if goal is not None]
    optional = {
        *(goal.target.policy_digest for goal in goals),
        *(goal.target.router_digest for goal in goals),
        *(app.policy_digest for app in state.applications.values()),
        *(canary.application.policy_digest for canary in state.canaries.values()),
    }
    return {goal.target.code_digest for goal in goals} | (optional - {""})


def _records(state: State, other: State) -> dict[tuple[str, str], str]:
    """The records of `state` that may differ from those of `other`: what is the same object is left out."""
    records = {
        ("meta", "seed"): state.seed,
        ("meta", "serial"): str(state.serial),
        ("meta", "config"): state.config_json,
        ("meta", "target_capacity"): json.dumps(state.target_capacity),
    }
    if other.options is not state.options:
        records["meta", "options"] = state.options.to_json()
    for name, application in state.applications.items():
        if other.applications.get(name) is not application:
            records["application", name] = json.dumps(asdict(application))
    for name, canary in state.canaries.items():
        if other.canaries.get(name) is not canary:
            records["canary", name] = json.dumps(asdict(canary))
    for release, application in state.retired.items():
        if other.retired.get(release) is not application:
            records["retired", json.dumps(release)] = json.dumps(asdict(application))
    for key, deployment in state.deployments.items():
        if other.deployments.get(key) is not deployment:
            records["deployment", json.dumps(_encode_key(key))] = _encode_deployment(deployment)
    for replica_id, replica in state.replicas.items():
        if other.replicas.get(replica_id) is not replica:
            records["replica", replica_id] = _encode_replica(replica)
    for proxy_id, proxy in state.proxies.items():
        kind = _DRAINING if proxy.state is ProxyStatus.DRAINING else "proxy"
        records[kind, proxy_id] = json.dumps(proxy_id)
    return records


# ---------------------------------------------------------------------------------------------------------------------
# Values as JSON. Times of the controller's clock and what is found out again are not stored.


def _application(values: dict[str, Any]) -> Application:
    return Application(**{**values, "deployments": tuple(values["deployments"])})


def _canary(values: dict[str, Any]) -> Canary:
    # Canaries of an older release have no counts.
    counts = {name: Ended(**values.get(name, {})) for name in ("ended", "stable_ended")}
    phase = CanaryPhase(values["phase"])
    return Canary(**{**values, "application": _application(values["application"]), "phase": phase, **counts})


def _encode_key(key: DeploymentKey) -> list[str]:
    return [key.app, key.name, key.release]


def _encode_deployment(deployment: Deployment) -> str:
    return json.dumps(
        {
            "key": _encode_key(deployment.key),
            "goal": _encode_goal(deployment.goal),
            "previous": None if deployment.previous is None else _encode_goal(deployment.previous),
            "status": deployment.status,
            "trigger": deployment.trigger,
            "message": deployment.message,
            "trouble": deployment.trouble,
            "reached": deployment.reached,
            "deleting": deployment.deleting,
        }
    )


def _deployment(values: dict[str, Any]) -> Deployment:
    return Deployment(
        key=DeploymentKey(*values["key"]),
        goal=_goal(values["goal"]),
        previous=None if values["previous"] is None else _goal(values["previous"]),
        status=DeploymentStatus(values["status"]),
        trigger=DeploymentStatusTrigger(values["trigger"]),
        message=values["message"],
        trouble=values.get("trouble", ""),
        reached=values["reached"],
        deleting=values["deleting"],
    )


def _encode_goal(goal: Goal) -> list[object]:
    return [goal.target.to_json(), goal.num_replicas]


def _goal(values: list[Any]) -> Goal:
    return Goal(DeploymentTarget.from_json(values[0]), values[1])


_REPLICA_FIELDS = (
    "id",
    "version",
    "config_version",
    "rank",
    "max_ongoing_requests",
    "state",
    "serves",
    "holds_place",
)


def _encode_replica(replica: Replica) -> str:
    values = {name: getattr(replica, name) for name in _REPLICA_FIELDS}
    return json.dumps({**values, "key": _encode_key(replica.key)})


def _replica(values: dict[str, Any]) -> Replica:
    return Replica(**{**values, "key": DeploymentKey(*values["key"]), "state": ReplicaState(values["state"])})


def _draining_proxy(proxy_id: str) -> Proxy:
    return Proxy(proxy_id, ProxyStatus.DRAINING)
