"""gRPC over HTTP/2 as pure state machines: bytes in, events out. No I/O, no clock, no logging."""
