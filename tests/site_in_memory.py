"""A site in memory: the real channel, on a transport that says who its client is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from mtlsd.audit.sinks import LineFile
from mtlsd.deadlines import Deadlines
from mtlsd.identity import Certificate, Identity, Key, Tls
from mtlsd.settings import Settings
from mtlsd.web.accesslog import AccessLog
from mtlsd.web.channel import Channel
from mtlsd.web.interfaces import IAuthenticatedTransport
from mtlsd.web.site import Site, make_root

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

CERTIFICATE = Certificate(
    fingerprint="0123456789abcdef" * 4,
    subject="CN=Alice,O=Example Works",
    not_before=NOW - timedelta(days=65),
    not_after=NOW + timedelta(days=300),
    key=Key("EC P-256", 256),
    size=500,
)
ALICE = Identity("alice", ("staff", "ops"), CERTIFICATE, Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", "X25519MLKEM768", False))


@implementer(IAuthenticatedTransport)
class Gate(StringTransport):
    """A client that was let in.  ``identity`` ``None``: it is no longer authorized."""

    connection_id = "c0ffee-1"
    peer = ("192.0.2.7", 50514)
    protocol: Any
    aborted = hung_up = half_closed = False

    def __init__(self, identity: Identity | None = ALICE, *, cuts_at_once: bool = True) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", *self.peer), lenient=True)
        self.identity = identity
        self.asked = 0
        self._cuts_at_once = cuts_at_once

    def authorize(self) -> Identity | None:
        self.asked += 1
        if self.identity is None:
            self.abortConnection()
        return self.identity

    def certificate(self) -> bytes:
        return b"DER"

    def hand_over(self, above: Any) -> None:
        self.protocol = above
        above.makeConnection(self)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def hang_up(self) -> None:
        self.hung_up = True
        self.loseConnection()

    def abortConnection(self) -> None:
        self.aborted = self.disconnecting = True
        if self._cuts_at_once:
            self.lose(ConnectionAborted())

    def lose(self, reason: Exception | None = None) -> None:
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))

    def taken(self) -> bytes:
        """Return what was sent since the last call."""
        data: bytes = self.value()
        self.clear()
        return data


class FrontDoor:
    """A site with a clock and an access log of its own."""

    def __init__(self, root: IResource | None = None, settings: Settings | None = None) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock.seconds)
        self.file = Lines()
        self.site = Site(
            root or make_root(lambda: NOW),
            settings=settings or Settings(),
            deadlines=self.deadlines,
            access_log=AccessLog(self.file, lambda: NOW),
            reactor=self.clock,
        )

    @property
    def lines(self) -> list[str]:
        """The lines of the access log."""
        return self.file.lines

    def connect(self, gate: Gate | None = None) -> Gate:
        gate = gate or Gate()
        channel = self.site.buildProtocol(gate.getPeer())
        assert isinstance(channel, Channel)
        gate.protocol = channel
        channel.makeConnection(gate)
        return gate

    def wait(self, seconds: float) -> None:
        """Let the time pass, one beat a second."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self.deadlines.expire()
            seconds -= 1


class Lines(LineFile):
    """A file of lines that are kept in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


class Answer:
    """One HTTP answer, taken apart."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("ascii").split("\r\n")
        self.version, code, self.reason = status.split(" ", 2)
        self.status = int(code)
        self.headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in self.headers, f"{name} twice"
            self.headers[name.lower()] = value


def ask(target: str, method: str = "GET", *headers: str, version: str = "1.1", body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
