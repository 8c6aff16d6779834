"""HTTP on one connection: deadlines that no byte puts off, limits, and the end."""

from __future__ import annotations

from io import BytesIO
from typing import Any, cast

from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import server
from twisted.web.resource import Resource

from mtlsd.settings import Settings
from mtlsd.web.channel import Channel
from mtlsd.web.request import Request
from tests.site_in_memory import Answer, FrontDoor, ask

SETTINGS = Settings(head_timeout=10, idle_timeout=60, close_timeout=5, max_head=2048)


class ChannelTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.slow = Slow()
        self.root = Resource()
        self.root.putChild(b"slow", self.slow)
        self.root.putChild(b"echo", Echo())
        self.root.putChild(b"last", Last())
        self.front = FrontDoor(self.root, SETTINGS)
        self.gate = self.front.connect()

    def send(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.gate.protocol.dataReceived(chunk)

    def assertRefused(self, status: int, text: str) -> None:
        answer = Answer(self.gate.taken())
        self.assertEqual((answer.status, answer.body), (status, text.encode() + b"\n"))
        self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.headers["content-length"], str(len(answer.body)))
        self.assertEqual(answer.headers["connection"], "close")
        self.assertEqual(answer.headers["server"], "mtlsd")
        self.assertTrue(self.gate.disconnecting)
        self.send(ask("/echo"))
        self.assertEqual(self.gate.taken(), b"")


class HeadDeadlineTests(ChannelTestCase):
    def test_drip(self) -> None:
        """A client that sends one byte a second would hold its connection for ever (slowloris)."""
        for at in range(9):
            self.send(b"GET /echo HTTP/1.1"[at : at + 1])
            self.front.wait(1)
        self.assertFalse(self.gate.disconnecting)
        self.send(b" ")
        self.front.wait(1)
        self.assertRefused(408, "request head too slow")

    def test_drip_of_headers(self) -> None:
        """As a drip, but with whole lines: each line would put the deadline off."""
        self.send(b"GET /echo HTTP/1.1\r\n")
        for nth in range(10):
            self.send(b"X-%d: 1\r\n" % nth)
            self.front.wait(1)
        self.assertRefused(408, "request head too slow")

    def test_drip_of_a_pipelined_request(self) -> None:
        """The rest of what was sent ahead would be a drip without a deadline."""
        self.send(ask("/echo") + b"GET /")
        self.gate.clear()
        self.front.wait(10)
        self.assertRefused(408, "request head too slow")

    def test_drip_behind_a_slow_answer(self) -> None:
        """The head's time would run while the server itself is slow, or not at all afterwards."""
        self.send(ask("/slow"), b"GET /ec")
        self.front.wait(100)
        self.slow.finish()
        self.front.wait(9)
        self.assertFalse(self.gate.disconnecting)
        self.gate.clear()
        self.front.wait(1)
        self.assertRefused(408, "request head too slow")

    def test_in_time(self) -> None:
        """An honest client on a slow line would be cut."""
        request = ask("/echo")
        self.send(request[:10])
        self.front.wait(9)
        self.send(request[10:])
        self.assertEqual(Answer(self.gate.taken()).status, 200)

    def test_not_while_a_body_comes_in(self) -> None:
        """A long upload would be cut as if its head were slow."""
        self.send(ask("/echo", "POST", "Content-Length: 3"))
        self.front.wait(59)
        self.send(b"abc")
        self.assertEqual(Answer(self.gate.taken()).body, b"abc")

    def test_empty_lines(self) -> None:
        """A client that goes on sending line ends would never be idle, nor late with a head (RFC 9112 2.2)."""
        for _ in range(6):
            self.send(b"\r\n")
            self.front.wait(9)
        self.assertFalse(self.gate.disconnecting)
        self.front.wait(6)
        self.assertTrue(self.gate.disconnecting)


