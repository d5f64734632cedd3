"""What one HTTP/2 connection takes from its peer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """What one connection takes from its peer. Windows are in bytes."""

    max_concurrent_streams: int = 1000
    # Bounds the bytes of one call that wait in this process, whatever the size of its messages.
    stream_window: int = 1 << 20
    # Bounds the same over all calls of the connection. It is more than the windows of all streams, and what may be
    # missing from it: with less, calls whose bytes wait here would take the credit that calls need which run, and
    # neither could end.
    connection_window: int = 1 << 30
    # Bytes of one header list by RFC 9113's measure (section 6.5.2). A peer that sends more loses the connection, so it
    # stands well above the limit that is kept per call.
    max_header_list_size: int = 256 * 1024
    # Bytes of one frame's payload.
    max_frame_size: int = 16 * 1024
    # Streams that a client resets, each of which made this side begin a call ("rapid reset", CVE-2023-44487), or that
    # this side resets because they are malformed, break a rule or are too many. A burst of ten times as many is borne:
    # honest clients that cancel a lot make such.
    max_resets_per_s: int = 2_000
    # PING, SETTINGS (once more for each stream), DATA shorter than a message's prefix, and credit for less than 256
    # bytes of a body that waits; ten other WINDOW_UPDATE count as one of them. Clients that measure the path's delay
    # ping once a round trip, at most some thousand times a second on loopback.
    max_control_frames_per_s: int = 10_000


# The link from a proxy or a handle to a replica is shared by everybody's calls: no header list that a public port lets
# in, with the fields that the proxy appends, comes near this.
PRIVATE_HEADER_LIST_SIZE = 1 << 20
# Between processes of an instance: a link that ended for what one client does would end the calls of all, and each
# client is held to its limits at the public port.
PRIVATE_LIMITS = Http2Limits(
    max_concurrent_streams=100_000,
    # The protocol's largest. It is less than the windows of all streams: some 2000 large answers may wait for their
    # readers at a time before others on the link wait for them.
    connection_window=(1 << 31) - 1,
    max_header_list_size=PRIVATE_HEADER_LIST_SIZE,
    max_frame_size=256 * 1024,
    max_resets_per_s=10_000_000,
    max_control_frames_per_s=10_000_000,
)
