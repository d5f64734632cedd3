"""One target under libFuzzer: `python -m tests.fuzz.fuzz_target TARGET [libFuzzer's arguments]`. See `run.py`."""

import logging
import sys

import atheris

with atheris.instrument_imports(include=["swerve", "yaml", "tests.fuzz"]):
    # The configuration's module imports it when it is needed, which would be too late.
    import yaml  # noqa: F401 (only to be instrumented)

    from tests.fuzz.targets import TARGETS


def main() -> None:
    logging.disable(logging.WARNING)
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
