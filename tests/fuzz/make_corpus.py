"""Makes the seeds of `corpus`: small inputs that reach each part of a target. `python -m tests.fuzz.make_corpus`.

Inputs that a fuzzer found to fail are put beside them by hand, with names that say what they were.
"""

from __future__ import annotations

from pathlib import Path

from swerve.wire import bundle
from swerve.wire.message import DEFLATE, GZIP, frame, frame_compressed
from tests.net.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    block,
    field,
    goaway,
    reset,
    settings_of,
    window_update,
)
from tests.net.raw_http2 import frame as http2_frame

CORPUS = Path(__file__).parent / "corpus"
# The first byte of the target's input (`targets.connection`): whole, byte by byte, in 9s; greeting, slow, unread.
WHOLE, BYTES, NINES, GREETS, SLOW, UNREAD = 0, 1, 2, 4, 8, 16

# Of the kind of a frame (`targets.frames_from`).
LONG = 0x80

CONFIG = """\
proxy_location: HeadOnly
http_options: {host: 127.0.0.1, port: 8000, request_timeout_s: 5}
grpc_options:
  port: 9000
  grpc_servicer_functions: [tea_pb2_grpc.add_TeaHouseServicer_to_server]
  max_connections: 100
  keepalive_time_s: 1e2
applications:
  - name: tea
    route_prefix: /tea
    import_path: examples.guide.app:house
    runtime_env: {env_vars: {KEY: "value"}}
    args: {size: 3}
    deployments:
      - name: TeaHouse
        num_replicas: auto
        autoscaling_config: {min_replicas: 0, max_replicas: 3}
        user_config: {menu: [green, black]}
        ray_actor_options: {num_cpus: 0.5}
        request_router_config: {request_routing_stats_period_s: 1}
"""


def _request(stream_id: int, *extra: tuple[bytes, bytes], flags: int = END_HEADERS) -> bytes:
    return http2_frame(HEADERS, flags, stream_id, block(b"/t/Echo", (b"content-type", b"application/grpc"), *extra))


def _frames(*frames: tuple[int, int, int, bytes]) -> bytes:
    """As `targets.frames_from` reads them."""
    return b"".join(bytes((kind, flags, stream, len(payload))) + payload for kind, flags, stream, payload in frames)


def _laugh(name: int) -> bytes:
    """A YAML list of nine aliases of the one before."""
    return b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9))


