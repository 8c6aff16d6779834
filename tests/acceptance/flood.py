"""Opens many connections that never come to a handshake: ``flood.py PORT COUNT``, half of them silent, half dripping.

Says ``open`` once all of them have been opened, keeps what it can hold, and ends when its standard input does.  Its
own process, for it needs file descriptors of its own.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
from collections import deque

#: The head of a TLS record that promises more than ever comes.
_HELLO = bytes.fromhex("16030102000100")
#: Connections between two rounds of drips.
_BATCH = 250


def main(port: int, count: int) -> None:
    """Open *count* connections to *port*, the oldest given up where there are too many for this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = min(hard, 6000) - 100
    held: deque[tuple[socket.socket, bool]] = deque()
    for nth in range(count):
        peer = socket.create_connection(("127.0.0.1", port), timeout=60)
        peer.settimeout(0)
        held.append((peer, bool(nth % 2)))
        if len(held) > room:
            held.popleft()[0].close()
        if nth % _BATCH == 0:
            drip(held)
    drip(held)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        # It goes on dripping until it is told to end.
        while not selector.select(0.2):
            drip(held)


def drip(held: deque[tuple[socket.socket, bool]]) -> None:
    """Send a byte or so on each dripping connection; one that the server has dropped is let be."""
    for peer, dripping in held:
        if dripping:
            try:
                peer.send(_HELLO[:1] if peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) else _HELLO)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                continue


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
