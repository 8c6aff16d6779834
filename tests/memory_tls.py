"""A front door in memory: real OpenSSL on both ends, no socket, and a Clock for the time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from mtlsd.audit.events import Event
from mtlsd.audit.sinks import MemorySink
from mtlsd.deadlines import Deadlines
from mtlsd.registry.memory import MemoryRegistry
from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from mtlsd.settings import Settings
from mtlsd.tls import seam
from mtlsd.tls.context import AuthorizedClients, ConnectionCreator, make_context, make_options
from mtlsd.tls.door import Door
from mtlsd.tls.farewell import Farewells
from mtlsd.tls.pair import ServerPair
from mtlsd.tls.transport import TLSTransport
from tests.pki import Pair, make_pair

SERVER = make_pair("localhost", hosts=["localhost"])


class Served(Protocol):
    """What stands behind the gate in these tests: it says who it serves, and keeps what it hears."""

    transport: Any

    def connectionMade(self) -> None:
        self.heard = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        identity = self.transport.authorize()
        if identity is not None:
            self.transport.write(b"Hello: " + identity.client.encode())

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.lost = True


class ServedFactory(Factory[Served]):
    """Makes :class:`Served`, and keeps each."""

    noisy = False
    protocol = Served

    def __init__(self) -> None:
        self.served: list[Served] = []

    def buildProtocol(self, addr: IAddress | None) -> Served:
        served = Served()
        self.served.append(served)
        return served


class Turns:
    """What a transport asks of the reactor: who waits for the poller, and what is to be done at the next turn."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self._log = Logger()
        self._calls: list[tuple[Any, Any]] = []
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        self._calls.append((call, arguments))

    def turn(self) -> None:
        """Run what was asked for since the last turn, and let whoever wants to write do so."""
        calls, self._calls = self._calls, []
        for call, arguments in calls:
            self.run(call, *arguments)
        for writer in list(self.writers):
            why = self.run(writer.doWrite)
            if why is not None:
                writer.connectionLost(Failure(why))

    def run(self, call: Any, *arguments: Any) -> Any:
        """Call, as the reactor does: what fails is logged."""
        try:
            return call(*arguments)
        except Exception:
            self._log.failure("a call of the reactor failed")


class Wire(TLSTransport):
    """A TLS transport on two memory BIOs: the bytes between the two ends are in the test's hand."""

    def __init__(self, front: FrontDoor, protocol: Any, peer: IPv4Address) -> None:
        self.bios = front.creator.connection()
        #: How the descriptor was closed: None, "orderly" or "reset".
        self.closed: str | None = None
        #: Whether the peer was told that nothing more comes.
        self.finished = False
        self.peer_hung_up = False
        self.untaken = self.unread = 0
        #: What was done with what is sent: "cork", "uncork".
        self.corks: list[str] = []
        self._peer = peer
        # What nobody has read yet.
        self._arrived = b""
        #: Whether there is something that was not read when the poller said so: it says so again.
        self.is_readable = False
        #: Whether OpenSSL has something that was not read, of which the poller says nothing.
        self.is_held = False
        super().__init__(self.bios, protocol, front.turns, front.farewells)
        self.startReading()

    def feed(self, data: bytes) -> None:
        """Take what the peer sent."""
        self._arrived += data
        self.deliver()

    def deliver(self) -> None:
        """Hand over what has come, a record at a time, as the socket would: as long as it is read, and then that the peer is gone."""
        while (self._arrived or self.is_readable) and self in self.reactor.readers:
            if not (self.is_readable or self.is_held):
                data = self._arrived
                size = 5 + int.from_bytes(data[3:5], "big") if data[0] in range(20, 25) else len(data)
                record, self._arrived = data[:size], data[size:]
                self.bios.bio_write(record)
            self.doRead()
            if self.is_readable or self.is_held:
                return
        if self.peer_hung_up and self in self.reactor.readers:
            self.bios.bio_shutdown()
            self.reactor.run(self.doRead)

    @property
    def is_behind(self) -> bool:
        """Whether something has come that is still to be read, in this turn or the next."""
        unread = self._is_open() and (self.is_readable or self.is_held)
        return self in self.reactor.readers and bool(self._arrived or unread)

    def taken(self) -> bytes:
        """Return what was sent since the last call."""
        sent = b""
        with contextlib.suppress(SSL.Error):
            while True:
                sent += self.bios.bio_read(1 << 16)
        return sent

    @property
    def ended(self) -> bool:
        """Whether the peer can see that the connection ends."""
        return self.finished or self.closed is not None

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 9443)

    def getPeer(self) -> IPv4Address:
        return self._peer

    def _cork(self) -> None:
        self.corks.append("cork")

    def _uncork(self) -> None:
        self.corks.append("uncork")

    def _discard(self) -> int | None:
        return None if self.peer_hung_up else self.unread

    def _end_of_writing(self) -> None:
        self.finished = True

    def _untaken_by_peer(self) -> int:
        return self.untaken

    def _close_wire(self, *, orderly: bool) -> None:
        if self.closed is None:
            self.closed = "orderly" if orderly else "reset"


