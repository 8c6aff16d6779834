"""A front door with servers behind it, in memory: the real channel, exchange and connections, and both ends in hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.config import parse
from mtlsd.proxy.backend import Backends
from mtlsd.settings import Settings
from mtlsd.web.router import Resources, Router
from mtlsd.web.site import make_root
from tests.site_in_memory import NOW, FrontDoor, Gate, ask

CONFIG = """
[[route]]
path = "/"
allow = ["*"]
upstream = "http://127.0.0.1:8000"
[[route]]
path = "/api"
allow = ["*"]
upstream = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]
strip_prefix = true
strip = ["X-Tenant", "X-Corp-*"]
[[route]]
path = "/other"
allow = ["*"]
upstream = ["http://127.0.0.1:8001", "http://127.0.0.1:8003"]
[[route]]
path = "/unix"
allow = ["*"]
upstream = "http+unix:/run/app.sock"
[[route]]
path = "/six"
allow = ["*"]
upstream = "http://[::1]:8000"
[[route]]
path = "/private"
allow = ["carol"]
upstream = "http://127.0.0.1:8000"
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Wire(StringTransport):
    """A backend's end of a connection."""

    producer: Any
    dataBuffer = b""
    _tempDataLen = 0
    #: Bytes that the socket takes at once; ``None``: it is broken.
    takes: int | None = 1 << 20

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.aborted = self.half_closed = False
        #: Whether something has come that the reactor has not told of yet.
        self.has_unread = False

    def send(self, data: bytes) -> int:
        if self.takes is None:
            raise ConnectionResetError
        if not self.takes:
            raise BlockingIOError
        self.write(data[: self.takes])
        return min(len(data), self.takes)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def getHandle(self) -> Wire:
        return self

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.protocol.connectionLost(Failure(ConnectionLost()))

    def sent(self) -> bytes:
        data: bytes = self.value()
        self.clear()
        return data

    def answer(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def lose(self, reason: Exception | None = None) -> None:
        self.aborted = True
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))


class TcpWire(Wire):
    is_prompt = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.is_prompt = enabled


class NarrowGate(Gate):
    """A client that takes nothing by itself: whatever is written is too much, until the test has it :meth:`drain`."""

    producer: Any
    is_full = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self.is_full and self.producer is not None:
            self.is_full = True
            self.producer.pauseProducing()

    def drain(self) -> bytes:
        self.is_full = False
        self.producer.resumeProducing()
        return self.taken()


class ProxyTestCase(SynchronousTestCase):
    settings = Settings()

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.own = make_root(lambda: NOW)
        self.door = FrontDoor(self.own, self.settings)
        self.backends = Backends(self.reactor, self.door.deadlines, self.door.site.names, lambda wire: lambda: wire.has_unread)
        self.configure(CONFIG)
        self.said: list[str] = []
        observer = cast(ILogObserver, self.hear)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def configure(self, text: str) -> None:
        path = Path("/etc/mtlsd.toml")
        rules = parse(text, path).rules
        self.door.site.router = Router(rules, Resources(self.reactor, path, None).make(rules), self.own, self.backends)

    def hear(self, event: LogEvent) -> None:
        if str(event.get("log_namespace")).startswith("mtlsd.proxy"):
            self.said.append(str(event["log_format"]).format(**event))

    def attempts(self) -> list[int]:
        """Return the ports that were connected to so far."""
        return [client[1] for client in self.reactor.tcpClients]

    def connected(self, number: int = -1) -> Wire:
        """Let a connection to a backend come about."""
        return self._made(TcpWire(self.reactor.tcpClients[number][2].buildProtocol(None)))

    def connected_unix(self) -> Wire:
        """The same, over a unix socket."""
        return self._made(Wire(self.reactor.unixClients[-1][1].buildProtocol(None)))

    def _made(self, wire: Wire) -> Wire:
        wire.protocol.makeConnection(wire)
        return wire

    def refuse(self, number: int = -1) -> None:
        self.reactor.tcpClients[number][2].clientConnectionFailed(
            cast(Any, None), Failure(ConnectError(string="Connection was refused"))
        )

    def ask(
        self,
        target: str = "/x",
        method: str = "GET",
        *headers: str,
        body: bytes = b"",
        version: str = "1.1",
        gate: Gate | None = None,
    ) -> Gate:
        gate = self.door.connect(gate)
        gate.protocol.dataReceived(ask(target, method, *headers, body=body, version=version))
        return gate
