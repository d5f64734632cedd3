"""TLS between real sockets on loopback: handshakes, certificates, who is let in, and what is known of whom."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_lab import Lab, lab

from swerve.net import handshakes
from swerve.net.auth_context import auth_context
from swerve.net.client import Channel
from swerve.net.limits import ConnectionLimits
from swerve.net.listener import ListenOptions
from swerve.net.server import Unary, serve
from swerve.net.tls import RenewableContext, TlsError, TlsFiles, h2_client_context, h2_server_context
from swerve.wire.peer import auth_context_of, identity_key, peer_address
from swerve.wire.status import RpcError, StatusCode
from tests.conftest import Authority, find_free_port, wait_for

TIMEOUT_S = 20


def server_files(authority: Authority) -> TlsFiles:
    return TlsFiles(*authority.issue("server"), ca_certs=authority.ca_certs)


def options_of(context: ssl.SSLContext, **given) -> ListenOptions:
    return ListenOptions(tls=context, **given)


@contextlib.contextmanager
def tls_lab(authority: Authority, clients=ssl.CERT_NONE, **given) -> Iterator[Lab]:
    with lab(options_of(h2_server_context(server_files(authority), clients), **given)) as running:
        yield running


def grpcio_channel(port: int, authority: Authority, client: tuple[str, str] | None = None) -> grpc.Channel:
    pair = [Path(path).read_bytes() for path in client] if client else [None, None]
    credentials = grpc.ssl_channel_credentials(authority.ca_pem, *pair)
    return grpc.secure_channel(f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)])


def echo(channel: grpc.Channel, timeout: float = TIMEOUT_S) -> bytes:
    return channel.unary_unary("/t/Echo")(b"hello", timeout=timeout)


def raw_context(authority: Authority, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca_certs)
    context.set_alpn_protocols(protocols)
    return context


def connect(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT_S), server_hostname="localhost")


def hung_up(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Who is served


def test_a_grpcio_client_is_served_and_large_messages_pass_both_ways(authority):
    with tls_lab(authority) as running, grpcio_channel(running.port, authority) as channel:
        assert echo(channel) == b"hello"
        responses = list(channel.unary_stream("/t/Flood")(b"3", timeout=TIMEOUT_S))
        assert [len(response) for response in responses] == [1 << 20] * 3
        chunks = channel.stream_unary("/t/Collect")(iter([bytes(1 << 20)] * 3), timeout=TIMEOUT_S)
        assert chunks == b"3 %d" % (3 << 20)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_a_client_that_does_not_offer_h2_is_hung_up_on(authority, protocols):
    with tls_lab(authority) as running, connect(running.port, raw_context(authority, *protocols)) as peer:
        assert hung_up(peer)
        assert running.run(running.count()) == (0, 0)


def test_h2_is_agreed_on_with_tls_1_2_only_by_suites_that_http2_permits(authority):
    context = raw_context(authority, "h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls_lab(authority) as running:
        with connect(running.port, context) as peer:
            assert (peer.version(), peer.selected_alpn_protocol()) == ("TLSv1.2", "h2")
        context.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")
        with pytest.raises(ssl.SSLError):
            connect(running.port, context)


def test_renegotiation_and_compression_are_off(authority):
    files = server_files(authority)
    for context in (h2_server_context(files, ssl.CERT_NONE), h2_client_context(files)):
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION


def test_a_client_without_tls_is_hung_up_on_and_others_are_served(authority):
    with tls_lab(authority) as running:
        with socket.create_connection(("127.0.0.1", running.port), TIMEOUT_S) as peer:
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert hung_up(peer)
        with grpcio_channel(running.port, authority) as channel:
            assert echo(channel) == b"hello"


def test_a_handshake_that_does_not_go_on_is_given_up(authority):
    with (
        tls_lab(authority, connection_limits=ConnectionLimits(handshake_timeout_s=0.2)) as running,
        socket.create_connection(("127.0.0.1", running.port), TIMEOUT_S) as peer,
    ):
        assert hung_up(peer)


def fail_handshakes(running: Lab, count: int) -> None:
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", running.port), TIMEOUT_S) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert hung_up(peer)
    wait_for(lambda: not running.listener._tls_ports[0].under_way)


def test_handshakes_that_fail_cannot_fill_the_log(authority, monkeypatch, caplog):
    monkeypatch.setattr(handshakes, "_REPORT_INTERVAL_S", 3600.0)
    with tls_lab(authority) as running, caplog.at_level("INFO", "swerve.net"):
        fail_handshakes(running, 3)
        assert caplog.text.count("The TLS handshake with ipv4:127.0.0.1:") == 1
        monkeypatch.setattr(handshakes, "_REPORT_INTERVAL_S", 0.0)
        fail_handshakes(running, 1)
    assert "http request" in caplog.records[0].getMessage()
    assert caplog.records[-1].getMessage().endswith("(2 others failed since the last such line)")


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_client"])
def test_handshakes_count_against_the_limits_of_connections(authority, limit):
    # No handshake is given up while the test runs.
    patient = ConnectionLimits(handshake_timeout_s=10 * TIMEOUT_S)
    with tls_lab(authority, connection_limits=patient, **{limit: 2}) as running:
        silent = [socket.create_connection(("127.0.0.1", running.port), TIMEOUT_S) for _ in range(2)]
        wait_for(lambda: len(running.listener._tls_ports[0].under_way) == 2)
        with socket.create_connection(("127.0.0.1", running.port), TIMEOUT_S) as third:
            assert hung_up(third)
        for peer in silent:
            peer.close()
        wait_for(lambda: not running.listener._tls_ports[0].under_way)
        assert not running.listener._tls_ports[0].per_client
        with grpcio_channel(running.port, authority) as channel:
            assert echo(channel) == b"hello"


def test_a_listener_that_closes_gives_up_handshakes(authority):
    with tls_lab(authority) as running:
        peer = socket.create_connection(("127.0.0.1", running.port), TIMEOUT_S)
        wait_for(lambda: running.listener._tls_ports[0].under_way)
    with peer:
        assert hung_up(peer)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), TIMEOUT_S)


# ---------------------------------------------------------------------------------------------------------------------
# Clients' certificates


def test_a_client_without_the_certificate_that_is_required_is_not_served(authority):
    with tls_lab(authority, ssl.CERT_REQUIRED) as running, grpcio_channel(running.port, authority) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            echo(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert running.run(running.count()) == (0, 0)


@pytest.mark.parametrize("clients", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL])
def test_a_certificate_of_another_authority_is_refused(authority, tmp_path, clients):
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").issue("stranger", "ada.example")
    with tls_lab(authority, clients) as running, grpcio_channel(running.port, authority, stranger) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            echo(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_where_certificates_are_optional_a_client_is_known_by_the_one_that_it_has(authority):
    client = authority.issue("client", "ada.example", common_name="Ada")
    with tls_lab(authority, ssl.CERT_OPTIONAL) as running:
        known = []
        for pair in (None, client):
            with grpcio_channel(running.port, authority, pair) as channel:
                assert echo(channel) == b"hello"
                (connection,) = running.listener.connections
                context = auth_context_of(connection.peer_name.decode())
                known.append((identity_key(context), context.get("x509_common_name")))
                assert peer_address(connection.peer_name.decode()) == connection.peer
            wait_for(lambda: not running.listener.connections)
    assert known == [(None, None), ("x509_subject_alternative_name", [b"Ada"])]


def test_clients_cannot_be_verified_without_an_authority(authority):
    with pytest.raises(TlsError, match="ca_certs"):
        h2_server_context(TlsFiles(*authority.issue("server")), ssl.CERT_REQUIRED)


# ---------------------------------------------------------------------------------------------------------------------
# What is known of a client, beside what grpcio says

ATTRIBUTE = x509.NameAttribute
SUBJECTS = {
    "plain": [ATTRIBUTE(NameOID.COMMON_NAME, "ada")],
    "empty": [],
    "odd": [
        ATTRIBUTE(NameOID.COUNTRY_NAME, "DE"),
        ATTRIBUTE(NameOID.ORGANIZATION_NAME, 'A, "B" <c>;+#=\\ x'),
        ATTRIBUTE(NameOID.ORGANIZATIONAL_UNIT_NAME, "#unit "),
        ATTRIBUTE(NameOID.COMMON_NAME, " Ädä\n"),
        ATTRIBUTE(NameOID.COMMON_NAME, "second"),
        ATTRIBUTE(NameOID.EMAIL_ADDRESS, "e@x.y"),
        ATTRIBUTE(NameOID.DOMAIN_COMPONENT, "dc"),
        ATTRIBUTE(NameOID.USER_ID, "uid"),
        ATTRIBUTE(NameOID.SERIAL_NUMBER, "77"),
        ATTRIBUTE(NameOID.GIVEN_NAME, "given"),
        ATTRIBUTE(NameOID.SURNAME, "sur"),
        ATTRIBUTE(NameOID.STREET_ADDRESS, "street"),
        ATTRIBUTE(NameOID.LOCALITY_NAME, "town"),
        ATTRIBUTE(NameOID.STATE_OR_PROVINCE_NAME, "state"),
    ],
}
ALTERNATIVES = {
    "none": [],
    "one workload": [x509.UniformResourceIdentifier("spiffe://domain/ns/x")],
    "two workloads": [x509.UniformResourceIdentifier(f"spiffe://domain/{name}") for name in "ab"],
    "no workload": [x509.UniformResourceIdentifier("https://a.example/x")],
    "no path": [x509.UniformResourceIdentifier("spiffe://domain")],
    "all kinds": [
        x509.DNSName("a.example"),
        x509.IPAddress(ipaddress.ip_address("2001:db8::5")),
        x509.UniformResourceIdentifier("spiffe://domain/ns/x"),
        x509.RFC822Name("ada@a.example"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
        x509.DirectoryName(x509.Name([ATTRIBUTE(NameOID.COMMON_NAME, "directory")])),
        x509.DNSName("*.b.example"),
    ],
}
# Python's ssl module does not tell these.
UNKNOWN_TO_US = {"ssl_requested_server_name", "ssl_negotiated_key_exchange_group"}


def client_certificate(authority: Authority, subject: list, alternatives: list) -> tuple[str, str]:
    """A certificate that trustme does not make."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.ca_pem)
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer.subject, x509.Name(subject), key.public_key(), 5)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    ca_key = serialization.load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    pem = serialization.Encoding.PEM
    paths = authority.folder / "client.key", authority.folder / "client.pem"
    plain = serialization.NoEncryption()
    paths[0].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    paths[1].write_bytes(builder.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    return str(paths[0]), str(paths[1])


class Witness(grpc.GenericRpcHandler):
    """A grpcio service that notes what it is told of its client."""

    def service(self, details):
        def note(request, context):
            self.told = context.auth_context(), context.peer_identities(), context.peer_identity_key()
            return b""

        return grpc.unary_unary_rpc_method_handler(note)


def told_by_grpcio(authority: Authority, client: tuple[str, str]):
    witness = Witness()
    key, chain = (Path(path).read_bytes() for path in authority.issue("server"))
    credentials = grpc.ssl_server_credentials([(key, chain)], authority.ca_pem, require_client_auth=True)
    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, (witness,))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            with grpcio_channel(port, authority, client) as channel:
                channel.unary_unary("/t/Note")(b"", timeout=TIMEOUT_S)
        finally:
            server.stop(0).wait()
    return witness.told


