"""What a machine must have for an instance."""

import os
import resource
from types import SimpleNamespace

import pytest

from swerve.control import room
from swerve.control.room import shortage


@pytest.fixture
def machine(monkeypatch):
    """A machine with room for an instance, until a test takes it away."""
    disk = SimpleNamespace(f_bavail=1000, f_frsize=4096, f_files=1000, f_favail=1000)
    made = SimpleNamespace(disk=disk, files=1024)
    monkeypatch.setattr(room.resource, "getrlimit", lambda kind: (made.files, resource.RLIM_INFINITY))
    monkeypatch.setattr(os, "statvfs", lambda folder: disk)
    return made


def test_a_machine_with_room_lacks_nothing(machine, tmp_path):
    assert shortage(tmp_path) == ""
    machine.files = resource.RLIM_INFINITY
    assert shortage(tmp_path) == ""


def test_too_few_files_are_named_first(machine, tmp_path):
    machine.files, machine.disk.f_bavail = 16, 0
    assert shortage(tmp_path).startswith("A process may open 16 files here")


@pytest.mark.parametrize("lacking", [{"f_bavail": 255}, {"f_favail": 0}])
def test_a_full_disk_is_named(machine, tmp_path, lacking):
    vars(machine.disk).update(lacking)
    assert shortage(tmp_path).startswith(f"The disk of the state folder {tmp_path} is full.")


def test_a_file_system_that_counts_no_files_has_room_for_them(machine, tmp_path):
    vars(machine.disk).update(f_files=0, f_favail=0)
    assert shortage(tmp_path) == ""
