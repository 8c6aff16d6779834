"""The TLS transport in memory: what it waits for, and what OpenSSL may want in the middle of something else."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPullProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from mtlsd.settings import Settings
from mtlsd.tls.farewell import Farewells
from mtlsd.web.site import Site, make_root
from tests.memory_tls import Client, FrontDoor
from tests.pki import make_pair

SETTINGS = Settings(write_timeout=30, close_timeout=5)
ALICE = make_pair("alice")


class TransportTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.front = FrontDoor(SETTINGS)
        self.front.authorize(alice=ALICE)
        self.client = self.front.connect(ALICE)
        self.wire = self.client.wire
        self.served = self.front.served.served[-1]

    def stubborn(self) -> None:
        """Have the client stay, whatever it is told."""
        self.client.settle = self.front.turns.turn  # type: ignore[method-assign]

    def block(self) -> None:
        """Have the socket take nothing."""
        self.refuse("send_bytes", SSL.WantWriteError)
        self.refuse("send", SSL.WantWriteError)

    def refuse(self, name: str, error: type[Exception], times: int = 1_000_000) -> None:
        """Have OpenSSL say no to *name* so many times, for a reason that a real socket would give it."""
        real = getattr(self.wire.bios, name)
        left = [times]

        def refusing(*arguments: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise error
            return real(*arguments)

        setattr(self.wire.bios, name, refusing)

    def unblock(self) -> None:
        for name in ("send", "send_bytes", "recv_record", "shutdown", "do_handshake"):
            self.wire.bios.__dict__.pop(name, None)


@implementer(IPullProducer)
class Pieces:
    """A pull producer, as twisted.web.static has them: a piece each time that it is asked, *most* times."""

    def __init__(self, wire: Any, most: int) -> None:
        self.wire = wire
        self.left = most
        self.at_the_end: Any = None

    def resumeProducing(self) -> None:
        self.left -= 1
        self.wire.write(b"x" * 1000)
        if not self.left:
            self.wire.unregisterProducer()
            if self.at_the_end is not None:
                self.at_the_end()

    def stopProducing(self) -> None:
        """Nothing is to be let go."""


class FarewellTests(TransportTestCase):
    def test_peer_hangs_up(self) -> None:
        """A close would take five seconds each time."""
        self.wire.loseConnection()
        self.assertTrue(self.wire.finished)
        self.assertFalse(self.served.lost)
        self.client.settle()
        self.assertEqual((self.served.lost, self.wire.closed), (True, "orderly"))
        self.assertEqual((len(self.front.farewells), len(self.front.deadlines)), (0, 0))

    def test_peer_that_sends_nothing_more(self) -> None:
        """Each connection whose client has asked for its end would wait for a peer that has nothing to say."""
        self.stubborn()
        self.client.gate.hang_up()
        self.assertEqual((self.wire.closed, self.served.lost, len(self.front.farewells)), ("orderly", True, 0))
        self.assertEqual(len(self.front.door.live), 0)

    def test_peer_that_sends_more_all_the_same(self) -> None:
        """To close with unread bytes is to reset: the last answer could be lost on its way."""
        self.stubborn()
        self.wire.unread = 1
        self.client.gate.hang_up()
        self.assertEqual((self.wire.closed, self.wire.finished, len(self.front.farewells)), (None, True, 1))

    def test_peer_that_has_not_taken_all(self) -> None:
        """What lies in the kernel would still go out to a client that is revoked a moment later."""
        self.stubborn()
        self.wire.untaken = 1 << 20
        self.client.gate.hang_up()
        self.assertEqual((self.wire.closed, len(self.front.farewells), len(self.front.door.live)), (None, 1, 1))
        self.front.revoke(ALICE)
        self.assertEqual(self.wire.closed, "reset")

    def test_peer_stays(self) -> None:
        """A client that withholds its own end would keep the connection for ever."""
        self.stubborn()
        self.client.gate.loseConnection()
        self.front.advance(4)
        self.front.turns.turn()
        self.assertIsNone(self.wire.closed)
        self.front.advance(1)
        self.front.turns.turn()
        self.assertEqual((self.wire.closed, self.served.lost), ("reset", True))
        self.assertEqual(len(self.front.door.live), 0)

    def test_what_comes_after_the_end(self) -> None:
        """A protocol would be asked once more after it has said its last word."""
        self.stubborn()
        self.wire.loseConnection()
        self.client.tls.send(b"one more thing")
        self.wire.feed(self.client.tls.bio_read(1 << 16))
        self.assertEqual(self.served.heard, b"")
        self.wire.write(b"late")
        self.assertNotIn(self.wire, self.front.turns.writers)

    def test_rejected_peers_cost_no_more_than_so_many(self) -> None:
        """Each refused connection would hold a descriptor for five seconds: a flood of them, all there are."""
        self.front.farewells = Farewells(self.front.deadlines, write_timeout=30, close_timeout=5, most=3)
        peers = []
        for _ in range(5):
            peer = self.front.raw()
            peer.settle = self.front.turns.turn  # type: ignore[method-assign]
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            peers.append(peer)
        self.assertEqual([peer.wire.closed for peer in peers], ["reset", "reset", None, None, None])
        self.assertEqual(self.front.verdicts()[1:], [("rejected", "plain-http")] * 5)
        self.front.advance(5)
        self.assertEqual([peer.wire.closed for peer in peers], ["reset"] * 5)
        self.assertEqual(len(self.front.farewells), 0)

    def test_close_notify_does_not_fit(self) -> None:
        """A close whose last record meets a full socket would end without it, or never."""
        self.refuse("shutdown", SSL.WantWriteError, 1)
        self.wire.loseConnection()
        self.assertFalse(self.wire.finished)
        self.front.turns.turn()
        self.assertTrue(self.wire.finished)

    def test_nobody_is_left_to_hear_it(self) -> None:
        """A close whose last record cannot be sent would wait for a peer that is gone."""
        self.refuse("shutdown", SSL.Error)
        self.wire.loseConnection()
        self.assertEqual(self.wire.closed, "orderly")

    def test_after_the_peers_own(self) -> None:
        """A peer that has said goodbye would be waited for all the same."""
        self.client.tls.shutdown()
        self.client.pump()
        self.assertEqual((self.wire.closed, self.wire.finished, self.served.lost), ("orderly", False, True))

    def test_peer_says_goodbye_while_bytes_wait(self) -> None:
        """The end of an answer would be thrown away because its reader has nothing more to say."""
        self.block()
        self.wire.write(b"the end")
        self.client.tls.shutdown()
        self.wire.feed(self.client.tls.bio_read(1 << 16))
        self.assertIsNone(self.wire.closed)
        self.unblock()
        self.client.pump()
        self.assertEqual((self.client.received, self.wire.closed), (b"the end", "orderly"))

    def test_hung_up_on_the_poller(self) -> None:
        """The poller sees some ends before anybody reads them: their connection would stay."""
        heard: list[Any] = []
        self.served.connectionLost = heard.append  # type: ignore[assignment]
        self.wire.readConnectionLost(Failure(ConnectionDone()))
        self.assertEqual(heard[0].type, ConnectionLost)
        self.assertEqual(self.wire.closed, "orderly")


class StallTests(TransportTestCase):
    def test_takes_nothing(self) -> None:
        """A client that asks and never reads would hold its connection, and what waits in it, for ever."""
        self.block()
        self.wire.write(b"x" * 1000)
        self.front.advance(29)
        self.assertIsNone(self.wire.closed)
        self.front.advance(1)
        self.assertEqual(self.wire.closed, "reset")

    def test_takes_some(self) -> None:
        """A client on a slow line would be cut in the middle of its download."""
        self.block()
        self.wire.untaken = 1000
        self.wire.write(b"x" * 1000)
        for untaken in (900, 800, 700, 600):
            self.wire.untaken = untaken
            self.front.advance(30)
            self.assertIsNone(self.wire.closed)
        self.front.advance(30)
        self.assertEqual(self.wire.closed, "reset")

    def test_the_poller_calls(self) -> None:
        """As above: that the socket has room again is a sign too."""
        self.block()
        self.wire.write(b"x" * 1000)
        for _ in range(10):
            self.front.advance(20)
            self.front.turns.turn()
        self.assertIsNone(self.wire.closed)

    def test_all_is_taken(self) -> None:
        """A connection that was slow once would be cut later, when nothing waits."""
        self.block()
        self.wire.write(b"x")
        self.unblock()
        self.client.pump()
        self.assertEqual(self.client.received, b"x")
        self.front.advance(100)
        self.assertIsNone(self.wire.closed)
        self.assertEqual(len(self.front.deadlines), 0)

    def test_a_file_that_nobody_reads(self) -> None:
        """The kernel takes the last piece whole, and the next is never asked for: the client would keep its connection for ever."""
        self.wire.registerProducer(Pieces(self.wire, 100), False)
        self.front.turns.turn()
        self.assertFalse(self.wire.dataBuffer)
        self.wire.untaken = 1000
        # The poller has no room to tell of.
        self.front.turns.writers.clear()
        self.front.advance(29)
        self.assertIsNone(self.wire.closed)
        self.front.advance(2)
        self.assertEqual(self.wire.closed, "reset")

    def test_a_file_that_is_read_slowly(self) -> None:
        """A client on a slow line would be cut in the middle of its download."""
        self.wire.registerProducer(Pieces(self.wire, 100), False)
        for _ in range(5):
            self.front.turns.turn()
            self.front.advance(25)
        self.assertIsNone(self.wire.closed)

    def test_close_waits_for_what_is_written(self) -> None:
        """A client could keep a connection that was given up, by taking nothing of its last answer."""
        self.block()
        self.wire.write(b"x")
        self.wire.loseConnection()
        self.front.advance(60)
        self.assertEqual(self.wire.closed, "reset")


class WantTests(TransportTestCase):
    """OpenSSL may have to read in order to write, and to write in order to read."""

    def test_write_wants_write(self) -> None:
        """What the socket did not take would be lost, or sent twice."""
        self.block()
        for piece in (b"one ", b"two ", b"three"):
            self.wire.write(piece)
        self.assertIn(self.wire, self.front.turns.writers)
        self.front.turns.turn()
        self.unblock()
        self.client.pump()
        self.assertEqual(self.client.received, b"one two three")
        self.assertNotIn(self.wire, self.front.turns.writers)

    def test_write_wants_read(self) -> None:
        """The poller would be asked for room that is there all the time, and the processor never rest."""
        self.refuse("send_bytes", SSL.WantReadError, 2)
        self.wire.write(b"answer")
        self.front.turns.turn()
        self.assertNotIn(self.wire, self.front.turns.writers)
        self.client.tls.send(b"x")
        self.client.pump()
        self.assertEqual(self.client.received, b"answerHello: alice")

    def test_read_wants_write(self) -> None:
        """A request would be forgotten because OpenSSL had to say something first."""
        for times in (1, 2, 3):
            self.refuse("recv_record", SSL.WantWriteError, times)
            self.assertEqual(self.client.request(), b"Hello: alice")
            self.unblock()

    def test_read_wants_write_and_is_paused(self) -> None:
        """A protocol that has asked for a pause, for its own buffers are full, would be given a record all the same."""
        self.refuse("recv_record", SSL.WantWriteError, 1)
        self.client.tls.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        self.wire.bios.bio_write(self.client.tls.bio_read(1 << 16))
        self.wire.doRead()
        self.assertIn(self.wire, self.front.turns.writers)
        self.wire.pauseProducing()
        heard: list[bytes] = []
        self.patch(self.wire.protocol, "dataReceived", heard.append)
        self.front.turns.turn()
        self.assertEqual((heard, self.wire in self.front.turns.writers), ([], False))
        self.wire.resumeProducing()
        self.wire.doRead()
        self.assertEqual(len(heard), 1)

    def test_handshake_wants_write(self) -> None:
        """A long certificate chain and a small socket would hang every handshake."""
        client = Client(self.front, ALICE)
        self.wire = client.wire
        self.refuse("do_handshake", SSL.WantWriteError, 1)
        client.pump()
        self.assertEqual(client.request(), b"Hello: alice")

    def test_pending(self) -> None:
        """What OpenSSL has read already is not with the poller any more: a paused protocol would never hear it."""
        self.wire.pauseProducing()
        self.client.tls.send(b"x" * 100)
        self.wire.bios.bio_write(self.client.tls.bio_read(1 << 16))
        self.assertEqual(self.wire.bios.recv(10), b"x" * 10)
        self.wire.resumeProducing()
        self.assertEqual(self.served.heard, b"")
        self.front.turns.turn()
        self.assertEqual(self.served.heard, b"x" * 90)

    def test_pending_and_gone(self) -> None:
        """As above, for a connection that is cut before its turn comes."""
        self.wire.pauseProducing()
        self.client.tls.send(b"x" * 100)
        self.wire.bios.bio_write(self.client.tls.bio_read(1 << 16))
        self.wire.bios.recv(10)
        self.wire.resumeProducing()
        self.wire.abortConnection()
        self.front.turns.turn()
        self.assertEqual((self.served.heard, self.served.lost), (b"", True))

    def test_many_records(self) -> None:
        """A client that sends without end would be the only one that is served."""
        sizes: list[int] = []
        self.served.dataReceived = lambda data: sizes.append(len(data))  # type: ignore[method-assign]
        self.wire.protocol.dataReceived = self.served.dataReceived
        for _ in range(20):
            self.client.tls.send(b"x" * 16_384)
        self.wire.bios.bio_write(self.client.tls.bio_read(1 << 20))
        self.wire.doRead()
        self.assertEqual(sizes, [16_384] * 8)

    def test_broken_record(self) -> None:
        """Bytes that somebody has changed on the way would reach the protocol, or leave the connection open."""
        self.client.tls.send(b"an order")
        data = bytearray(self.client.tls.bio_read(1 << 16))
        data[-1] ^= 1
        self.client.send(bytes(data))
        self.assertEqual((self.served.heard, self.served.lost), (b"", True))

    def test_write_fails(self) -> None:
        """A connection that cannot be written to any more would be kept, and written to."""
        for error in (SSL.SysCallError, SSL.Error):
            self.setUp()
            self.refuse("send_bytes", error)
            self.wire.write(b"x")
            self.wire.write(b"y")
            self.assertFalse(self.served.lost)
            self.front.turns.turn()
            self.assertTrue(self.served.lost)

    def test_the_end_comes_while_it_is_written_to(self) -> None:
        """The reactor would go on watching a descriptor that is closed: whoever gets its number next, and all after, get nothing."""
        for end in ("abortConnection", "loseConnection", "hang_up", "readConnectionLost"):
            self.setUp()
            pieces = Pieces(self.wire, 2)
            reason = (Failure(ConnectionDone()),) if end == "readConnectionLost" else ()
            pieces.at_the_end = partial(getattr(self.wire, end), *reason)
            self.wire.registerProducer(pieces, False)
            self.front.turns.turn()
            self.client.pump()
            self.assertIsNotNone(self.wire.closed, end)
            self.assertEqual((self.front.turns.readers, self.front.turns.writers), (set(), set()), end)

    def test_no_bytes(self) -> None:
        """Text would reach OpenSSL as whatever it is in memory."""
        self.assertRaises(TypeError, self.wire.write, "text")
        self.wire.write(b"")
        self.assertNotIn(self.wire, self.front.turns.writers)

    def test_no_descriptor(self) -> None:
        """The reactor would be asked to watch a descriptor that is somebody else's by now."""
        self.wire.abortConnection()
        self.wire.startReading()
        self.wire.startWriting()
        self.wire.resumeProducing()
        self.assertEqual((self.front.turns.readers, self.front.turns.writers), (set(), set()))

    def test_close_before_the_handshake(self) -> None:
        """A protocol that does not want this peer could not say so before it has spoken."""
        peer = self.front.raw()
        peer.wire.loseConnection()
        self.assertEqual(peer.wire.closed, "reset")
        client = Client(self.front, ALICE)
        client.wire.write(b"first word")
        client.wire.loseConnection()
        client.pump()
        self.assertEqual(client.received, b"first word")
        self.assertTrue(client.wire.finished)

    def test_nothing_stays_corked(self) -> None:
        """An answer would lie in the kernel for a fifth of a second: after a handshake, one that fails, and what the poller asks for."""
        for pair in (ALICE, make_pair("eve"), None):
            client = self.front.connect(pair)
            client.wire.write(b"Hello")
            self.assertIn("cork", client.wire.corks)
            self.assertEqual(client.wire.corks[-1], "uncork")
        self.block()
        self.wire.write(b"x" * 100)
        self.unblock()
        self.wire.corks.clear()
        self.front.turns.turn()
        self.assertEqual(self.wire.corks, ["cork", "uncork"])

    def test_memory_is_let_go(self) -> None:
        """Each connection would leave its TLS behind for the collector: a cycle of ours through OpenSSL's."""
        self.client.close()
        self.assertIsNone(self.wire.bios.get_app_data())
        self.assertEqual(self.wire.logPrefix(), "TLS")


