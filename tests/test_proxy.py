"""A request on its way to a backend and its answer back: the channel, the exchange and the connections, in memory."""

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
from tests.site_in_memory import NOW, Answer, FrontDoor, Gate, ask

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
[[route]]
path = "/private"
allow = ["carol"]
upstream = "http://127.0.0.1:8000"
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Wire(StringTransport):
    """A backend's end of a connection."""

    producer: Any

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.aborted = self.half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

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


class ProxyTestCase(SynchronousTestCase):
    settings = Settings()

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        own = make_root(lambda: NOW)
        self.door = FrontDoor(own, self.settings)
        self.backends = Backends(self.reactor, self.door.deadlines, self.door.site.names)
        path = Path("/etc/mtlsd.toml")
        rules = parse(CONFIG, path).rules
        self.door.site.router = Router(rules, Resources(self.reactor, path).make(rules), own, self.backends)
        self.said: list[str] = []
        observer = cast(ILogObserver, self.hear)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def hear(self, event: LogEvent) -> None:
        if str(event.get("log_namespace")).startswith("mtlsd.proxy"):
            self.said.append(str(event["log_format"]).format(**event))

    def attempts(self) -> list[int]:
        """Return the ports that were connected to so far."""
        return [client[1] for client in self.reactor.tcpClients]

    def connected(self, number: int = -1) -> Wire:
        """Let a connection to a backend come about."""
        factory = self.reactor.tcpClients[number][2]
        wire = Wire(factory.buildProtocol(None))
        wire.protocol.makeConnection(wire)
        return wire

    def refuse(self, number: int = -1) -> None:
        self.reactor.tcpClients[number][2].clientConnectionFailed(
            cast(Any, None), Failure(ConnectError(string="Connection was refused"))
        )

    def ask(self, target: str = "/x", method: str = "GET", *headers: str, body: bytes = b"", version: str = "1.1") -> Gate:
        gate = self.door.connect()
        gate.protocol.dataReceived(ask(target, method, *headers, body=body, version=version))
        return gate


