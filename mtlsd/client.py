"""A client's side: a connection to one server, which is known by the SHA-256 of its certificate.  It blocks.

No authority is asked and no name compared: the server is the one with this certificate (or one of these, while it changes from
one to the next), which has proven its key.  TLS 1.3 only.
"""

from __future__ import annotations

import hmac
import io
import json
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, Self, TypeVar

from OpenSSL import SSL, crypto

from mtlsd.errors import MtlsdError
from mtlsd.identity import GRANT_DIGITS, fingerprint_of
from mtlsd.protocols import HTTP
from mtlsd.text import printable, shortened

#: Seconds for everything that is done on one connection.
PATIENCE = 30.0
#: Bytes of an answer's body that are read.
_LARGEST = 1 << 20

_T = TypeVar("_T")


class ServerError(MtlsdError):
    """It did not work out with the server.  The text says how, and begins with where the server is."""


class WrongServer(ServerError):
    """Somebody else's certificate was shown.  Nothing was sent."""


class NotSpoken(ServerError):
    """The server does not speak the protocol that was asked for, not now."""


class Rejected(ServerError):
    """The server has ended the connection: with an *alert*, as it does for a certificate that it does not let in, or without."""

    def __init__(self, text: str, *, alert: bool = False) -> None:
        super().__init__(text)
        self.alert = alert


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and the SHA-256 (hex) of each certificate that it may show.  None: it is nobody."""

    host: str
    port: int
    fingerprints: frozenset[str]

    @property
    def endpoint(self) -> str:
        """``HOST:PORT``, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A client's private key and certificate, PEM.  The key is not shown where the value is."""

    key_pem: bytes
    certificate_pem: bytes

    def __repr__(self) -> str:
        return "Pair()"


class Connection:
    """One TLS connection, whose server is the right one: nothing has been sent before that was known."""

    def __init__(self, server: Server, pair: Pair, protocol: bytes = HTTP, patience: float = PATIENCE) -> None:
        """Connect, shake hands, and compare the server's certificate.  *patience* is seconds for all that is done on it.

        Raises :exc:`WrongServer`, :exc:`NotSpoken`, :exc:`Rejected`, or another :exc:`ServerError`.
        """
        self.server = server
        self._end = time.monotonic() + patience
        self._patience = patience
        try:
            self._socket = socket.create_connection((server.host, server.port), patience)
        except OSError as error:
            raise self._failed(f"cannot be reached: {error.strerror or 'no answer'}") from error
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tls = SSL.Connection(_context(pair), self._socket)
            self._tls.set_connect_state()
            self._tls.set_alpn_protos([protocol])
            if not _is_address(server.host):
                self._tls.set_tlsext_host_name(server.host.encode("ascii"))
            self._do(self._tls.do_handshake)
            #: The server's certificate, DER.
            self.certificate = self._compared()
            if self._tls.get_alpn_proto_negotiated() != protocol:
                raise NotSpoken(f"{server.endpoint}: it does not speak {protocol.decode('ascii')}")
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes) -> None:
        """Send *data*, all of it."""
        while data:
            data = data[self._do(lambda: self._tls.send(data)) :]  # noqa: B023 (called at once)

    def receive(self) -> bytes:
        """Return what comes next; ``b""`` when the server has said that there is no more."""
        try:
            found: bytes = self._do(lambda: self._tls.recv(65_536))
        except SSL.ZeroReturnError:
            return b""
        return found

    def line(self, longest: int) -> bytes:
        """Return a line without its end; ``b""`` where the server ends before that, or says more than *longest* bytes."""
        found = b""
        while b"\n" not in found and len(found) < longest and (more := self.receive()):
            found += more
        line, end, _ = found.partition(b"\n")
        return line if end else b""

    def exporter(self, label: str, size: int) -> bytes:
        """Return *size* bytes that only the two ends of this connection know (RFC 8446 7.5), for *label*."""
        found: bytes = self._tls.export_keying_material(label.encode("ascii"), size)
        return found

    def ask(self, path: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Make a request and return its answer.  Raises :exc:`ServerError`."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.server.endpoint}\r\nUser-Agent: mtlsd\r\n"
        if body or method != "GET":
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.send(head.encode("ascii") + b"\r\n" + body)
        response = HTTPResponse(_Stream(self), method=method)  # type: ignore[arg-type]  # all that it wants is makefile
        try:
            response.begin()
            return Answer(response.status, response.read(_LARGEST))
        except (HTTPException, ValueError) as error:
            raise self._failed("what it answers is not HTTP") from error

    def close(self) -> None:
        """Close, as far as the other end is still there."""
        with suppress(SSL.Error):
            self._tls.shutdown()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _compared(self) -> bytes:
        shown = self._tls.get_peer_certificate()
        der = b"" if shown is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)
        fingerprint = fingerprint_of(der)
        known = sorted(self.server.fingerprints)
        if not sum(hmac.compare_digest(fingerprint, one) for one in known):
            others = " or ".join(one[:GRANT_DIGITS] for one in known) or "one that is trusted"
            raise WrongServer(
                f"{self.server.endpoint}: its certificate is {fingerprint[:GRANT_DIGITS]}, not {others}: nothing was sent; "
                "either somebody stands in between, or the server has a new certificate: ask whoever looks after it"
            )
        return der

    def _do(self, act: Callable[[], _T]) -> _T:
        while True:
            try:
                return act()
            except SSL.WantReadError:
                self._wait(for_reading=True)
            except SSL.WantWriteError:
                self._wait(for_reading=False)
            except SSL.ZeroReturnError:
                raise
            except SSL.SysCallError as error:
                raise Rejected(f"{self.server.endpoint}: it hung up") from error
            except SSL.Error as error:
                words = _words(error)
                if "no application protocol" in words:
                    raise NotSpoken(f"{self.server.endpoint}: it does not speak that now") from error
                if "eof" in words:
                    raise Rejected(f"{self.server.endpoint}: it hung up") from error
                if "alert" in words:
                    raise Rejected(
                        f"{self.server.endpoint}: it does not let this certificate in ({words})", alert=True
                    ) from error
                raise self._failed(f"TLS failed: {words}") from error

    def _wait(self, *, for_reading: bool) -> None:
        left = self._end - time.monotonic()
        waiting = [self._socket]
        ready = select.select(waiting if for_reading else [], [] if for_reading else waiting, [], max(0.0, left))
        if left <= 0 or not (ready[0] or ready[1]):
            raise self._failed(f"no answer within {self._patience:g} seconds")

    def _failed(self, what: str) -> ServerError:
        return ServerError(f"{self.server.endpoint}: {what}")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes

    def told(self) -> Mapping[str, Any]:
        """Return the JSON object in it.  Raises :exc:`ValueError` where there is none."""
        found = json.loads(self.body)
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        return found


