"""Log records of user code carry the request id of the call that they are made in."""

import contextvars
import logging

from swerve.context import RequestContext, RequestIdFilter, _request_context
from swerve.observe.logs import TextFormatter


def line(**extra):
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", **extra})
    assert RequestIdFilter().filter(record)
    return TextFormatter("replica", "r1").format(record)


def test_a_record_made_inside_a_call_has_its_request_id():
    context = contextvars.copy_context()
    context.run(_request_context.set, RequestContext(request_id="abc"))
    assert context.run(line).endswith(" replica r1 abc -- hello")


def test_an_id_that_the_record_has_already_is_kept():
    context = contextvars.copy_context()
    context.run(_request_context.set, RequestContext(request_id="abc"))
    assert context.run(line, request_id="other").endswith(" replica r1 other -- hello")


def test_a_record_made_outside_a_call_has_none():
    assert line().endswith(" replica r1 -- hello")
