"""Many short connections, a third of them aborted in the handshake: do descriptors and memory come back?

.venv/bin/python benchmarks/soak.py [--connections 100000]

Of each three, one asks and closes, one closes after the handshake, one is reset at some byte of the handshake.  Ends
with status 1 where the server holds a descriptor more than before, or more than 8 MiB, once a first tenth has
warmed it up.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

from OpenSSL import SSL, crypto
from scale import Pair, Server, make_folder

MOST_GROWTH = 8.0
RESET = struct.pack("ii", 1, 0)


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def short(port: int, context: SSL.Context, nth: int, dice: random.Random) -> None:
    """Make one connection of one of the three kinds."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    with contextlib.suppress(SSL.Error, OSError):
        tls = SSL.Connection(context)
        tls.set_connect_state()
        kind = nth % 3
        for flight in range(2):
            with contextlib.suppress(SSL.WantReadError):
                tls.do_handshake()
            data = tls.bio_read(1 << 16)
            if kind == 2 and flight == dice.randrange(2):
                sock.sendall(data[: dice.randrange(len(data))])
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return
            sock.sendall(data)
            if flight == 0:
                tls.bio_write(sock.recv(1 << 16))
        if kind == 0:
            tls.send(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            sock.sendall(tls.bio_read(1 << 16))
            tls.bio_write(sock.recv(1 << 16))
        tls.shutdown()
        sock.sendall(tls.bio_read(1 << 16))
    sock.close()


def run(port: int, pair: Pair, count: int, dice: random.Random) -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, pair.pem))
    context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key))
    for nth in range(count):
        short(port, context, nth, dice)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000)
    count = parser.parse_args().connections
    folder = Path(tempfile.mkdtemp())
    dice = random.Random(1)
    try:
        alice = make_folder(folder, 1)
        server = Server(folder)
        try:
            run(server.port, alice, max(count // 10, 1000), dice)
            time.sleep(12)
            held, memory, began = descriptors(server), server.memory(), time.monotonic()
            run(server.port, alice, count, dice)
            took = time.monotonic() - began
            # Longer than the handshake's deadline, and what closes late has its time too.
            time.sleep(12)
            more, growth = descriptors(server) - held, server.memory() - memory
            print(f"{count:,} connections in {took:.0f} s: {more:+d} descriptors, {growth:+.1f} MiB on {memory:.1f}")
            return int(more > 0 or growth > MOST_GROWTH)
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
