"""A hundred thousand knocks by certificates that nobody knows: memory, disk, and an authorized client beside it.

.venv/bin/python benchmarks/knocks.py [--knocks 100000] [--first 25000] [--pending on]

Every knock is another certificate.  The first half comes from one address, the second from thousands of networks (127.0.0.0/8
is loopback's).  Meanwhile alice, who is authorized, connects and asks ten times a second, and carol, who is not, knocks every
65 seconds.  There are no tickets: what is measured is what is kept of strangers.

Ends with status 1 where the server holds 8 MiB more than after the *first* knocks (by then all is full that has a bound),
where pending/ holds more than 1,000 files, where a request of alice's failed, or where carol is not listed in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from scale import BIN, Pair, Server, make_folder, make_pair, one

MOST_GROWTH, MOST_FILES = 8.0, 1000
COMES_BACK = 65.0


class Strangers:
    """Makes certificates, each another one, of one key, and knocks with them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
        self.builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
        )

    def knock(self, address: str) -> None:
        certificate = self.builder.serial_number(x509.random_serial_number()).sign(self.key, hashes.SHA256())
        self.show(certificate, self.key, address)

    def show(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, address: str) -> None:
        tls = SSL.Connection(self.context)
        tls.use_certificate(certificate)
        tls.use_privatekey(key)
        tls.set_connect_state()
        with socket.create_connection(("127.0.0.1", self.port), 10, (address, 0)) as sock:
            with contextlib.suppress(SSL.WantReadError):
                tls.do_handshake()
            sock.sendall(tls.bio_read(1 << 16))
            while not self.done(tls, sock):
                pass
            # The server's alert and the end, so that no knock overtakes the one before.
            with contextlib.suppress(ConnectionError):
                sock.sendall(tls.bio_read(1 << 16))
                while sock.recv(1 << 16):
                    pass

    def done(self, tls: SSL.Connection, sock: socket.socket) -> bool:
        tls.bio_write(sock.recv(1 << 16))
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            return False
        return True


def alice_asks(port: int, pair: Pair, orders: Pipe) -> None:
    """Connect and ask ten times a second until told to stop; send back the seconds that each took, -1 for a failure."""
    took = []
    while not orders.poll(0.1):
        began = time.perf_counter()
        took.append(time.perf_counter() - began if one(port, pair) else -1.0)
    orders.send(took)


class Alice:
    def __init__(self, port: int, pair: Pair) -> None:
        self.orders, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=alice_asks, args=(port, pair, theirs), daemon=True)
        self.process.start()

    def stop(self) -> list[float]:
        self.orders.send("stop")
        took: list[float] = self.orders.recv()
        self.process.join(30)
        return took


def in_words(took: list[float]) -> str:
    good = sorted(seconds * 1000 for seconds in took if seconds >= 0)
    return (
        f"{len(good):,} of {len(took):,} answered, median {statistics.median(good):.1f} ms, "
        f"99 % within {good[len(good) * 99 // 100]:.1f} ms, worst {good[-1]:.1f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--knocks", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=25_000)
    parser.add_argument("--pending", choices=("on", "off"), default="on", help="off: what the same costs where nothing is kept")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        pair = make_folder(folder, 1)
        server = Server(folder, "--audit-log", str(folder / "audit.jsonl"), "--pending", arguments.pending, "--tickets", "off")
        try:
            return measured(server, folder, pair, arguments.first, arguments.knocks, arguments.pending == "on")
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def measured(server: Server, folder: Path, pair: Pair, first: int, knocks: int, keeps: bool) -> int:
    strangers, carols = Strangers(server.port), ec.generate_private_key(ec.SECP256R1())
    carol = make_pair("carol", carols)
    certificate = x509.load_pem_x509_certificate(carol.pem)
    alice = Alice(server.port, pair)
    time.sleep(10)
    before = alice.stop()
    for nth in range(first):
        strangers.knock(network(nth))
    time.sleep(5)
    memory, cpu, began = server.memory(), server.cpu(), time.monotonic()
    back = began
    alice = Alice(server.port, pair)
    for nth in range(knocks):
        if time.monotonic() >= back:
            strangers.show(certificate, carols, "127.0.0.2")
            back = time.monotonic() + COMES_BACK
        strangers.knock("127.0.0.1" if nth * 2 < knocks else network(nth))
    took, used = time.monotonic() - began, server.cpu() - cpu
    beside = alice.stop()
    time.sleep(5)
    growth = server.memory() - memory
    files = list((folder / "pending").iterdir())
    size = sum(file.stat().st_size for file in files) / 1024
    events = sum(b'"pending"' in line for line in (folder / "audit.jsonl").open("rb"))
    done = subprocess.run([BIN / "mtlsd", "pending", "--json", "--certs", folder], check=True, capture_output=True)
    listed = carol.fingerprint in {knock["fingerprint"] for knock in json.loads(done.stdout)}
    print(
        f"{knocks:,} knocks in {took:.0f} s ({knocks / took:.0f} a second, {used / knocks * 1e6:.0f} us of the server's CPU each)"
    )
    print(f"memory {growth:+.1f} MiB on {memory:.1f}; pending/ {len(files):,} files, {size:.0f} KiB; {events:,} events `pending`")
    print(f"alice before: {in_words(before)}")
    print(f"alice beside: {in_words(beside)}")
    if keeps:
        print(f"carol, who came back each {COMES_BACK:.0f} s: {'listed' if listed else 'LOST'}")
    return int(growth > MOST_GROWTH or len(files) > MOST_FILES or min(beside) < 0 or (keeps and not listed))


def network(nth: int) -> str:
    """Return an address in the *nth* network of many: each is a /24 of its own."""
    return f"127.{1 + nth // 250 % 250}.{nth % 250}.1"


if __name__ == "__main__":
    sys.exit(main())
