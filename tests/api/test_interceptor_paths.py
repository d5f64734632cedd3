"""Interceptors by their import paths."""

import sys
import textwrap

import pytest

from swerve.exceptions import InterceptorError
from swerve.interceptors import check, load

MODULE = """
    import functools

    def plain(call): ...
    async def later(call): ...
    def with_default(call, strict=True): ...
    partial = functools.partial(with_default, strict=False)

    class Guard:
        def __call__(self, call): ...

    guard = Guard()

    class Picky(Guard):
        def __init__(self, key): ...

    class Failing(Guard):
        def __init__(self): raise KeyError("no key")

    class Uncallable: ...
    uncallable = Uncallable()

    def without_call(): ...
    def with_too_many(call, more): ...
    number = 3
"""


@pytest.fixture(autouse=True)
def guards(tmp_path, monkeypatch):
    (tmp_path / "guards_module.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("guards_module", None)


@pytest.mark.parametrize("name", ["plain", "later", "with_default", "partial", "guard"])
def test_what_is_called_with_the_call_is_taken_as_it_is(name):
    import guards_module

    assert load([f"guards_module:{name}", f"guards_module.{name}"]) == [getattr(guards_module, name)] * 2


def test_an_object_is_made_of_a_class(monkeypatch):
    import guards_module

    (made,) = load(["guards_module:Guard"])
    assert isinstance(made, guards_module.Guard)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("guards_module:none", "has no attribute 'none'"),
        ("no_module:guard", "No module named 'no_module'"),
        ("guards_module", "must be in a module that proxies can import"),
        ("", "must be in a module that proxies can import"),
        (":guard", "must be in a module that proxies can import"),
        ("guards_module:", "must be in a module that proxies can import"),
        ("__main__:guard", "must be in a module that proxies can import"),
        ("guards_module:number", "must be a function of one argument"),
        ("guards_module:uncallable", "must be a function of one argument"),
        ("guards_module:without_call", "must be a function of one argument"),
        ("guards_module:with_too_many", "must be a function of one argument"),
        ("guards_module:Uncallable", "must be a class whose objects are called with it"),
        ("guards_module:Picky", "must be a class whose objects are called with it"),
    ],
)
def test_what_cannot_be_an_interceptor_is_an_error_that_names_it(path, message):
    with pytest.raises(InterceptorError) as wrong:
        check(path)
    assert message in str(wrong.value)
    assert f"The interceptor '{path}'" in str(wrong.value)


def test_a_class_that_cannot_be_made_is_an_error_with_its_place():
    assert check("guards_module:Failing")
    with pytest.raises(InterceptorError, match=r"'guards_module:Failing' cannot be made: KeyError: 'no key' \(.*line"):
        load(["guards_module:Failing"])