class ExchangeTests(ProxyTestCase):
    def test_there_and_back(self) -> None:
        """What it is for; and the connection serves the next request."""
        gate = self.ask("/a%20b?q", "GET", "X-Mine: 1", "X-Client-Name: root")
        self.assertEqual((self.attempts(), gate.taken()), ([8000], b""))
        wire = self.connected()
        head = wire.sent()
        self.assertTrue(
            head.startswith(b"GET /a%20b?q HTTP/1.1\r\nHost: localhost\r\nX-Mine: 1\r\nClient-Cert: :REVS:\r\n"), head
        )
        self.assertIn(b"X-Client-Name: alice\r\nX-Client-Fingerprint: 0123", head)
        self.assertNotIn(b"root", head)
        wire.answer(b"HTTP/1.1 404 Nope\r\nContent-Length: 2\r\nX-A: b\r\nKeep-Alive: 1\r\n\r\nhi")
        answer = Answer(gate.taken())
        self.assertEqual((answer.status, answer.reason, answer.body, answer.headers["x-a"]), (404, "Nope", b"hi", "b"))
        self.assertNotIn("keep-alive", answer.headers)
        self.assertEqual(answer.headers["server"], "mtlsd")
        self.assertIn('"GET /a%20b?q HTTP/1.1" 404 2', self.door.lines[-1])
        gate.protocol.dataReceived(ask("/y"))
        self.assertTrue(wire.sent().startswith(b"GET /y "))
        wire.answer(OK)
        self.assertEqual((Answer(gate.taken()).body, self.attempts()), (b"hi", [8000]))

    def test_who_may_not(self) -> None:
        """No backend hears of a request that is not allowed, nor of a path that has two meanings."""
        for target, status in (
            ("/private", 403),
            ("/%70rivate/x", 403),
            ("/a//b", 400),
            ("/a/../b", 400),
            ("/.mtlsd/hello", 200),
        ):
            self.assertEqual(Answer(self.ask(target).taken()).status, status, target)
        self.assertEqual(self.attempts(), [])

    def test_who_is_no_longer_authorized(self) -> None:
        """Revoked between two requests, also where it is the first byte of one."""
        gate = self.door.connect()
        gate.identity = None
        gate.protocol.dataReceived(ask("/x"))
        self.assertEqual((gate.aborted, self.attempts(), gate.taken()), (True, [], b""))

    def test_strip_prefix(self) -> None:
        """An application that knows nothing of where it is mounted."""
        for target, sent in (("/api", b"/"), ("/api/", b"/"), ("/api/x?y", b"/x?y"), ("/api?y", b"/?y")):
            self.ask(target)
            self.assertTrue(self.connected().sent().startswith(b"GET " + sent + b" HTTP/1.1\r\n"), target)

    def test_a_body(self) -> None:
        """With its length, or in chunks of our own making, and nothing of it before there is somebody to take it."""
        gate = self.ask("/x", "POST", body=b"abc")
        wire = self.connected()
        self.assertTrue(wire.sent().endswith(b"Content-Length: 3\r\n\r\nabc"))
        wire.answer(OK)
        gate.protocol.dataReceived(ask("/x", "POST", "Transfer-Encoding: chunked") + b"2;ext=1\r\nab\r\n")
        self.assertTrue(wire.sent().endswith(b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"))
        gate.protocol.dataReceived(b"1\r\nc\r\n0\r\nX-Trailer: x\r\n\r\n")
        self.assertEqual(wire.sent(), b"1\r\nc\r\n0\r\n\r\n")
        wire.answer(OK)
        self.assertEqual(gate.taken().count(b"HTTP/1.1 200 OK"), 2)
        self.assertEqual(self.attempts(), [8000])

    def test_while_there_is_no_backend_yet(self) -> None:
        """A body that nobody takes would be kept in memory."""
        gate = self.ask("/x", "POST", "Content-Length: 6")
        self.assertEqual(gate.producerState, "paused")
        wire = self.connected()
        self.assertEqual(gate.producerState, "producing")
        gate.protocol.dataReceived(b"abc")
        wire.producer.pauseProducing()
        self.assertEqual(gate.producerState, "paused")
        wire.producer.resumeProducing()
        self.assertEqual(gate.producerState, "producing")
        gate.protocol.dataReceived(b"def")
        self.assertTrue(wire.sent().endswith(b"\r\n\r\nabcdef"))
        self.assertIsNone(wire.producer)

    def test_expect(self) -> None:
        """The client is told to go on when there is somebody to send it to, once."""
        gate = self.ask("/x", "POST", "Expect: 100-continue", "Content-Length: 3")
        self.assertEqual(gate.taken(), b"")
        wire = self.connected()
        self.assertEqual(gate.taken(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertNotIn(b"Expect", wire.sent())
        wire.producer.pauseProducing()
        wire.producer.resumeProducing()
        gate.protocol.dataReceived(b"a")
        wire.producer.pauseProducing()
        wire.producer.resumeProducing()
        gate.protocol.dataReceived(b"bc")
        wire.answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        self.assertTrue(gate.taken().startswith(b"HTTP/1.1 200 OK"))

    def test_expect_and_nobody_there(self) -> None:
        """A gigabyte need not be sent in order to hear that."""
        gate = self.ask("/x", "POST", "Expect: 100-continue", "Content-Length: 3")
        self.refuse()
        data = gate.taken()
        self.assertEqual((Answer(data).status, Answer(data).headers["connection"], gate.disconnecting), (503, "close", True))

    def test_hints(self) -> None:
        """103 is for the client (RFC 8297), where that knows of it."""
        wire, hints = None, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n"
        gate = self.ask()
        wire = self.connected()
        wire.answer(hints)
        self.assertEqual(gate.taken(), b"HTTP/1.1 103 Interim\r\nLink: </a>\r\n\r\n")
        wire.answer(OK)
        old = self.ask(version="1.0")
        wire.answer(hints + OK)
        self.assertTrue(old.taken().startswith(b"HTTP/1.0 200 OK"))

    def test_without_a_length(self) -> None:
        """In chunks to whoever knows them; to others the end of the connection is the end."""
        for version in ("1.1", "1.0"):
            gate = self.ask(version=version)
            wire = self.connected()
            wire.answer(b"HTTP/1.1 200 OK\r\n\r\nab")
            wire.answer(b"c")
            wire.lose()
            head, _, body = gate.taken().partition(b"\r\n\r\n")
            self.assertEqual(body, b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n" if version == "1.1" else b"abc")
            self.assertEqual((b"chunked" in head, gate.disconnecting), (version == "1.1", version == "1.0"))

    def test_no_body(self) -> None:
        """HEAD, 204, 304: nothing follows, and the next answer is the next one's."""
        gate = self.ask("/x", "HEAD")
        wire = self.connected()
        for data, length in (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "99"),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", None),
            (b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n", None),
        ):
            wire.answer(data)
            answer = Answer(gate.taken())
            self.assertEqual((answer.headers.get("content-length"), answer.body), (length, b""), data)
            self.assertNotIn("transfer-encoding", answer.headers)
            gate.protocol.dataReceived(ask("/x"))
        self.assertEqual(self.attempts(), [8000])

    def test_a_slow_client(self) -> None:
        """What it does not take is not asked of the backend."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        channel = gate.protocol
        channel.pauseProducing()
        self.assertEqual(wire.producerState, "paused")
        self.door.wait(120)
        channel.resumeProducing()
        self.assertEqual(wire.producerState, "producing")
        wire.answer(b"cd")
        self.assertTrue(gate.taken().endswith(b"\r\n\r\nabcd"))

    def test_an_early_answer(self) -> None:
        """A backend that refuses an upload does not read it; nor does anybody after that take its rest for a request."""
        gate = self.ask("/x", "POST", "Content-Length: 50")
        wire = self.connected()
        gate.protocol.dataReceived(b"abc")
        wire.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        answer = Answer(gate.taken())
        self.assertEqual((answer.status, answer.headers["connection"], answer.body), (413, "close", b"no"))
        self.assertTrue(gate.disconnecting and wire.aborted)
        gate.protocol.dataReceived(b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual((gate.taken(), self.attempts()), (b"", [8000]))

    def test_a_client_that_leaves(self) -> None:
        """The backend need not go on; and its answer must not be the next one's."""
        gate = self.ask()
        wire = self.connected()
        gate.lose()
        self.assertTrue(wire.aborted)
        self.assertIn('"GET /x HTTP/1.1" 499', self.door.lines[-1])
        self.ask()
        self.assertEqual(self.attempts(), [8000, 8000])
        early = self.ask()
        early.lose()
        self.assertTrue(self.connected().aborted)

    def test_pipelined(self) -> None:
        """Answers go out in the order of the requests, whoever answers them."""
        gate = self.door.connect()
        gate.protocol.dataReceived(ask("/one") + ask("/.mtlsd/hello") + ask("/two"))
        wire = self.connected()
        self.assertTrue(wire.sent().startswith(b"GET /one "))
        wire.answer(OK)
        data = gate.taken()
        self.assertLess(data.index(b"hi"), data.index(b"Hello: alice"))
        self.assertTrue(wire.sent().startswith(b"GET /two "))

    def test_an_upgrade(self) -> None:
        """Nobody has said that this route may, so the backend does not hear of it."""
        gate = self.ask("/x", "GET", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
        wire = self.connected()
        self.assertNotIn(b"pgrade", wire.sent())
        wire.answer(OK)
        self.assertEqual(Answer(gate.taken()).headers["connection"], "close")


class BrokenTests(ProxyTestCase):
    """A backend that misbehaves harms nobody, and its answer is nobody else's."""

    def fails(self, gate: Gate, status: int, reason: str) -> None:
        answer = Answer(gate.taken())
        self.assertEqual(answer.status, status)
        self.assertIn(reason, self.said[-1])
        self.assertIn("alice GET /x: http://127.0.0.1:8000: ", self.said[-1])
        self.assertTrue(self.said[-1].endswith(" [c0ffee-1]"))
        self.assertIn(f'" {status} ', self.door.lines[-1])

    def test_refused(self) -> None:
        """503, and the reason for the operator."""
        gate = self.ask()
        self.refuse()
        self.fails(gate, 503, "Connection was refused")

    def test_no_connection_in_time(self) -> None:
        """By a clock that nobody sets."""
        gate = self.ask()
        test, factory = self, cast(Any, self.reactor.tcpClients[0][2])

        class Connector:
            def stopConnecting(self) -> None:
                test.refuse()

        factory.connector = Connector()
        self.door.wait(4)
        self.assertEqual(gate.taken(), b"")
        self.door.wait(2)
        self.fails(gate, 503, "it takes too long")

    def test_no_answer(self) -> None:
        """504 after `response_timeout`, and the connection goes with it."""
        gate = self.ask()
        wire = self.connected()
        self.door.wait(59)
        self.assertEqual(gate.taken(), b"")
        self.door.wait(2)
        self.assertTrue(wire.aborted)
        self.fails(gate, 504, "it does not answer")

    def test_nothing_taken(self) -> None:
        """A backend that stops reading would hold the client's connection for ever."""
        gate = self.ask("/x", "POST", "Content-Length: 100")
        wire = self.connected()
        wire.producer.pauseProducing()
        self.door.wait(62)
        self.assertTrue(wire.aborted)
        self.assertEqual(Answer(gate.taken()).status, 504)

    def test_bad_answers(self) -> None:
        """502, and never another request on that connection."""
        for data in (
            b"SSH-2.0\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 101 S\r\n\r\n",
        ):
            gate = self.ask()
            wire = self.connected()
            wire.answer(data)
            self.assertTrue(wire.aborted)
            self.fails(gate, 502, ": it ")
        self.assertEqual(self.attempts(), [8000] * 3)

    def test_ends_before_the_answer(self) -> None:
        """A fresh connection is not asked twice: the backend may have done what it was asked to."""
        gate = self.ask()
        self.connected().lose()
        self.fails(gate, 502, "the connection ended without one")
        gate = self.ask()
        self.connected().lose(ConnectionLost())
        self.fails(gate, 502, "the connection was lost")

    def test_ends_in_the_middle(self) -> None:
        """Half an answer must not look like a whole one."""
        for data in (b"Content-Length: 9\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"):
            gate = self.ask()
            wire = self.connected()
            wire.answer(b"HTTP/1.1 200 OK\r\n" + data)
            wire.lose()
            self.assertTrue(gate.aborted)
            self.assertFalse(gate.taken().endswith(b"0\r\n\r\n"))
            self.assertIn("the connection ended before it did", self.said[-1])
        gate = self.ask()
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\n\r\nhi")
        wire.lose(ConnectionLost())
        self.assertTrue(gate.aborted)

    def test_stops_in_the_middle(self) -> None:
        """After `idle_timeout` without a byte."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
        self.door.wait(62)
        self.assertTrue(gate.aborted and wire.aborted)
        self.assertIn("it stopped in the middle of an answer", self.said[-1])

    def test_garbage_after_the_head(self) -> None:
        """A chunk that is none, when the head has gone out."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        wire.answer(b"zz\r\n")
        self.assertTrue(gate.aborted and wire.aborted)

    def test_an_answer_to_nobody(self) -> None:
        """What comes on a connection that waits is the beginning of somebody else's answer."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        self.assertTrue(wire.aborted)
        gate.protocol.dataReceived(ask("/y"))
        wire = self.connected()
        wire.answer(OK)
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        self.assertTrue(wire.aborted)
        gate.protocol.dataReceived(ask("/z"))
        self.assertEqual(len(self.attempts()), 3)
        self.assertNotIn(b"evil", gate.taken())


class PoolTests(ProxyTestCase):
    def kept(self) -> Wire:
        """Return a connection that has served and waits."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(OK)
        gate.taken()
        wire.sent()
        return wire

    def test_one_that_had_ended(self) -> None:
        """Closed by the backend when the request was on its way: asked again, once, on a new connection."""
        wire = self.kept()
        gate = self.ask()
        wire.lose()
        self.assertEqual(self.attempts(), [8000, 8000])
        fresh = self.connected()
        self.assertTrue(fresh.sent().startswith(b"GET /x "))
        fresh.lose()
        self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (502, 2))

    def test_never_twice(self) -> None:
        """A POST may have been done, and a body that has begun cannot be sent again."""
        for method, body in (("POST", b""), ("POST", b"abc"), ("PUT", b"abc")):
            wire = self.kept()
            before = len(self.attempts())
            gate = self.ask("/x", method, body=body)
            wire.lose()
            self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (502, before), method)

    def test_not_kept_for_long(self) -> None:
        """A connection that the backend is about to close breaks the next request."""
        wire = self.kept()
        self.door.wait(3)
        self.assertFalse(wire.aborted)
        self.door.wait(3)
        self.assertTrue(wire.aborted)

    def test_a_backend_that_is_no_longer_there(self) -> None:
        """A reload lets its connections go."""
        wire = self.kept()
        self.backends.keep_only([])
        self.assertTrue(wire.aborted)

    def test_in_turn(self) -> None:
        """Each takes its share."""
        for _ in range(4):
            self.ask("/api")
            self.connected().answer(OK + b"x")
        self.assertEqual(sorted(self.attempts()), [8001, 8001, 8002, 8002])

    def test_the_next_one(self) -> None:
        """One that is down costs one attempt, then it rests, for longer each time; a POST may go on too, for nothing was sent."""
        gate = self.ask("/api", "POST", body=b"abc")
        first = self.attempts()[0]
        self.refuse()
        other = 8003 + 8000 - first
        self.assertEqual(self.attempts(), [first, other])
        wire = self.connected()
        self.assertTrue(wire.sent().endswith(b"abc"))
        wire.answer(OK)
        self.assertEqual(Answer(gate.taken()).status, 200)
        for _ in range(4):
            self.ask("/api")
            wire.answer(OK)
        self.assertEqual(len(self.attempts()), 2)
        self.door.wait(2)
        for _ in range(2):
            self.ask("/api")
        self.assertIn(first, self.attempts()[2:])
        self.connected(self.attempts().index(first, 2))
        self.assertIn("can be reached again", self.said[-1])

    def test_all_are_down(self) -> None:
        """Each is tried all the same: who knows."""
        gate = self.ask("/api")
        self.refuse()
        self.refuse()
        self.assertEqual((len(self.attempts()), Answer(gate.taken()).status), (2, 503))
        said = len(self.said)
        self.ask("/api")
        self.refuse()
        self.refuse()
        # One line for the request, and none for each server that is known to be down.
        self.assertEqual(len(self.said), said + 1)


class LimitTests(ProxyTestCase):
    settings = Settings(max_body=10)

    def test_max_body(self) -> None:
        """Also where nobody has said how long it will be."""
        self.assertEqual(Answer(self.ask("/x", "POST", "Content-Length: 11").taken()).status, 413)
        self.assertEqual(self.attempts(), [])
        gate = self.ask("/x", "POST", "Transfer-Encoding: chunked")
        wire = self.connected()
        gate.protocol.dataReceived(b"b\r\n12345678901\r\n")
        self.assertEqual((Answer(gate.taken()).status, wire.aborted), (413, True))

    def test_when_an_answer_has_begun(self) -> None:
        """A second head in the middle of the first answer's body would be a part of it, or an answer to the next request."""
        gate = self.ask("/x", "POST", "Transfer-Encoding: chunked")
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
        gate.protocol.dataReceived(b"b\r\n12345678901\r\n")
        self.assertTrue(gate.aborted)
        self.assertEqual(gate.taken().count(b"HTTP/1.1"), 1)
        gate = self.ask("/x", "POST", "Transfer-Encoding: chunked")
        self.connected().answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
        gate.protocol.dataReceived(b"zz\r\n")
        self.assertTrue(gate.aborted)

    def test_a_slow_body(self) -> None:
        """A drip of a body holds a connection of the backend too."""
        gate = self.ask("/x", "POST", "Content-Length: 10")
        wire = self.connected()
        self.door.wait(62)
        self.assertEqual((Answer(gate.taken()).status, wire.aborted), (408, True))
