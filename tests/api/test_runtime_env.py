"""`runtime_env` on one machine."""

import zipfile
from pathlib import Path

import pytest

from swerve.runtime_env import merge, resolve


def resolved(tmp_path: Path, **runtime_env):
    return resolve(runtime_env, base=tmp_path, packages=tmp_path / "packages")


def make_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "value = 1\n")
    return path


def test_relative_folders_start_at_the_base_and_files_uris_are_paths(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "with space").mkdir()

    assert resolved(tmp_path, working_dir="work").working_dir == str(tmp_path / "work")
    uri = (tmp_path / "with space").as_uri()
    assert resolved(tmp_path, working_dir=uri).working_dir == str(tmp_path / "with space")


def test_a_package_is_imported_from_its_parent_and_a_folder_of_modules_from_itself(tmp_path):
    (tmp_path / "lib" / "package").mkdir(parents=True)
    (tmp_path / "lib" / "package" / "__init__.py").touch()
    (tmp_path / "modules").mkdir()

    environment = resolved(tmp_path, working_dir=".", py_modules=["lib/package", "modules"])

    assert environment.sys_path == [str(tmp_path), str(tmp_path / "lib"), str(tmp_path / "modules")]


def test_an_archive_is_unpacked_once_without_its_only_top_folder(tmp_path):
    archive = make_zip(tmp_path / "repo.zip", "repo-main/app.py", "repo-main/lib/x.py")

    first = resolved(tmp_path, working_dir=str(archive)).working_dir
    second = resolved(tmp_path, working_dir=str(archive)).working_dir

    assert first == second
    assert (Path(first) / "app.py").read_text() == "value = 1\n"
    assert len(list((tmp_path / "packages").iterdir())) == 1


def test_an_archive_of_a_package_keeps_the_package(tmp_path):
    archive = make_zip(tmp_path / "package.zip", "package/__init__.py")

    (root,) = resolved(tmp_path, py_modules=[str(archive)]).py_modules

    assert (Path(root) / "package" / "__init__.py").exists()


def test_merging_joins_variables_and_replaces_the_rest():
    base = {"env_vars": {"A": "1", "B": "1"}, "working_dir": "/a"}

    assert merge(base, {"env_vars": {"B": "2"}, "py_modules": ["m"]}) == {
        "env_vars": {"A": "1", "B": "2"},
        "working_dir": "/a",
        "py_modules": ["m"],
    }


@pytest.mark.parametrize(
    ("runtime_env", "kind", "message"),
    [
        ({"pip": ["torch"]}, ValueError, "runtime_env field 'pip' is not supported on one machine"),
        ({"typo": 1}, ValueError, "Unknown runtime_env field 'typo'"),
        ({"env_vars": {"A": 1}}, ValueError, "must map strings to strings"),
        ({"env_vars": ["A"]}, ValueError, "must map strings to strings"),
        ({"env_vars": {"A=B": "1"}}, ValueError, "cannot hold the variable"),
        ({"working_dir": "s3://bucket/app.zip"}, ValueError, "is not on this machine"),
        ({"working_dir": 3}, ValueError, "must be a path"),
        ({"working_dir": "none"}, FileNotFoundError, "does not exist"),
        ({"working_dir": "text.txt"}, ValueError, "is neither a folder nor a zip file"),
        ({"py_modules": "lib"}, ValueError, "must be a list"),
    ],
)
def test_what_one_machine_cannot_do_is_refused(tmp_path, runtime_env, kind, message):
    (tmp_path / "text.txt").touch()

    with pytest.raises(kind) as caught:
        resolved(tmp_path, **runtime_env)

    assert message in str(caught.value)