def seeds() -> dict[str, dict[str, bytes]]:
    """Inputs by target and name."""
    echo = _request(1) + http2_frame(DATA, END_STREAM, 1, frame(b"hello"))
    headers = block(b"/t/Echo", (b"grpc-timeout", b"1S"), (b"key-bin", b"AAEC"))
    fields = block(b"/t")
    begin = HEADERS, END_HEADERS, 1, fields
    again = [
        one
        for stream_id in (1, 3, 5)
        for one in ((HEADERS, END_HEADERS, stream_id, fields), (RST_STREAM, 0, stream_id, bytes(4)))
    ]
    control = http2_frame(PING, 0, 0, b"12345678") + window_update(0, 1 << 16) + settings_of({4: 0})
    return {
        "connection": {
            "echo": bytes([WHOLE | GREETS]) + echo,
            "whole_preface": bytes([NINES]) + PREFACE + settings_of() + echo,
            "bytewise": bytes([BYTES | GREETS]) + echo,
            "slow_unread": bytes([NINES | GREETS | SLOW | UNREAD]) + control + echo,
            "reset": bytes([WHOLE | GREETS]) + _request(1) + reset(1),
            "continuation": bytes([WHOLE | GREETS])
            + http2_frame(HEADERS, 0, 1, headers[:20])
            + http2_frame(CONTINUATION, END_HEADERS, 1, headers[20:])
            + http2_frame(DATA, END_STREAM, 1, frame(b"x")),
            "trailers": bytes([WHOLE | GREETS])
            + _request(1)
            + http2_frame(DATA, 0, 1, frame(b"x"))
            + http2_frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x10\x01a\x01b"),
            "goaway": bytes([WHOLE | GREETS]) + echo + goaway(0),
            "gzip": bytes([WHOLE | GREETS])
            + _request(1, (b"grpc-encoding", b"gzip"))
            + http2_frame(DATA, END_STREAM, 1, frame_compressed(b"hello", GZIP)),
            "http1": bytes([WHOLE]) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        },
        "http2": {
            "request": b"\x09" + _frames(begin, (DATA, 0, 1, b"ab"), (DATA, END_STREAM, 1, b"cd")),
            "known": b"\x09" + _frames(*again, (HEADERS, END_HEADERS, 7, fields), (DATA, END_STREAM, 7, b"whole")),
            "padded": b"\x05" + _frames(begin, (DATA, PADDED, 1, b"\x02ab\0\0"), (RST_STREAM, 0, 1, b"\0\0\0\x08")),
            "long": b"\x07" + _frames(begin, (DATA | LONG, 0, 1, bytes(255)), (DATA | LONG, END_STREAM, 1, bytes(200))),
            "measured": b"\x03"
            + _frames((HEADERS, END_HEADERS, 1, fields + field(b"content-length", b"2")), (DATA, END_STREAM, 1, b"ab")),
            "continued": b"\x01" + _frames((HEADERS, 0, 1, fields[:9]), (CONTINUATION, END_HEADERS, 1, fields[9:])),
            "control": b"\x01"
            + _frames(
                begin,
                (SETTINGS, 0, 0, b"\0\4\0\0\0\0" + b"\0\5\0\0\x80\0" + b"\0\1\0\0\0\0"),
                (DATA, 0, 1, b"waits"),
                (WINDOW_UPDATE, 0, 1, b"\0\0\0\x03"),
                (PING, 0, 0, b"12345678"),
                (SETTINGS, 0, 0, b"\0\4\0\1\0\0"),
                (GOAWAY, 0, 0, bytes(8)),
            ),
            "trailers": b"\x01" + _frames(begin, (HEADERS, END_HEADERS | END_STREAM, 1, b"\x10\x01a\x01b")),
            "response": b"\x08"
            + _frames(
                (HEADERS, END_HEADERS, 1, b"\x08\x03100"),
                (HEADERS, END_HEADERS, 1, b"\x88"),
                (DATA, 0, 1, b"ab"),
                (HEADERS, END_HEADERS | END_STREAM, 1, b"\x40\x01a\x01b"),
            ),
        },
        "messages": {
            "two": b"\x08" + frame(b"hello") + frame(b""),
            "gzip": b"\x09" + frame_compressed(b"hello", GZIP),
            "deflate": b"\x0a" + frame_compressed(b"hello", DEFLATE),
            "bomb": b"\x01" + frame_compressed(bytes(100_000), GZIP),
            "too_large": b"\x00\0\xff\xff\xff\xff",
        },
        "fields": {
            "timeouts": b"1S\n99999999H\n100m\n0n\n5",
            "message": b"caf%C3%A9 100%25 %zz\n13\n99",
            "metadata": b"key\nvalue\nkey-bin\nAAEC,AwQ\n:path\n/a/b",
            "bundle": bundle.pack([(bundle.CALL, 1, ((b":path", b"/a/b"),), b"x")])[5:],
        },
        "config": {
            "whole": CONFIG.encode(),
            "aliases": b"applications: [{import_path: a:b, args: &a {x: 1}, runtime_env: *a}]\n",
            "billion_laughs": b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(map(_laugh, b"bcdefghi")),
            "no_int": b"applications: !!int\n",
            "no_date": b"applications: 2001-99-99\n",
            "no_text": b"applications: [{import_path: a:b, args: {a: !!binary '/w=='}}]\n",
            "deep": b"[" * 400,
            "circle": b"applications: &a [*a]\n",
            "kinds": b"applications: [{import_path: a:b, args: {a: 2001-01-01, b: 1_0, c: ~, e: !!binary AA==}}]",
        },
    }


def main() -> None:
    for target, inputs in seeds().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
