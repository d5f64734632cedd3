"""asyncio transports under the wire layer: servers, clients, connection pools, sockets, TLS."""
