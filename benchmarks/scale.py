"""What the number of authorized certificates costs: start, memory, a handshake, and the delay of a change.

.venv/bin/python benchmarks/scale.py [--sizes 1,1000,100000] [--handshakes 300] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

BIN = Path(sys.executable).parent
DELAY_LIMIT = 10.0


@dataclass
class Pair:
    pem: bytes
    key: bytes
    fingerprint: str


def make_pair(name: str, key: ec.EllipticCurvePrivateKey | None = None) -> Pair:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.fingerprint(hashes.SHA256()).hex(),
    )


def make_folder(folder: Path, size: int) -> Pair:
    """Make a server's folder with *size* authorized clients, and return the last of them."""
    subprocess.run([BIN / "mtlsd", "init", "--certs", folder], check=True, stdout=subprocess.DEVNULL)
    shared = ec.generate_private_key(ec.SECP256R1())
    for nth in range(size - 1):
        (folder / "authorized" / f"client{nth}.pem").write_bytes(make_pair(f"client{nth}", shared).pem)
    alice = make_pair("alice")
    (folder / "authorized" / "alice.pem").write_bytes(alice.pem)
    return alice


class Server:
    """The real server, on a free port."""

    def __init__(self, folder: Path, *more: str | Path) -> None:
        """Start it on *folder*, with *more* options."""
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [BIN / "twistd", "-n", "--pidfile=", "mtlsd", "--port", "0", "--interface", "127.0.0.1", "--certs", folder, *more],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"listening on .*:(\d+)", line):
                self.port = int(found[1])
                self.start = time.perf_counter() - began
                break
        else:
            raise SystemExit("the server did not start")
        # What it goes on saying must not fill the pipe.
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stdout, stdout=subprocess.DEVNULL)

    def cpu(self) -> float:
        """Return the seconds of CPU used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self) -> None:
        """Wait until the server is idle: after its start it looks at the whole folder once more, in a thread."""
        used = -1.0
        while (now := self.cpu()) - used > 0.02:
            used = now
            time.sleep(2)

    def memory(self) -> float:
        """Return the resident set in MiB."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.drain.wait(30)


class Connection:
    """One TLS connection of a client."""

    def __init__(self, port: int, pair: Pair) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, pair.pem))
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key))
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        # pyOpenSSL wants a socket that blocks; the kernel's own limit stands in for a timeout.
        self.socket.settimeout(None)
        self.tls = SSL.Connection(context, self.socket)
        self.tls.set_connect_state()

    def hello(self) -> bool:
        """Ask for /hello, and tell whether it was answered."""
        try:
            self.tls.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return self.tls.recv(4096).startswith(b"HTTP/1.1 200")
        except (SSL.Error, OSError):
            return False

    def wait_for_the_end(self) -> None:
        with contextlib.suppress(SSL.Error, OSError):
            self.tls.recv(1)

    def close(self) -> None:
        with contextlib.suppress(SSL.Error, OSError):
            self.tls.shutdown()
        self.socket.close()


def one(port: int, pair: Pair) -> bool:
    connection = Connection(port, pair)
    answered = connection.hello()
    connection.close()
    return answered


def delays(server: Server, folder: Path, rounds: int) -> Iterator[tuple[float, float, float]]:
    """Yield seconds from cp to the first answer, from rm to the cut, and from a tombstone to the cut."""
    place = folder / "authorized" / "newcomer.pem"
    for _ in range(rounds):
        pair = make_pair("newcomer")
        source = folder / "newcomer.pem"
        source.write_bytes(pair.pem)

        def authorized(pair: Pair = pair, source: Path = source) -> float:
            began = time.perf_counter()
            shutil.copyfile(source, place)
            while not one(server.port, pair):
                if time.perf_counter() - began > DELAY_LIMIT:
                    raise SystemExit("not authorized in time")
            return time.perf_counter() - began

        took = [authorized()]
        live = Connection(server.port, pair)
        live.hello()
        began = time.perf_counter()
        place.unlink()
        live.wait_for_the_end()
        took.append(time.perf_counter() - began)
        live.close()

        authorized()
        live = Connection(server.port, pair)
        live.hello()
        began = time.perf_counter()
        (folder / "revoked" / f"{pair.fingerprint}.json").write_text("{}")
        live.wait_for_the_end()
        took.append(time.perf_counter() - began)
        live.close()
        place.unlink()
        yield took[0], took[1], took[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,1000,100000")
    parser.add_argument("--handshakes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file for the figures, in JSON")
    arguments = parser.parse_args()
    print("clients  start s  memory MiB (after)  handshake ms CPU  authorize ms  rm to cut ms  tombstone to cut ms")
    figures = []
    for size in map(int, arguments.sizes.split(",")):
        folder = Path(tempfile.mkdtemp())
        try:
            alice = make_folder(folder, size)
            server = Server(folder)
            try:
                memory = server.memory()
                for _ in range(20):
                    one(server.port, alice)
                server.settle()
                before = server.cpu()
                good = sum(one(server.port, alice) for _ in range(arguments.handshakes))
                each = (server.cpu() - before) / arguments.handshakes * 1000
                if good != arguments.handshakes:
                    raise SystemExit(f"{arguments.handshakes - good} requests were not answered")
                medians = [
                    statistics.median(column) * 1000 for column in zip(*delays(server, folder, arguments.rounds), strict=True)
                ]
                figures.append({"clients": size, "start": server.start, "memory": memory, "handshake": each, "delays": medians})
                print(
                    f"{size:7,}  {server.start:7.2f}  {memory:10.1f} ({server.memory():.1f})  {each:16.2f}"
                    f"  {medians[0]:12.0f}  {medians[1]:12.0f}  {medians[2]:19.0f}",
                    flush=True,
                )
            finally:
                server.stop()
        finally:
            shutil.rmtree(folder)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