@pytest.mark.parametrize(
    ("subject", "alternatives"),
    [*((subject, "none") for subject in SUBJECTS), *(("plain", kinds) for kinds in ALTERNATIVES if kinds != "none")],
)
def test_a_client_is_known_as_to_a_grpcio_server(authority, subject, alternatives):
    client = client_certificate(authority, SUBJECTS[subject], ALTERNATIVES[alternatives])
    expected, identities, key = told_by_grpcio(authority, client)
    with tls_lab(authority, ssl.CERT_REQUIRED) as running, grpcio_channel(running.port, authority, client) as channel:
        assert echo(channel) == b"hello"
        (connection,) = running.listener.connections
        context = auth_context_of(connection.peer_name.decode())
    assert context == {name: values for name, values in expected.items() if name not in UNKNOWN_TO_US}
    assert identity_key(context) == key
    assert context[key] == identities


def test_a_certificate_that_makes_no_sense_closes_its_connection_alone(authority, monkeypatch, caplog):
    monkeypatch.setattr("swerve.net.listener.auth_context", lambda tls: ipaddress.ip_address("<invalid>"))
    with tls_lab(authority) as running, caplog.at_level("INFO", "swerve.net"):
        with connect(running.port, raw_context(authority, "h2")) as peer:
            assert hung_up(peer)
        monkeypatch.setattr("swerve.net.listener.auth_context", auth_context)
        with grpcio_channel(running.port, authority) as channel:
            assert echo(channel) == b"hello"
    assert "its certificate cannot be read: '<invalid>'" in caplog.text


