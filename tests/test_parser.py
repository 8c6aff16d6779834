"""What is a request, and what is not: the rules on top of llhttp, and both beside a second parser."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.config import METHODS
from mtlsd.web.headers import HeaderNames
from mtlsd.web.heads import KnownHeads
from mtlsd.web.message import Message
from mtlsd.web.parser import Refusal, RequestParser
from tests.site_in_memory import ask


def parsed(*pieces: bytes, max_head: int = 32_768) -> RequestParser:
    parser = RequestParser(max_head, HeaderNames(), KnownHeads())
    for piece in pieces:
        parser.feed(piece)
    return parser


def the_one(*pieces: bytes) -> Message:
    (message,) = parsed(*pieces).messages
    return message


class HeadTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """A plain request would not be understood."""
        message = the_one(ask("/a?b=c", "GET", "X-One: 1", "x-one:  2 \t"))
        self.assertEqual((message.method, message.target, message.version), (b"GET", b"/a?b=c", b"HTTP/1.1"))
        self.assertEqual(message.headers.getRawHeaders(b"x-ONE"), [b"1", b"2"])
        self.assertEqual((message.length, message.complete, message.keep_alive), (0, True, True))

    def test_in_any_pieces(self) -> None:
        """Where the network cuts a request would change what it says."""
        data = ask("/path", "POST", "X-Long: " + "v" * 50, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
        for cut in range(1, len(data)):
            message = the_one(data[:cut], data[cut:])
            self.assertEqual((message.target, b"".join(message.pieces), message.complete), (b"/path", b"abc", True))
            self.assertEqual(message.headers.getRawHeaders(b"X-Long"), [b"v" * 50])

    def test_absolute_form(self) -> None:
        """A client that believes it talks to a proxy would get a 404 (RFC 9112 3.2.2: a server has to take this)."""
        for target, path in (
            ("http://other:8080/hello?x", b"/hello?x"),
            ("HTTPS://other:8080", b"/"),
            ("http://other:8080?x", b"/?x"),
        ):
            message = the_one(ask(target))
            self.assertEqual(message.target, path)
            self.assertEqual(message.headers.getRawHeaders(b"Host"), [b"other:8080"])

    def test_trailers(self) -> None:
        """What comes behind the body would pass for a header: an identity, say, that nobody has stripped."""
        message = the_one(ask("/", "POST", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX-Role: admin\r\n\r\n" + b"")
        self.assertTrue(message.complete)
        self.assertFalse(message.headers.hasHeader(b"X-Role"))

    def test_trailers_are_not_the_next_head(self) -> None:
        """Trailers would turn up in the request behind them."""
        data = ask("/", "POST", "Transfer-Encoding: chunked") + b"0\r\nX-Role: admin\r\n\r\n" + ask("/next")
        _, second = parsed(data).messages
        self.assertEqual(second.target, b"/next")
        self.assertFalse(second.headers.hasHeader(b"X-Role"))

    def test_after_an_upgrade(self) -> None:
        """The bytes of another protocol would be read as requests of whoever opened the connection."""
        for data in (
            ask("/", "GET", "Connection: Upgrade", "Upgrade: websocket"),
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        ):
            parser = parsed(data + ask("/smuggled"), ask("/smuggled"))
            (message,) = parser.messages
            self.assertFalse(message.keep_alive)
            self.assertTrue(parser.upgraded)

    def test_keep_alive(self) -> None:
        """A connection would be closed on a client that goes on, or kept for one that does not."""
        for version, header, expected in (
            ("1.1", "X: y", True),
            ("1.1", "Connection: close", False),
            ("1.1", "Connection: foo, Close", False),
            ("1.0", "X: y", False),
            ("1.0", "Connection: Keep-Alive", True),
            ("1.0", "Connection: foo, Keep-Alive", True),
            ("1.0", "Connection: keep-alive, Close", False),
            ("1.0", "Connection: close,keep-alive", False),
            ("1.0", "Connection: keep-alive\r\nConnection: x\r\nConnection: close", False),
        ):
            self.assertEqual(the_one(ask("/", "GET", header, version=version)).keep_alive, expected, header)

    def test_names_are_bounded(self) -> None:
        """A client that makes up header names would fill the memory with them."""
        names = HeaderNames()
        for nth in range(3000):
            self.assertEqual(names[b"x-%d-y" % nth], b"X-%d-Y" % nth)
        self.assertLessEqual(len(names), 1000)

    def test_limit_in_a_crowd(self) -> None:
        """Requests that come in one piece would be refused together for what none of them is."""
        self.assertEqual(len(parsed(ask("/" + "x" * 300) * 5, max_head=1024).messages), 5)
        self.assertRaises(Refusal, parsed, ask("/") + ask("/" + "x" * 1100), max_head=1024)

    def test_limit_over_many_pieces(self) -> None:
        """A head is as large as it is, in however many pieces it came."""
        for size in (900, 1100, 3000):
            data = ask("/", "GET", "A: " + "x" * size)
            reader = RequestParser(1024, HeaderNames(), KnownHeads())
            feed = partial(in_pieces, reader, data, 500)
            if size < 1000:
                feed()
                self.assertEqual(len(reader.messages), 1)
            else:
                self.assertRaises(Refusal, feed)

    def test_limit_of_framing(self) -> None:
        """One trailer, one extension or one size without an end: of what is no body, no more is kept than of a head."""
        for begin in (b"0\r\nA: ", b"0\r\nA", b"3;", b"3\r\nabc\r\n0\r\nA: b\r\nC: ", b'3;a="'):
            reader = RequestParser(1024, HeaderNames(), KnownHeads())
            reader.feed(ask("/", "POST", "Transfer-Encoding: chunked") + begin)
            with self.assertRaises(Refusal) as caught:
                in_pieces(reader, b"x" * 2000, 100)
            self.assertEqual(caught.exception.status, 431, begin)

    def test_a_long_body_in_small_chunks(self) -> None:
        """There may be as much framing as there is body: it is what comes without any that has a limit."""
        reader = RequestParser(1024, HeaderNames(), KnownHeads())
        reader.feed(ask("/", "POST", "Transfer-Encoding: chunked"))
        in_pieces(reader, b"1;some=extension\r\na\r\n" * 500 + b"0\r\nA: " + b"b" * 900 + b"\r\n\r\n", 7)
        self.assertEqual((b"".join(reader.messages[0].pieces), reader.messages[0].complete), (b"a" * 500, True))


def in_pieces(reader: RequestParser, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])


class RefusalTests(SynchronousTestCase):
    """Each is one way to have two readers understand two things."""

    def assertRefused(self, data: bytes, status: int = 400) -> None:
        for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
            caught = self.assertRaises(Refusal, parsed, *pieces)
            self.assertEqual(caught.status, status, data)

    def test_framing(self) -> None:
        """The body of one request would be the next request to somebody else."""
        for headers in (
            ("Content-Length: 1", "Content-Length: 1"),
            ("Content-Length: 1", "Content-Length: 2"),
            ("Content-Length: 1, 1",),
            ("Content-Length: +1",),
            ("Content-Length: 0x1",),
            ("Content-Length: ",),
            ("Content-Length: 1_0",),
            ("Content-Length: 1", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: chunked", "Content-Length: 1"),
            ("Transfer-Encoding: gzip, chunked",),
            ("Transfer-Encoding: chunked, gzip",),
            ("Transfer-Encoding: chunked, chunked",),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
            ("Transfer-Encoding: gzip",),
            ("Transfer-Encoding: identity",),
            ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding: chunked;q=1",),
            ("Transfer-Encoding:\x0bchunked",),
            ("Transfer-Encoding : chunked",),
        ):
            self.assertRefused(ask("/", "POST", *headers) + b"0\r\n\r\n")

    def test_chunked_on_1_0(self) -> None:
        """An HTTP/1.0 reader knows no chunks, and would take them for the body."""
        self.assertRefused(ask("/", "POST", "Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n")

    def test_chunks(self) -> None:
        """A chunk whose length two readers read in two ways."""
        for chunk in (
            b"1 \nx\r\n0\r\n\r\n",
            b"0x1\r\nx\r\n0\r\n\r\n",
            b"-1\r\nx\r\n",
            b"1\nx\n0\n\n",
            b"1\r\nxy\r\n0\r\n\r\n",
            b"\r\n",
        ):
            self.assertRefused(ask("/", "POST", "Transfer-Encoding: chunked") + chunk)
        self.assertRefused(ask("/", "POST", "Transfer-Encoding: chunked") + b"f" * 17 + b"\r\nx")

    def test_lines(self) -> None:
        """Ends of lines that only some readers take for such, and lines that go on in the next."""
        for data in (
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x1bb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX(y): a\r\n\r\n",
            b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
            b"GET / HTTP/11\r\nHost: a\r\n\r\n",
            b"GET /\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ):
            self.assertRefused(data)

    def test_hosts(self) -> None:
        """Two readers would disagree on whom a request is for."""
        for hosts in ((), ("a", "b"), ("a", "a"), ("a b",), ("a/b",), ("a@b",), ("a:b",), ("[::1",), ("a,b c",)):
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            self.assertRefused(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
        for host in (b"", b"a", b"a:80", b"[::1]:80", b"a_b.example", b"[fe80::1%25eth0]"):
            self.assertEqual(len(parsed(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).messages), 1, host)
        self.assertEqual(len(parsed(b"GET / HTTP/1.0\r\n\r\n").messages), 1)

    def test_targets(self) -> None:
        """A path that is another one to whoever reads it next."""
        for target in (
            b"/a#b",
            b"/a\\b",
            b"/\xff",
            b"/a\x00",
            b"a",
            b"http://",
            b"http:///a",
            b"http://u@h/",
            b"ftp://a/",
            b"//a b",
        ):
            self.assertRefused(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)

    def test_upgrade_with_a_body(self) -> None:
        """Whose are the bytes of that body: this protocol's, or the next one's?"""
        for framing in ("Content-Length: 5", "Transfer-Encoding: chunked"):
            self.assertRefused(ask("/", "POST", "Connection: Upgrade", "Upgrade: x", framing))
            self.assertRefused(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n%b\r\n\r\n" % framing.encode())

    def test_known_methods(self) -> None:
        """What the configuration takes for a method and what the parser does would be two things."""
        for method in METHODS - {b"CONNECT"}:
            (message,) = parsed(ask("/", method.decode())).messages
            self.assertEqual(message.method, method)

    def test_unknown_method(self) -> None:
        """A client would be told that its request is broken, when it is only one that nobody serves (RFC 9110 15.6.2)."""
        with self.assertRaises(Refusal) as caught:
            parsed(ask("/", "BREW"))
        self.assertEqual((caught.exception.status, str(caught.exception)), (501, "no such method"))

    def test_many_headers(self) -> None:
        """Headers by the thousand would be work for everybody behind."""
        self.assertRefused(ask("/", "GET", *["A: 1"] * 501), 431)
        self.assertEqual(len(parsed(ask("/", "GET", *["A: 1"] * 499)).messages), 1)


TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789!#$%&'*+.^_`|~-", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(str.strip)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMUGGLED = ask("/smuggled")
#: Where a stream is cut.
CUTS = st.lists(st.integers(0, 2000), max_size=6)


#: A complete message: method, target, version, headers, body, and whether another may follow on the connection.
Read = tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes, bool]


def by_h11(data: bytes) -> list[Read]:
    """Return what h11 makes of a stream of requests, each answered before the next is read.

    Two things are taken out of its way that RFC 9112 allows (2.2, 3) and it does not: line ends before a request, and
    more than one space in its first line.  llhttp reads both in the one way that there is.  And it keeps no connection
    of HTTP/1.0, which may be asked for (RFC 9112 9.3).
    """
    found = []
    with contextlib.suppress(h11.RemoteProtocolError):
        while True:
            message, data = _first_by_h11(re.sub(rb"^[\r\n]*([A-Z-]+) +([!-~]+) +(?=HTTP/)", rb"\1 \2 ", data))
            if message is None:
                break
            found.append(message)
            if not message[-1]:
                break
    return found


def _first_by_h11(data: bytes) -> tuple[Read | None, bytes]:
    """Return the first request and what is behind it; ``None`` where more is wanted."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    body = b""
    head: h11.Request | None = None
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            return None, b""
    assert head is not None
    # A refusal: an answer that grants CONNECT or an Upgrade would end what is HTTP.
    connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    headers = sorted((name.lower(), value) for name, value in head.headers)
    options = {option.strip().lower() for name, value in headers if name == b"connection" for option in value.split(b",")}
    if head.http_version == b"1.0":
        goes_on = b"keep-alive" in options and b"close" not in options
    else:
        goes_on = connection.our_state is not h11.MUST_CLOSE
    if head.method == b"CONNECT" or (b"upgrade" in options and any(name == b"upgrade" for name, _ in headers)):
        # Ours reads nothing behind such a one, whatever becomes of it.
        goes_on = False
    if connection.our_state is not h11.MUST_CLOSE:
        connection.start_next_cycle()
    return (head.method, head.target, head.http_version, headers, body, goes_on), bytes(connection.trailing_data[0])


