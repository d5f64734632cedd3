"""A gRPC port with mutual TLS and an interceptor, from the options to the handler: who is served, and who is known."""

import json
import os
import shutil
import signal
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

import swerve as serve
from swerve import instances
from swerve.config import gRPCOptions
from swerve.control.instance import InstanceError
from tests.conftest import Authority, find_free_port, processes_of, wait_for

TIMEOUT_S = 20


@serve.deployment
class Witness:
    """Answers with what it knows of its client."""

    def Unary(self, request, grpc_context):
        from probe_pb2 import Note

        context = {key: [value.decode() for value in values] for key, values in grpc_context.auth_context().items()}
        identities = grpc_context.peer_identities()
        told = {
            "context": context,
            "identities": None if identities is None else [one.decode() for one in identities],
            "key": grpc_context.peer_identity_key(),
            "peer": grpc_context.peer(),
            "metadata": [key for key, _ in grpc_context.invocation_metadata()],
        }
        return Note(text=json.dumps(told))


@dataclass
class Secured:
    port: int
    authority: Authority
    probe: SimpleNamespace
    state_dir: Path

    def channel(self, client: tuple[str, str] | None = None) -> grpc.Channel:
        pair = [Path(path).read_bytes() for path in client] if client else [None, None]
        credentials = grpc.ssl_channel_credentials(self.authority.ca_pem, *pair)
        return grpc.secure_channel(f"localhost:{self.port}", credentials, [("grpc.use_local_subchannel_pool", 1)])

    def ask(self, channel: grpc.Channel, *metadata: tuple[str, str]) -> dict:
        stub = self.probe.rpc.ProbeStub(channel)
        return json.loads(stub.Unary(self.probe.pb.Note(), timeout=TIMEOUT_S, metadata=metadata).text)

    def served_certificate(self) -> str:
        return ssl.get_server_certificate(("localhost", self.port), ca_certs=self.authority.ca_certs)

    def log(self) -> str:
        return "".join(path.read_text() for path in (self.state_dir / "logs").glob("proxy*.log"))


