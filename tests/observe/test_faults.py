"""Faults that last."""

import logging

from swerve.observe.faults import RepeatedFault


def test_a_fault_that_lasts_is_logged_once_until_it_works_again(caplog):
    fault = RepeatedFault(logging.getLogger("swerve.test"), "It cannot be told")
    for name in ("first", "second"):
        fault.failed(OSError(name))
    fault.worked()
    fault.failed(OSError("third"))
    assert [(record.getMessage(), str(record.exc_info[1])) for record in caplog.records] == [
        ("It cannot be told", "first"),
        ("It cannot be told", "third"),
    ]
