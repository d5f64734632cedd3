"""Who may come in by HTTP: clients with a certificate where one is asked for, and nobody past the interceptors."""

import asyncio
import contextlib
import json
import ssl

import pytest

from swerve.generated import control_pb2 as pb
from swerve.port_tls import http_tls
from swerve.proxy.certificates import Certificate
from swerve.proxy.http import HttpIngress
from swerve.proxy.http_observer import HttpObserver
from swerve.proxy.http_server import http_settings, start_http_server
from swerve.proxy.ingress import Ingress
from tests.conftest import find_free_port

TIMEOUT_S = 20


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextlib.asynccontextmanager
async def serving(authority, **options):
    """The port of a HTTPS server with these options."""
    key, chain = authority.issue("server")
    tls = http_tls({"ssl_keyfile": key, "ssl_certfile": chain, "ssl_ca_certs": authority.ca_certs, **options})
    port = find_free_port()
    settings = http_settings({"host": "127.0.0.1", "port": port})
    server = await start_http_server(settings, hello, share=False, tls=Certificate(tls), instead_of=None)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield port
    finally:
        await server.close(1)


async def answer(authority, port, client=None) -> bytes:
    """The first line of the answer, b"" when the connection ends without."""
    context = ssl.create_default_context(cafile=authority.ca_certs)
    if client is not None:
        context.load_cert_chain(*reversed(client))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        line = await reader.readline()
        writer.close()
    except OSError:
        return b""
    return line


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("options", "without"),
    [({}, OK), ({"ssl_client_certificate": "optional"}, OK), ({"ssl_client_certificate": "required"}, b"")],
)
def test_clients_need_a_certificate_where_the_options_say_so(authority, options, without):
    async def run() -> None:
        async with serving(authority, **options) as port:
            assert await answer(authority, port) == without
            assert await answer(authority, port, authority.issue("client")) == OK

    asyncio.run(run())


def view(*, interceptors=("guard:check",), **http) -> pb.View:
    options = pb.InstanceOptions(
        grpc_options_json=json.dumps({"interceptors": list(interceptors)}), http_options_json=json.dumps(http)
    )
    application = pb.ApplicationView(name="app", ingress="D", route_prefix="/")
    return pb.View(options=options, applications=[application], deployments=[pb.DeploymentView(app="app", name="D")])


async def status_of(*views: pb.View, path: str = "/", kind: str = "http") -> int:
    """What a request is answered after these views."""
    ingress = Ingress(asyncio.get_running_loop(), None)
    http = HttpIngress(ingress, HttpObserver(None), None)
    for one in views:
        ingress.update(one)
        http.update(one)
    sent = []
    scope = {
        "type": kind, "path": path, "raw_path": path.encode(), "headers": [], "scheme": "http", "http_version": "1.1",
        "query_string": b"", "method": "GET", "extensions": {"websocket.http.response": {}},
    }  # fmt: skip

    async def receive():
        if not sent and kind == "http":
            return {"type": "http.request"}
        return await asyncio.get_running_loop().create_future()

    async def send(event):
        sent.append(event)

    async with asyncio.timeout(TIMEOUT_S):
        await http(scope, receive, send)
    return sent[0]["status"]


# The router gets the other ones: nothing serves the application, and none may wait.
CLOSED, SHED = 403, 503


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_where_there_are_interceptors_http_requests_for_applications_are_refused(kind, caplog):
    assert asyncio.run(status_of(view(), view(), kind=kind)) == CLOSED
    assert caplog.text.count("HTTP requests for applications are refused") == 1


def test_the_proxy_s_own_routes_are_served_all_the_same():
    assert asyncio.run(status_of(view(), path="/-/healthz")) != CLOSED


@pytest.mark.parametrize(
    "views",
    [
        [view(interceptors=())],
        [view(bypass_interceptors=True)],
        [view(), view(bypass_interceptors=True)],
        [view(), view(interceptors=())],
    ],
)
def test_requests_are_served_where_there_are_none_or_somebody_said_to_go_past_them(views):
    assert asyncio.run(status_of(*views)) == SHED


def test_interceptors_that_are_added_close_http():
    assert asyncio.run(status_of(view(interceptors=()), view())) == CLOSED
