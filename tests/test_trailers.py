"""What comes behind a body: the few trailers that go on, either way, and that none of them says what its head may not."""

from __future__ import annotations

import re
from typing import cast

import h11
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.proxy.response import BadResponse, ResponseParser
from mtlsd.settings import Settings
from mtlsd.web.headers import HeaderNames
from mtlsd.web.heads import KnownHeads
from mtlsd.web.message import Message
from mtlsd.web.parser import Refusal, RequestParser
from tests.proxy_in_memory import OK, NarrowGate, ProxyTestCase, Wire
from tests.site_in_memory import Answer, Gate, ask
from tests.test_claims import TRUSTED
from tests.test_passed_on import CUTS, MARKS, TOKEN, VALUE, cut, forged, lines, one_form

#: The same examples in every run.
THOROUGH = settings(max_examples=300, deadline=None, derandomize=True)
CHUNKED = "Transfer-Encoding: chunked"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"

#: Fields whose place is the head (RFC 9110 6.5.1), or that belong to one connection.
TOO_LATE = (
    *("Host", "Trailer", "TE", "Expect", "Keep-Alive", "Proxy-Authorization", "Proxy-Authenticate", "HTTP2-Settings", "Via"),
    *("Content-Type", "Content-Encoding", "Content-Range", "Content-Location", "Content-Disposition", "Content-Digests"),
    *("Authorization", "WWW-Authenticate", "Cookie", "Cookie2", "Set-Cookie", "Set-Cookie2", "Origin", "Referer", "User-Agent"),
    *("If-Match", "If-None-Match", "If", "Range", "Accept", "Accept-Encoding", "Accept-Ranges", "Sec-Fetch-Site", "Max-Forwards"),
    *("Cache-Control", "Pragma", "Age", "Expires", "Date", "Vary", "Location", "Retry-After", "Last-Modified", "Warning"),
    *(
        "Access-Control-Allow-Origin",
        "Content-Security-Policy",
        "X-Frame-Options",
        "Strict-Transport-Security",
        "Clear-Site-Data",
    ),
    *(
        "X-Accel-Redirect",
        "X-Sendfile",
        "Prefer",
        "Priority",
        "X-CSRF-Token",
        "Refresh",
        "Link",
        "Destination",
        "Authentication-Info",
    ),
)
#: Those that another reader may take for the message's framing, or for the connection's end.
FRAMING = ("Connection", "Proxy-Connection", "Upgrade", "Transfer-Encoding", "Content-Length")
#: Fields that are at home behind a body.
AT_HOME = (
    "Content-Digest",
    "Repr-Digest",
    "Server-Timing",
    "ETag",
    "X-Checksum",
    "Signature",
    "Grpc-Status",
    "X-Amz-Checksum-Crc32",
)


def spellings(name: str) -> set[bytes]:
    return {name.replace("-", mark).encode() for mark in "-_.!~"} | {
        name.lower().encode(),
        name.upper().replace("-", "_").encode(),
    }


def last_chunk(*trailers: tuple[bytes, bytes]) -> bytes:
    return b"0\r\n" + lines(list(trailers)) + b"\r\n"


class TrailersTestCase(ProxyTestCase):
    def upload(
        self, trailers: bytes, *headers: str, target: str = "/x", body: bytes = b"3\r\nabc\r\n"
    ) -> tuple[Gate, Wire, bytes]:
        """Have a client upload something.  Returns it, the backend, and what that got."""
        gate = self.ask(target, "POST", CHUNKED, *headers)
        gate.protocol.dataReceived(body + b"0\r\n" + trailers + b"\r\n")
        wire = self.connected()
        return gate, wire, wire.sent()

    def download(
        self, head: bytes, trailers: bytes, *headers: str, method: str = "GET", version: str = "1.1"
    ) -> tuple[Gate, Wire, bytes]:
        """Have a backend answer in chunks.  Returns the client, the backend, and what the client got."""
        gate = self.ask("/x", method, *headers, version=version)
        wire = self.connected()
        wire.answer(ANSWER + head + b"\r\n2\r\nhi\r\n0\r\n" + trailers + b"\r\n")
        return gate, wire, gate.taken()


