"""Who may import whom: arrows between the rooms go down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import swerve

SOURCE = Path(swerve.__file__).parent
FILES = {str(path.relative_to(SOURCE)): path for path in SOURCE.rglob("*.py")}

# Each room with those below it that it may use. `control.client` is how a process hears of the controller, and
# `engine.guard` how it brings the agent back.
ROOMS: dict[str, set[str]] = {
    "wire": set(),
    "net": {"wire"},
    "routing": set(),
    "caller": {"routing", "net", "wire", "control.client"},
    "proxy": {"caller", "routing", "net", "wire", "control.client", "engine.guard"},
    "replica": {"caller", "routing", "net", "wire", "control.client", "engine.guard"},
    "control": {"engine", "net", "wire"},
    "engine": set(),
}
# Rooms that no module of the public face reaches into: these know of bytes and processes alone.
WITHOUT_FACE = {"wire", "net", "routing", "engine"}
# Modules above all rooms: what users and commands call.
TOP = {
    *("api", "canary", "canary_command", "cli", "commands", "instances", "handle", "ray_compat", "testing"),
    *("build", "config_apps"),
}
# `wire` and `routing` decide; the world outside is not theirs.
PURE_ROOMS = {
    "wire": {"asyncio", "socket", "time", "logging", "ssl", "threading", "os", "select", "uvloop"},
    "routing": {"asyncio", "socket", "logging", "ssl", "threading", "os", "select", "uvloop"},
}


def modules_imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            # `from swerve.wire import metadata` imports a module, `from swerve.wire.status import OK` does not.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(room: str) -> list[str]:
    return sorted(name for name in FILES if name.startswith(f"{room}/"))


def starts(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


@pytest.mark.parametrize("room", sorted(PURE_ROOMS))
def test_a_pure_room_knows_no_loop_no_socket_no_log(room):
    for name in files_of(room):
        imported = {module.split(".")[0] for module in modules_imported(FILES[name])}
        assert not imported & PURE_ROOMS[room], f"{name} must not import {imported & PURE_ROOMS[room]}"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_from_rooms_below_it_only(room):
    assert files_of(room)
    allowed = {room, *ROOMS[room]}
    rooms = {name.split("/")[0] for name in FILES if "/" in name} - {"generated", "observe"}
    for name in files_of(room):
        for module in modules_imported(FILES[name]):
            if starts(module, "swerve"):
                inner = module.removeprefix("swerve.")
                if room in WITHOUT_FACE or inner.split(".")[0] in rooms:
                    assert any(starts(inner, one) for one in allowed), f"{name} must not import {module}"
                elif room not in ("caller", "replica"):
                    # These two are where user code calls and is called, so they know the types that it sees.
                    assert inner.split(".")[0] not in TOP, f"{name} must not import {module}"


def test_the_agent_imports_the_standard_library_alone():
    """It is resident for as long as an instance is, and must stay small."""
    import sys

    for name in files_of("engine"):
        if name in ("engine/agent.py", "engine/table.py", "engine/procfs.py", "engine/layout.py", "engine/presence.py"):
            for module in modules_imported(FILES[name]):
                top = module.split(".")[0]
                assert top in sys.stdlib_module_names or starts(module, "swerve.engine"), f"{name} imports {module}"
