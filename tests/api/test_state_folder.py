"""Where an instance lives."""

from pathlib import Path

import pytest

from swerve.config import state_dir


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("SWERVE_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/someone")


def test_the_given_folder_comes_first(monkeypatch):
    monkeypatch.setenv("SWERVE_STATE_DIR", "/variable")

    assert state_dir("/given") == Path("/given")
    assert state_dir("~/given") == Path("/home/someone/given")
    assert state_dir() == Path("/variable")


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert state_dir("here") == tmp_path / "here"


def test_else_it_is_in_the_users_state_folder(monkeypatch):
    assert state_dir() == Path("/xdg/swerve")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/invalid")
    assert state_dir() == Path("/home/someone/.local/state/swerve")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_dir() == Path("/home/someone/.local/state/swerve")