class BodyDeadlineTests(ChannelTestCase):
    def test_nothing_comes(self) -> None:
        """An upload that has come to a halt would hold its connection, and the file with it, for ever."""
        self.send(ask("/echo", "POST", "Content-Length: 100000"), b"x" * 50_000)
        self.front.wait(59)
        self.assertFalse(self.gate.disconnecting)
        self.front.wait(1)
        self.assertRefused(408, "request body too slow")

    def test_drip(self) -> None:
        """A byte a second would put the deadline off for ever."""
        self.send(ask("/echo", "POST", "Content-Length: 100000"))
        for _ in range(60):
            self.assertFalse(self.gate.disconnecting)
            self.send(b"x")
            self.front.wait(1)
        self.assertRefused(408, "request body too slow")

    def test_slow_but_honest(self) -> None:
        """A client on a slow line that goes on sending would be cut."""
        self.send(ask("/echo", "POST", "Content-Length: 60000"))
        for _ in range(200):
            self.send(b"x" * 300)
            self.front.wait(1)
        self.assertEqual(len(Answer(self.gate.taken()).body), 60_000)

    def test_slower_later(self) -> None:
        """A fast beginning would pay for a drip that lasts for hours."""
        self.send(ask("/echo", "POST", "Content-Length: 1000000"), b"x" * 500_000)
        for _ in range(120):
            self.send(b"x")
            self.front.wait(1)
        self.assertRefused(408, "request body too slow")

    def test_halt_after_a_fast_window(self) -> None:
        """A halt would be noticed up to a minute late, because the time before it was counted in."""
        self.send(ask("/echo", "POST", "Content-Length: 1000000"))
        for _ in range(61):
            self.send(b"x" * 1000)
            self.front.wait(1)
        self.front.wait(58)
        self.assertFalse(self.gate.disconnecting)
        self.front.wait(1)
        self.assertRefused(408, "request body too slow")

    def test_chunk_extensions(self) -> None:
        """Bytes that are no body would pass for one that comes in."""
        self.send(ask("/echo", "POST", "Transfer-Encoding: chunked"), b"5;")
        for _ in range(60):
            self.send(b"x" * 10)
            self.front.wait(1)
        self.assertRefused(408, "request body too slow")


class IdleDeadlineTests(ChannelTestCase):
    def test_nothing_is_asked(self) -> None:
        """Connections without a request would pile up."""
        self.front.wait(59)
        self.assertFalse(self.gate.disconnecting)
        self.front.wait(1)
        self.assertTrue(self.gate.disconnecting)
        self.assertEqual(self.gate.taken(), b"")

    def test_from_the_end_of_an_answer(self) -> None:
        """A keep-alive connection that is in use would be closed once a minute."""
        for _ in range(5):
            self.front.wait(50)
            self.send(ask("/echo"))
        self.front.wait(59)
        self.assertFalse(self.gate.disconnecting)
        self.front.wait(1)
        self.assertTrue(self.gate.disconnecting)

    def test_not_while_a_request_waits(self) -> None:
        """A request that takes its time (a long poll) would be cut."""
        self.send(ask("/slow"))
        self.front.wait(10_000)
        self.assertFalse(self.gate.disconnecting)
        self.slow.finish()
        self.assertEqual(Answer(self.gate.taken()).body, b"done")
        self.front.wait(60)
        self.assertTrue(self.gate.disconnecting)

    def test_one_deadline_at_most(self) -> None:
        """Each request would leave a deadline behind, and memory with it."""
        for _ in range(100):
            self.send(ask("/echo") * 3)
        self.assertEqual(len(self.front.deadlines), 1)
        self.gate.lose()
        self.assertEqual(len(self.front.deadlines), 0)


