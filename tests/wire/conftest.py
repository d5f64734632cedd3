"""Engines as tests of the wire begin with them."""

import pytest
from http2_lab import client, server, warm


@pytest.fixture(params=[server, client], ids=["server", "client"])
def engine(request):
    """Either role, with the usual headers known."""
    return warm(request.param())


@pytest.fixture(params=["new", "known"])
def served(request):
    """A server that sees the usual headers for the first time, and one that knows them."""
    return server() if request.param == "new" else warm(server())
