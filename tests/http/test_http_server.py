"""The HTTP port of an instance: when it is there, whom it reaches, and what it says while nothing can serve."""

import os
import signal
import socket
import ssl
import threading
from pathlib import Path

import httpx
import pytest

import swerve as serve
from swerve import instances
from swerve.config import gRPCOptions
from swerve.control.instance import InstanceError
from swerve.generated import control_pb2
from swerve.net.tls import TlsError
from swerve.proxy.http_routes import build_http_routes, read_wanted
from tests.conftest import find_free_port, processes_of, wait_for
from tests.http.http_support import under_way

LOCALHOST = "127.0.0.1"


@serve.deployment
class Where:
    def __init__(self):
        self.pid = os.getpid()

    async def __call__(self, request):
        scope = request.scope
        return {"path": scope["path"], "root": scope["root_path"], "pid": self.pid, "scheme": scope["scheme"]}


@serve.deployment
class Broken:
    def __init__(self):
        raise KeyError("no weights")


@serve.deployment(max_ongoing_requests=1)
class Slow:
    async def __call__(self, request):
        import asyncio

        await asyncio.sleep(60)


def start(**http_options):
    """Start an instance whose HTTP port was named; returns its URL."""
    port = find_free_port()
    serve.start(http_options={"port": port, **http_options})
    return f"http://{LOCALHOST}:{port}"


def proxies():
    present = instances.connected()
    assert present is not None
    return present.status().proxies


def proxy_log(state_dir: Path) -> str:
    return "".join(path.read_text() for path in (state_dir / "logs").glob("proxy*.log"))


# ---------------------------------------------------------------------------------------------------------------------
# Whether there is a port


def test_a_named_port_that_is_taken_fails_the_start(state_dir):
    with socket.create_server((LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InstanceError, match=rf"The HTTP port 127\.0\.0\.1:{port} cannot be bound: Address already"):
            serve.start(http_options={"port": port})
    assert processes_of(state_dir) == []


def test_the_default_port_may_be_taken(state_dir, free_port, probe, monkeypatch):
    # Another loopback address, so that nothing else on this machine has the port.
    monkeypatch.setenv("RAY_SERVE_DEFAULT_HTTP_HOST", "127.83.1.7")
    with socket.create_server(("127.83.1.7", 8000)):
        serve.start(grpc_options=gRPCOptions(port=free_port, grpc_servicer_functions=[probe.add]))
    assert [proxy.http_address for proxy in proxies()] == [""]
    assert "The HTTP port 127.83.1.7:8000 cannot be bound" in proxy_log(state_dir)


def test_http_is_on_by_default(state_dir, monkeypatch):
    monkeypatch.setenv("RAY_SERVE_DEFAULT_HTTP_HOST", "127.83.1.8")
    serve.start()
    assert httpx.get("http://127.83.1.8:8000/-/healthz").status_code == 503
    assert [proxy.http_address for proxy in proxies()] == ["127.83.1.8:8000"]


@pytest.mark.parametrize("options", [{"http_options": {"port": 0}}, {"proxy_location": "Disabled"}])
def test_http_can_be_switched_off(state_dir, options):
    serve.start(**options)
    assert list(proxies()) == []


def test_tls_with_a_certificate_that_changes(state_dir, authority):
    key, chain = authority.issue("server")
    url = start(ssl_keyfile=key, ssl_certfile=chain).replace("http:", "https:")
    serve.run(Where.bind())
    trust = ssl.create_default_context(cafile=authority.ca_certs)
    assert httpx.get(url, verify=trust).json()["scheme"] == "https"

    def certificate() -> str:
        return ssl.get_server_certificate((LOCALHOST, httpx.URL(url).port), ca_certs=authority.ca_certs)

    old = certificate()
    authority.issue("server")
    wait_for(lambda: certificate() != old, what="the new certificate")
    assert httpx.get(url, verify=trust).json()["scheme"] == "https"


def test_a_missing_certificate_fails_the_start(state_dir):
    with pytest.raises(TlsError, match=r"The TLS files of the HTTP port cannot be used: /nowhere/key\.pem: No "):
        start(ssl_keyfile="/nowhere/key.pem", ssl_certfile="/nowhere/cert.pem")


# ---------------------------------------------------------------------------------------------------------------------
# Whom it reaches


def test_the_proxy_says_when_nothing_is_deployed(state_dir):
    url = start()
    for path in ("/-/healthz", "/-/routes"):
        answer = httpx.get(url + path)
        assert (answer.status_code, answer.text) == (503, "Route table is not populated yet.")
    assert httpx.get(f"{url}/-/metrics").status_code == 200


def test_requests_follow_deployments_and_deletions(state_dir):
    url = start()
    serve.run(Where.bind(), name="one", route_prefix="/one")
    serve.run(Where.bind(), name="hidden", route_prefix=None)
    assert httpx.get(f"{url}/-/healthz").text == "success"
    assert httpx.get(f"{url}/-/routes").json() == {"/one": "one"}
    answer = httpx.get(f"{url}/only")
    assert (answer.status_code, answer.text) == (
        404,
        "Path '/only' not found. Ping http://.../-/routes for available routes.",
    )
    serve.delete("one")
    wait_for(lambda: httpx.get(f"{url}/one").status_code == 404)


def test_several_proxies_share_the_port(state_dir):
    port = find_free_port()
    serve.start(http_options={"port": port}, grpc_options={"port": 0, "num_proxies": 2})
    serve.run(Where.bind())
    assert [proxy.http_address for proxy in proxies()] == [f"{LOCALHOST}:{port}"] * 2
    for _ in range(10):
        assert httpx.get(f"http://{LOCALHOST}:{port}").status_code == 200


def test_the_root_path_option_comes_before_the_prefix(state_dir):
    url = start(root_path="/outer")
    serve.run(Where.bind(), route_prefix="/inner")
    answer = httpx.get(f"{url}/inner/x").json()
    assert (answer["path"], answer["root"]) == ("/outer/inner/x", "/outer/inner")


def test_a_request_whose_replica_dies_gets_503_and_the_next_one_a_new_replica(state_dir):
    url = start()
    handle = serve.run(Where.bind())
    del handle
    pid = httpx.get(url).json()["pid"]
    serve.run(Slow.bind(), name="slow", route_prefix="/slow")
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(httpx.get(f"{url}/slow", timeout=30)))
    waiting.start()
    wait_for(lambda: under_way(url) == 1)
    for found in processes_of(state_dir):
        if "replica" in Path(f"/proc/{found}/cmdline").read_text() and found != pid:
            os.kill(found, signal.SIGKILL)
    waiting.join()
    assert answers[0].status_code == 503
    assert int(answers[0].headers["retry-after"]) <= 2
    assert answers[0].text == "The replica that served the request died or was stopped before it answered."
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: httpx.get(url, timeout=30).json()["pid"] != pid)