class CloseTests(ChannelTestCase):
    def test_connection_close(self) -> None:
        """A client that asks for the end of the connection would wait for it."""
        self.send(ask("/echo", "GET", "Connection: close"))
        self.assertEqual(Answer(self.gate.taken()).headers["connection"], "close")
        self.assertTrue(self.gate.disconnecting)
        self.assertTrue(self.gate.hung_up)
        self.assertEqual(len(self.front.deadlines), 0)

    def test_asked_while_it_closes(self) -> None:
        """A client could go on asking, or fill the memory, on a connection that was given up long ago."""
        self.front.wait(60)
        self.send(ask("/echo"), b"x" * 1000)
        self.assertEqual(self.gate.taken(), b"")
        self.assertEqual(len(self.gate.protocol._messages), 0)

    def test_resource_closes(self) -> None:
        """A resource that says `Connection: close` would be taken at its word by the client alone."""
        self.send(ask("/last"))
        self.assertEqual(Answer(self.gate.taken()).headers["connection"], "close")
        self.assertTrue(self.gate.disconnecting)
        # It may be about to ask again: nobody has asked it.
        self.assertFalse(self.gate.hung_up)

    def test_http_1_0_kept_alive(self) -> None:
        """ab and other old clients would make a connection for each request, or wait for the end of an answer."""
        for _ in range(2):
            self.send(ask("/echo", "GET", "Connection: keep-alive", version="1.0"))
            answer = Answer(self.gate.taken())
            self.assertEqual((answer.headers["connection"], answer.body), ("keep-alive", b"echo"))
        self.send(ask("/slow", "GET", "Connection: keep-alive", version="1.0"))
        self.slow.waiting[0].write(b"of any length")
        self.assertEqual(Answer(self.gate.taken()).headers["connection"], "close")
        self.slow.finish()
        self.assertTrue(self.gate.disconnecting)

    def test_http_1_0(self) -> None:
        """An HTTP/1.0 client waits for the end of the connection, and would wait for ever."""
        self.send(ask("/echo", version="1.0"))
        answer = Answer(self.gate.taken())
        self.assertEqual((answer.version, answer.headers["connection"]), ("HTTP/1.0", "close"))
        self.assertTrue(self.gate.disconnecting)

    def test_pause_and_resume(self) -> None:
        """A slow reader on a connection that stays open would be hung up on when it catches up."""
        self.gate.protocol.pauseProducing()
        self.gate.protocol.resumeProducing()
        self.send(ask("/echo"))
        self.assertEqual(Answer(self.gate.taken()).status, 200)


