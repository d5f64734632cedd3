"""What TLS says about the peer, as gRPC's auth context.

Names and values are those of grpcio servers (gRPC core, `ssl_utils.cc` and `ssl_transport_security.cc`), without the
requested server name and the key exchange group, which Python's ssl module does not tell.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swerve.wire.peer import COMMON_NAME, SUBJECT_ALTERNATIVE_NAME

# The property that each kind of subject alternative name also stands in.
_KINDS = {"DNS": "peer_dns", "URI": "peer_uri", "email": "peer_email", "IP Address": "peer_ip"}
_OTHER_KIND = b"other types of SAN"
# SPIFFE-ID, section 2: lengths in bytes.
_MAX_SPIFFE_ID = 2048
_MAX_TRUST_DOMAIN = 255

# OpenSSL's short names, by the long ones that the ssl module gives. Others have one name only.
_SHORT_NAMES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "givenName": "GN",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "surname": "SN",
    "userId": "UID",
}
# RFC 2253, section 2.4, and control and non-ASCII bytes, which OpenSSL writes in hexadecimal.
_SPECIAL = re.compile(rb'[,+"\\<>;]|^[ #]| $')
_HEXADECIMAL = re.compile(rb"[\x00-\x1f\x7f-\xff]")

# A certificate's name as the ssl module gives it: relative names of (attribute, value) pairs.
Name = Sequence[Sequence[tuple[str, str]]]


def auth_context(connection: ssl.SSLObject) -> dict[str, list[bytes]]:
    """The properties of an established connection; those of a certificate only if the peer's was verified."""
    properties = {
        "transport_security_type": [b"ssl"],
        "security_level": [b"TSI_PRIVACY_AND_INTEGRITY"],
        "ssl_session_reused": [b"true" if connection.session_reused else b"false"],
        "ssl_tls_version": [(connection.version() or "").encode()],
    }
    certificate: Mapping[str, Any] | None = connection.getpeercert()
    binary = connection.getpeercert(binary_form=True)
    if certificate and binary:
        properties["x509_pem_cert"] = [ssl.DER_cert_to_PEM_cert(binary).encode()]
        properties |= certificate_properties(certificate)
    return properties


def certificate_properties(certificate: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """The names in a certificate, in the form of `ssl.SSLObject.getpeercert`."""
    subject: Name = certificate.get("subject", ())
    common_names = [value for relative in subject for key, value in relative if key == "commonName"]
    properties = {
        "x509_subject": [rfc2253(subject)],
        COMMON_NAME: [common_names[0].encode() if common_names else b""],
    }
    for kind, name in certificate.get("subjectAltName", ()):
        value = _alternative_name(kind, name)
        properties.setdefault(SUBJECT_ALTERNATIVE_NAME, []).append(value)
        if kind in _KINDS:
            properties.setdefault(_KINDS[kind], []).append(value)
    uris = properties.get("peer_uri", [])
    if len(uris) == 1 and _is_spiffe_id(uris[0]):
        properties["peer_spiffe_id"] = uris
    return properties


def _alternative_name(kind: str, name: str) -> bytes:
    if kind == "IP Address":
        return str(ipaddress.ip_address(name.strip())).encode()
    return name.encode() if kind in _KINDS else _OTHER_KIND


def _is_spiffe_id(uri: bytes) -> bool:
    """Whether `uri` names a workload: "spiffe://trust-domain/path"."""
    if len(uri) > _MAX_SPIFFE_ID or not uri.startswith(b"spiffe://"):
        return False
    trust_domain, _, path = uri.removeprefix(b"spiffe://").partition(b"/")
    return 0 < len(trust_domain) <= _MAX_TRUST_DOMAIN and bool(path)


def rfc2253(name: Name) -> bytes:
    """A distinguished name as OpenSSL writes it by RFC 2253: the most specific part first."""
    return b",".join(b"+".join(_attributes(relative)) for relative in reversed(name))


def _attributes(relative: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    for key, value in relative:
        escaped = _SPECIAL.sub(lambda match: b"\\" + match[0], value.encode())
        escaped = _HEXADECIMAL.sub(lambda match: b"\\%02X" % match[0][0], escaped)
        yield _SHORT_NAMES.get(key, key).encode() + b"=" + escaped
