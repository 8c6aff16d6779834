"""What goes on to a backend, and back: built anew, and without what belongs to one connection."""

from __future__ import annotations

import itertools
import re

import h11
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.proxy.forwarded import end_to_end, for_backend, of_message, request_head
from mtlsd.routing.namedheaders import NamedHeaders
from mtlsd.web.headers import HeaderNames, received
from mtlsd.web.heads import KnownHeads
from mtlsd.web.parser import RequestParser
from tests.site_in_memory import ask

ADDED = b"X-Client-Name: alice\r\n"


def forwarded(*pairs: tuple[bytes, bytes], length: int | None = 0, method: bytes = b"GET") -> list[bytes]:
    headers = for_backend(received(pairs, HeaderNames()).plain)
    return request_head(method, b"/x?y", headers, length, ADDED).split(b"\r\n")


class RequestHeadTests(SynchronousTestCase):
    def test_as_a_whole(self) -> None:
        """The order and the values are the client's."""
        self.assertEqual(
            forwarded((b"host", b"h"), (b"Accept", b"a"), (b"accept", b"b"), (b"Cookie", b"c=d")),
            [b"GET /x?y HTTP/1.1", b"Host: h", b"Accept: a", b"Accept: b", b"Cookie: c=d", b"X-Client-Name: alice", b"", b""],
        )

    def test_the_bodys_length(self) -> None:
        """A POST without one would have the backend wait, or read on into the next request."""
        self.assertIn(b"Content-Length: 5", forwarded(length=5))
        self.assertIn(b"Transfer-Encoding: chunked", forwarded(length=None))
        self.assertIn(b"Content-Length: 0", forwarded(method=b"POST"))
        self.assertNotIn(b"Content-Length: 0", forwarded())

    def test_hop_by_hop(self) -> None:
        """RFC 9110 7.6.1: these are between the client and us."""
        for name in (
            b"Connection",
            b"Keep-Alive",
            b"Proxy-Connection",
            b"TE",
            b"Trailer",
            b"Upgrade",
            b"Expect",
            b"Proxy-Authorization",
        ):
            for spelling in (name, name.lower(), name.replace(b"-", b"_")):
                self.assertEqual(len(forwarded((spelling, b"x"))), 4, spelling)

    def test_what_connection_names(self) -> None:
        """It goes too; but nobody can have Host, or our own word, taken out with it."""
        lines = forwarded(
            (b"Host", b"h"),
            (b"Connection", b"close, X-Mine ,Host"),
            (b"connection", b"x-client-name"),
            (b"x-mine", b"1"),
            (b"ETag", b"e"),
        )
        self.assertEqual(lines[1:-2], [b"Host: h", b"ETag: e", b"X-Client-Name: alice"])
        self.assertNotIn(b"ETag: e", forwarded((b"Connection", b"etag"), (b"ETag", b"e")))

    def test_another_spelling_of_what_frames_a_message(self) -> None:
        """A backend that merges `Content_Length` into CONTENT_LENGTH reads another body than was sent."""
        for name in (b"Content_Length", b"content.length", b"Transfer_Encoding", b"transfer.encoding", b"Content~Length"):
            self.assertEqual(len(forwarded((name, b"x"))), 4, name)

    @given(
        st.lists(
            st.tuples(
                st.from_regex(rb"[A-Za-z][A-Za-z_.-]{0,14}", fullmatch=True)
                | st.sampled_from(
                    [b"Connection", b"X-Client-Name", b"x_client_name", b"Content-Length", b"Transfer-Encoding", b"X-Ssl-A"]
                ),
                st.from_regex(rb"[!-~]([ !-~]{0,10}[!-~])?", fullmatch=True),
            ),
            max_size=8,
        ),
        st.sampled_from([0, 3, None]),
    )
    def test_any_headers(self, pairs: list[tuple[bytes, bytes]], length: int | None) -> None:
        """A second parser finds one request, our framing, and no identity but ours."""
        headers = received(pairs, HeaderNames())
        headers.plain[b"Host"] = [b"h"]
        head = request_head(b"POST", b"/x", for_backend(headers.plain), length, ADDED)
        reader = h11.Connection(h11.SERVER)
        reader.receive_data(head)
        request = reader.next_event()
        assert isinstance(request, h11.Request)
        seen = [(re.sub(rb"[^a-z0-9]", b"-", name), value) for name, value in request.headers]
        self.assertEqual([value for name, value in seen if name == b"x-client-name"], [b"alice"])
        self.assertEqual([name for name, _ in seen if name.startswith((b"x-ssl-", b"connection"))], [])
        framing = [pair for pair in seen if pair[0] in (b"content-length", b"transfer-encoding")]
        self.assertEqual(
            framing, [(b"transfer-encoding", b"chunked")] if length is None else [(b"content-length", b"%d" % length)]
        )
        reader.receive_data({0: b"", 3: b"abc", None: b"3\r\nabc\r\n0\r\n\r\n"}[length])
        events = [reader.next_event() for _ in range(2 if length == 3 or length is None else 1)]
        self.assertIsInstance(events[-1], h11.EndOfMessage)

    def test_what_has_come_before(self) -> None:
        """What was left out on one route would be left out, or let through, on another, or be another request's."""
        strips = (None, NamedHeaders.of(["Accept"]), NamedHeaders.of(["user-*"]))
        known = KnownHeads()
        for _ in range(3):
            for agent, strip in itertools.product(("a", "b"), strips):
                parser = RequestParser(32768, HeaderNames(), known)
                parser.feed(ask("/", "GET", "Accept: x", f"User-Agent: {agent}", "Connection: keep-alive"))
                (message,) = parser.messages
                self.assertTrue(message.is_known)
                for _ in range(2):
                    self.assertEqual(of_message(message, strip), for_backend(message.headers.plain, strip))
                self.assertEqual(b"User-Agent: %b" % agent.encode() in of_message(message, strip), strip is not strips[2])
        self.assertEqual(known.count, 2)


class EndToEndTests(SynchronousTestCase):
    def test_for_the_client(self) -> None:
        """What the backend says of its connection is not true of ours."""
        pairs = [
            (b"Connection", b"close, X-Hop"),
            (b"X-Hop", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Transfer-Encoding", b"chunked"),
        ]
        pairs += [
            (b"Content-Type", b"a/b"),
            (b"Set-Cookie", b"a=b"),
            (b"Set-Cookie", b"c=d"),
            (b"Content-Length", b"3"),
            (b"Upgrade", b"h2c"),
        ]
        found = end_to_end(received(pairs, HeaderNames()).plain)
        self.assertEqual(found, {b"Content-Type": [b"a/b"], b"Set-Cookie": [b"a=b", b"c=d"], b"Content-Length": [b"3"]})