def by_us(pieces: Sequence[bytes], known: KnownHeads | None = None) -> list[Read]:
    """Return the same of ours, which is given the stream in *pieces*."""
    parser = RequestParser(32_768, HeaderNames(), KnownHeads() if known is None else known)
    with contextlib.suppress(Refusal):
        for piece in pieces:
            parser.feed(piece)
    return [_read(message) for message in parser.messages if message.complete]


def _read(message: Message) -> Read:
    headers = sorted((n.lower(), v) for n, values in message.headers.getAllRawHeaders() for v in values)
    version = message.version.removeprefix(b"HTTP/")
    return message.method, message.target, version, _comparable(headers), b"".join(message.pieces), message.keep_alive


def _comparable(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    # RFC 9112 7: the case of a coding means nothing, and h11 takes it away.
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]


class KnownTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = KnownHeads()
        self.parser = self.another()

    def another(self) -> RequestParser:
        return RequestParser(32_768, HeaderNames(), self.known)

    def test_again(self) -> None:
        """What is asked again, by the same client or another, would be another request than the first time."""
        data = ask("/a/b", "GET", "Accept: 1", "accept: 2")
        other = self.another()
        for parser in (self.parser, self.parser, other):
            parser.feed(data)
        self.assertEqual(self.known.count, 1)
        for message in (*self.parser.messages, *other.messages):
            self.assertEqual((message.method, message.target, message.version), (b"GET", b"/a/b", b"HTTP/1.1"))
            self.assertEqual(message.headers.getRawHeaders(b"Accept"), [b"1", b"2"])
            self.assertEqual((message.length, message.complete, message.keep_alive), (0, True, True))

    def test_headers_are_the_requests_own(self) -> None:
        """What a resource writes into one request's headers would be in the next client's."""
        for _ in range(3):
            self.parser.feed(ask("/", "GET", "Accept: 1"))
            headers = self.parser.messages.pop(0).headers_of_its_own()
            self.assertEqual(headers.getRawHeaders(b"Accept"), [b"1"])
            self.assertFalse(headers.hasHeader(b"X-Role"))
            headers.addRawHeader(b"Accept", b"2")
            headers.setRawHeaders(b"X-Role", [b"admin"])

    def test_in_the_middle(self) -> None:
        """The body of a request that looks like a request would be one: that is how they are smuggled."""
        data = ask("/admin")
        self.parser.feed(data)
        self.parser.messages.clear()
        self.parser.feed(ask("/", "POST", f"Content-Length: {len(data)}"))
        self.parser.feed(data)
        (message,) = self.parser.messages
        self.assertEqual((message.target, message.pieces, message.complete), (b"/", [data], True))

    def test_behind_half_a_head(self) -> None:
        """Half a head and a known one would be two requests."""
        data = ask("/admin")
        self.parser.feed(data)
        self.parser.messages.clear()
        self.parser.feed(b"GET / HTTP/1.1\r\nX-Open: ")
        self.parser.feed(data)
        (message,) = self.parser.messages
        self.assertEqual((message.target, message.headers.getRawHeaders(b"X-Open")), (b"/", [b"GET /admin HTTP/1.1"]))

    def test_after_a_refusal(self) -> None:
        """A connection on which the two ends have lost each other would go on."""
        data = ask("/")
        self.parser.feed(data)
        self.assertRaises(Refusal, self.parser.feed, data + b"\0")
        count = len(self.parser.messages)
        self.assertRaises(Refusal, self.parser.feed, data)
        self.assertEqual(len(self.parser.messages), count)

    def test_after_an_upgrade(self) -> None:
        """What follows a request for another protocol is not HTTP, whatever it looks like."""
        data = ask("/")
        self.parser.feed(data)
        self.parser.feed(ask("/", "GET", "Connection: upgrade", "Upgrade: x"))
        self.parser.feed(data)
        self.assertEqual(len(self.parser.messages), 2)

    def test_after_the_last(self) -> None:
        """What follows a request that asks for the close would be answered where it has come before, and only there."""
        data = ask("/", "GET", "Connection: close")
        for _ in range(2):
            parser = self.another()
            parser.feed(data)
            with contextlib.suppress(Refusal):
                parser.feed(ask("/"))
            (message,) = parser.messages
            self.assertEqual((message.complete, message.keep_alive), (True, False))
        self.assertEqual(self.known.count, 1)
        for last in (data, ask("/", version="1.0"), ask("/", "GET", "Connection: keep-alive, close", version="1.0")):
            parser = self.another()
            self.assertRaises(Refusal, parser.feed, last + ask("/"))
            self.assertEqual(len(parser.messages), 1, last)

    def test_what_is_not_kept(self) -> None:
        """A body would be missing the second time; and how long an answer takes would tell that a guessed secret is right."""
        for data in (
            ask("/", "POST", "Content-Length: 1") + b"x",
            ask("/", "POST", "Content-Length: 1"),
            ask("/", "GET", "Connection: upgrade", "Upgrade: x"),
            ask("/", "GET", "Authorization: Basic eDp5"),
            ask("/", "GET", "cookie: session=1"),
            ask("/", "GET", "X-Api-Key: 1"),
            ask("/?key=1"),
            ask("/", "GET", "Accept: " + "x" * 1024),
            ask("/") + ask("/"),
            ask("/")[:-2],
        ):
            self.another().feed(data)
            self.assertEqual(self.known.count, 0, data)

    def test_a_client_that_never_repeats_itself(self) -> None:
        """Every request that was ever sent would stay in memory."""
        for number in range(2000):
            self.parser.feed(ask(f"/{number}"))
            self.assertLessEqual(self.known.count, 512)


