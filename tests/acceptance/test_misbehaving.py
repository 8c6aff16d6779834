"""A server behind the door that does everything wrong: nobody else is harmed, and no answer is another request's."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from tests.acceptance.backends import Reader, ScriptedServer, answer
from tests.acceptance.harness import DEADLINE, AcceptanceTestCase
from tests.acceptance.peers import TlsClient

CONFIG = """
[[route]]
path = "/"
allow = ["*"]
upstream = "http://127.0.0.1:{port}"
response_timeout = 2
idle_timeout = 2
"""
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
#: A part of an answer that has announced trailers.
TRAILED = OK + b"Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
EVIL = answer(b"evil")


@dataclass
class Session:
    """A request on its way to being answered badly: ``name`` the way, ``ident`` which request it is."""

    connection: socket.socket
    ident: bytes
    #: Set when the client has the head of the answer.
    go: threading.Event

    def send(self, *pieces: bytes) -> Self:
        for piece in pieces:
            self.connection.sendall(piece)
        return self

    def when_told(self, *pieces: bytes) -> Self:
        """Send when the client has had what came before."""
        self.go.wait(DEADLINE)
        return self.send(*pieces)

    def drip(self, data: bytes, pause: float) -> Self:
        for at in range(len(data)):
            self.send(data[at : at + 1])
            threading.Event().wait(pause)
        return self

    def hang(self) -> Self:
        """Wait until the door gives up."""
        while self.connection.recv(1 << 16):
            continue
        return self

    def reset(self) -> Self:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        return self


@dataclass(frozen=True)
class Way:
    """*act* answers; it is over with the connection then.  *status* ``None``: the client is cut off.  *why*: in the log."""

    name: str
    act: Callable[[Session], object]
    status: int | None = 502
    why: str = ""
    method: str = "GET"


def said(name: str, data: bytes, why: str, status: int | None = 502) -> Way:
    """Return a way that consists of saying *data*."""
    return Way(name, lambda session: session.send(data), status, why)


def then(name: str, head: bytes, more: bytes, why: str) -> Way:
    """Return a way in which an answer has begun with *head* before it goes wrong."""

    def act(session: Session) -> None:
        session.send(head).when_told(more)

    return Way(name, act, None, why)


WAYS = (
    Way("closes", Session.send, 502, "the connection ended without one"),
    Way("resets", Session.reset, 502, "the connection was lost"),
    said("half-a-head", b"HTTP/1.1 200 O", "the connection ended without one"),
    said("no-end-of-head", OK + b"Content-Length: 0\r\n", "the connection ended without one"),
    said("garbage", b"\x00\xff\x1b[2J\r\n\r\n", "it cannot be read"),
    said("nul-in-a-header", OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n", "it cannot be read"),
    said("splitting", OK + b"X: a\rSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n", "it cannot be read"),
    said("splitting-the-reason", b"HTTP/1.1 200 OK\rX: y\r\nContent-Length: 0\r\n\r\n", "it cannot be read"),
    said("a-screen-in-the-reason", b"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 0\r\n\r\n", "its status line cannot be read"),
    said("bare-line-ends", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "it cannot be read"),
    said("folded", OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n", "it cannot be read"),
    said("a-head-too-large", OK + b"X-Filler: filler\r\n" * 20_000, "its head is too large"),
    said("a-line-too-large", OK + b"X: " + b"x" * 300_000, "its head is too large"),
    said("a-flood-of-1xx", b"HTTP/1.1 100 Continue\r\n\r\n" * 30 + EVIL, "it says 1xx without end"),
    said("101", b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "it switches protocols"),
    said(
        "a-length-and-chunks", OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "cannot be read|two ways"
    ),
    said("two-lengths", OK + b"Content-Length: 4\r\nContent-Length: 0\r\n\r\nevil", "cannot be read|two ways"),
    said("a-negative-length", OK + b"Content-Length: -1\r\n\r\n", "cannot be read|two ways"),
    said("another-coding", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "cannot be read|two ways"),
    said("chunks-on-1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "cannot be read|two ways"),
    said("http-0.9", b"<html>hello</html>\n", "it cannot be read"),
    said("http-2", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", "it cannot be read"),
    said("a-tls-alert", b"\x15\x03\x03\x00\x02\x02\x46", "it cannot be read"),
    said("a-bad-chunk-at-once", CHUNKED + b"zz\r\n", "it cannot be read"),
    Way("never", Session.hang, 504, "it does not answer"),
    Way("a-drip-of-a-head", lambda session: session.drip(OK + b"X: " + b"x" * 80, 0.05), 504, "it does not answer"),
    then("a-bad-chunk", CHUNKED + b"2\r\nhi\r\n", b"zz\r\n", "it cannot be read"),
    then("a-negative-chunk", CHUNKED + b"2\r\nhi\r\n", b"-2\r\nhi\r\n0\r\n\r\n", "it cannot be read"),
    then("a-short-body", OK + b"Content-Length: 9\r\n\r\nhi", b"", "the connection ended before it did"),
    then("chunks-without-end", CHUNKED + b"2\r\nhi\r\n", b"", "the connection ended before it did"),
    then("endless-trailers", TRAILED, b"0\r\nX: " + b"x" * 400_000, "its head is too large"),
    then("many-trailers", TRAILED, b"0\r\n" + b"X: y\r\n" * 501 + b"\r\n" + EVIL, "its trailers are too large"),
    then("large-trailers", TRAILED, b"0\r\n" + b"X: filler filler filler\r\n" * 20_000 + b"\r\n" + EVIL, "too large"),
    then("trailers-without-end", TRAILED, b"0\r\nX: y\r\n", "the connection ended before it did"),
    then("half-a-trailer", TRAILED, b"0\r\nX: y", "the connection ended before it did"),
    then("a-length-in-a-trailer", TRAILED, b"0\r\nX: y\r\nContent-Length: 4\r\n\r\n" + EVIL, "cannot be read|two ways"),
    then("a-coding-in-a-trailer", TRAILED, b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + EVIL, "cannot be read|two ways"),
    then("a-close-in-a-trailer", TRAILED, b"0\r\nConnection: close\r\n\r\n" + EVIL, "two ways"),
    then("an-upgrade-in-a-trailer", TRAILED, b"0\r\nUpgrade: websocket\r\n\r\n" + EVIL, "two ways"),
    then("splitting-a-trailer", TRAILED, b"0\r\nX: a\rSet-Cookie: b=c\r\n\r\n" + EVIL, "it cannot be read"),
    then("nul-in-a-trailer", TRAILED, b"0\r\nX: a\x00b\r\n\r\n" + EVIL, "it cannot be read"),
    then("a-folded-trailer", TRAILED, b"0\r\nX: a\r\n b\r\n\r\n" + EVIL, "it cannot be read"),
    then("a-trailer-with-a-bare-line-end", TRAILED, b"0\r\nX: y\n\r\n" + EVIL, "it cannot be read"),
    Way(
        "stops",
        lambda session: session.send(OK + b"Content-Length: 9\r\n\r\nhi").hang(),
        None,
        "stopped in the middle",
    ),
    Way(
        "resets-in-the-middle",
        lambda session: session.send(OK + b"\r\nhi").when_told().reset(),
        None,
        "the connection was lost",
    ),
    # These are answered, and the connection is none that another request may use.
    Way("two-answers", lambda session: session.send(answer(session.ident) + EVIL).hang(), 200),
    Way("a-long-body", lambda session: session.send(answer(session.ident) + b"evil").hang(), 200),
    Way("a-body-on-204", lambda session: session.send(b"HTTP/1.1 204 No\r\n\r\n" + EVIL).hang(), 204),
    Way(
        "a-body-on-304",
        lambda session: session.send(b"HTTP/1.1 304 No\r\nContent-Length: 4\r\n\r\n" + EVIL).hang(),
        304,
    ),
    Way(
        "a-body-on-head",
        lambda session: session.send(OK + b"Content-Length: 58\r\n\r\n" + EVIL).hang(),
        200,
        "",
        "HEAD",
    ),
    Way("keep-alive-and-closes", lambda session: session.send(answer(session.ident, b"Connection: keep-alive")), 200),
    Way("a-drip-of-a-body", lambda session: session.send(answer(session.ident)[:-2]).drip(session.ident[-2:], 0.3), 200),
)


class Misbehaving:
    """Answers ``/WAY/ID`` in that way, and ``/echo/ID`` as it should: with ID, on a connection that it keeps."""

    def __init__(self, ways: tuple[Way, ...] = WAYS) -> None:
        self._acts = {way.name: way.act for way in ways}
        self.go = threading.Event()
        #: How often each request has come, by its path.
        self.seen: Counter[str] = Counter()
        self.server = ScriptedServer(self._serve)

    def _serve(self, connection: socket.socket, number: int) -> None:
        reader = Reader(connection)
        while (request := reader.request()) is not None:
            method, path, _ = request.line.split(" ")
            self.seen[f"{method} {path}"] += 1
            _, way, ident = path.split("/")
            if way != "echo":
                self._acts[way](Session(connection, ident.encode(), self.go))
                return
            connection.sendall(answer(ident.encode(), is_head=method == "HEAD"))


class Uploads:
    """Has *act* deal with a request of which no more than the head was read."""

    def __init__(self, act: Callable[[Session], object]) -> None:
        self._act = act
        self.server = ScriptedServer(self._serve)

    def _serve(self, connection: socket.socket, number: int) -> None:
        Reader(connection).until(b"\r\n\r\n")
        self._act(Session(connection, b"", threading.Event()))


class MisbehavingTestCase(AcceptanceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")
        self.backend = Misbehaving()
        self.addCleanup(self.backend.server.stop)
        self.write(self.folder / "mtlsd.toml", CONFIG.format(port=self.backend.server.port).encode())
        self.server = self.serve("--config", "mtlsd.toml")
        self.said = 0

    def echo(self) -> bytes:
        """Return a route to the backend whose answers are right, for when another one is at ``/``."""
        return CONFIG.format(port=self.backend.server.port).replace('"/"', '"/echo"').encode()

    def echoed(self, client: TlsClient, ident: str) -> None:
        answered = client.ask(f"/echo/{ident}")
        self.assertEqual((answered.status, answered.body), (200, ident.encode()))

    def connect(self) -> TlsClient:
        client = TlsClient(self.server.port, self.alice)
        self.addCleanup(client.close)
        return client.handshake()


class MisbehavingTests(MisbehavingTestCase):
    def test_each_way(self) -> None:
        """One of them, and every client would be cut off, or would read what is another's."""
        other = self.connect()
        for number, way in enumerate(WAYS):
            self.backend.go.clear()
            client = self.connect()
            self.echoed(client, f"before-{number}")
            ident = f"id-{number}"
            # Every other client takes trailers.
            takes = "TE: trailers\r\n" if number % 2 else ""
            client.send(f"{way.method} /{way.name}/{ident} HTTP/1.1\r\nHost: h\r\n{takes}\r\n".encode())
            if way.status is None:
                self.assertTrue(client.receive().startswith(b"HTTP/1.1 200 OK\r\n"), way.name)
                self.backend.go.set()
                client.wait_until_cut()
            else:
                answered = self.read(client, way)
                self.assertEqual(answered[0], way.status, way.name)
                if way.status == 200 and way.method == "GET":
                    self.assertEqual(answered[1], ident.encode(), way.name)
                self.echoed(client, f"after-{number}")
            client.close()
            self.echoed(other, f"other-{number}")
        other.close()
        self.assertEqual(self.server.stop(), 0)
        self.assert_quiet(self.server)
        for number, way in enumerate(WAYS):
            path = f"/{way.name}/id-{number}"
            lines = [line for line in self.server.log.lines if path in line]
            self.assertEqual(len(lines), 1 if way.why else 0, (way.name, lines))
            if way.why:
                self.assertTrue(re.search(way.why, lines[0]), lines[0])
            # A connection that had been kept, and ends without a byte, is no answer: asked once more, and not again.
            most = 2 if way.name in ("closes", "resets") else 1
            self.assertEqual(self.backend.seen[f"{way.method} {path}"], most, way.name)

    def test_uploads(self) -> None:
        """A gigabyte that nobody takes, or of which nobody wants to know, ends for its client, and for nobody else."""
        other = self.connect()
        length = 8 << 20
        ways: tuple[tuple[Callable[[Session], object], set[int], str], ...] = (
            (lambda _: self.over.wait(DEADLINE), {504}, "it does not answer"),
            (lambda session: session.connection.recv(100), {502}, "the connection"),
            (Session.reset, {502}, "the connection (was lost|ended)"),
            (lambda session: session.send(answer(b"no", status=b"413 Too Large")), {413, 502}, ""),
            (lambda session: session.send(answer(b"no", status=b"413 Too Large")).hang(), {413}, ""),
        )
        for number, (act, statuses, why) in enumerate(ways):
            self.over = threading.Event()
            uploads = Uploads(act)
            self.addCleanup(uploads.server.stop)
            self.write(self.folder / "mtlsd.toml", CONFIG.format(port=uploads.server.port).encode() + self.echo())
            self.server.signal(signal.SIGHUP)
            self.server.log.wait_for("2 routes in force", after=self.said)
            self.said = len(self.server.log.lines)
            client = self.connect()
            client.send(f"PUT /up/{number} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode())
            with contextlib.suppress(TimeoutError):
                client.socket.settimeout(0.5)
                for _ in range(length >> 16):
                    client.send(bytes(1 << 16))
            client.socket.settimeout(DEADLINE)
            answered = client.response()
            self.assertIn(answered.status, statuses, number)
            self.assertIn(b"Connection: close", answered.head)
            client.wait_until_cut()
            self.over.set()
            self.echoed(other, f"other-{number}")
            self.assertEqual(uploads.server.count, 1)
            if why:
                self.server.log.wait_for(f"PUT /up/{number}: .*{why}")

    def read(self, client: TlsClient, way: Way) -> tuple[int, bytes]:
        if way.method == "GET" and way.status not in (204, 304):
            answered = client.response()
            return answered.status, answered.body
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += client.receive()
        return int(data.split()[1]), b""
