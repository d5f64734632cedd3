"""Benchmarks in the small, one layer each, so that a regression shows where it is: `make bench-micro`.

They run in one process over in-memory transports: no socket, no other process, so they are steadier than the rows of
`benchmarks.compare`. Each round is a batch of `BATCH` calls; divide the times by it.
"""