class KnownDifferentialTests(SynchronousTestCase):
    """What is known is told again as it was read, in whatever order requests come."""

    @FUZZ
    @given(
        st.lists(
            st.sampled_from(
                [
                    *(
                        ask("/"),
                        ask("/a", "HEAD"),
                        ask("/", "GET", "Connection: close"),
                        ask("/", "GET", "Accept: a", "accept: b"),
                    ),
                    *(ask("/", "POST", "Content-Length: 18"), ask("/", "POST", "Content-Length: 0"), b"GET / HTTP/1.1\r\n"),
                    *(
                        b"Host: a\r\n\r\n",
                        b"\r\n",
                        b"\0",
                        ask("/") + ask("/a"),
                        ask("/", "GET", "Connection: upgrade", "Upgrade: x"),
                    ),
                ]
            ),
            max_size=8,
        )
    )
    def test_in_any_order(self, pieces: list[bytes]) -> None:
        """A request would be another one, or one where there is none, because of what others have asked before."""
        known = KnownHeads()
        for piece in pieces:
            with contextlib.suppress(Refusal):
                RequestParser(32_768, HeaderNames(), known).feed(piece)
        self.assertEqual(self.read(pieces, known), self.read(pieces, KnownHeads()))

    def read(self, pieces: list[bytes], known: KnownHeads) -> list[tuple[object, ...]]:
        parser = RequestParser(32_768, HeaderNames(), known)
        with contextlib.suppress(Refusal):
            for piece in pieces:
                parser.feed(piece)
        return [
            (m.method, m.target, m.version, list(m.headers.getAllRawHeaders()), m.length, m.keep_alive, m.pieces, m.complete)
            for m in parser.messages
        ]