@pytest.fixture(scope="module")
def secured(probe: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    key, chain = authority.issue("server")
    port, state_dir = find_free_port(), Path(tempfile.mkdtemp(prefix="swerve-"))
    options = gRPCOptions(
        port=port,
        grpc_servicer_functions=[probe.add],
        ssl_keyfile=key,
        ssl_certfile=chain,
        ssl_ca_certs=authority.ca_certs,
        ssl_client_certificate="optional",
        interceptors=["e2e_interceptors:Tenants"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWERVE_STATE_DIR", str(state_dir))
        serve.start(grpc_options=options, http_options={"port": 0})
        try:
            serve.run(Witness.bind())
            yield Secured(port, authority, probe, state_dir)
        finally:
            serve.shutdown()
            wait_for(lambda: not processes_of(state_dir), 30, f"the end of the processes of {state_dir}")
            shutil.rmtree(state_dir)


def test_the_handler_knows_a_client_by_its_certificate(secured):
    client = secured.authority.issue("client", "ada.example", common_name="Ada")
    with secured.channel(client) as channel:
        told = secured.ask(channel)
    assert told["context"]["transport_security_type"] == ["ssl"]
    assert told["context"]["x509_common_name"] == ["Ada"]
    assert told["context"]["x509_pem_cert"] == [Path(client[1]).read_text()]
    assert (told["identities"], told["key"]) == (["ada.example"], "x509_subject_alternative_name")
    assert told["peer"].startswith(("ipv4:127.0.0.1:", "ipv6:%5B::1%5D:"))


def test_a_client_cannot_say_itself_who_it_is(secured):
    with secured.channel() as channel:
        told = secured.ask(channel, ("swerve-peer", 'ipv4:6.6.6.6:6 {"x509_common_name":["root"]}'))
    assert "x509_common_name" not in told["context"]
    assert (told["identities"], told["key"]) == (None, None)
    assert "6.6.6.6" not in told["peer"]
    assert "swerve-peer" not in told["metadata"]


def test_an_interceptor_refuses_a_call_and_its_status_is_counted_and_logged(secured):
    with secured.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        secured.ask(channel, ("token", "stolen"), ("request_id", "refused-one"))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused.value.details() == "This token was stolen."
    assert dict(refused.value.trailing_metadata())["hint"] == "ask for another"
    metrics = instances.connected().call(lambda client: client.metrics())
    (counted,) = [
        line
        for line in metrics.splitlines()
        if line.startswith("ray_serve_num_grpc_requests_total") and "PERMISSION_DENIED" in line
    ]
    assert 'application="default"' in counted
    wait_for(lambda: "refused-one -- /probe.v1.Probe/Unary default PERMISSION_DENIED" in secured.log())


def test_what_an_interceptor_adds_reaches_the_handler(secured):
    client = secured.authority.issue("client", "ada.example")
    with secured.channel(client) as channel:
        context = secured.ask(channel, ("token", "acme"), ("tenant", "forged"))["context"]
    assert (context["tenant"], context["known-by"]) == (["acme"], ["x509_subject_alternative_name"])


def test_an_interceptor_that_cannot_be_made_fails_the_start(state_dir, probe, free_port):
    options = gRPCOptions(
        port=free_port, grpc_servicer_functions=[probe.add], interceptors=["e2e_interceptors:Unmakeable"]
    )
    with pytest.raises(InstanceError, match="Unmakeable' cannot be made: KeyError: 'no such setting'"):
        serve.start(grpc_options=options, http_options={"port": 0})
    assert processes_of(state_dir) == []


def test_a_client_without_tls_is_not_served(secured):
    with grpc.insecure_channel(f"localhost:{secured.port}") as channel, pytest.raises(grpc.RpcError) as refused:
        secured.ask(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_new_connections_get_a_new_certificate_and_open_ones_live_on(secured):
    old = secured.served_certificate()
    with secured.channel() as channel:
        peer = secured.ask(channel)["peer"]
        secured.authority.issue("server")
        wait_for(lambda: secured.served_certificate() != old, what="the new certificate")
        assert secured.ask(channel)["peer"] == peer
    assert "The gRPC port uses the certificate in" in secured.log()


def test_an_operator_has_new_files_read_at_once_and_hears_of_bad_ones(secured, swerve_command):
    def renew():
        return swerve_command("renew-certificates", "--state-dir", str(secured.state_dir))

    secured.authority.issue("server")
    done = renew()
    chain = secured.authority.folder / "server.pem"
    assert done.stdout == f"The gRPC port uses the certificate in {chain} from now on.\n", done.stderr
    assert secured.served_certificate() == chain.read_text()
    good = chain.read_text()
    chain.write_text("junk")
    try:
        done = renew()
        assert done.returncode == 1
        assert f"The TLS files of the gRPC port cannot be used: {chain} holds no certificate" in done.stderr
        assert secured.served_certificate() == good
    finally:
        chain.write_text(good)


def test_a_bad_file_is_reported_and_the_old_certificate_stays(secured):
    old = secured.served_certificate()
    chain = secured.authority.folder / "server.pem"
    good = chain.read_text()
    chain.write_text("junk")
    (proxy,) = instances.connected().status().proxies
    # As operators of nginx and others do it.
    os.kill(proxy.pid, signal.SIGHUP)
    try:
        wait_for(lambda: f"{chain} holds no certificate in PEM format" in secured.log(), what="the error in the log")
        assert secured.served_certificate() == old
    finally:
        chain.write_text(good)


def test_tls_and_interceptors_come_and_go_while_an_instance_serves(state_dir, probe, free_port, authority):
    key, chain = authority.issue("server")
    plain = {"port": free_port, "grpc_servicer_functions": [probe.add]}
    serve.start(grpc_options=plain, http_options={"port": 0})
    serve.run(Witness.bind())
    running = Secured(free_port, authority, probe, state_dir)

    def outcome(channel: grpc.Channel, token: str = "") -> str:
        with channel:
            try:
                return running.ask(channel, ("token", token))["context"].get("tenant", ["unknown"])[0]
            except grpc.RpcError as error:
                return error.code().name

    def insecure() -> grpc.Channel:
        return grpc.insecure_channel(f"localhost:{free_port}", [("grpc.use_local_subchannel_pool", 1)])

    assert outcome(insecure(), "stolen") == "unknown"
    guarded = {"interceptors": ["e2e_interceptors:Tenants"], "ssl_keyfile": key, "ssl_certfile": chain}
    serve.start(grpc_options=guarded)
    wait_for(lambda: outcome(running.channel(), "acme") == "acme", what="TLS and the interceptor")
    assert outcome(running.channel(), "stolen") == "PERMISSION_DENIED"
    assert outcome(insecure(), "acme") == "UNAVAILABLE"
    serve.start(grpc_options={"interceptors": []})
    wait_for(lambda: outcome(running.channel(), "stolen") == "unknown", what="the interceptor's end")


SLOW_MODULE = """
import time
from pathlib import Path

# The one who deploys imports it first, to check it; then the proxy does.
here = Path(__file__).parent
if (here / "checked").exists():
    (here / "importing").touch()
    last = time.monotonic() + 20
    while not (here / "go").exists() and time.monotonic() < last:
        time.sleep(0.01)
(here / "checked").touch()

def guard(call):
    return {"tenant": "guarded"}
"""


def test_calls_are_served_while_an_interceptor_s_module_is_imported(
    state_dir, probe, free_port, authority, tmp_path, monkeypatch
):
    (tmp_path / "slow_interceptors.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    serve.start(
        grpc_options={"port": free_port, "grpc_servicer_functions": [probe.add]},
        http_options={"port": 0},
    )
    serve.run(Witness.bind())
    running = Secured(free_port, authority, probe, state_dir)
    with grpc.insecure_channel(f"localhost:{free_port}") as channel, ThreadPoolExecutor() as deployer:
        running.ask(channel)
        deployed = deployer.submit(serve.start, grpc_options={"interceptors": ["slow_interceptors:guard"]})
        wait_for((tmp_path / "importing").exists, what="the import in the proxy")
        try:
            assert "tenant" not in running.ask(channel)["context"]
        finally:
            (tmp_path / "go").touch()
        deployed.result(TIMEOUT_S)
        wait_for(lambda: "tenant" in running.ask(channel)["context"], what="the interceptor")
