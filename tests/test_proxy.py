"""A request on its way to a backend and its answer back: the channel, the exchange and the connections, in memory."""

from __future__ import annotations

from typing import cast

from mtlsd.settings import Settings
from tests.proxy_in_memory import OK, NarrowGate, ProxyTestCase, TcpWire
from tests.site_in_memory import Answer, ask


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

    def test_over_which_socket(self) -> None:
        """Small answers do not wait for others (Nagle) on TCP; a unix socket knows nothing of that."""
        self.ask()
        self.assertTrue(cast(TcpWire, self.connected()).is_prompt)
        gate = self.ask("/unix")
        self.assertEqual(self.reactor.unixClients[-1][0], "/run/app.sock")
        self.connected_unix().answer(OK)
        self.assertEqual(Answer(gate.taken()).body, b"hi")

    def test_without_a_host(self) -> None:
        """What goes on is HTTP/1.1, in which a request without a host is none."""
        for target, host in (("/x", b"127.0.0.1:8000"), ("/unix", b"localhost"), ("/six", b"[::1]:8000")):
            gate = self.door.connect()
            gate.protocol.dataReceived(b"GET " + target.encode() + b" HTTP/1.0\r\n\r\n")
            head = (self.connected_unix() if target == "/unix" else self.connected()).sent()
            self.assertIn(b" HTTP/1.1\r\nHost: " + host + b"\r\n", head)
            self.assertNotIn(b"X-Forwarded-Host", head)

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

    def test_a_prefix_in_another_spelling(self) -> None:
        """What goes on begins where the route's path ends, whatever that is in the client's words."""
        text = '[[route]]\npath = "/a@b"\nallow = ["*"]\nupstream = "http://127.0.0.1:8000"\nstrip_prefix = true\n'
        self.configure(text)
        for target, sent in (("/a@b/x?y", b"/x?y"), ("/a%40b/x?y", b"/x?y"), ("/a%40b?y", b"/?y")):
            self.ask(target)
            self.assertTrue(self.connected().sent().startswith(b"GET " + sent + b" HTTP/1.1\r\n"), target)

    def test_what_is_not_passed_on(self) -> None:
        """TRACE would tell a client what the door has added, and CONNECT open a tunnel past the rules."""
        for method, target in (("TRACE", "/x"), ("CONNECT", "/x"), ("CONNECT", "127.0.0.1:8000"), ("CONNECT", "h:80")):
            answer = Answer(self.ask(target, method).taken())
            self.assertEqual((answer.status, method in answer.headers["allow"]), (405, False), (method, target))
        self.assertEqual(self.attempts(), [])

    def test_a_socket_that_takes_a_part(self) -> None:
        """A request would reach the server in part, twice, or in another order."""
        for takes, buffer in ((0, b""), (7, b""), (1 << 20, b""), (1 << 20, b"x"), (None, b"")):
            gate = self.ask("/x")
            factory = self.reactor.tcpClients[-1][2]
            wire = TcpWire(factory.buildProtocol(None))
            wire.takes, wire.dataBuffer = takes, buffer
            wire.protocol.makeConnection(wire)
            sent = wire.sent()
            self.assertEqual((sent.count(b"GET /x HTTP/1.1\r\n"), sent.endswith(b"\r\n\r\n")), (1, True), takes)
            wire.answer(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            self.assertEqual(Answer(gate.taken()).status, 200)

    def test_strip(self) -> None:
        """What the route says that no client may say would reach the server behind it, in another spelling."""
        self.ask("/api", "GET", "X-Tenant: forged", "x_corp.user: forged", "X-Tenants: kept")
        sent = self.connected().sent()
        self.assertNotIn(b"forged", sent)
        self.assertIn(b"\r\nX-Tenants: kept\r\n", sent)
        self.ask("/x", "GET", "X-Tenant: kept")
        self.assertIn(b"\r\nX-Tenant: kept\r\n", self.connected().sent())

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

    def test_the_next_request_after_a_body(self) -> None:
        """A body that had to wait, for a connection or for a slow backend, must not leave the client's connection deaf."""
        gate = self.ask("/x", "POST", body=b"abc")
        self.refuse()
        self.assertEqual((Answer(gate.taken()).status, gate.producerState), (503, "producing"))
        gate.protocol.dataReceived(ask("/x", "POST", "Content-Length: 6") + b"abc")
        self.assertEqual(gate.producerState, "paused")
        self.refuse()
        self.assertEqual((Answer(gate.taken()).status, gate.disconnecting), (503, True))
        gate = self.ask("/x", "POST", "Content-Length: 6")
        wire = self.connected()
        wire.producer.pauseProducing()
        gate.protocol.dataReceived(b"abcdef")
        # All of it is here, so that what is read next is whether the client is still there.
        self.assertEqual(gate.producerState, "producing")
        wire.answer(OK)
        self.assertEqual((Answer(gate.taken()).body, gate.producerState), (b"hi", "producing"))
        gate.protocol.dataReceived(ask("/y"))
        wire.answer(OK)
        self.assertEqual(Answer(gate.taken()).body, b"hi")

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

    def test_expect_on_a_kept_connection(self) -> None:
        """A client that waits for the word gets it at once where somebody is there already, and once; else it would wait for ever."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(OK)
        gate.taken()
        gate.protocol.dataReceived(ask("/x", "POST", "Expect: 100-continue", "Content-Length: 3"))
        self.assertEqual((self.attempts(), gate.taken()), ([8000], b"HTTP/1.1 100 Continue\r\n\r\n"))
        wire.producer.pauseProducing()
        wire.producer.resumeProducing()
        gate.protocol.dataReceived(b"abc")
        self.assertTrue(wire.sent().endswith(b"\r\n\r\nabc"))
        wire.answer(OK)
        self.assertTrue(gate.taken().startswith(b"HTTP/1.1 200 OK"))

    def test_expect_and_nobody_there(self) -> None:
        """A gigabyte need not be sent in order to hear that."""
        gate = self.ask("/x", "POST", "Expect: 100-continue", "Content-Length: 3")
        self.refuse()
        data = gate.taken()
        self.assertEqual((Answer(data).status, Answer(data).headers["connection"], gate.disconnecting), (503, "close", True))

    def test_hints(self) -> None:
        """103 is for the client (RFC 8297), where that knows of it; with a length (RFC 9110 8.6), it would take the answer for a body."""
        wire, hints = None, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nContent-Length: 5\r\n\r\n"
        gate = self.ask()
        wire = self.connected()
        wire.answer(hints)
        self.assertEqual(gate.taken(), b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
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

    def test_a_client_slower_than_the_last_byte(self) -> None:
        """The end of an answer may be what fills the buffer: the next request goes on when there is room."""
        gate = cast(NarrowGate, self.ask(gate=NarrowGate()))
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        self.assertTrue(gate.is_full)
        gate.protocol.dataReceived(ask("/y"))
        self.assertEqual(wire.sent().count(b"GET "), 1)
        self.assertTrue(gate.drain().endswith(b"\r\n\r\n0\r\n\r\n"))
        self.assertTrue(wire.sent().startswith(b"GET /y "))
        wire.answer(OK)
        self.assertEqual(Answer(gate.drain()).body, b"hi")

    def test_the_connection_after_a_slow_client(self) -> None:
        """It is kept for others, who would wait for an answer that nobody reads."""
        gate = cast(NarrowGate, self.ask(gate=NarrowGate()))
        wire = self.connected()
        wire.answer(OK)
        self.assertTrue(gate.is_full)
        other = self.ask("/y")
        self.assertEqual((wire.sent().count(b"GET "), wire.producerState), (2, "producing"))
        wire.answer(OK)
        self.assertEqual((Answer(other.taken()).body, Answer(gate.drain()).body), (b"hi", b"hi"))
        self.assertEqual(wire.producerState, "producing")

    def test_a_client_held_up_by_a_hint(self) -> None:
        """It is the client that takes nothing, so the backend is not late: not before, and not after the head has come."""
        gate = cast(NarrowGate, self.ask(gate=NarrowGate()))
        wire = self.connected()
        wire.answer(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        self.assertEqual(wire.producerState, "paused")
        self.door.wait(120)
        self.assertFalse(gate.aborted or wire.aborted)
        gate.drain()
        wire.answer(b"cd")
        self.assertTrue(gate.drain().endswith(b"cd"))
        self.assertEqual(self.said, [])

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

    def test_an_early_answer_that_takes_its_time(self) -> None:
        """The whole of an upload is passed on while its answer comes in: the end of the one is not the end of the other."""
        gate = self.ask("/x", "POST", "Content-Length: 6")
        wire = self.connected()
        gate.protocol.dataReceived(b"abc")
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        gate.protocol.dataReceived(b"def")
        self.assertTrue(wire.sent().endswith(b"\r\n\r\nabcdef"))
        self.door.wait(59)
        self.assertFalse(gate.aborted)
        wire.answer(b"cd")
        answer = Answer(gate.taken())
        self.assertEqual((answer.body, answer.headers["connection"], gate.disconnecting), (b"abcd", "close", True))

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
        lines = len(self.door.lines)
        early = self.ask()
        early.lose()
        self.refuse()
        self.assertEqual((early.taken(), len(self.door.lines)), (b"", lines + 1))

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

    def test_a_body_that_is_none(self) -> None:
        """Broken when it comes in: no backend hears of it.  Broken later: its connection ends with it."""
        for more in (b"zz\r\n", b"2\r\nab\r\n-1\r\n"):
            gate = self.door.connect()
            gate.protocol.dataReceived(ask("/x", "POST", "Transfer-Encoding: chunked") + more)
            self.assertEqual((Answer(gate.taken()).status, gate.disconnecting), (400, True))
        self.assertEqual(self.attempts(), [])
        gate = self.ask("/x", "POST", "Transfer-Encoding: chunked")
        wire = self.connected()
        gate.protocol.dataReceived(b"zz\r\n")
        self.assertEqual((Answer(gate.taken()).status, wire.aborted), (400, True))

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
