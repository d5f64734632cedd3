"""Calls and replicas of the routing tests."""

from dataclasses import dataclass, field

from swerve.routing.replicas import Replica, ReplicaInfo


@dataclass(eq=False)
class Call:
    name: object
    model_id: str = ""
    fields: dict[bytes, str] = field(default_factory=dict)

    def field(self, name: bytes) -> str:
        return self.fields.get(name, "")

    def __repr__(self) -> str:
        return f"{self.name}{self.model_id}"


@dataclass
class Shared:
    """The way to a replica on which small calls share messages."""

    pace_s: float = 1e-5


def in_session(name: str, session: str) -> Call:
    return Call(name, "", {b"session_id": session})


def replica(name: str, ongoing: int = 0, models: str = "", limit: int = 10) -> Replica:
    made = Replica(ReplicaInfo(name, f"unix:/{name}", limit, frozenset(models)))
    made.ongoing = ongoing
    return made