class LimitTests(ChannelTestCase):
    def test_many_headers(self) -> None:
        """Headers without an end would fill the memory."""
        self.send(b"GET /echo HTTP/1.1\r\n" + b"X-Filler: 0123456789\r\n" * 200)
        self.assertRefused(431, "request head too large")

    def test_too_many_headers(self) -> None:
        """As above, with as many tiny headers as fit."""
        self.front.site.settings = Settings(max_head=1_000_000)
        self.gate = self.front.connect()
        self.send(b"GET /echo HTTP/1.1\r\n" + b"A: 1\r\n" * 600)
        self.assertRefused(431, "request head too large")

    def test_line_without_an_end(self) -> None:
        """One line without an end would fill the memory, byte by byte."""
        self.send(b"GET /")
        for _ in range(20):
            self.send(b"x" * 100)
            self.assertFalse(self.gate.disconnecting)
        self.send(b"x" * 100)
        self.assertRefused(431, "request head too large")

    def test_trailers_without_an_end(self) -> None:
        """As above, behind a body."""
        self.send(ask("/echo", "POST", "Transfer-Encoding: chunked"), b"0\r\n")
        for _ in range(30):
            self.send(b"X-Filler: " + b"x" * 88 + b"\r\n")
        self.assertRefused(431, "request head too large")

    def test_large_body(self) -> None:
        """An upload would fill the disk, whatever the operator has set."""
        self.front.site.settings = Settings(max_body=1000)
        for data in (
            ask("/echo", "POST", "Content-Length: 1001"),
            ask("/echo", "POST", "Transfer-Encoding: chunked") + b"3e9\r\n" + b"x" * 1001,
        ):
            self.gate = self.front.connect()
            self.send(data)
            self.assertRefused(413, "request body too large")
        self.gate = self.front.connect()
        self.send(ask("/echo", "POST", body=b"x" * 1000))
        self.assertEqual(Answer(self.gate.taken()).status, 200)

    def test_bodies_of_small_requests(self) -> None:
        """A client that keeps its connection would be refused after a number of uploads, each within the limit."""
        self.front.site.settings = Settings(max_body=1000)
        self.gate = self.front.connect()
        for _ in range(3):
            self.send(ask("/echo", "POST", body=b"x" * 400))
            self.assertEqual(Answer(self.gate.taken()).status, 200)

    def test_large_body_for_our_own_pages(self) -> None:
        """Any client could fill the disk by way of a page that wants no body: without a configuration nothing is set against it."""
        self.front = FrontDoor()
        for target in ("/", "/hello", "/whoami?x", "/.mtlsd/renew", "/.mtlsd/x", "/no/such", "/%zz", "*"):
            for method in ("GET", "POST", "OPTIONS"):
                self.gate = self.front.connect()
                self.send(ask(target, method, "Content-Length: 1000000000", "Expect: 100-continue"))
                self.assertRefused(413, "request body too large")

    def test_chunked_body_for_our_own_pages(self) -> None:
        """As above, by a body that does not say how long it is; and what may come is a file for each request."""
        self.front = FrontDoor()
        self.gate = self.front.connect()
        self.send(ask("/hello", "POST", "Transfer-Encoding: chunked"))
        self.assertIsInstance(self.gate.protocol._request.content, BytesIO)
        for _ in range(8):
            self.assertFalse(self.gate.disconnecting)
            self.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        self.send(b"1\r\nx\r\n")
        self.assertRefused(413, "request body too large")

    def test_setting_below_that(self) -> None:
        """The operator's own, smaller limit would not hold for these pages."""
        self.front = FrontDoor(settings=Settings(max_body=1000))
        self.gate = self.front.connect()
        self.send(ask("/hello", "POST", "Content-Length: 1001"))
        self.assertRefused(413, "request body too large")

    def test_resource_of_ones_own_takes_any(self) -> None:
        """An application in the place of our pages would take no upload."""
        self.gate = self.front.connect()
        self.send(ask("/echo", "POST", body=b"x" * 40_000))
        self.assertEqual(Answer(self.gate.taken()).status, 200)

    def test_long_line_at_once(self) -> None:
        """As above, in one piece."""
        self.send(b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n" + ask("/echo"))
        self.assertRefused(431, "request head too large")

    def test_what_fits(self) -> None:
        """A browser with many cookies would be refused."""
        self.send(ask("/echo", "GET", "Cookie: " + "x" * 1900))
        self.assertEqual(Answer(self.gate.taken()).status, 200)


class BadRequestTests(ChannelTestCase):
    def test_refused(self) -> None:
        """Bytes that two readers would take apart in two ways would be served (request smuggling)."""
        for data in (
            b"nonsense\r\n\r\n",
            b"GET /echo HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET /echo\r\n\r\n",
            b"GET /e cho HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /echo HTTP/1.1\r\n\r\n",
            b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /echo HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /echo HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            b"GET /echo HTTP/1.1\r\nno colon\r\nHost: a\r\n\r\n",
            b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET /echo HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            ask("/echo", "POST", "Content-Type: multipart/form-data; boundary=x", body=b"nothing of the kind"),
        ):
            self.gate = self.front.connect()
            self.send(data + ask("/echo"))
            self.assertRefused(400, "bad request")
            self.gate.lose()
        self.assertEqual(len(self.front.deadlines), 1)

    def test_length_that_no_number_holds(self) -> None:
        """Five thousand digits would be a traceback in the log for each (CVE-2020-10735)."""
        self.front.site.settings = Settings()
        self.gate = self.front.connect()
        self.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")
        self.assertRefused(400, "bad request")

    def test_body_that_twisted_cannot_parse(self) -> None:
        """An error in the parser would reach the transport, and the connection be neither answered nor closed."""
        self.send(ask("/echo", "POST", "Content-Type: x/y; a*", body=b"x"))
        self.assertEqual((self.gate.taken(), self.gate.aborted), (b"", True))
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)

    def test_after_good_ones(self) -> None:
        """Answers that were earned would be lost with the bad request behind them."""
        self.send(ask("/echo") + ask("/echo") + b"nonsense\r\n\r\n")
        sent = self.gate.taken()
        self.assertEqual(sent.count(b"HTTP/1.1 200"), 2)
        self.assertEqual(sent.count(b"HTTP/1.1 400"), 1)


