"""One proxy for each test of this folder, and a grpcio channel to it."""

from collections.abc import Iterator

import grpc
import pytest

from tests.proxy.proxy_lab import ProxyLab, proxy_lab


@pytest.fixture(params=[True, False], ids=["bundles", "streams"])
def proxy(request: pytest.FixtureRequest) -> Iterator[ProxyLab]:
    """Small calls reach its replicas in bundles, or as all others in streams."""
    with proxy_lab(request.param) as made:
        yield made


@pytest.fixture
def channel(proxy: ProxyLab) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(proxy.address, options=options) as opened:
        yield opened