@st.composite
def honest(draw: st.DrawFn) -> bytes:
    """One request as honest clients send them."""
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    options = draw(
        st.sampled_from(["", "", "", "Connection: keep-alive", "Connection: Close", "connection: x, keep-alive", "X: close"])
    )
    headers = [options] if options else []
    headers += [
        f"{name}: {value}" for name, value in draw(st.lists(st.tuples(TOKEN, VALUE), max_size=3)) if name.lower() not in RESERVED
    ]
    body = draw(st.binary(max_size=30) | st.sampled_from([SMUGGLED, b"0\r\n\r\n", b"\r\n"]))
    target = draw(st.sampled_from(["/", "/a", "/b?c=d"]))
    kind = draw(st.sampled_from(["none", "none", "length", "chunked"]))
    if kind == "chunked" and version == "1.1":
        cut = draw(st.integers(0, len(body)))
        chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(c), draw(EXTENSION), c) for c in (body[:cut], body[cut:]) if c)
        headers.insert(draw(st.integers(0, len(headers))), "Transfer-Encoding: chunked")
        trailers = draw(st.sampled_from([b"", b"", b"T: 1\r\n", b"X-Role: admin\r\nHost: b\r\n"]))
        return ask(target, "POST", *headers) + chunks + b"0\r\n" + trailers + b"\r\n"
    if kind == "length":
        return ask(target, "POST", *headers, version=version, body=body)
    return ask(target, draw(st.sampled_from(["GET", "HEAD", "DELETE"])), *headers, version=version)


