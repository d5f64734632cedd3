"""The proxy process: terminates client connections and forwards calls to replicas, without reading a message."""
