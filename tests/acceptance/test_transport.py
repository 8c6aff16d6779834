"""The TLS transport on real sockets: one contract, for ours and for Twisted's own."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import reactor as _reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, ISSLTransport, ITCPTransport
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mtlsd.deadlines import Deadlines
from mtlsd.listen import bind
from mtlsd.tls.connection import RECORD
from mtlsd.tls.context import ConnectionCreator
from mtlsd.tls.farewell import Farewells
from mtlsd.tls.port import Port
from mtlsd.tls.transport import SEND_LIMIT
from tests.pki import make_pair

PAIR = make_pair("localhost", hosts=["localhost"])
MIB = 1 << 20
reactor: Any = _reactor


def server_options() -> ssl.CertificateOptions:
    return ssl.CertificateOptions(
        privateKey=crypto.load_privatekey(crypto.FILETYPE_PEM, PAIR.key_pem),
        certificate=crypto.load_certificate(crypto.FILETYPE_PEM, PAIR.pem),
    )


@implementer(IHandshakeListener)
class Peer(Protocol):
    """Keeps what happens to it, and does what the test wants it to do at that."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.order: list[str] = []
        self.made: Deferred[Peer] = Deferred()
        self.shaken: Deferred[Peer] = Deferred()
        #: Fires with the kind of the reason.
        self.lost: Deferred[Any] = Deferred()
        self.on_data: Callable[[bytes], object] = lambda _: None
        self._waiting: list[tuple[int, Deferred[Peer]]] = []

    def connectionMade(self) -> None:
        self.order.append("made")
        self.made.callback(self)

    def handshakeCompleted(self) -> None:
        self.order.append("handshake")
        self.shaken.callback(self)

    def dataReceived(self, data: bytes) -> None:
        self.order.append("data")
        self.received += data
        self.on_data(data)
        self._look()

    def _look(self) -> None:
        for waiting in list(self._waiting):
            if len(self.received) >= waiting[0]:
                self._waiting.remove(waiting)
                waiting[1].callback(self)

    def connectionLost(self, reason: Failure = ConnectionDone) -> None:  # type: ignore[assignment]
        self.order.append("lost")
        self.lost.callback(reason.type)

    def has(self, size: int) -> Deferred[Peer]:
        """Fires when so many bytes have come."""
        waiting: Deferred[Peer] = Deferred()
        self._waiting.append((size, waiting))
        self._look()
        return waiting


@implementer(IHalfCloseableProtocol)
class HalfPeer(Peer):
    def readConnectionLost(self) -> None:
        self.order.append("read lost")

    def writeConnectionLost(self) -> None:
        self.order.append("write lost")


class Push:
    """A producer that writes until it is told to pause."""

    def __init__(self, transport: Any, piece: bytes) -> None:
        self.transport, self.piece = transport, piece
        self.produced = self.pauses = 0
        self.paused = self.stopped = False

    def start(self) -> None:
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        while not self.paused and not self.stopped:
            self.produced += len(self.piece)
            self.transport.write(self.piece)

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def stopProducing(self) -> None:
        self.stopped = True


class Pull:
    """A producer that writes a piece each time that it is asked."""

    def __init__(self, transport: Any, pieces: list[bytes]) -> None:
        self.transport, self.pieces = transport, pieces
        self.stopped = False

    def resumeProducing(self) -> None:
        if self.pieces:
            self.transport.write(self.pieces.pop(0))
        else:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        self.stopped = True