class Stream(Resource):
    """An answer that a push producer makes."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def render_GET(self, request: Any) -> int:
        self.request = request
        request.notifyFinish().addErrback(lambda _: self.calls.append("lost"))
        request.registerProducer(self, True)
        request.write(b"~" * 100_000)
        return NOT_DONE_YET

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class StreamTests(TransportTestCase):
    def test_the_client_says_goodbye_in_the_middle(self) -> None:
        """Its connection would wait for the end of an answer that nobody makes any more, and be reset after a minute."""
        front = FrontDoor(SETTINGS)
        front.authorize(alice=ALICE)
        stream = Stream()
        front.door.site = Site(
            stream, settings=SETTINGS, deadlines=front.deadlines, access_log=None, reactor=cast(IReactorTime, front.clock)
        )
        client = front.connect(ALICE)
        client.tls.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.wire = client.wire
        self.block()
        client.wire.feed(client.tls.bio_read(1 << 16))
        self.assertEqual(stream.calls, ["pause"])
        client.tls.shutdown()
        client.wire.feed(client.tls.bio_read(1 << 16))
        self.assertEqual(stream.calls, ["pause", "stop", "lost"])
        self.assertIsNone(client.wire.closed)
        stream.request.write(b"more")
        self.unblock()
        client.pump()
        # What was there is delivered, and nothing after it.
        self.assertEqual((client.received.count(b"~"), b"more" in client.received), (100_000, False))
        self.assertIsNotNone(client.wire.closed)


class GarbageTests(SynchronousTestCase):
    """What a connection had is free when it ends, not when the collector comes: with many of them that is late, and dear."""

    def test_nothing_is_left_for_the_collector(self) -> None:
        """A server with many short connections would hold the memory of thousands that are gone."""
        front = FrontDoor(SETTINGS)
        front.authorize(alice=ALICE)
        front.door.site = Site(
            make_root(), settings=SETTINGS, deadlines=front.deadlines, access_log=None, reactor=cast(IReactorTime, front.clock)
        )
        requests = (
            b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n1",
            b"nonsense\r\n\r\n",
        )
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for request in requests:
            client: Client | None = front.connect(ALICE)
            assert client is not None
            client.request(request)
            client.close()
            self.assertTrue(client.is_lost)
            # Its traceback holds the client.
            client.error = None
        front.turns.turn()
        client = None
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            left = [repr(thing) for thing in gc.garbage if type(thing).__module__.startswith(("mtlsd.", "httptools", "_cffi"))]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        self.assertEqual(left, [])
