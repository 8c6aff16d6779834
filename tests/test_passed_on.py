"""From the bytes of a client to the bytes that a backend gets, and back: the whole way, for whatever comes."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import h11
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.proxy_in_memory import OK, ProxyTestCase, Wire
from tests.site_in_memory import Answer, Gate, ask
from tests.test_claims import TRUSTED
from tests.test_paths import PATHS

#: The same examples in every run: what is found at night by chance is no part of a change that is looked at by day.
THOROUGH = settings(max_examples=300, deadline=None, derandomize=True)

TOKEN = st.from_regex(rb"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,10}", fullmatch=True)
#: Marks that stand for a dash in the name of a header, somewhere.
MARKS = st.sampled_from(list(b"-_.!~"))
VALUE = st.from_regex(rb"[!-~]([ !-~]{0,12}[!-~])?", fullmatch=True)


@st.composite
def forged(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a header by which some application is told who its client is, in some spelling."""
    name = draw(st.sampled_from(TRUSTED)).encode()
    bits = draw(st.integers(0, 255))
    spelled = bytes(c ^ 0x20 if chr(c).isalpha() and bits >> (at % 8) & 1 else c for at, c in enumerate(name))
    return spelled.replace(b"-", bytes([draw(MARKS)])), b"forged"


#: Of these there is one each, or they have a meaning of their own; tests/test_parser.py is about them.
_FRAMING = (b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection")
HEADERS = st.lists(
    forged()
    | st.tuples(TOKEN, VALUE)
    | st.tuples(
        st.just(b"Connection"), st.sampled_from([*TRUSTED, "Host", "Content-Length", "close", "x, Client-Cert"]).map(str.encode)
    )
    | st.tuples(st.sampled_from([b"TE", b"Keep-Alive", b"Trailer", b"Content_Length", b"Transfer.Encoding"]), VALUE),
    max_size=8,
).map(lambda pairs: [(name, value) for name, value in pairs if name.lower() not in _FRAMING])
CUTS = st.lists(st.integers(1, 40), max_size=30)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return *data* in pieces of these sizes, and the rest."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in (*pieces, data[at:]) if piece]


def lines(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in pairs)


def one_form(name: bytes) -> bytes:
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


class PassedOnTests(ProxyTestCase):
    def through(self, pieces: list[bytes]) -> tuple[Gate, Wire | None, bytes]:
        """Have a client send *pieces*.  Returns it, the backend that was asked, and all that this got."""
        before, gate, wire, got = len(self.reactor.tcpClients), self.door.connect(), None, b""
        for piece in pieces:
            gate.protocol.dataReceived(piece)
            if wire is None and len(self.reactor.tcpClients) > before:
                wire = self.connected()
        if wire is not None:
            got = wire.sent()
        self.assertLessEqual(len(self.reactor.tcpClients), before + 1)
        return gate, wire, got

    def the_one_request(self, data: bytes) -> tuple[h11.Request, bytes]:
        """Return the request, and its body, that a strict reader finds in *data*: all of it, and no other."""
        reader = h11.Connection(h11.SERVER)
        reader.receive_data(data)
        request, body = reader.next_event(), b""
        assert isinstance(request, h11.Request), data
        while isinstance(event := reader.next_event(), h11.Data):
            body += bytes(event.data)
        self.assertIsInstance(event, h11.EndOfMessage)
        self.assertEqual(reader.trailing_data, (b"", False))
        return request, body

    @THOROUGH
    @given(
        st.sampled_from([b"", b"/private", b"/%70rivate", b"/api", b"/%61p%69", b"/other", b"/x"]),
        # What ends a target, begins a query or another form of it is no part of a path.
        PATHS.filter(lambda path: not re.search(rb"[\x00-\x20?]", path)),
        st.sampled_from([b"", b"?", b"?a/../b;%2F"]),
    )
    def test_any_path(self, first: bytes, rest: bytes, query: bytes) -> None:
        """The rule that decides is that of the path which the backend gets, and that path means what was asked for."""
        target = first + rest + query
        assume(target.startswith(b"/"))
        gate, wire, got = self.through([b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n"])
        if wire is None:
            self.assertRegex(gate.taken(), rb"\AHTTP/1\.1 (400|403|405|501) ")
            return
        request, _ = self.the_one_request(got)
        path, mark, passed_query = bytes(request.target).partition(b"?")
        self.assertEqual(mark + passed_query, query)
        # By hand, as somebody reads it who undoes every escape at once.
        meant = unquote_to_bytes(first + rest)
        segments = meant.split(b"/")[1:]
        self.assertFalse({b".", b"..", b"private"} & {segments[0], *(part for part in segments if part != b"private")})
        self.assertIn(self.attempts()[-1], {b"api": (8001, 8002), b"other": (8001, 8003)}.get(segments[0], (8000,)))
        self.assertEqual(unquote_to_bytes(path), (meant.removeprefix(b"/api") or b"/") if segments[0] == b"api" else meant)

    @THOROUGH
    @given(
        st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS"]),
        HEADERS,
        st.none() | st.lists(st.binary(min_size=1, max_size=20), max_size=4),
        st.booleans(),
        st.lists(forged() | st.tuples(TOKEN, VALUE), max_size=3),
        CUTS,
    )
    def test_any_request(
        self,
        method: bytes,
        headers: list[tuple[bytes, bytes]],
        body: list[bytes] | None,
        chunked: bool,
        trailers: list[tuple[bytes, bytes]],
        cuts: list[int],
    ) -> None:
        """One request, with the body that was sent, and no word on who it is from but the door's; in whatever pieces it comes."""
        trailers = [(name, value) for name, value in trailers if name.lower() not in _FRAMING]
        framing, sent = b"", b""
        if body is not None:
            sent = b"".join(body)
            framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(sent)
            if chunked:
                sent = (
                    b"".join(b"%x;x=y\r\n%b\r\n" % (len(piece), piece) for piece in body) + b"0\r\n" + lines(trailers) + b"\r\n"
                )
        data = method + b" /x HTTP/1.1\r\nHost: h\r\n" + lines(headers) + framing + b"\r\n" + sent
        gate, wire, got = self.through(cut(data, cuts))
        assert wire is not None, data
        request, passed = self.the_one_request(got)
        self.assertEqual((bytes(request.method), bytes(request.target), passed), (method, b"/x", b"".join(body or ())))
        self.assertNotIn(b"forged", got.removesuffix(passed))
        seen = [(one_form(name), value) for name, value in request.headers]
        for name, value in (
            ("x-client-name", "alice"),
            ("x-client-groups", "staff,ops"),
            ("x-forwarded-for", "192.0.2.7"),
            ("host", "h"),
        ):
            self.assertEqual([found for at, found in seen if at == name.encode()], [value.encode()])
        self.assertEqual([name for name, _ in seen if name in {b"keep-alive", b"te"}], [])
        # A list of names is built anew where one of them may come behind the body.
        self.assertIn([pair for pair in seen if pair[0] == b"connection"], ([], [(b"connection", b"close")]))
        # The answer is the client's, however its bytes came.
        for piece in cut(OK, cuts):
            wire.answer(piece)
        self.assertTrue(gate.taken().endswith(b"\r\n\r\nhi"))
        # No connection is left for the next example.
        self.door.wait(6)

    BEGINNINGS = st.sampled_from([b"", OK, OK, b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
    FRAGMENTS = st.sampled_from(
        [
            *(
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 204 No\r\n",
                b"HTTP/1.0 200 OK\r\n",
                b"HTTP/1.1 103 Hints\r\n",
                b"HTTP/1.1 101 S\r\n",
            ),
            *(
                b"Content-Length: 2\r\n",
                b"Content-Length: 0\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Connection: close\r\n",
                b"X: y\r\n",
            ),
            *(b"\r\n", b"\r\n", b"hi", b"2\r\nhi\r\n", b"0\r\n\r\n", b"\n", b"\x00", b"zz", OK),
        ]
    )

    @THOROUGH
    @given(
        BEGINNINGS, st.lists(FRAGMENTS, max_size=8).map(b"".join), CUTS, st.sampled_from(["GET", "HEAD", "POST"]), st.booleans()
    )
    def test_any_answer(self, begin: bytes, rest: bytes, cuts: list[int], method: str, ends: bool) -> None:
        """Whatever a backend says, its client reads one answer, or is cut off; and the next request gets its own."""
        data = begin + rest
        gate = self.door.connect()
        gate.protocol.dataReceived(ask("/one", method))
        wire = self.connected()
        for piece in cut(data, cuts):
            if not wire.aborted:
                wire.answer(piece)
        if ends and not wire.aborted:
            wire.lose()
        got = gate.taken()
        if not answered(got, method):
            self.door.wait(130)
            got += gate.taken()
        self.assertTrue(answered(got, method) or gate.aborted)
        if not gate.disconnecting:
            before = len(self.attempts())
            gate.protocol.dataReceived(ask("/two"))
            if len(self.attempts()) > before:
                wire = self.connected()
            else:
                # Another reader, too, has found one answer on it, after which it goes on.
                self.assertTrue(answered(without_empty_lines(data), method, goes_on=True), data)
            self.assertEqual(wire.sent().count(b"GET /two "), 1)
            wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")
            self.assertEqual(Answer(gate.taken()).body, b"second")
        # No connection is left for the next example.
        self.door.wait(6)


def without_empty_lines(data: bytes) -> bytes:
    """Take out of h11's way what llhttp passes over: line ends before an answer and behind it, which it has read all the same."""
    return re.sub(rb"(\A|\r\n\r\n|hi)[\r\n]+(?=HTTP/|\Z)", lambda found: found[1], data)


def answered(data: bytes, method: str, *, goes_on: bool = False) -> bool:
    """Tell whether *data* is one whole answer (with *goes_on*: that does not end its connection); it may be half of one.

    Raises what h11 raises where it is neither.
    """
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/one", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    if data:
        reader.receive_data(data)
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            return False
    if reader.trailing_data[0]:
        raise AssertionError(f"more than an answer: {data!r}")
    return not goes_on or reader.their_state is h11.DONE