@st.composite
def doubtful(draw: st.DrawFn) -> bytes:
    """One request whose framing says one thing, or two, or nothing that is so; and what may or may not be its body."""
    line = draw(
        st.sampled_from([b"POST / HTTP/1.1", b"POST / HTTP/1.1", b"GET /a HTTP/1.1", b"POST / HTTP/1.0", b"CONNECT a:1 HTTP/1.1"])
    )
    framing = draw(
        st.lists(
            st.sampled_from(
                [
                    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 43", b"Content-Length: 5, 5", b"Content-Length: 05",
                    b"Content-Length:\t5 ", b"Content_Length: 5", b"Content-Length : 5", b"Transfer-Encoding: chunked",
                    b"transfer-encoding: Chunked", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: gzip, chunked",
                    b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: identity", b"Transfer-Encoding: xchunked",
                    b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: chunked\t", b"X: y\r\n Transfer-Encoding: chunked",
                ]
            ),
            max_size=2,
        )
    )  # fmt: skip
    options = draw(
        st.sampled_from(
            [
                b"", b"", b"", b"Connection: close", b"Connection: keep-alive", b"Connection: keep-alive, close", b"Connection: close x",
                b"Connection: ,close,", b"Connection: closed", b"Connection: x\r\nconnection: close", b"Connection: upgrade", b"Upgrade: x",
                b"Connection: upgrade\r\nUpgrade: x", b"Expect: 100-continue", b"X: y",
            ]
        )
    )  # fmt: skip
    chunked = st.sampled_from(
        [
            b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
            b"05\r\nhello\r\n00\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\nhello", b"5 \r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n", b"0\r\n", b"2b\r\n" + SMUGGLED + b"\r\n0\r\n\r\n",
        ]
    )  # fmt: skip
    other = st.sampled_from([b"", b"", b"hello", SMUGGLED])
    # Mostly what the last word says that it is.
    body = draw(chunked if (b"chunked" in b"".join(framing)) != (draw(st.integers(0, 9)) == 0) else other)
    return b"\r\n".join([line, b"Host: a", *([options] if options else []), *framing, b"", b""]) + body


