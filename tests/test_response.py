"""What a backend answers: read in one way, or not at all."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.proxy.response import BadResponse, ResponseParser
from mtlsd.web.headers import HeaderNames


def parser(*, is_head: bool = False) -> ResponseParser:
    found = ResponseParser(HeaderNames())
    found.begin(is_head=is_head)
    return found


def read(data: bytes, *, is_head: bool = False) -> ResponseParser:
    """Read a response that comes in one piece."""
    found = parser(is_head=is_head)
    found.feed(data)
    return found


OK = b"HTTP/1.1 200 OK\r\n"


class ResponseTests(SynchronousTestCase):
    def test_a_length(self) -> None:
        """The usual answer, after which the connection serves the next request."""
        found = read(OK + b"Content-Length: 2\r\nX-A: b\r\n\r\nhi")
        assert found.head is not None
        self.assertEqual((found.head.status, found.head.reason, found.head.length), (200, b"OK", 2))
        self.assertEqual(found.head.headers.getRawHeaders(b"x-a"), [b"b"])
        self.assertEqual((found.pieces, found.done, found.reusable), ([b"hi"], True, True))

    def test_chunks(self) -> None:
        """Decoded, and without the trailers: these must not pass for headers."""
        found = read(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-Client-Name: root\r\n\r\n")
        assert found.head is not None
        self.assertEqual((b"".join(found.pieces), found.done, found.reusable), (b"abc", True, True))
        self.assertIsNone(found.head.length)
        self.assertFalse(found.head.headers.hasHeader(b"X-Client-Name"))

    def test_another_version(self) -> None:
        """An answer of another protocol, or of a version that frames it in another way, was passed on as one of ours."""
        rest = b" 200 OK\r\nContent-Length: 0\r\n\r\n"
        for version in (b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"RTSP/1.0", b"ICE/1.0", b"HTTP/1.10", b"http/1.1", b"SSH-2.0-x"):
            for before in (b"", b"\r\n"):
                error = self.assertRaises(BadResponse, read, before + version + rest)
                self.assertEqual(str(error), "it cannot be read: it is neither HTTP/1.1 nor HTTP/1.0", version)
            slow = parser()
            self.assertRaises(BadResponse, lambda slow=slow, data=version + rest: [slow.feed(bytes((byte,))) for byte in data])
        self.assertRaises(BadResponse, read, b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/2.0" + rest)

    def test_our_versions(self) -> None:
        """In whatever pieces they come, and behind the line end that some old servers send too many."""
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            data = b"\r\n" + version + b" 200 OK\r\nContent-Length: 0\r\n\r\n"
            for at in range(len(data)):
                found = parser()
                for piece in (data[:at], data[at:]):
                    found.feed(piece)
                self.assertTrue(found.done, at)

    def test_the_end_of_the_connection(self) -> None:
        """Old servers end an answer so; an end in any other place is a broken one."""
        found = read(OK + b"\r\nabc")
        self.assertFalse(found.done)
        found.end()
        self.assertEqual((found.pieces, found.done, found.reusable), ([b"abc"], True, False))
        for data in (b"", OK, OK + b"Content-Length: 3\r\n\r\nab", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"):
            cut = read(data) if data else parser()
            self.assertRaises(BadResponse, cut.end)

    def test_no_body(self) -> None:
        """HEAD, 204 and 304 have none, whatever length they speak of (RFC 9110 6.4.1)."""
        for data, is_head in (
            (OK + b"Content-Length: 99\r\n\r\n", True),
            (OK + b"Transfer-Encoding: chunked\r\n\r\n", True),
            (OK + b"\r\n", True),
            (b"HTTP/1.1 204 No Content\r\n\r\n", False),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", False),
        ):
            found = read(data, is_head=is_head)
            self.assertEqual((found.done, found.pieces, found.reusable), (True, [], True), data)

    def test_a_body_where_there_is_none(self) -> None:
        """It would be the beginning of the next client's answer."""
        for data, is_head in (
            (OK + b"Content-Length: 2\r\n\r\nhi", True),
            # Whatever its last bytes look like.
            (OK + b"Content-Length: 9\r\n\r\nhi\r\n\r\n", True),
            (OK + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
            (OK + b"\r\nHTTP/1.1 200 OK\r\n\r\n", True),
            (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
            (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", True),
            (b"HTTP/1.1 204 No Content\r\n\r\nhi", False),
            (b"HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", False),
        ):
            found = read(data, is_head=is_head)
            self.assertEqual((found.done, found.pieces, found.reusable), (True, [], False), data)

    def test_more_than_was_asked_for(self) -> None:
        """A second answer, to a question that nobody has put: the connection serves nobody any more."""
        for more in (b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"\0"):
            found = read(OK + b"Content-Length: 2\r\n\r\nhi" + more)
            assert found.head is not None
            self.assertEqual((found.head.status, found.pieces, found.done, found.reusable), (200, [b"hi"], True, False), more)

    def test_closing(self) -> None:
        """A connection that the backend is about to close is not kept."""
        self.assertFalse(read(OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n").reusable)
        self.assertFalse(read(OK + b"Connection: x, Close\r\n\r\n", is_head=True).reusable)
        self.assertFalse(read(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").reusable)
        self.assertFalse(read(b"HTTP/1.0 200 OK\r\n\r\n", is_head=True).reusable)

    def test_interim(self) -> None:
        """1xx come before the answer, and are none."""
        found = read(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"
        )
        self.assertEqual([head.status for head in found.interim], [100, 103])
        assert found.head is not None
        self.assertEqual((found.head.status, found.done, found.reusable), (200, True, True))
        self.assertFalse(found.head.headers.hasHeader(b"Link"))
        self.assertRaises(BadResponse, read, b"HTTP/1.1 100 Continue\r\n\r\n" * 21)

    def test_refused(self) -> None:
        """Each ends for one reader elsewhere than for another."""
        for data in (
            OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            OK + b"Transfer-Encoding: gzip\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"Content-Length: +2\r\n\r\nhi",
            OK + b"Content-Length: 2, 2\r\n\r\nhi",
            OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            OK + b"X: a\r\n b\r\n\r\n",
            OK + b"X : a\r\n\r\n",
            OK + b"X: a\0b\r\n\r\n",
            OK + b"X: a\rb\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200 O\0K\r\n\r\n",
            b"HTTP/1.1 200 \x1b[2J\r\n\r\n",
            b"HTTP/1.1 200 OK\rX: y\r\n\r\n",
            b"HTTP/1.1 099 OK\r\n\r\n",
            b"HTTP/1.1 1000 OK\r\n\r\n",
            OK + b"Content-Length: -2\r\n\r\nhi",
            OK + b"Content-Length: 0x2\r\n\r\nhi",
            OK + b"Content-Length:\r\n\r\nhi",
            OK + b"Content-Length: 2 2\r\n\r\nhi",
            OK + b"Transfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\nhi\n0\n\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
            b"HTTP/2 200\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"HTTP/1.1200 OK\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"<html>",
        ):
            self.assertRaises(BadResponse, read, data)

    def test_a_head_without_end(self) -> None:
        """A backend that never ends its head would fill the memory."""
        endless = parser()
        endless.feed(OK)
        with self.assertRaises(BadResponse):
            for _ in range(100):
                endless.feed(b"X-Filler: " + b"x" * 4000 + b"\r\n")
        many = parser()
        with self.assertRaises(BadResponse):
            many.feed(OK + b"A: b\r\n" * 501 + b"\r\n")

    def test_framing_without_end(self) -> None:
        """As above, of one trailer, or of one extension of a chunk; a long body in small chunks is another matter."""
        for begin in (b"0\r\nA: ", b"0\r\nA", b"3;", b"3\r\nabc\r\n0\r\nA: b\r\nC: "):
            endless = parser()
            endless.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n" + begin)
            with self.assertRaises(BadResponse):
                for _ in range(100):
                    endless.feed(b"x" * 4000)
        long = parser()
        long.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            long.feed(b"1;" + b"x" * 4000)
            long.feed(b"\r\na\r\n")
        self.assertEqual(b"".join(long.pieces), b"a" * 100)

    @given(st.lists(st.integers(1, 12), max_size=40), st.sampled_from(["length", "chunked", "close"]))
    def test_in_any_pieces(self, cuts: list[int], framing: str) -> None:
        """The network cuts where it likes."""
        body = bytes(range(60))
        if framing == "length":
            data = OK + b"Content-Length: 60\r\n\r\n" + body
        elif framing == "chunked":
            data = OK + b"Transfer-Encoding: chunked\r\n\r\n1e\r\n" + body[:30] + b"\r\n1e\r\n" + body[30:] + b"\r\n0\r\n\r\n"
        else:
            data = OK + b"\r\n" + body
        found, at = parser(), 0
        for size in [*cuts, len(data)]:
            if at < len(data):
                found.feed(data[at : at + size])
                at += size
        found.end()
        self.assertEqual((b"".join(found.pieces), found.done, found.reusable), (body, True, framing != "close"))

    @given(st.binary(max_size=60))
    def test_any_bytes(self, data: bytes) -> None:
        """Read, or refused: nothing else comes out of it."""
        for start in (b"", OK, OK + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"):
            found = parser()
            try:
                found.feed(start + data)
                found.end()
            except BadResponse as error:
                self.assertNotIn("\n", str(error))


class SecondRuleTests(SynchronousTestCase):
    """What llhttp does not tell of, or refuses by itself."""

    def test_a_chunk_that_has_only_begun(self) -> None:
        """To HEAD, the size of a chunk is a body that should not have come: its rest would be the next client's answer."""
        for data in (b"2", b"2\r\n", b"0\r\n", b"0\r\nA: ", b"2;x"):
            found = read(OK + b"Transfer-Encoding: chunked\r\n\r\n" + data, is_head=True)
            self.assertEqual((found.done, found.pieces, found.reusable), (True, [], False), data)

    def test_a_closing_answer_stays_one(self) -> None:
        """However clean the end of its head is."""
        for data in (b"Connection: close\r\nContent-Length: 2\r\n\r\n", b"Connection: close\r\n\r\n"):
            self.assertFalse(read(OK + data, is_head=True).reusable, data)

    def test_two_lengths(self) -> None:
        """One that is refused only where a body follows is the other one's answer to HEAD."""
        for lengths in (b"Content-Length: 2\r\nContent-Length: 2\r\n", b"content-length: 0\r\nX: y\r\nCONTENT-LENGTH: 3\r\n"):
            for status in (b"200 OK", b"204 No Content", b"304 Not Modified", b"103 Early Hints"):
                for is_head in (False, True):
                    with self.assertRaises(BadResponse):
                        read(b"HTTP/1.1 " + status + b"\r\n" + lengths + b"\r\n", is_head=is_head)


#: Answers after which the connection serves the next request, and whether they are to HEAD.
WHOLE = (
    (OK + b"Content-Length: 2\r\nX-A: b\r\n\r\nhi", False),
    (OK + b"Content-Length: 0\r\n\r\n", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Trailer: a\r\nX-Client-Name: root\r\n\r\n", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
    (b"HTTP/1.1 100 Continue\r\nX-B: c\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx", False),
    (b"HTTP/1.1 204 No Content\r\nX-C: d\r\n\r\n", False),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", False),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", False),
    (OK + b"Content-Length: 99\r\n\r\n", True),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n", True),
    (OK + b"\r\n", True),
    # llhttp takes these for the close, and refuses whatever follows.
    (b"HTTP/1.1 304 Not Modified\r\nProxy-Connection: close\r\n\r\n", False),
    (OK + b"Proxy-Connection: close\r\nContent-Length: 0\r\n\r\n", True),
)
#: Answers after which it does not, and what is no answer.
LAST = (
    (OK + b"\r\nabc", False),
    (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", False),
    (OK + b"Content-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", False),
    (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", False),
    (b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", False),
    (b"SSH-2.0\r\n", False),
    (OK + b"Content-Length: 2\r\n\r\nh", False),
)


def outcome(found: ResponseParser, data: bytes, cut: int) -> object:
    """Return all that there is to know of a response that comes in two pieces."""
    try:
        found.feed(data[:cut])
        if cut < len(data):
            found.feed(data[cut:])
        found.end()
    except BadResponse as error:
        return str(error)
    head = found.head
    assert head is not None
    said = (head.status, head.reason, head.length, sorted(head.headers.getAllRawHeaders()))
    interim = [(one.status, sorted(one.headers.getAllRawHeaders())) for one in found.interim]
    return said, interim, b"".join(found.pieces), found.done, found.reusable, found.switched, found.behind


class AgainTests(SynchronousTestCase):
    """The responses of one connection, one after the other."""

    def test_any_two(self) -> None:
        """What one has left behind would be in the next, which is somebody else's."""
        for (first, to_head), (data, is_head) in itertools.product(WHOLE, WHOLE + LAST):
            for cut in (len(data), 20):
                found = parser(is_head=to_head)
                outcome(found, first, len(first))
                self.assertTrue(found.reusable)
                found.begin(is_head=is_head)
                self.assertEqual(outcome(found, data, cut), outcome(parser(is_head=is_head), data, cut), (first, data))

    @given(st.lists(st.sampled_from(WHOLE), max_size=6), st.binary(max_size=30))
    def test_any_row(self, rows: list[tuple[bytes, bool]], rest: bytes) -> None:
        """The same, for many, and for whatever comes last."""
        found = ResponseParser(HeaderNames())
        for data, is_head in [*rows, (OK + rest, False)]:
            found.begin(is_head=is_head)
            self.assertEqual(outcome(found, data, len(data)), outcome(parser(is_head=is_head), data, len(data)))

    def test_after_a_broken_one(self) -> None:
        """A parser that has failed would refuse whatever follows; and one that was let go reads again."""
        for data, is_head in LAST:
            found = parser(is_head=is_head)
            outcome(found, data, len(data))
            found.begin(is_head=False)
            self.assertEqual(outcome(found, WHOLE[0][0], 30), outcome(parser(), WHOLE[0][0], 30), data)
        found = read(WHOLE[0][0])
        found.let_go()
        found.begin(is_head=False)
        self.assertEqual(outcome(found, WHOLE[0][0], 30), outcome(parser(), WHOLE[0][0], 30))
