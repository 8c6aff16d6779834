"""TCP's probes of a peer that says nothing, for the connections that have them switched on (SO_KEEPALIVE)."""

from __future__ import annotations

import socket

#: Seconds of silence before the first probe, between two, and how many are left without an answer.  The kernel's own are
#: two hours, 75 seconds and nine.
_FIRST, _EVERY, _MOST = 60, 15, 4


def probe_often(sock: socket.socket) -> None:
    """Have a dead peer found within some two minutes.  What a listening socket accepts has its times too."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _FIRST)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _EVERY)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _MOST)