RESERVED = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "proxy-connection"}
EXTENSION = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"'])
JUNK = st.sampled_from(
    [
        b"",
        b"",
        b"",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\0",
        b"x",
        b"hello",
        b"0\r\n\r\n",
        b"GET ",
        b"X: y\r\n",
        b"GET / HTTP/1.1\r\n",
    ]
)


class DifferentialTests(SynchronousTestCase):
    """Where ours accepts, h11 has to understand the same: whatever only one of two readers accepts is a way to smuggle.

    It is the whole of a stream that is compared, message by message: where the second one begins is the point.
    """

    def agree(self, data: bytes, cuts: Sequence[int] = ()) -> list[Read]:
        known = KnownHeads()
        ours, theirs = by_us([data], known), by_h11(data)
        # In whatever pieces it comes, those too that would be requests if they stood elsewhere; and where something has been
        # kept, what is told the second time is what was kept.
        ends = [found.end() for found in re.finditer(rb"\r\n\r\n", data)]
        by_us([SMUGGLED], known)
        for places in (cuts, ends, ends, cuts):
            bounds = sorted({0, *(place % (len(data) + 1) for place in places), len(data)})
            pieces = [data[at:to] for at, to in pairwise(bounds)]
            self.assertEqual(by_us(pieces, known), ours, (pieces, "in pieces"))
        # Ours may be stricter, and end earlier; what it takes for a message is the same message, at the same place.
        self.assertEqual(ours, theirs[: len(ours)], data)
        return theirs

    @FUZZ
    @given(st.sampled_from(["GET", "POST", "PUT"]), TOKEN, st.lists(st.tuples(TOKEN, VALUE), max_size=6), st.binary(max_size=40))
    def test_valid(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
        """An honest request would be refused, or read differently."""
        lines = [f"{name}: {value}" for name, value in headers if name.lower() not in RESERVED]
        path = "/" + path.replace("#", "").replace("^", "").replace("`", "").replace("|", "")
        data = ask(path, method, *lines, body=body)
        self.assertEqual(by_us([data]), self.agree(data), data)
        self.assertEqual(len(by_us([data])), 1)

    @FUZZ
    @given(st.lists(honest(), min_size=1, max_size=6), CUTS)
    def test_valid_streams(self, requests: list[bytes], cuts: list[int]) -> None:
        """Of several requests on a connection, one would be lost, or read into another."""
        data = b"".join(requests)
        ours, theirs = by_us([data]), self.agree(data, cuts)
        self.assertEqual(ours, theirs, data)
        self.assertTrue(len(ours) == len(requests) or not ours[-1][-1], data)

    @FUZZ
    @given(st.lists(st.tuples(JUNK, honest()), min_size=1, max_size=5), CUTS)
    def test_junk_between(self, requests: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
        """What stands between two requests would belong to the first for one reader, and to the second for another."""
        self.agree(b"".join(junk + request for junk, request in requests), cuts)

    @settings(FUZZ, max_examples=800)
    @given(st.lists(doubtful() | honest(), min_size=1, max_size=4), CUTS)
    def test_doubtful_streams(self, requests: list[bytes], cuts: list[int]) -> None:
        """The body of one request would be the next request to somebody else."""
        self.agree(b"".join(requests), cuts)

    @FUZZ
    @given(st.lists(honest(), min_size=2, max_size=4), st.integers(0, 2000), st.binary(max_size=3), st.booleans(), CUTS)
    def test_one_change_in_a_stream(self, requests: list[bytes], at: int, other: bytes, replace: bool, cuts: list[int]) -> None:
        """One byte too many, too few or wrong would move the place where the next request begins."""
        data = b"".join(requests)
        at %= len(data)
        self.agree(data[:at] + other + data[at + (len(other) if replace else 0) :], cuts)

    @FUZZ
    @given(
        st.lists(
            st.sampled_from(
                [
                    b"GET ", b"POST ", b"/", b"/a", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00",
                    b"Host: a\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
                    b"Transfer-Encoding: gzip\r\n", b"Connection: upgrade\r\n", b"3\r\nabc\r\n", b"0\r\n", b"abc", b"X", b"X: y\r\n", b",",
                    b"\xff", b"\x0b", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n", b";ext=1",
                ]
            ),
            max_size=14,
        ).map(b"".join)
    )  # fmt: skip
    def test_anything(self, data: bytes) -> None:
        """Bytes that nobody would send in good faith would be served as what they are to nobody else."""
        self.agree(data)

    @FUZZ
    @given(st.integers(0, 200), st.binary(max_size=3), st.booleans())
    def test_one_change(self, at: int, other: bytes, replace: bool) -> None:
        """One byte too many, too few or wrong in an honest request."""
        data = ask("/path", "POST", "X-One: 1", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\nT: 1\r\n\r\n"
        at %= len(data)
        self.agree(data[:at] + other + data[at + (len(other) if replace else 0) :])