def test_a_deployment_that_failed_answers_503(state_dir):
    url = start()
    with pytest.raises(RuntimeError):
        serve.run(Broken.bind(), name="broken")
    answer = httpx.get(url)
    assert answer.status_code == 503
    assert answer.text == "Deployment(name='Broken', app='broken') is unavailable because it failed to deploy."
    assert "retry-after" not in answer.headers


def test_the_timeout_of_the_instance_covers_every_request(state_dir):
    url = start(request_timeout_s=0.3)
    serve.run(Slow.bind())
    answer = httpx.get(url, headers={"x-request-id": "r1"})
    assert (answer.status_code, answer.text) == (408, "Request r1 timed out after 0.3s.")


def test_a_stopping_proxy_finishes_its_requests(state_dir, tmp_path):
    @serve.deployment
    class Patient:
        async def __call__(self, request):
            import asyncio

            (tmp_path / "begun").touch()
            await asyncio.sleep(1)
            return "done"

    url = start()
    serve.run(Patient.bind())
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(httpx.get(url)))
    waiting.start()
    wait_for((tmp_path / "begun").exists)
    for proxy in proxies():
        os.kill(proxy.pid, signal.SIGTERM)
    waiting.join()
    assert answers[0].text == "done"


def test_a_proxy_gives_its_own_metrics_while_the_controller_is_away(state_dir):
    url = start()
    present = instances.connected()
    assert present is not None
    controller = present.status().controller_pid
    os.kill(controller, signal.SIGSTOP)
    try:
        text = httpx.get(f"{url}/-/metrics", timeout=20).text
    finally:
        os.kill(controller, signal.SIGCONT)
    assert "ray_serve_num_ongoing_http_requests{" in text
    assert "ray_serve_proxy_status" not in text
    assert "ray_serve_proxy_status" in httpx.get(f"{url}/-/metrics").text


def test_requests_are_counted_by_route_method_and_status(state_dir):
    url = start()
    serve.run(Where.bind(), name="app", route_prefix="/where")
    httpx.get(f"{url}/where/a")
    httpx.get(f"{url}/where/b")
    httpx.request("INVENTED", f"{url}/elsewhere")
    text = httpx.get(f"{url}/-/metrics").text
    (proxy,) = (process.proxy_id for process in proxies())
    labels = f'application="app",method="GET",route="/where",status_code="200",proxy="{proxy}"'
    assert f"ray_serve_num_http_requests_total{{{labels}}} 2" in text
    assert f"ray_serve_http_request_latency_ms_count{{{labels}}} 2" in text
    labels = f'application="",method="OTHER",route="",error_code="404",proxy="{proxy}"'
    assert f"ray_serve_num_http_error_requests_total{{{labels}}} 1" in text
    assert f'ray_serve_num_ongoing_http_requests{{proxy="{proxy}"}} 0' in text


# ---------------------------------------------------------------------------------------------------------------------
# Decisions


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", "root"), ("/a", "a"), ("/a/", "a"), ("/ab", "root"), ("/a/b", "ab"), ("/a/b/c", "ab"), ("/a/bc", "a")],
)
def test_the_longest_prefix_of_whole_segments_wins(path, expected):
    prefixes = {"root": "/", "a": "/a", "ab": "/a/b"}
    apps = [control_pb2.ApplicationView(name=name, route_prefix=prefix) for name, prefix in prefixes.items()]
    found = build_http_routes(control_pb2.View(applications=apps)).match(path)
    assert found is not None
    assert found.app == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"2", 2.0), (b"0.5", 0.5), (b"0", None), (b"-1", None), (b"x", None), (b"inf", None)]
)
def test_only_positive_timeouts_count(text, seconds):
    assert read_wanted([(b"x-request-timeout-seconds", text)]).timeout_s == seconds
