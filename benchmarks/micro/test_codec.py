"""What a handle call spends on Python objects."""

from typing import Any

from swerve.caller import codec


def test_small_arguments(benchmark: Any) -> None:
    arguments = (("hello", 7), {"flag": True})
    assert benchmark(lambda: codec.decode(codec.joined(codec.encode(arguments)))) == arguments


def test_a_megabyte_of_bytes(benchmark: Any) -> None:
    arguments: tuple[tuple[bytes], dict[str, object]] = ((b"x" * (1 << 20),), {})
    assert benchmark(lambda: codec.decode(codec.joined(codec.encode(arguments)))) == arguments
