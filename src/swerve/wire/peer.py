"""What a proxy tells a replica of a client: one field, whose last value is the proxy's, so that no client can forge it.

The value is the client's address, and on a TLS connection, or where interceptors know more, a space and the auth
context as JSON. The auth context is gRPC's (`grpc_auth_context` of its C core): properties with one or more values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from swerve.wire import metadata
from swerve.wire.metadata import Headers

# Properties of the auth context that say who the client is, the better one first (gRPC core, `ssl_utils.cc`).
SUBJECT_ALTERNATIVE_NAME = "x509_subject_alternative_name"
COMMON_NAME = "x509_common_name"
_IDENTITY_KEYS = (SUBJECT_ALTERNATIVE_NAME, COMMON_NAME)

# A client's certificate has 1 to 4 KiB. Beside the metadata that a client may send (128 KiB at most), so much fits the
# private link to a replica (`wire.limits.PRIVATE_HEADER_LIST_SIZE`).
MAX_SIZE = 64 * 1024

# What replicas are told it in, and carry on to the calls that they make.
PEER_FIELD = b"swerve-peer"
# A name that begins so is that of a property of the auth context: no metadata has a colon in its name.
AUTH_PREFIX = "auth:"

AuthContext = Mapping[str, Sequence[bytes]]

# What grpcio reports of a channel without TLS.
INSECURE: AuthContext = {"transport_security_type": (b"insecure",), "security_level": (b"TSI_SECURITY_NONE",)}

_AUTH_PREFIX = AUTH_PREFIX.encode()

# `json.dumps` would make such an encoder for each call.
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def encode_peer(address: str, auth_context: AuthContext = INSECURE) -> bytes:
    """The field's value. JSON escapes whatever a header field cannot hold.

    Raises:
        ValueError: it is larger than `MAX_SIZE`.
    """
    if auth_context is INSECURE:
        return address.encode()
    values = {key: [value.decode("latin-1") for value in values] for key, values in auth_context.items()}
    field = f"{address} {_to_json(values)}".encode("ascii")
    if len(field) > MAX_SIZE:
        raise ValueError(f"the auth context takes {len(field)} bytes, and {MAX_SIZE} are allowed")
    return field


def peer_address(field: str) -> str:
    """The client's address, as gRPC writes it: "ipv4:127.0.0.1:5000"."""
    return field.partition(" ")[0]


def auth_context_of(field: str) -> dict[str, list[bytes]]:
    """The client's auth context, `INSECURE` if the field has none."""
    _, _, text = field.partition(" ")
    if not text:
        return {key: list(values) for key, values in INSECURE.items()}
    return {key: [value.encode("latin-1") for value in values] for key, values in json.loads(text).items()}


def call_field(headers: Headers, name: bytes) -> str:
    """The last value of this field of a call's metadata, "" if it has none. Of "auth:NAME" the first value of that
    property of its client's auth context."""
    if name.startswith(_AUTH_PREFIX):
        values = auth_context_of(_peer_in(headers)).get(name[len(_AUTH_PREFIX) :].decode(), ())
        return values[0].decode("utf-8", "surrogateescape") if values else ""
    value = metadata.get(headers, name)
    return "" if value is None else value.decode("latin-1")


def carried_fields(headers: Headers, names: Iterable[bytes]) -> Headers:
    """What a call hands on to those that it makes: just these fields and properties, as `call_field` names them."""
    fields: list[tuple[bytes, bytes]] = []
    properties: dict[str, tuple[bytes, ...]] = {}
    for name in names:
        if not (value := call_field(headers, name)):
            continue
        if name.startswith(_AUTH_PREFIX):
            properties[name[len(_AUTH_PREFIX) :].decode()] = (value.encode("utf-8", "surrogateescape"),)
        else:
            fields.append((name, value.encode("latin-1")))
    if properties:
        fields.append((PEER_FIELD, encode_peer(peer_address(_peer_in(headers)), properties)))
    return tuple(fields)


def _peer_in(headers: Headers) -> str:
    return (metadata.get(headers, PEER_FIELD) or b"").decode("latin-1")


def identity_key(auth_context: AuthContext) -> str | None:
    """The property that says who the client is; None when nothing does."""
    return next((key for key in _IDENTITY_KEYS if key in auth_context), None)