def test_a_certificate_that_would_burden_every_call_closes_its_connection(authority, caplog):
    names = [x509.DNSName(f"{number}.{'x' * 40}.example") for number in range(800)]
    client = client_certificate(authority, SUBJECTS["plain"], names)
    with (
        caplog.at_level("INFO", "swerve.net"),
        tls_lab(authority, ssl.CERT_REQUIRED) as running,
        grpcio_channel(running.port, authority, client) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        echo(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "its certificate cannot be read: the auth context takes" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Between processes: our own channels and servers


async def answer(request: bytes, metadata: dict[str, str]) -> bytes:
    return request.upper()


async def call(server_tls: ssl.SSLContext | None, client_tls: ssl.SSLContext | None, host: str = "localhost") -> bytes:
    server = serve(f"127.0.0.1:{(port := find_free_port())}", {"/t/Answer": Unary(answer)}, server_tls)
    channel = Channel(f"{host}:{port}", client_tls)
    try:
        return await channel.unary("/t/Answer", b"hello", timeout=TIMEOUT_S)
    finally:
        await channel.close()
        await server.close(0)


def test_processes_that_know_each_other_by_certificates_talk_over_tcp(authority):
    files = server_files(authority)
    contexts = h2_server_context(files, ssl.CERT_REQUIRED), h2_client_context(files)
    assert asyncio.run(call(*contexts)) == b"HELLO"
    assert asyncio.run(call(*contexts, host="127.0.0.1")) == b"HELLO"


def fails_unavailable(*arguments) -> str:
    with pytest.raises(RpcError) as failed:
        asyncio.run(call(*arguments))
    assert failed.value.status.code is StatusCode.UNAVAILABLE
    return failed.value.status.details


def test_a_server_of_another_authority_is_not_called(authority, tmp_path):
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    files = server_files(authority)
    details = fails_unavailable(h2_server_context(files, ssl.CERT_NONE), h2_client_context(server_files(other)))
    assert "certificate verify failed" in details


def test_a_server_whose_certificate_is_for_another_host_is_not_called(authority):
    files = TlsFiles(*authority.issue("server", "elsewhere.example"), ca_certs=authority.ca_certs)
    details = fails_unavailable(h2_server_context(files, ssl.CERT_NONE), h2_client_context(files))
    assert "not valid for 'localhost'" in details


def test_a_caller_without_a_certificate_of_the_authority_is_turned_away(authority, tmp_path):
    (tmp_path / "other").mkdir()
    stranger = TlsFiles(*Authority(tmp_path / "other").issue("client"), ca_certs=authority.ca_certs)
    fails_unavailable(h2_server_context(server_files(authority), ssl.CERT_REQUIRED), h2_client_context(stranger))


def test_a_server_without_tls_is_not_called_with_it(authority):
    assert fails_unavailable(None, h2_client_context(server_files(authority)))


def test_a_server_that_does_not_offer_h2_is_not_called(authority):
    files = server_files(authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certfile, files.keyfile)
    assert "h2 by ALPN" in fails_unavailable(context, h2_client_context(files))


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_new_handshakes_use_a_renewed_context_and_open_connections_live_on(authority):
    def context_for(name: str) -> ssl.SSLContext:
        return h2_server_context(TlsFiles(*authority.issue(name, "localhost", common_name=name)), ssl.CERT_NONE)

    def served_name() -> str:
        with connect(running.port, raw_context(authority, "h2")) as peer:
            subject = dict(pair for relative in peer.getpeercert()["subject"] for pair in relative)
            return subject["commonName"]

    context = RenewableContext(context_for("old"))
    with lab(options_of(context)) as running, grpcio_channel(running.port, authority) as channel:
        assert echo(channel) == b"hello"
        assert served_name() == "old"
        context.current = context_for("new")
        assert served_name() == "new"
        (connection,) = [one for one in running.listener.connections if one.established]
        assert echo(channel) == b"hello"
        assert connection in running.listener.connections


def encrypted(key: str, password: bytes) -> None:
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(password)
    Path(key).write_bytes(
        loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


def test_an_encrypted_key_is_opened_with_its_password_and_never_asked_for(authority):
    key, chain = authority.issue("server")
    encrypted(key, b"secret")
    assert h2_server_context(TlsFiles(key, chain, "secret"), ssl.CERT_NONE)
    with pytest.raises(TlsError, match=r"server\.key is encrypted, and no ssl_keyfile_password"):
        h2_server_context(TlsFiles(key, chain), ssl.CERT_NONE)
    with pytest.raises(TlsError, match=r"server\.key holds no private key .* that the password"):
        h2_server_context(TlsFiles(key, chain, "wrong"), ssl.CERT_NONE)


def test_errors_name_the_file_and_never_the_password(authority):
    key, chain = authority.issue("server")
    other_key, _ = authority.issue("other")
    junk = str(authority.folder / "junk")
    Path(junk).write_text("junk")
    missing = str(authority.folder / "missing")
    for files, message in [
        (TlsFiles(missing, chain), f"{missing}: No such file or directory"),
        (TlsFiles(key, missing), f"{missing}: No such file or directory"),
        (TlsFiles(key, chain, ca_certs=missing), f"{missing}: No such file or directory"),
        (TlsFiles(other_key, chain), f"{other_key} does not belong to the certificate in {chain}"),
        (TlsFiles(junk, chain), f"{junk} holds no private key"),
        (TlsFiles(key, junk), f"{junk} holds no certificate"),
        (TlsFiles(key, chain, ca_certs=junk), f"{junk} holds no certificate"),
    ]:
        with pytest.raises(TlsError) as wrong:
            h2_server_context(files, ssl.CERT_NONE)
        assert message in str(wrong.value)
    assert "secret" not in repr(TlsFiles(key, chain, "secret"))
