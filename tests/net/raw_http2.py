"""HTTP/2 written by hand (RFC 9113), as no well-behaved client would."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
ACK = 1


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def field(name: bytes, value: bytes) -> bytes:
    """A literal header field, never indexed (RFC 7541, section 6.2.3)."""
    return b"\x10" + integer(len(name)) + name + integer(len(value)) + value


def integer(value: int) -> bytes:
    """RFC 7541, section 5.1, with a prefix of seven bits."""
    if value < 127:
        return bytes((value,))
    encoded, value = bytearray((127,)), value - 127
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes((*encoded, value))


def block(path: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"), *extra]
    return b"".join(field(name, value) for name, value in fields)


def message(size: int) -> bytes:
    return b"\0" + size.to_bytes(4, "big")
