"""Fixtures of the connection tests."""

import pytest
from net_support import Pair


@pytest.fixture
def pair() -> Pair:
    return Pair()
