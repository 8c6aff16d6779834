"""A TLS client with every knob, over a real socket: what curl and openssl cannot be made to do."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from tests.acceptance.harness import DEADLINE
from tests.pki import Pair


class Cut(Exception):
    """The connection is over: refused in the handshake, or closed, by alert, end of stream or reset."""


@dataclass(frozen=True)
class Response:
    """An HTTP response: its head as it came, and its body."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])


class TlsClient:
    """One connection.  Works on memory BIOs, so a test can change what goes out (*mangle*)."""

    def __init__(
        self,
        port: int,
        pair: Pair | None,
        *,
        version: int | None = None,
        chain: Sequence[Pair] = (),
        alpn: Sequence[bytes] = (),
        session: SSL.Session | None = None,
        context: SSL.Context | None = None,
        mangle: Callable[[bytes], bytes] | None = None,
        small_window: bool = False,
    ) -> None:
        """Connect; the handshake is made by :meth:`handshake`, or by what needs it."""
        self.context = context or make_context(pair, version=version, chain=chain)
        self.tls = SSL.Connection(self.context, None)
        self.tls.set_connect_state()
        if alpn:
            self.tls.set_alpn_protos(list(alpn))
        if session is not None:
            self.tls.set_session(session)
        self._mangle = mangle
        self._received = b""
        self.socket = socket.socket()
        try:
            if small_window:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.socket.settimeout(DEADLINE)
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        #: This end's port, by which the audit log knows the connection.
        self.own_port: int = self.socket.getsockname()[1]

    def handshake(self) -> Self:
        """Finish the handshake as far as this end can tell; in TLS 1.3 that says nothing of what the server thinks."""
        self._driven(self.tls.do_handshake)
        self._flush()
        return self

    def send(self, data: bytes) -> None:
        """Send application bytes."""
        while data:
            # One record at a time is all that is taken.
            sent = self._driven(lambda: self.tls.send(data))  # noqa: B023
            data = data[sent:]
        self._flush()

    def receive(self) -> bytes:
        """Return the next application bytes; raise :exc:`Cut` where there are none to come."""
        data: bytes = self._driven(lambda: self.tls.recv(1 << 16))
        return data

    def ask(self, path: str = "/hello", headers: str = "") -> Response:
        """Make a request and return its response."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        return self.response()

    def response(self) -> Response:
        """Read one response, by its Content-Length; without one it has no body."""
        while b"\r\n\r\n" not in self._received:
            self._received += self.receive()
        head, _, rest = self._received.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        while len(rest) < length:
            rest += self.receive()
        self._received = rest[length:]
        return Response(head, rest[:length])

    def to_the_end(self) -> bytes:
        """Return all that comes until the connection is over."""
        data = b""
        while True:
            try:
                data += self.receive()
            except Cut:
                return data

    def wait_until_cut(self, within: float = DEADLINE) -> float:
        """Read until the connection is over; return the seconds that took."""
        began = time.monotonic()
        end = began + within
        while time.monotonic() < end:
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                self.receive()
            except Cut:
                return time.monotonic() - began
            except TimeoutError:
                break
        raise AssertionError(f"the connection is still open after {within} s")

    def is_open(self) -> bool:
        """Tell whether nothing has come from the server: no byte, no end."""
        return not select.select([self.socket], [], [], 0)[0]

    def session(self) -> SSL.Session:
        """Return the session, for another connection to resume."""
        session = self.tls.get_session()
        assert session is not None
        return session

    @property
    def resumed(self) -> bool:
        return bool(lib.SSL_session_reused(self.tls._ssl))

    def server_certificate(self) -> bytes:
        """Return the server's certificate, DER."""
        certificate = self.tls.get_peer_certificate()
        assert certificate is not None
        return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    def close(self) -> None:
        """Close properly, as a session needs to be resumable, as far as the other end is still there."""
        try:
            self.tls.shutdown()
            self._flush()
        except (SSL.Error, Cut):
            pass
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _driven(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                return act()
            except SSL.WantReadError:
                self._flush()
                self._fill()
            except SSL.Error as error:
                raise Cut(repr(error)) from error

    def _flush(self) -> None:
        while True:
            try:
                data = self.tls.bio_read(1 << 16)
            except SSL.Error:
                return
            try:
                self.socket.sendall(self._mangle(data) if self._mangle else data)
            except TimeoutError:
                raise
            except OSError:
                # It may have been told why: that is still to be read.
                return

    def _fill(self) -> None:
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError as error:
            raise Cut(str(error)) from error
        if not data:
            raise Cut("end of stream")
        self.tls.bio_write(data)


def let_in(port: int, pair: Pair) -> bool:
    """Tell whether the server on *port* answers whoever comes with *pair*, on a connection of its own."""
    with TlsClient(port, pair) as client:
        try:
            return client.ask().status == 200
        except Cut:
            return False


def make_context(pair: Pair | None, *, version: int | None = None, chain: Sequence[Pair] = ()) -> SSL.Context:
    """Return a client's context that trusts any server; *version* is the only TLS version it speaks."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    # A weak certificate has to reach the server: it is the server that is tested.
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    if pair is not None:
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, pair.pem))
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key_pem))
        for above in chain:
            context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_PEM, above.pem))
    return context


def flip_certificate_verify(data: bytes) -> bytes:
    """Change a byte of CertificateVerify (RFC 5246 7.4.8, message 15), which TLS 1.2 sends in a record in the clear."""
    changed, at = bytearray(data), 0
    while at + 5 < len(data):
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at] == 22 and data[at + 5] == 15:
            changed[at + 5 + length - 1] ^= 1
        at += 5 + length
    return bytes(changed)
