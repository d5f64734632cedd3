"""Whether the ports that an instance is to serve are there to be had."""

from __future__ import annotations

from swerve.control.options import listening
from swerve.generated import control_pb2 as pb
from swerve.net.listener import bind_tcp
from swerve.net.port_fault import cannot_be_bound


class PortError(Exception):
    """A port cannot be served; the message says which and why."""


def check_distinct(wanted: pb.InstanceOptions) -> None:
    """See that no two protocols want the same port.

    Raises:
        PortError: they do.
    """
    ports = [port for _, port in _required(wanted).values()]
    if len(set(ports)) < len(ports):
        raise PortError(f"Port {ports[0]} cannot be the gRPC port and the HTTP port.")


def _required(options: pb.InstanceOptions) -> dict[str, tuple[str, int]]:
    """Host and port of each protocol that must be served."""
    ports = listening(options)
    if not options.http_port_required and options.num_proxies <= 1:
        # It goes without HTTP if the port is taken.
        ports.pop("HTTP", None)
    return ports


def check_ports(wanted: pb.InstanceOptions, present: pb.InstanceOptions) -> None:
    """See that proxies can serve the ports that `wanted` has and `present`, which they serve now, has not.

    It blocks: a host's name may have to be looked up. Proxies that share a port cannot tell each other from another
    instance's, so this is asked before any of them binds it.

    Raises:
        PortError: they cannot.
    """
    check_distinct(wanted)
    now, then = listening(present), _required(wanted)
    ours = {port: protocol for protocol, (_, port) in now.items()}
    for protocol, (host, port) in then.items():
        if now.get(protocol) == (host, port):
            continue
        if ours.get(port, protocol) != protocol:
            raise PortError(
                f"The {protocol} port cannot be {port} yet, because that is the {ours[port]} port; move that one first."
            )
        try:
            for sock in bind_tcp(host, port, share=port in ours):
                sock.close()
        except OSError as error:
            raise PortError(cannot_be_bound(protocol, host, port, error)) from error