class RequestTrailersTests(TrailersTestCase):
    def test_announced(self) -> None:
        """A checksum of an upload would not reach the application that has asked for it."""
        _, _, sent = self.upload(
            b"x-checksum: 1\r\nContent-Digest: sha-256=:x:\r\nX-Checksum:  2 \r\n", "Trailer: X-Checksum, content-digest"
        )
        head, _, body = sent.partition(b"\r\n\r\n")
        self.assertIn(b"\r\nTrailer: X-Checksum, content-digest\r\n", head)
        self.assertEqual(
            body, b"3\r\nabc\r\n" + last_chunk((b"X-Checksum", b"1"), (b"X-Checksum", b"2"), (b"Content-Digest", b"sha-256=:x:"))
        )

    def test_not_announced(self) -> None:
        """Whoever decides by the head would be told of nothing, and have it all the same: what it has not announced, goes."""
        for headers in (
            (),
            ("Trailer: X-Other",),
            ("Trailer:",),
            ("Trailer: X-T x",),
            ('Trailer: "X-T"',),
            ("Trailer: X_T",),
            ("X-Trailer: X-T",),
        ):
            _, _, sent = self.upload(b"X-T: 1\r\n", *headers)
            self.assertTrue(sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), headers)

    def test_in_several_lines(self) -> None:
        """A list in two lines is one list (RFC 9110 5.3), and what is no name in it is none."""
        _, _, sent = self.upload(b"A: 1\r\nB: 2\r\nC: 3\r\n", "Trailer: a,, c d ,A", "trailer: \tB")
        self.assertIn(b"\r\nTrailer: A, B\r\n", sent)
        self.assertTrue(sent.endswith(last_chunk((b"A", b"1"), (b"B", b"2"))), sent)

    def test_at_home(self) -> None:
        """A door that eats what is known only when the body is out, is one that people go round."""
        for name in AT_HOME:
            _, _, sent = self.upload(f"{name}: v\r\n".encode(), f"Trailer: {name}")
            self.assertIn(f"0\r\n{name.lower()}: v\r\n\r\n".encode(), sent.lower(), name)

    def test_identity(self) -> None:
        """A server that writes trailers into its headers would take a client's word for the door's, in whatever spelling."""
        for name in TRUSTED:
            for spelled in spellings(name):
                _, _, sent = self.upload(b"%b: forged\r\n" % spelled, f"Trailer: {spelled.decode()}")
                self.assertTrue(sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), spelled)
                self.assertNotIn(b"Trailer", sent)

    def test_too_late(self) -> None:
        """What frames a message, where it goes, whose it is and how it is read is decided by the head, and not anew behind the body."""
        for name in (*TOO_LATE, *FRAMING):
            for spelled in spellings(name):
                if spelled.lower().decode() in {known.lower() for known in FRAMING}:
                    continue
                _, _, sent = self.upload(b"%b: forged\r\n" % spelled, f"Trailer: {spelled.decode()}")
                self.assertNotIn(b"forged", sent, spelled)
                self.assertNotIn(b"Trailer", sent, spelled)

    def test_what_the_route_strips(self) -> None:
        """A header by which this application is told who its client is would be the client's own, behind the body."""
        trailers = b"X_Tenant: forged\r\nx.corp.user: forged\r\nX-T: 1\r\n"
        _, _, sent = self.upload(trailers, "Trailer: X_Tenant, x.corp.user, X-T", target="/api")
        self.assertNotIn(b"forged", sent)
        self.assertIn(b"\r\nTrailer: X-T\r\n", sent)

    def test_what_connection_names(self) -> None:
        """It was for the door alone."""
        _, _, sent = self.upload(b"X-T: 1\r\n", "Trailer: X-T", "Connection: x-t")
        self.assertTrue(sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), sent)

    def test_the_last_on_its_connection(self) -> None:
        """A server that leaves trailers unread would take them for the next request: it is told that there is none, and gets none."""
        gate, wire, sent = self.upload(b"GET: /private HTTP/1.1\r\nHost_: h\r\n", "Trailer: GET")
        self.assertEqual(re.findall(rb"\r\nConnection: (.*?)\r\n", sent), [b"close"])
        wire.answer(OK)
        self.assertEqual((Answer(gate.taken()).body, wire.aborted), (b"hi", True))
        gate.protocol.dataReceived(ask("/y"))
        self.assertEqual(len(self.attempts()), 2)

    def test_without_any(self) -> None:
        """Whoever has none keeps the connection to the server."""
        gate, wire, sent = self.upload(b"X-T: 1\r\n")
        self.assertNotIn(b"Connection", sent)
        wire.answer(OK)
        gate.protocol.dataReceived(ask("/y"))
        self.assertEqual((len(self.attempts()), wire.aborted), (1, False))

    def test_behind_no_content(self) -> None:
        """Trailers behind an empty body would get lost, or be the body."""
        gate = self.door.connect()
        gate.protocol.dataReceived(ask("/x", "POST", CHUNKED, "Trailer: X-T") + last_chunk((b"X-T", b"1")))
        sent = self.connected().sent()
        self.assertIn(b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n", sent)
        self.assertNotIn(b"Content-Length", sent)

    def test_with_a_length(self) -> None:
        """There is nothing behind such a body, so nothing is announced."""
        self.ask("/x", "POST", "Trailer: X-T", body=b"abc")
        sent = self.connected().sent()
        self.assertTrue(sent.endswith(b"\r\nContent-Length: 3\r\n\r\nabc"), sent)
        self.assertNotIn(b"Trailer", sent)

    def test_never_twice(self) -> None:
        """A request of which something went out is not asked anew, if only its trailers did."""
        for trailers, times in ((b"X-T: 1\r\n", 1), (b"", 2)):
            gate = self.ask()
            wire = self.connected()
            wire.answer(OK)
            gate.taken()
            before = len(self.attempts())
            gate.protocol.dataReceived(ask("/x", "PUT", CHUNKED, "Trailer: X-T") + b"0\r\n" + trailers + b"\r\n")
            wire.lose()
            self.assertEqual(len(self.attempts()) - before, times - 1)
            if times == 2:
                self.connected().answer(OK)
            self.assertEqual(Answer(gate.taken()).status, 200 if times == 2 else 502)
            self.door.wait(6)

    def test_behind_an_early_answer(self) -> None:
        """They end the upload as well while its answer comes in, and go nowhere when that is over."""
        gate = self.ask("/x", "POST", CHUNKED, "Trailer: X-T")
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        wire.sent()
        gate.protocol.dataReceived(b"1\r\na\r\n" + last_chunk((b"X-T", b"1")))
        self.assertEqual(wire.sent(), b"1\r\na\r\n" + last_chunk((b"X-T", b"1")))
        wire.answer(b"cd")
        self.assertEqual((Answer(gate.taken()).body, wire.aborted), (b"abcd", True))
        gate = self.ask("/x", "POST", CHUNKED, "Trailer: X-T")
        wire = self.connected()
        wire.answer(OK)
        wire.sent()
        gate.protocol.dataReceived(last_chunk((b"X-T", b"1")))
        self.assertEqual((wire.sent(), gate.disconnecting), (b"", True))

    def test_a_slow_backend(self) -> None:
        """What it does not take waits with the client, trailers too; and the client is heard again when all is sent."""
        gate = self.ask("/x", "POST", CHUNKED, "Trailer: X-T")
        wire = self.connected()
        wire.producer.pauseProducing()
        self.assertEqual(gate.producerState, "paused")
        wire.producer.resumeProducing()
        gate.protocol.dataReceived(b"1\r\na\r\n" + last_chunk((b"X-T", b"1")))
        self.assertTrue(wire.sent().endswith(b"1\r\na\r\n" + last_chunk((b"X-T", b"1"))))
        self.assertEqual((wire.producer, gate.producerState), (None, "producing"))

    def test_refused(self) -> None:
        """400, and the backend's request never comes to its end: what can be read in two ways is read in none."""
        for trailer in (
            b" X-T: 1",
            b"X-T : 1",
            b"X-T",
            b"X-T: 1\r\n 2",
            b"X-T: \x00",
            b"X-T: 1\rA: b",
            b"X-T: 1\nA: b",
            b": 1",
            b"X(: 1",
        ):
            gate, wire, sent = self.upload(trailer + b"\r\n", "Trailer: X-T")
            self.assertEqual((Answer(gate.taken()).status, gate.disconnecting, wire.aborted), (400, True, True), trailer)
            self.assertNotIn(b"\r\n0\r\n", sent, trailer)

    def test_framing(self) -> None:
        """llhttp takes `Connection: close` at its word there, other readers do not: to one of them, there is one request more."""
        for name in FRAMING:
            for value in (b"close", b"chunked", b"3", b"x"):
                gate, wire, sent = self.upload(b"%b: %b\r\n" % (name.lower().encode(), value))
                self.assertEqual((Answer(gate.taken()).status, gate.disconnecting, wire.aborted), (400, True, True), name)
                self.assertNotIn(b"\r\n0\r\n", sent, name)

    def test_many_names(self) -> None:
        """A list of names without an end is work for nothing; whoever announces so much, announces nothing."""
        for count in (64, 65):
            names = ", ".join(f"X-{nth}" for nth in range(count))
            _, _, sent = self.upload(b"X-7: 1\r\n", f"Trailer: {names}")
            self.assertEqual((b"X-7: 1" in sent, b"Trailer" in sent), (count == 64, count == 64))


class LimitTests(TrailersTestCase):
    settings = Settings(max_head=2000)

    def test_too_large(self) -> None:
        """What is behind a body has no more room than what is in front of it, however it comes: 431."""
        for trailers in (b"X-T: " + b"x" * 2000 + b"\r\n", b"X-T: " + b"x" * 90 + b"\r\n", b"A: b\r\n" * 400):
            for size in (17, 1000, 100_000):
                for times in (1, 30):
                    data = trailers * times
                    gate = self.ask("/x", "POST", CHUNKED, "Trailer: X-T")
                    wire = self.connected()
                    for piece in cut(b"1\r\na\r\n0\r\n" + data + b"\r\n", [size] * (len(data) // size + 1)):
                        gate.protocol.dataReceived(piece)
                    fits = len(data) <= 2000
                    if fits:
                        self.assertTrue(wire.sent().endswith(b"0\r\n" + data + b"\r\n"), (size, times))
                    else:
                        self.assertEqual((Answer(gate.taken()).status, wire.aborted), (431, True), (size, times))


class AnswerTrailersTests(TrailersTestCase):
    TE = "TE: trailers"

    def test_announced(self) -> None:
        """What a server knows only at the end, and the client has asked for."""
        gate, wire, data = self.download(
            b"Trailer: server-timing, ETag\r\n", b'Server-Timing: db;dur=53\r\netag: "x"\r\n', self.TE
        )
        self.assertEqual(Answer(data).headers["trailer"], "server-timing, ETag")
        self.assertTrue(data.endswith(b'\r\n\r\n2\r\nhi\r\n0\r\nServer-Timing: db;dur=53\r\nETag: "x"\r\n\r\n'), data)
        # Both connections go on.
        gate.protocol.dataReceived(ask("/y"))
        self.assertEqual((len(self.attempts()), wire.sent().count(b"GET /y ")), (1, 1))

    def test_who_takes_them(self) -> None:
        """Nobody has to be ready for what it has not asked for (RFC 9110 10.1.4), and HTTP/1.0 has no chunks."""
        for headers, version, takes in (
            ((self.TE,), "1.1", True),
            (("te: gzip;q=0.5 , Trailers",), "1.1", True),
            (("TE: gzip", "TE: trailers", "Connection: TE"), "1.1", True),
            ((), "1.1", False),
            (("TE:",), "1.1", False),
            (("TE: trailers;q=0",), "1.1", False),
            (("TE: x-trailers",), "1.1", False),
            (("T_E: trailers",), "1.1", False),
            ((self.TE,), "1.0", False),
        ):
            gate = self.ask("/x", "GET", *headers, version=version)
            wire = self.connected()
            sent = wire.sent()
            asked = b"\r\nTE: trailers\r\nConnection: TE\r\n" in sent
            self.assertEqual((asked, b"TE" in sent), (takes, takes), headers)
            wire.answer(ANSWER + b"Trailer: X-T\r\n\r\n2\r\nhi\r\n" + last_chunk((b"X-T", b"1")))
            data = gate.taken()
            self.assertEqual((b"Trailer: X-T" in data, b"\r\n0\r\nX-T: 1\r\n\r\n" in data), (takes, takes), headers)
            self.door.wait(6)

    def test_both_ways(self) -> None:
        """One `Connection` for both."""
        _, _, sent = self.upload(b"X-T: 1\r\n", "Trailer: X-T", self.TE)
        self.assertIn(b"\r\nTrailer: X-T\r\nTE: trailers\r\nConnection: close, TE\r\n", sent)

    def test_not_announced(self) -> None:
        """What has not been announced is dropped, as of requests."""
        for head in (b"", b"Trailer: X-Other\r\n", b"Trailer: X T\r\n", b"Trailer: X-T\r\nConnection: X-T\r\n"):
            gate, wire, data = self.download(head, b"X-T: 1\r\n", self.TE)
            self.assertTrue(data.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), data)
            self.assertFalse(gate.aborted or wire.aborted)
            wire.lose()

    def test_too_late(self) -> None:
        """A cookie, a length or a policy behind the body would be one to some readers, and none to others."""
        for name in (*TOO_LATE, *FRAMING):
            for spelled in spellings(name):
                if spelled.lower().decode() in {known.lower() for known in FRAMING}:
                    continue
                _, wire, data = self.download(b"Trailer: %b\r\n" % spelled, b"%b: forged\r\n" % spelled, self.TE)
                self.assertTrue(data.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), spelled)
                self.assertNotIn(b"Trailer", data)
                wire.lose()

    def test_no_body(self) -> None:
        """To HEAD, and with 204 or 304, nothing follows the head, and so nothing is announced."""
        gate = self.ask("/x", "HEAD", self.TE)
        wire = self.connected()
        self.assertNotIn(b"TE", wire.sent())
        for status in (b"200 OK", b"204 No Content", b"304 Not Modified"):
            wire.answer(b"HTTP/1.1 %b\r\nTrailer: X-T\r\n\r\n" % status)
            data = gate.taken()
            self.assertTrue(data.endswith(b"\r\n\r\n"))
            self.assertNotIn(b"railer", data)
            gate.protocol.dataReceived(ask("/x", "GET", self.TE))
        self.assertEqual(len(self.attempts()), 1)

    def test_an_answer_without_chunks(self) -> None:
        """With a length, or up to the end of its connection, it has nothing behind it."""
        for head in (b"Content-Length: 2\r\n", b""):
            gate = self.ask("/x", "GET", self.TE)
            wire = self.connected()
            wire.answer(b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\n" + head + b"\r\nhi")
            wire.lose()
            data = gate.taken()
            self.assertTrue(data.endswith(b"\r\n\r\nhi" if head else b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), data)
            self.assertNotIn(b"railer", data)

    def test_asked_again(self) -> None:
        """A request that goes out once more says the same once more."""
        gate = self.ask()
        kept = self.connected()
        kept.answer(OK)
        gate.taken()
        kept.sent()
        gate.protocol.dataReceived(ask("/y", "GET", self.TE))
        kept.lose()
        fresh = self.connected()
        self.assertEqual(kept.sent(), sent := fresh.sent())
        self.assertEqual(sent.count(b"TE: trailers\r\n"), 1)
        fresh.answer(ANSWER + b"Trailer: X-T\r\n\r\n" + last_chunk((b"X-T", b"1")))
        self.assertTrue(gate.taken().endswith(b"\r\n\r\n" + last_chunk((b"X-T", b"1"))))

    def test_a_slow_client(self) -> None:
        """The end of an answer may be what fills the buffer: the next request goes on when there is room."""
        gate = cast(NarrowGate, self.ask("/x", "GET", self.TE, gate=NarrowGate()))
        wire = self.connected()
        wire.answer(ANSWER + b"Trailer: X-T\r\n\r\n" + last_chunk((b"X-T", b"1")))
        self.assertTrue(gate.is_full)
        gate.protocol.dataReceived(ask("/y"))
        self.assertTrue(gate.drain().endswith(last_chunk((b"X-T", b"1"))))
        wire.answer(OK)
        self.assertEqual(Answer(gate.drain()).body, b"hi")

    def test_broken(self) -> None:
        """Half an answer would look like a whole one, and the next one would be whose?"""
        for trailer, why in (
            *(
                (line, "it cannot be read")
                for line in (b"X-T : 1", b" X-T: 1", b"X-T", b"X-T: \x00", b"X-T: 1\r\n 2", b"X-T: 1\rA: b")
            ),
            *((b"%b: close" % name.encode(), "two ways|cannot be read") for name in FRAMING),
            (b"X-T: " + b"x" * 262_144, "its trailers are too large"),
            (b"\r\n".join([b"X-T: 1"] * 501), "its trailers are too large"),
        ):
            gate = self.ask("/x", "GET", self.TE)
            wire = self.connected()
            wire.answer(ANSWER + b"Trailer: X-T\r\n\r\n2\r\nhi\r\n")
            wire.answer(b"0\r\n" + trailer + b"\r\n\r\n")
            self.assertEqual((gate.aborted, wire.aborted), (True, True), trailer[:20])
            self.assertTrue(gate.taken().endswith(b"\r\n\r\n2\r\nhi\r\n"), trailer[:20])
            self.assertRegex(self.said[-1], why)

    def test_cut_short(self) -> None:
        """An answer that ends within its trailers has not come to its end."""
        gate = self.ask("/x", "GET", self.TE)
        wire = self.connected()
        wire.answer(ANSWER + b"Trailer: X-T\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n")
        wire.lose()
        self.assertTrue(gate.aborted)
        self.assertTrue(gate.taken().endswith(b"\r\n\r\n2\r\nhi\r\n"))


class AnyTrailersTests(TrailersTestCase):
    #: Fields behind a body, and what is announced: the one may have to do with the other.
    NAMES = TOKEN | st.sampled_from([*TOO_LATE, *AT_HOME]).map(str.encode) | forged().map(lambda pair: pair[0])

    @THOROUGH
    @given(
        st.lists(forged() | st.tuples(NAMES, VALUE), max_size=6),
        st.lists(NAMES, max_size=3),
        st.lists(NAMES, max_size=2),
        st.lists(st.binary(min_size=1, max_size=20), max_size=3),
        CUTS,
    )
    def test_any_request(
        self,
        trailers: list[tuple[bytes, bytes]],
        also: list[bytes],
        named: list[bytes],
        body: list[bytes],
        cuts: list[int],
    ) -> None:
        """No word on who a client is comes from the client, and a second reader finds one request in what goes out."""
        trailers = [
            (name, value) for name, value in trailers if name.lower() not in {known.lower().encode() for known in FRAMING}
        ]
        announced = [name for name, _ in trailers] + also
        data = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: " + b", ".join(announced) + b"\r\n"
        # What asks for the close, or for another protocol, is another matter.
        data += b"".join(b"Connection: %b\r\n" % name for name in named if name.lower() not in (b"close", b"upgrade")) + b"\r\n"
        data += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body) + last_chunk(*trailers)
        gate, wire, got = self.door.connect(), None, b""
        before = len(self.attempts())
        for piece in cut(data, cuts):
            gate.protocol.dataReceived(piece)
            if wire is None and len(self.attempts()) > before:
                wire = self.connected()
        assert wire is not None, data
        got = wire.sent()
        reader = h11.Connection(h11.SERVER)
        reader.receive_data(got)
        request, content = reader.next_event(), b""
        assert isinstance(request, h11.Request)
        while isinstance(event := reader.next_event(), h11.Data):
            content += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        self.assertEqual((content, reader.trailing_data), (b"".join(body), (b"", False)))
        self.assertNotIn(b"forged", got.replace(content, b"") if content else got)
        # A server that has one dictionary for both, and one spelling for all.
        merged: dict[bytes, list[bytes]] = {}
        for name, value in (*request.headers, *event.headers):
            merged.setdefault(one_form(name), []).append(value)
        expected = {b"x-client-name": b"alice", b"x-client-groups": b"staff,ops", b"x-forwarded-for": b"192.0.2.7", b"host": b"h"}
        for name, word in expected.items():
            self.assertEqual(merged[name], [word])
        self.assertFalse({one_form(name.encode()) for name in TRUSTED} & {one_form(name) for name, _ in event.headers})
        # Nothing that was not sent, and nothing that was not announced.
        sent = {(name.lower(), value) for name, value in trailers if name.lower() not in {other.lower() for other in named}}
        self.assertLessEqual(set(event.headers), sent)
        told = b", ".join(value for name, value in request.headers if name == b"trailer").lower().split(b", ")
        self.assertLessEqual({name for name, _ in event.headers}, set(told))
        wire.answer(OK)
        self.assertEqual((Answer(gate.taken()).body, wire.aborted), (b"hi", told != [b""]))
        self.door.wait(6)

    @THOROUGH
    @given(st.lists(st.tuples(MARKS, st.binary(max_size=12) | VALUE), max_size=4), st.binary(max_size=4), CUTS, st.booleans())
    def test_any_bytes(self, values: list[tuple[int, bytes]], more: bytes, cuts: list[int], is_answer: bool) -> None:
        """Whatever is in a trailer arrives as it was, or none of it does, and its connection is over."""
        section = b"".join(b"X%c-T: %b\r\n" % value for value in values) + more + b"\r\n"
        announced = b"Trailer: " + b", ".join(b"X%c-T" % mark for mark, _ in values) + b"\r\n"
        data = announced + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" + section
        gate = self.door.connect()
        if is_answer:
            gate.protocol.dataReceived(ask("/x", "GET", "TE: trailers"))
            wire = self.connected()
            for piece in cut(b"HTTP/1.1 200 OK\r\n" + data, cuts):
                if not wire.aborted:
                    wire.answer(piece)
            got, over = gate.taken(), gate.aborted
        else:
            for piece in cut(ask("/x", "POST").removesuffix(b"\r\n") + data, cuts):
                gate.protocol.dataReceived(piece)
            if gate.disconnecting:
                # At once: nobody was asked.
                self.assertTrue(gate.taken().startswith(b"HTTP/1.1 400 "))
                self.assertIsNone(read_strictly(b"0\r\n" + section))
                return
            wire = self.connected()
            got, over = wire.sent(), wire.aborted
        expected = read_strictly(b"0\r\n" + section)
        if expected is None or over:
            self.assertNotIn(b"\r\n0\r\n", got)
        if over:
            return
        whole = got.partition(b"\r\n2\r\nhi\r\n")[2]
        if whole:
            assert expected is not None
            self.assertEqual(read_strictly(whole), expected)
        gate.lose()
        self.door.wait(6)


def read_strictly(data: bytes) -> dict[bytes, list[bytes]] | None:
    """Return the trailers of a last chunk by the grammar of RFC 9112 5 and RFC 9110 5.5, and no more leniently; ``None``: none."""
    section = re.match(rb"0\r\n((?:[!#-'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n", data)
    if section is None:
        return None
    found: dict[bytes, list[bytes]] = {}
    for line in section[1].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return found


class ParserTests(SynchronousTestCase):
    """Both parsers keep trailers apart, wherever the network cuts."""

    def request(self, data: bytes, size: int, max_head: int = 32_768) -> Message:
        parser = RequestParser(max_head, HeaderNames(), KnownHeads())
        for piece in cut(data, [size] * len(data)):
            parser.feed(piece)
        return parser.messages[0]

    def test_in_any_pieces(self) -> None:
        """Where the network cuts would decide what is a trailer, and of which message."""
        section = b"1\r\na\r\n0\r\nX-T: 1\r\nEmpty:\r\nx-t:  2\t\r\n\r\n"
        for size in range(1, 60):
            message = self.request(ask("/", "POST", CHUNKED, "X-T: head") + section, size)
            assert message.trailers is not None
            self.assertEqual(message.trailers.plain, {b"X-T": [b"1", b"2"], b"Empty": [b""]})
            self.assertEqual(message.headers.getRawHeaders(b"X-T"), [b"head"])
            response = ResponseParser(HeaderNames())
            response.begin(is_head=False)
            for piece in cut(ANSWER + b"X-T: head\r\n\r\n" + section, [size] * 200):
                response.feed(piece)
            assert response.head is not None and response.head.trailers is not None
            self.assertEqual(response.head.trailers.plain, message.trailers.plain)
            self.assertEqual(response.head.headers.getRawHeaders(b"X-T"), [b"head"])
            self.assertEqual((response.done, response.reusable), (True, True))

    def test_framing(self) -> None:
        """A request behind such trailers would be one, or none, by where the network has cut, and by what others have asked before."""
        for name in FRAMING:
            data = ask("/", "POST", CHUNKED) + b"0\r\n%b: close\r\n\r\n" % name.encode() + ask("/next")
            for size in (1, 7, len(data)):
                with self.assertRaises(Refusal) as caught:
                    self.request(data, size)
                self.assertEqual(caught.exception.status, 400, name)
            response = ResponseParser(HeaderNames())
            response.begin(is_head=False)
            self.assertRaises(BadResponse, response.feed, ANSWER + b"\r\n0\r\n%b: close\r\n\r\n" % name.encode())

    def test_none(self) -> None:
        """Trailers of one message are not the next one's."""
        parser = RequestParser(32_768, HeaderNames(), KnownHeads())
        parser.feed(ask("/", "POST", CHUNKED) + last_chunk((b"X-T", b"1")) + ask("/", "POST", CHUNKED) + last_chunk() + ask("/"))
        self.assertEqual([message.trailers is not None for message in parser.messages], [True, False, False])

    def test_behind_no_answer(self) -> None:
        """To HEAD there is no body, and what comes as if there were one is nobody's."""
        response = ResponseParser(HeaderNames())
        response.begin(is_head=True)
        response.feed(ANSWER + b"\r\n" + last_chunk((b"X-T", b"1")))
        assert response.head is not None
        self.assertEqual((response.head.trailers, response.done, response.reusable), (None, True, False))
