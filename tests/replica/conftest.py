"""Replicas of these tests run in the test's own process, which must not be taken for a replica afterwards."""

from collections.abc import Iterator

import pytest

from swerve.context import set_replica_context


@pytest.fixture(autouse=True)
def no_replica_afterwards() -> Iterator[None]:
    yield
    set_replica_context(None)