def wait(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


class TransportTestCase(TestCase):
    """A server with one kind of transport, and a client with Twisted's own."""

    peer: type[Peer] = Peer
    timeout = 60

    def listen(self, factory: Factory[Any]) -> Any:
        raise NotImplementedError

    def setUp(self) -> None:
        self.ports: list[Any] = []
        self.clients: list[Any] = []

    @inlineCallbacks
    def tearDown(self) -> Any:  # type: ignore[override]
        for client in self.clients:
            if client.transport is not None and not client.lost.called:
                client.transport.abortConnection()
                yield client.lost
        for port in self.ports:
            yield port.stopListening()
        yield wait(0.02)

    @inlineCallbacks
    def pair(self) -> Any:
        """Return (server, client), connected, with the handshake under way."""
        served: Deferred[Peer] = Deferred()
        peer = self.peer

        class Server(Factory[Peer]):
            noisy = False

            def buildProtocol(self, addr: Any) -> Peer:
                server = peer()
                served.callback(server)
                return server

        port = self.listen(Server())
        client = Peer()
        factory = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda _: client  # type: ignore[method-assign,assignment]
        options = ssl.CertificateOptions(verify=False)
        wrapped = TLSMemoryBIOFactory(options, True, factory)
        wrapped.noisy = False
        reactor.connectTCP("127.0.0.1", port.getHost().port, wrapped)
        server = yield served
        yield client.made
        self.clients.append(client)
        return server, client


class Contract:
    """What a Twisted protocol relies on."""

    pair: Any
    listen: Any
    clients: Any
    assertEqual: Any
    assertTrue: Any
    assertFalse: Any
    assertIsInstance: Any
    assertRaises: Any
    assertLess: Any
    assertIn: Any
    flushLoggedErrors: Any

    @inlineCallbacks
    def test_interfaces(self) -> Any:
        """A protocol that asks for its addresses, its peer's certificate or TCP's options would fail."""
        server, client = yield self.pair()
        yield client.shaken
        for interface in (ITCPTransport, ISSLTransport):
            self.assertTrue(interface.providedBy(server.transport))
        verifyObject(ISSLTransport, server.transport)
        self.assertEqual(server.transport.getPeer(), client.transport.getHost())
        self.assertEqual(server.transport.getHost(), client.transport.getPeer())
        self.assertEqual(server.transport.getPeerCertificate(), None)
        for on in (True, False):
            server.transport.setTcpNoDelay(on)
            server.transport.setTcpKeepAlive(on)
            self.assertEqual((server.transport.getTcpNoDelay(), server.transport.getTcpKeepAlive()), (on, on))
        self.assertIsInstance(server.transport.getHandle(), SSL.Connection)

    @inlineCallbacks
    def test_order(self) -> Any:
        """A protocol would hear bytes before it exists, or of its handshake after them."""
        server, client = yield self.pair()
        client.transport.write(b"hello")
        yield server.has(5)
        client.transport.loseConnection()
        yield server.lost
        self.assertEqual(server.order, ["made", "handshake", "data", "lost"])

    @inlineCallbacks
    def test_written_before_the_handshake(self) -> Any:
        """A protocol that speaks first would lose its greeting."""
        server, client = yield self.pair()
        server.transport.write(b"220 ")
        server.transport.writeSequence([b"wel", b"come"])
        yield client.has(11)
        self.assertEqual(client.received, b"220 welcome")

    @inlineCallbacks
    def test_large_both_ways(self) -> Any:
        """Bytes would be lost, doubled or in another order once the buffers are full."""
        server, client = yield self.pair()
        there, back = os.urandom(3 * MIB + 1), os.urandom(3 * MIB + 17)
        client.transport.write(there)
        server.transport.write(back)
        yield server.has(len(there))
        yield client.has(len(back))
        self.assertTrue(server.received == there and client.received == back)

    @inlineCallbacks
    def test_close_after_all_is_sent(self) -> Any:
        """The end of an answer would be cut off."""
        server, client = yield self.pair()
        yield server.shaken
        data = os.urandom(2 * MIB)
        server.transport.write(data)
        server.transport.loseConnection()
        self.assertTrue(server.transport.disconnecting)
        reason = yield client.lost
        self.assertEqual(reason, ConnectionDone)
        reason = yield server.lost
        self.assertEqual(reason, ConnectionDone)
        self.assertTrue(client.received == data)

    @inlineCallbacks
    def test_not_from_within(self) -> Any:
        """A protocol that closes in the middle of its own work would find itself gone before it is through."""
        for close in ("loseConnection", "abortConnection"):
            server, client = yield self.pair()
            server.on_data = lambda _, server=server, close=close: (
                getattr(server.transport, close)(),
                server.order.append("through"),
            )
            client.transport.write(b"x")
            yield server.lost
            self.assertEqual(server.order[-2:], ["through", "lost"])

    @inlineCallbacks
    def test_abort(self) -> Any:
        """What waits to be sent would hold a connection that is to go now."""
        server, client = yield self.pair()
        yield client.shaken
        client.transport.pauseProducing()
        server.transport.write(b"x" * 20 * MIB)
        server.transport.abortConnection()
        server.transport.abortConnection()
        server.transport.write(b"late")
        reason = yield server.lost
        # Twisted's own says the second where it had something to send.
        self.assertIn(reason, (ConnectionAborted, ConnectionLost))
        client.transport.resumeProducing()
        reason = yield client.lost
        self.assertFalse(reason is ConnectionDone)

    @inlineCallbacks
    def test_peer_hangs_up(self) -> Any:
        """Nobody would learn that the other end has gone, or how."""
        server, client = yield self.pair()
        yield client.shaken
        client.transport.loseConnection()
        reason = yield server.lost
        self.assertEqual(reason, ConnectionDone)
        server, client = yield self.pair()
        yield client.shaken
        client.transport.abortConnection()
        reason = yield server.lost
        self.assertEqual(reason, ConnectionLost)

    @inlineCallbacks
    def test_push_producer(self) -> Any:
        """A fast producer and a slow reader would fill the memory."""
        server, client = yield self.pair()
        yield client.shaken
        client.transport.pauseProducing()
        producer = Push(server.transport, os.urandom(50_000))
        producer.start()
        for _ in range(20):
            yield wait(0.01)
        self.assertTrue(producer.paused)
        stuck = producer.produced
        self.assertLess(stuck, 16 * MIB)
        client.transport.resumeProducing()
        yield client.has(stuck + 2 * MIB)
        self.assertLess(1, producer.pauses)
        client.transport.abortConnection()
        yield server.lost
        self.assertTrue(producer.stopped)

    @inlineCallbacks
    def test_pull_producer(self) -> Any:
        """A file that is sent piece by piece would not arrive, or not end."""
        server, client = yield self.pair()
        yield server.shaken
        pieces = [os.urandom(random.randrange(1, 90_000)) for _ in range(60)]
        producer = Pull(server.transport, list(pieces))
        server.transport.registerProducer(producer, False)
        self.assertRaises(RuntimeError, server.transport.registerProducer, producer, False)
        reason = yield client.lost
        self.assertEqual(reason, ConnectionDone)
        self.assertTrue(client.received == b"".join(pieces))

    @inlineCallbacks
    def test_pull_producer_with_nothing_to_say(self) -> Any:
        """The answer to a HEAD, of which a producer's pieces are kept back, would never come to its end."""
        server, client = yield self.pair()
        yield server.shaken
        producer = Pull(server.transport, [b"", b"", b"", b"", b"", b"", b"head", b""])
        server.transport.registerProducer(producer, False)
        yield client.lost
        self.assertEqual(client.received, b"head")

    @inlineCallbacks
    def test_closed_when_the_producer_is_done(self) -> Any:
        """A close would cut off what a producer has still to say."""
        server, client = yield self.pair()
        yield server.shaken
        producer = Push(server.transport, b"")
        server.transport.registerProducer(producer, True)
        server.transport.write(b"first ")
        yield client.has(6)
        server.transport.unregisterProducer()
        server.transport.loseConnection()
        yield client.lost
        self.assertEqual(client.received, b"first ")

    @inlineCallbacks
    def test_pause_and_resume(self) -> Any:
        """A protocol that is busy would be given more all the same, or never hear the rest."""
        server, client = yield self.pair()
        yield server.shaken
        server.on_data = lambda _: server.transport.pauseProducing()
        data = os.urandom(100_000)
        client.transport.write(data)
        while len(server.received) < len(data):
            before = len(server.received)
            for _ in range(5):
                yield wait(0)
            if len(server.received) == before:
                server.transport.resumeProducing()
        self.assertTrue(server.received == data)

    @inlineCallbacks
    def test_nothing_while_paused(self) -> Any:
        """As above: what has come in must wait."""
        server, client = yield self.pair()
        yield server.shaken
        server.transport.pauseProducing()
        client.transport.write(b"x" * 1000)
        yield wait(0.1)
        self.assertEqual(server.received, b"")
        server.transport.resumeProducing()
        yield server.has(1000)

    @inlineCallbacks
    def test_protocol_fails(self) -> Any:
        """A connection whose protocol has failed would stay, and be of no use to anybody."""
        server, client = yield self.pair()

        def broken(data: bytes) -> None:
            raise ValueError("broken")

        server.on_data = broken
        client.transport.write(b"x")
        yield server.lost
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        yield client.lost

    @inlineCallbacks
    def test_after_the_end(self) -> Any:
        """A protocol that goes on for a moment would fail on a connection that is gone."""
        server, client = yield self.pair()
        transport = server.transport
        client.transport.abortConnection()
        yield server.lost
        transport.write(b"late")
        transport.loseConnection()
        transport.abortConnection()
        transport.pauseProducing()
        transport.resumeProducing()
        producer = Push(transport, b"x")
        transport.registerProducer(producer, True)
        self.assertTrue(producer.stopped)

    @inlineCallbacks
    def test_twisted_web(self) -> Any:
        """Whatever speaks a protocol of Twisted's would have to be written anew."""
        root = Resource()
        body = os.urandom(300_000)
        root.putChild(b"data", Data(body, "text/plain"))
        site = Site(root)
        site.noisy = False
        port = self.listen(site)
        client = Peer()
        factory = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda _: client  # type: ignore[method-assign,assignment]
        wrapped = TLSMemoryBIOFactory(ssl.CertificateOptions(verify=False), True, factory)
        wrapped.noisy = False
        reactor.connectTCP("127.0.0.1", port.getHost().port, wrapped)
        yield client.made
        self.clients.append(client)
        client.transport.write(b"GET /data HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        yield client.lost
        self.assertTrue(client.received.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertTrue(client.received.endswith(body))


class StockTests(Contract, TransportTestCase):
    """Twisted's own: so the contract is what Twisted promises, not what we happen to do."""

    def listen(self, factory: Factory[Any]) -> Any:
        wrapped = TLSMemoryBIOFactory(server_options(), False, factory)
        wrapped.noisy = False
        port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
        self.ports.append(port)
        return port


class OurTestCase(TransportTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.deadlines = Deadlines(reactor.seconds)
        self.farewells = Farewells(self.deadlines, write_timeout=60, close_timeout=60)

    def listen(self, factory: Factory[Any]) -> Any:
        listening = bind("127.0.0.1", 0)
        context = server_options().getContext()
        context.clear_mode(1)
        port = Port.adopt(reactor, listening, factory, ConnectionCreator(context), self.farewells)
        listening.close()
        self.ports.append(port)
        return port


class OurTests(Contract, OurTestCase):
    """Ours."""


class HalfCloseTests(OurTestCase):
    peer = HalfPeer

    @inlineCallbacks
    def test_write_side(self) -> Any:
        """A protocol that has said all it has to say could not go on listening (RFC 8446 6.1)."""
        server, client = yield self.pair()
        yield server.shaken
        server.transport.write(b"all I have")
        server.transport.loseWriteConnection()
        server.transport.write(b"not this")
        yield client.has(10)
        yield wait(0.05)
        self.assertIn("write lost", server.order)
        self.assertEqual(client.received, b"all I have")

    @inlineCallbacks
    def test_read_side(self) -> Any:
        """An answer would be cut off because its client has nothing more to ask."""
        server, client = yield self.pair()
        yield client.shaken
        client.transport.loseConnection()
        while "read lost" not in server.order:
            yield wait(0.01)
        self.assertFalse(server.lost.called)
        server.transport.loseWriteConnection()
        reason = yield server.lost
        self.assertEqual(reason, ConnectionDone)


class BackPressureTests(OurTestCase):
    @inlineCallbacks
    def test_download(self) -> Any:
        """A client that asks for a large file and does not read it would cost its size in memory."""
        server, client = yield self.pair()
        yield client.shaken
        client.transport.pauseProducing()
        producer = Pull(server.transport, [b"x" * 256 * 1024] * 4096)
        server.transport.registerProducer(producer, False)
        most = 0
        for _ in range(30):
            yield wait(0.01)
            most = max(most, len(server.transport.dataBuffer) + server.transport._tempDataLen)
        self.assertLess(most, MIB)
        # Of the gigabyte, what the kernel's buffers hold has gone, and little more.
        self.assertLess((4096 - len(producer.pieces)) * 256 * 1024, 16 * MIB)

    @inlineCallbacks
    def test_upload(self) -> Any:
        """The same the other way: a sink that is slow would have all of it in memory."""
        server, client = yield self.pair()
        yield server.shaken
        server.transport.pauseProducing()
        producer = Push(client.transport, b"x" * 256 * 1024)
        producer.start()
        for _ in range(30):
            yield wait(0.01)
        self.assertTrue(producer.paused)
        self.assertLess(producer.produced, 16 * MIB)
        self.assertEqual(server.received, b"")

    @inlineCallbacks
    def test_odd_sizes_both_ways(self) -> Any:
        """Some size, or two directions at once, would lose or double a byte."""
        server, client = yield self.pair()
        yield client.shaken
        dice = random.Random(7)
        total = 64 * MIB
        block = dice.randbytes(MIB + 13)
        sums = [0, 0]

        def sizes() -> list[int]:
            return [dice.choice((1, 1, 2, 16_383, 16_384, 16_385, 65_537, 262_144, 262_145, 700_001)) for _ in range(2000)]

        def check(which: int) -> Callable[[bytes], None]:
            def on_data(data: bytes) -> None:
                at = sums[which] % len(block)
                expected = block[at : at + len(data)]
                while len(expected) < len(data):
                    expected += block[: len(data) - len(expected)]
                if expected != data:
                    raise AssertionError(f"another byte near {sums[which]}")
                sums[which] += len(data)
                peers[which].received.clear()

            return on_data

        peers = [server, client]
        producers = []
        for which, peer in enumerate(peers):
            peer.on_data = check(which)
            producers.append(Odd(peer.transport, block, sizes(), total))
        for producer in producers:
            producer.start()
        while min(sums) < total:
            yield wait(0.02)
        self.assertEqual(sums, [total, total])


class SocketTests(OurTestCase):
    """What the transport asks of its socket, and when."""

    def options(self, server: Peer) -> tuple[int, int]:
        """Return TCP_CORK and TCP_NODELAY."""
        sock = server.transport._socket
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK), sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def seen(self, server: Peer, refuse: Callable[[], None] = lambda: None) -> list[int]:
        """Return a list that will have the bytes of each call of OpenSSL's for a write; *refuse* may raise instead of it."""
        connection, sizes = server.transport._connection, []
        for name in ("send", "send_bytes"):
            real = getattr(connection, name)

            def counted(data: Any, real: Any = real) -> Any:
                refuse()
                sizes.append(len(data))
                return real(data)

            setattr(connection, name, counted)
        return sizes

    @inlineCallbacks
    def test_nothing_stays_corked(self) -> Any:
        """An answer would lie in the kernel for a fifth of a second, or wait for an acknowledgement that takes as long."""
        piece = os.urandom(200_000)

        def write(server: Peer) -> None:
            server.transport.write(piece * 20)

        def pull(server: Peer) -> None:
            server.transport.registerProducer(Some(server.transport, [piece] * 20), False)

        def push(server: Peer) -> None:
            Odd(server.transport, piece, [50_000], len(piece) * 20).start()

        for answer in (write, pull, push):
            server, client = yield self.pair()
            yield server.shaken
            yield client.shaken
            yield wait(0)
            self.assertEqual(self.options(server), (0, 1), "after the handshake")
            server.on_data = lambda _, answer=answer, server=server: answer(server)
            client.transport.write(b"x")
            yield client.has(len(piece) * 20)
            yield wait(0)
            self.assertEqual(self.options(server), (0, 1), answer)
            self.assertTrue(client.received == piece * 20)

    @inlineCallbacks
    def test_paused_between_two_records(self) -> Any:
        """A protocol that has had enough would be given what lies there already, up to eight records of it."""
        server, client = yield self.pair()
        yield server.shaken
        server.transport.pauseProducing()
        server.on_data = lambda _: server.transport.pauseProducing()
        data = os.urandom(4 * RECORD)
        client.transport.write(data)
        while _waiting(server.transport._socket) < len(data):
            yield wait(0.01)
        for records in range(1, 5):
            server.transport.resumeProducing()
            yield server.has(records * RECORD)
            for _ in range(5):
                yield wait(0)
            self.assertEqual(len(server.received), records * RECORD)
        self.assertTrue(server.received == data)

    @inlineCallbacks
    def test_only_so_much_at_once(self) -> Any:
        """Nobody else would be served while OpenSSL encrypts all that one has to send."""
        server, client = yield self.pair()
        yield server.shaken
        sizes = self.seen(server)
        data = os.urandom(2 * MIB + 1)
        server.transport.write(data)
        self.assertEqual(sizes, [SEND_LIMIT])
        yield client.has(len(data))
        self.assertEqual(max(sizes), SEND_LIMIT)
        self.assertTrue(client.received == data)

    @inlineCallbacks
    def test_a_write_that_wants_to_read(self) -> Any:
        """A write that OpenSSL puts off until it has read something would never be made, or tried in every turn until then."""
        server, client = yield self.pair()
        yield server.shaken
        wanting = [True]

        def refuse() -> None:
            if wanting[0]:
                tries.append(1)
                raise SSL.WantReadError

        tries: list[int] = []
        self.seen(server, refuse)
        server.transport.write(b"Hello")
        server.transport.write(b", world")
        for _ in range(10):
            yield wait(0)
        self.assertNotIn(server.transport, reactor.getWriters())
        self.assertLess(len(tries), 4)
        self.assertEqual(client.received, b"")
        wanting[0] = False
        client.transport.write(b"what it waits for")
        yield client.has(12)
        self.assertEqual(client.received, b"Hello, world")


def _waiting(sock: socket.socket) -> int:
    """Return the bytes that have come and that nobody has read."""
    held: int = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0\0\0\0"))[0]
    return held


class Some(Pull):
    """Leaves the connection open when it is done."""

    def resumeProducing(self) -> None:
        if self.pieces:
            self.transport.write(self.pieces.pop(0))
        else:
            self.transport.unregisterProducer()


class Odd(Push):
    """Produces a given number of bytes in pieces of odd sizes."""

    def __init__(self, transport: Any, block: bytes, sizes: list[int], total: int) -> None:
        super().__init__(transport, b"")
        self.block, self.sizes, self.total = block, sizes, total
        self.nth = 0

    def resumeProducing(self) -> None:
        self.paused = False
        while not self.paused and not self.stopped and self.produced < self.total:
            size = min(self.sizes[self.nth % len(self.sizes)], self.total - self.produced)
            self.nth += 1
            at = self.produced % len(self.block)
            piece = self.block[at : at + size]
            self.produced += len(piece)
            self.transport.write(piece)
