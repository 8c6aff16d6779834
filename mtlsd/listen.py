"""The listening sockets: bound before anything is started, so that a taken port is one line and not a half-start."""

from __future__ import annotations

import os
import socket

from mtlsd.errors import SettingsError
from mtlsd.keepalive import probe_often

_BACKLOG = 1024
_EVERY = ("::", "0.0.0.0")  # noqa: S104 (every address is what an empty interface asks for)


def bind(interface: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    An empty *interface* is every address: one IPv6 socket that takes IPv4 too, or IPv4 alone where the machine has no
    IPv6.  *port* 0 takes a free one.  Raises :exc:`~mtlsd.errors.SettingsError` with one line.
    """
    if interface:
        return _bind(interface, port)
    try:
        return _bind(_EVERY[0], port)
    except SettingsError as error:
        if isinstance(error.__cause__, OSError) and _is_about_the_port(error.__cause__):
            raise
        return _bind(_EVERY[1], port)


def _bind(interface: str, port: int) -> socket.socket:
    try:
        # A name, or a scoped address as fe80::1%eth0, may stand here too; the first address of it is taken.
        found = socket.getaddrinfo(interface, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(f"--interface {interface}: {error.strerror}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Said outright: what the default is depends on the machine's net.ipv6.bindv6only.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if interface == _EVERY[0] else 1)
        # Inherited by every connection: without it, a short answer can wait 40 ms for an acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        probe_often(listening)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        where = f"port {port}" if interface in _EVERY else f"{interface} port {port}"
        raise SettingsError(f"{where}: cannot listen: {os.strerror(error.errno or 0)}") from error
    return listening


def _is_about_the_port(error: OSError) -> bool:
    return isinstance(error, PermissionError) or "in use" in os.strerror(error.errno or 0)
