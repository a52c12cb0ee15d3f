"""A socket that listens on one network of this machine: what torch opens by itself listens on all of them."""

import contextlib
import ipaddress
import socket

MEETING_ID = "PRETRAIN_MEETING_ID"
"""Environment variable: an id drawn for one start of a job's ranks, with which their keys in the store begin."""
QUEUE = 2048
"""Connections that may wait to be taken; all ranks of a job come at once."""


def listen_at(host: str, port: int, *, alone: bool) -> tuple[socket.socket, str]:
    """Return a socket that listens at ``port`` of the address of ``host``, and why it is on all networks where it is.

    Args: host, as the others know this machine; alone, whether all who come are on this machine.
    Raises: OSError, EADDRINUSE if another process listens there.
    """
    family, address = _address_of(host)
    why = ""
    if address is None:
        why = f"{host} has no address that is known here"
    elif _is_loopback(address) and not alone and not _means_loopback(host):
        why = f"{host} is {address} here, where other nodes cannot come"
    elif not _is_own(family, address):
        why = f"{host} is {address}, which is no address of this machine"
    if not why:
        assert address is not None
        return _listen(family, address, port), ""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=QUEUE, dualstack_ipv6=True
            ), why  # as torch does
    return _listen(socket.AF_INET, "", port), why


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), family=family, backlog=QUEUE)


def _address_of(host: str) -> tuple[socket.AddressFamily, str | None]:
    """Return the address that a connection to ``host`` tries first; None for a name that is not known."""
    with contextlib.suppress(OSError):
        for family, _, _, _, where in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            return family, str(where[0])
    return socket.AF_INET, None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _means_loopback(host: str) -> bool:
    """Whether a host is given as loopback, and does not merely turn out to be so in this machine's own list of names."""
    with contextlib.suppress(ValueError):
        return _is_loopback(host)
    return host == "localhost"


def _is_own(family: socket.AddressFamily, address: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True