class RequestTests(ChannelTestCase):
    def test_pipelined_in_order(self) -> None:
        """Answers would come in another order than the requests, or not all."""
        bodies = [b"%d" % nth for nth in range(5)]
        self.send(b"".join(ask("/echo", "POST", body=body) for body in bodies))
        sent = self.gate.taken()
        self.assertEqual([part[-1:] for part in sent.split(b"HTTP/1.1 200 OK")[1:]], bodies)

    def test_byte_by_byte(self) -> None:
        """A request in small pieces would be read differently from one in a piece."""
        request = ask("/echo", "POST", body=b"body")
        self.send(*(request[at : at + 1] for at in range(len(request))))
        self.assertEqual(Answer(self.gate.taken()).body, b"body")

    def test_chunked(self) -> None:
        """An upload of unknown length would not arrive."""
        self.send(ask("/echo", "POST", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        self.assertEqual(Answer(self.gate.taken()).body, b"abcde")

    def test_expect(self) -> None:
        """curl would wait a second before each larger upload."""
        self.send(ask("/echo", "POST", "Expect: 100-continue", "Content-Length: 1"))
        self.assertEqual(self.gate.taken(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.send(b"x")
        self.assertEqual(Answer(self.gate.taken()).body, b"x")

    def test_lost_while_it_waits(self) -> None:
        """A resource would not hear that nobody waits for its answer any more."""
        heard: list[object] = []
        self.send(ask("/slow"))
        self.slow.waiting[0].notifyFinish().addErrback(heard.append)
        self.gate.lose()
        self.assertEqual(len(heard), 1)
        self.assertEqual(len(self.front.deadlines), 0)

    def test_unauthenticated_transport(self) -> None:
        """Served on a plain port by mistake, the site would let everybody in."""
        channel = self.front.site.buildProtocol(None)
        assert isinstance(channel, Channel)
        transport = StringTransport()
        self.assertRaises(TypeError, channel.makeConnection, transport)
        self.assertTrue(transport.disconnecting)
        channel.dataReceived(ask("/echo"))
        self.assertEqual(transport.value(), b"")


class FinishUpTests(ChannelTestCase):
    def test_idle(self) -> None:
        """A stop would wait for connections that nobody uses."""
        self.gate.protocol.finish_up()
        self.assertTrue(self.gate.disconnecting)

    def test_in_flight(self) -> None:
        """A restart would cut an answer short, or keep its connection for another request."""
        self.send(ask("/slow"), ask("/echo"))
        self.gate.protocol.finish_up()
        self.assertFalse(self.gate.disconnecting)
        self.slow.finish()
        sent = self.gate.taken()
        self.assertEqual(sent.count(b"HTTP/1.1 "), 1)
        self.assertEqual(Answer(sent).headers["connection"], "close")
        self.assertTrue(self.gate.disconnecting)

    def test_already_answering(self) -> None:
        """A download that has begun would be cut by a restart."""
        self.send(ask("/slow"))
        self.slow.waiting[0].write(b"first ")
        self.gate.protocol.finish_up()
        self.slow.finish()
        self.assertIn(b"done", self.gate.taken())
        self.assertTrue(self.gate.disconnecting)

    def test_head_under_way(self) -> None:
        """A request that was on its way when the stop came would be lost."""
        request = ask("/echo")
        self.send(request[:20])
        self.gate.protocol.finish_up()
        self.assertFalse(self.gate.disconnecting)
        self.send(request[20:])
        self.assertEqual(Answer(self.gate.taken()).headers["connection"], "close")
        self.assertTrue(self.gate.disconnecting)

    def test_body_under_way(self) -> None:
        """An upload would be lost with a restart."""
        self.send(ask("/echo", "POST", "Content-Length: 3"))
        self.gate.protocol.finish_up()
        self.send(b"abc")
        self.assertEqual(Answer(self.gate.taken()).body, b"abc")
        self.assertTrue(self.gate.disconnecting)


class PromiseTests(ChannelTestCase):
    """An answer is as long as its head says, or its connection is over: what comes after it would be taken for a part of it."""

    def setUp(self) -> None:
        super().setUp()
        self.said: list[str] = []
        observer = cast(ILogObserver, lambda event: self.said.append(str(event.get("log_format"))))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def test_a_file_that_shrinks(self) -> None:
        """The next answer would be the end of this one."""
        self.root.putChild(b"said", Said(10, [b"only"]))
        self.send(ask("/said") + ask("/echo"))
        self.assertEqual(Answer(self.gate.taken()).body, b"only")
        self.assertTrue(self.gate.aborted)
        self.assertEqual(len(self.flushed()), 1)

    def test_an_answer_that_goes_on(self) -> None:
        """What is too much would be read as an answer to somebody else's request."""
        for pieces in ([b"12345", b"HTTP/1.1 200 OK\r\n\r\n"], [b"12345HTTP/1.1 200 OK\r\n\r\n"], [b"123", b"45HT", b"TP", b""]):
            self.gate = self.front.connect()
            self.root.putChild(b"said", Said(5, pieces))
            self.send(ask("/said") + ask("/echo"))
            answer = self.gate.taken()
            self.assertEqual((Answer(answer).body, answer.count(b"HTTP/1.1"), self.gate.disconnecting), (b"12345", 1, True))
        self.assertEqual(len(self.flushed()), 3)

    def test_as_long_as_it_says(self) -> None:
        """Nobody would be served a second time."""
        self.root.putChild(b"said", Said(5, [b"12", b"345"]))
        self.send(ask("/said") + ask("/said", "HEAD") + ask("/echo"))
        self.assertEqual(self.gate.taken().count(b"HTTP/1.1 200 OK"), 3)
        self.assertFalse(self.gate.disconnecting)

    def test_two_lengths(self) -> None:
        """One reader would take the first, another the second, and a third the chunks."""
        for header in ((b"Content-Length", b"3"), (b"Content-Length", b"x"), (b"Transfer-Encoding", b"gzip")):
            self.root.putChild(b"said", Said(5, [b"12345"], header))
            self.send(ask("/said") + ask("/echo"))
            data = self.gate.taken()
            self.assertIn(b"\r\n\r\n5\r\n12345\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", data)
            self.assertEqual((data.count(b"Transfer-Encoding: chunked"), data.count(b"Content-Length")), (1, 1))

    def flushed(self) -> list[str]:
        return [line for line in self.said if "Content-Length" in line]


class Said(Resource):
    """Says how long its answer is, and sends some pieces."""

    isLeaf = True

    def __init__(self, length: int, pieces: list[bytes], more: tuple[bytes, bytes] | None = None) -> None:
        super().__init__()
        self.length, self.pieces, self.more = length, pieces, more

    def render(self, request: Any) -> int:
        request.setHeader(b"Content-Length", b"%d" % self.length)
        if self.more is not None:
            request.responseHeaders.addRawHeader(*self.more)
        for piece in self.pieces:
            request.write(piece)
        request.finish()
        return server.NOT_DONE_YET


class Last(Resource):
    """Wants the connection closed."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Connection", b"close")
        return b"the last"


class Echo(Resource):
    """Answers with what was sent."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"echo"

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        return bytes(request.content.read())


class Slow(Resource):
    """Answers when it is told to."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Request] = []

    def render_GET(self, request: Request) -> int:
        self.waiting.append(request)
        return server.NOT_DONE_YET

    def finish(self) -> None:
        request = self.waiting.pop(0)
        if not request.startedWriting:
            request.setHeader(b"Content-Length", b"4")
        request.write(b"done")
        request.finish()
