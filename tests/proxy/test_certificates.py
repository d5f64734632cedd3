"""Certificates that are read again while a port serves."""

import os
import ssl
from pathlib import Path

import pytest

from swerve.net.tls import TlsError
from swerve.port_tls import PortTls, grpc_tls, http_tls
from swerve.proxy.certificates import Certificate
from tests.conftest import Authority


def port_tls(authority: Authority) -> PortTls:
    key, chain = authority.issue("server")
    tls = grpc_tls({"ssl_keyfile": key, "ssl_certfile": chain, "ssl_ca_certs": authority.ca_certs})
    assert tls is not None
    return tls


def renewals(certificate: Certificate, checks: int) -> int:
    """How often so many checks have replaced the context."""
    seen = {id(certificate.context.current)}
    kept = [certificate.context.current]
    for _ in range(checks):
        certificate.check()
        kept.append(certificate.context.current)
        seen.add(id(certificate.context.current))
    return len(seen) - 1


def test_files_that_stay_are_not_read_again(authority):
    assert renewals(Certificate(port_tls(authority)), 5) == 0


def test_files_that_changed_are_read_once_when_they_have_settled(authority):
    certificate = Certificate(port_tls(authority))
    authority.issue("server")
    assert renewals(certificate, 1) == 0
    assert renewals(certificate, 5) == 1


def test_a_key_that_comes_before_its_certificate_is_no_error(authority, caplog):
    certificate = Certificate(port_tls(authority))
    chain = Path(authority.folder / "server.pem")
    old = chain.read_bytes()
    authority.issue("server")
    new = chain.read_bytes()
    chain.write_bytes(old)
    certificate.check()
    chain.write_bytes(new)
    assert renewals(certificate, 3) == 1
    assert "cannot be used" not in caplog.text


def test_a_link_that_points_elsewhere_is_a_change(authority):
    key, chain = authority.issue("one")
    authority.issue("two")
    links = [authority.folder / "live.key", authority.folder / "live.pem"]
    for link, target in zip(links, (key, chain), strict=True):
        link.symlink_to(target)
    tls = grpc_tls({"ssl_keyfile": str(links[0]), "ssl_certfile": str(links[1])})
    certificate = Certificate(tls)
    for link, suffix in zip(links, ("key", "pem"), strict=True):
        link.unlink()
        link.symlink_to(authority.folder / f"two.{suffix}")
    assert renewals(certificate, 2) == 1


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("junk"), lambda path: path.unlink()])
def test_files_that_are_bad_leave_the_old_certificate_and_are_reported_once(authority, caplog, spoil):
    certificate = Certificate(port_tls(authority))
    chain = authority.folder / "server.pem"
    spoil(chain)
    assert renewals(certificate, 5) == 0
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"The TLS files of the gRPC port cannot be used: {chain}" in record.getMessage()
    assert "The old certificate stays in use" in record.getMessage()
    authority.issue("server")
    assert renewals(certificate, 2) == 1


def test_an_operator_need_not_wait_for_the_next_check(authority):
    certificate = Certificate(port_tls(authority))
    before = certificate.context.current
    os.utime(authority.folder / "server.pem", ns=(1, 1))
    assert certificate.renew() == ""
    assert certificate.context.current is not before
    assert renewals(certificate, 3) == 0


def test_files_that_are_bad_from_the_beginning_are_an_error(authority):
    tls = port_tls(authority)
    (authority.folder / "ca.pem").write_text("junk")
    with pytest.raises(TlsError, match=r"files of the gRPC port cannot be used: .*ca\.pem holds no certificate"):
        Certificate(tls)


@pytest.mark.parametrize(
    ("options", "clients"),
    [
        ({}, ssl.CERT_NONE),
        ({"ssl_ca_certs": "ca"}, ssl.CERT_REQUIRED),
        ({"ssl_ca_certs": "ca", "ssl_client_certificate": "required"}, ssl.CERT_REQUIRED),
        ({"ssl_ca_certs": "ca", "ssl_client_certificate": "optional"}, ssl.CERT_OPTIONAL),
    ],
)
def test_the_options_say_whether_clients_need_a_certificate(options, clients):
    files = {"ssl_keyfile": "key", "ssl_certfile": "cert"}
    assert grpc_tls({**files, **options}).clients is clients
    # Ray Serve's HTTP proxy asks no client for one because of `ssl_ca_certs`.
    assert http_tls({**files, **options}).clients is (clients if "ssl_client_certificate" in options else ssl.CERT_NONE)


def test_without_files_there_is_no_tls():
    assert grpc_tls({}) is None
    assert http_tls({"ssl_keyfile": None, "ssl_certfile": None}) is None
