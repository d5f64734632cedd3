"""What HTTP clients are told of a handler's exception."""

import pytest

from swerve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from swerve.replica.http_response import error_response


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (BackPressureError(3, 2, 429, 1.5), 429, "2"),
        (BackPressureError(3, 2), 503, None),
        (ReplicaUnavailableError("It died.", 0.2), 503, "1"),
        (ReplicaUnavailableError("It died."), 503, None),
        (DeploymentUnavailableError("D"), 503, None),
        (ValueError("secret"), 500, None),
    ],
)
def test_the_answer_says_when_another_try_may_help(error, status, retry_after):
    answer = error_response(error)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