def server_pair(pair: Pair) -> ServerPair:
    """Return a test pair as the server holds its own."""
    return ServerPair(
        crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key_pem),
        crypto.load_certificate(crypto.FILETYPE_PEM, pair.pem),
        (),
        pair.leaf,
    )


class FrontDoor:
    """A door with a memory registry, a clock and a memory sink, and clients to knock at it."""

    #: Chooses the ALPN name, where it is another than usual.
    select: seam.SelectProtocol | None = None

    def __init__(
        self, settings: Settings | None = None, pair: Pair = SERVER, registry: Any = None, clock: Clock | None = None
    ) -> None:
        """*registry* is another than one in memory, which goes by *clock*."""
        self.settings = settings or Settings()
        self.registry: Any = registry or MemoryRegistry()
        self.sink = MemorySink()
        self.clock = clock or Clock()
        self.deadlines = Deadlines(self.clock.seconds)
        self.served = ServedFactory()
        self.began = datetime.now(UTC)
        #: Who was refused as unknown, and whether that is to be kept.
        self.knocks: list[tuple[Event, bytes]] = []
        self.keeps = False
        self.door = Door(
            settings=self.settings,
            registry=self.registry,
            sink=self.sink,
            deadlines=self.deadlines,
            site=self.served,
            now=self.now,
            name="test",
            knock=self.knock,
        )
        self.clients = AuthorizedClients(self.registry)
        self.creator = ConnectionCreator(self.context(pair))
        self.turns = Turns()
        self.farewells = Farewells(
            self.deadlines, write_timeout=self.settings.write_timeout, close_timeout=self.settings.close_timeout
        )

    def context(self, pair: Pair = SERVER) -> SSL.Context:
        options = make_options(server_pair(pair), self.clients, tickets=self.settings.tickets, tls_min=self.settings.tls_min)
        return make_context(options, self.clients, self.select)

    def knock(self, verdict: Event, der: bytes) -> bool:
        self.knocks.append((verdict, der))
        return self.keep()

    def keep(self) -> bool:
        return self.keeps

    def now(self) -> datetime:
        return self.began + timedelta(seconds=self.clock.seconds())

    def authorize(self, **pairs: Pair) -> None:
        """Authorize exactly these, by client name; tombstones stay."""
        authorized = {pair.fingerprint: Authorization(name, pair.leaf, pair.leaf.not_after) for name, pair in pairs.items()}
        self.registry.publish(Snapshot(authorized, self.registry.snapshot().tombstones))

    def revoke(self, pair: Pair) -> None:
        """Set a tombstone; the authorization stays, for the tombstone has to win."""
        old = self.registry.snapshot()
        tombstone = Tombstone(pair.fingerprint)
        self.registry.publish(Snapshot(old.authorized, {**old.tombstones, pair.fingerprint: tombstone}))

    def advance(self, seconds: float) -> None:
        """Let time pass, a beat a second."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.deadlines.expire()
            self.door.beat()

    def verdicts(self) -> list[tuple[str, str | None]]:
        return [(str(event.event), event.reason and str(event.reason)) for event in self.sink.events]

    def last(self) -> Event:
        return self.sink.events[-1]

    def raw(self, address: str = "127.0.0.1") -> RawPeer:
        """Connect without saying anything."""
        return RawPeer(self, address)

    def connect(self, pair: Pair | None, **options: Any) -> Client:
        """Connect a TLS client with *pair*, and pump until nothing moves."""
        client = Client(self, pair, **options)
        client.pump()
        return client


class RawPeer:
    """One connection from the server's side, with the bytes in the test's hand."""

    def __init__(self, front: FrontDoor, address: str = "127.0.0.1") -> None:
        self.front = front
        peer = IPv4Address("TCP", address, 50514)
        self.gate = front.door.buildProtocol(peer)
        self.wire = Wire(front, self.gate, peer)
        self.gate.makeConnection(self.wire)

    @property
    def is_lost(self) -> bool:
        return self.wire.disconnected == 1

    def send(self, data: bytes) -> None:
        self.wire.feed(data)
        self.settle()

    def settle(self) -> None:
        """Run what the reactor would run next; a peer that sees the end hangs up."""
        self.front.turns.turn()
        self.wire.deliver()
        if self.wire.ended and not self.is_lost:
            self.lose()

    def lose(self) -> None:
        """Hang up."""
        self.wire.peer_hung_up = True
        self.wire.deliver()
        self.front.turns.turn()


class Client(RawPeer):
    """A TLS client: OpenSSL over memory, joined to the server's protocol."""

    def __init__(
        self,
        front: FrontDoor,
        pair: Pair | None,
        *,
        version: int | None = None,
        newest: int | None = None,
        alpn: Sequence[bytes] = (),
        chain: Sequence[Pair] = (),
        session: SSL.Session | None = None,
        context: SSL.Context | None = None,
        ciphers: bytes | None = None,
        suites: bytes | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__(front, address)
        if context is None:
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            if version is not None:
                context.set_min_proto_version(version)
                context.set_max_proto_version(version)
            if newest is not None:
                context.set_min_proto_version(0x0301)
                context.set_max_proto_version(newest)
                context.set_cipher_list(b"ALL:@SECLEVEL=0")
            if ciphers is not None:
                context.set_cipher_list(ciphers)
            if suites is not None:
                context.set_tls13_ciphersuites(suites)
            if pair is not None:
                context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, pair.pem))
                context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key_pem))
                for above in chain:
                    context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_PEM, above.pem))
        self.context = context
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        if alpn:
            self.tls.set_alpn_protos(list(alpn))
        if session is not None:
            self.tls.set_session(session)
        self.error: SSL.Error | None = None
        self.received = b""
        self.handshaken = False

    def pump(self, mangle: Any = None) -> None:
        """Carry bytes both ways until nothing moves; *mangle* may change what the client sends."""
        for _ in range(50):
            if not self.carry(mangle):
                return
        raise AssertionError("the two ends never came to rest")

    def carry(self, mangle: Any = None) -> bool:
        """Carry what there is both ways, once.  Returns whether anything moved."""
        self.read()
        moved = False
        try:
            data = self.tls.bio_read(1 << 16)
        except SSL.Error:
            pass
        else:
            moved = True
            self.send(mangle(data) if mangle else data)
        self.settle()
        answer = self.wire.taken()
        if answer:
            moved = True
            self.tls.bio_write(answer)
        return moved

    def request(self, data: bytes = b"x") -> bytes:
        """Send an application byte and return what comes back: in TLS 1.3 only this shows that one was let in."""
        self.received = b""
        try:
            self.tls.send(data)
        except SSL.Error as error:
            self.error = error
        self.pump()
        return self.received

    def close(self) -> None:
        """Close properly, as a session needs to be resumable, and lose the connection."""
        self.tls.shutdown()
        self.pump()
        self.lose()

    def read(self) -> None:
        """Shake hands, or read, as far as what has come allows."""
        try:
            if not self.handshaken:
                self.tls.do_handshake()
                self.handshaken = True
            while True:
                self.received += self.tls.recv(1 << 16)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.error = error
