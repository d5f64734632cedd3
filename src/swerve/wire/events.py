"""What an HTTP/2 connection tells of what it received.

An event is a tuple that begins with its kind, which costs a tenth of an object:

    REQUEST      stream_id, headers, end_stream       a request's headers (server role)
    WHOLE_REQUEST  stream_id, headers, data          one that has come with all of its body
    RESPONSE     stream_id, headers, end_stream       a response's, but not of an interim one (client role)
    BODY         stream_id, data, end_stream          DATA, whole or in part
    TRAILERS     stream_id, headers                   they end the stream's incoming side
    CLOSED       stream_id, error_code                the stream is over, both ways; the last that is told of it
    RESET        stream_id                            the peer broke the stream off, or its rules; CLOSED follows where
                                                      the stream was told of
    SETTINGS                                          the peer's, which have been acknowledged
    PING         opaque_data                          it has been answered
    PONG         opaque_data                          the answer to a ping
    GOAWAY       last_stream_id, error_code           the peer takes no more streams
    DRIBBLE                                           credit that lets hardly anything of a body leave
    IGNORED                                           a frame that asks for nothing, or of a stream that is over
"""

from __future__ import annotations

from typing import Any, TypeAlias

WHOLE_REQUEST, REQUEST, RESPONSE, BODY, TRAILERS, CLOSED, RESET, SETTINGS, PING, PONG, GOAWAY, DRIBBLE, IGNORED = range(
    13
)

Event: TypeAlias = tuple[Any, ...]