@dataclass(frozen=True, slots=True)
class Who:
    """Who the server says that one is, and below which path its own pages are."""

    client: str
    groups: tuple[str, ...]
    fingerprint: str
    pages: str


def whoami(server: Server, pair: Pair, patience: float = PATIENCE) -> Who:
    """Ask *server* who one is.  Raises :exc:`Rejected` where it does not let *pair* in, and other :exc:`ServerError`."""
    with Connection(server, pair, patience=patience) as connection:
        # Where there are routes, its own pages are below the first; where there are none, at the second.
        for pages in ("/.mtlsd", ""):
            answer = connection.ask(f"{pages}/whoami")
            if answer.status != 200:
                continue
            try:
                told = answer.told()
                client, groups, fingerprint = told["client"], tuple(map(str, told["groups"])), told["fingerprint"]
            except (ValueError, KeyError, TypeError):
                continue
            return Who(printable(str(client)), tuple(map(printable, groups)), str(fingerprint), pages)
    raise ServerError(f"{server.endpoint}: it lets this certificate in, but does not say under which name")


def is_verified(der: bytes, trusted: Iterable[bytes], at: datetime) -> bool:
    """Tell whether a program that leaves it to OpenSSL, and trusts *trusted* (DER), would take *der* at that time (aware)."""
    store = crypto.X509Store()
    # It reads the fields of a time as they stand there.
    store.set_time(at.astimezone(UTC))
    try:
        for other in trusted:
            store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, other))
        crypto.X509StoreContext(store, crypto.load_certificate(crypto.FILETYPE_ASN1, der)).verify_certificate()
    except (crypto.Error, crypto.X509StoreContextError):
        return False
    return True


class _Stream(io.RawIOBase):
    """What comes on a connection, as http.client reads it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._left = b""

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._left or self._connection.receive()
        size = min(len(buffer), len(data))
        buffer[:size], self._left = data[:size], data[size:]
        return size


def _context(pair: Pair) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    # Nothing is verified here, and no callback is set: the certificate is compared when the handshake is over.
    context.set_verify_depth(0)
    try:
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, pair.certificate_pem))
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key_pem, passphrase=b""))
        context.check_privatekey()
    except (crypto.Error, SSL.Error, ValueError) as error:
        raise MtlsdError("the key and the certificate do not belong together") from error
    return context


def _is_address(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()


def _words(error: SSL.Error) -> str:
    queue = error.args[0] if error.args else None
    texts = [str(entry[2]) for entry in queue if len(entry) > 2 and entry[2]] if isinstance(queue, list) else []
    return shortened(printable(texts[-1] if texts else "the connection broke"), 100)
