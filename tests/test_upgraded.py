"""An Upgrade on its way to a backend, and what it becomes: bytes both ways, until it ends or is no longer allowed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mtlsd.config import parse
from mtlsd.proxy.forwarded import for_backend, protocols_asked_for, request_head
from mtlsd.proxy.response import BadResponse, ResponseParser
from mtlsd.proxy.upgraded import Upgrades
from mtlsd.web.headers import HeaderNames
from mtlsd.web.heads import KnownHeads
from mtlsd.web.message import Message
from mtlsd.web.parser import Refusal, RequestParser
from mtlsd.web.router import Resources, Router
from tests.memory_tls import FrontDoor as TlsDoor
from tests.memory_tls import Served
from tests.pki import make_pair
from tests.proxy_in_memory import OK, ProxyTestCase, Wire
from tests.site_in_memory import ALICE, Answer, Gate, ask

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
WEBSOCKET = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a2V5")
RULES = """
[groups]
chat = ["alice"]
[[route]]
path = "/ws"
allow = ["group:chat"]
upstream = "http://127.0.0.1:8000"
upgrade = true
[[route]]
path = "/plain"
allow = ["*"]
upstream = "http://127.0.0.1:8000"
"""


def read(data: bytes) -> Message:
    """Return the one request in *data*."""
    parser = RequestParser(32768, HeaderNames(), KnownHeads())
    parser.feed(data)
    (message,) = parser.messages
    return message


class AskedForTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """What a browser sends; and a list, of which the backend takes its pick."""
        for value, protocols in (
            ("websocket", (b"websocket",)),
            ("WebSocket", (b"WebSocket",)),
            ("a/1.0 ,\tb", (b"a/1.0", b"b")),
        ):
            self.assertEqual(protocols_asked_for(read(ask("/", "GET", "Connection: upgrade", f"Upgrade: {value}"))), protocols)

    def test_doubt(self) -> None:
        """What two readers may take for two things is no upgrade: whoever believes in it would read requests as bytes."""
        ws, asked = "Upgrade: websocket", "Connection: Upgrade"
        for data in (
            ask("/"),
            ask("/", "GET", ws),
            ask("/", "GET", asked),
            ask("/", "GET", "Connection: upgraded", ws),
            ask("/", "GET", asked, ws, ws),
            ask("/", "GET", asked, ws, "Upgrade: x"),
            ask("/", "GET", asked, "Upgrade:"),
            ask("/", "GET", asked, "Upgrade: ,websocket"),
            ask("/", "GET", asked, "Upgrade: web socket"),
            ask("/", "GET", asked, 'Upgrade: "websocket"'),
            ask("/", "GET", asked, "Upgrade: websocket/1/2"),
            ask("/", "GET", asked, "Upgrade: " + ", ".join("x" * 9)),
            ask("/", "POST", asked, ws),
            ask("/", "HEAD", asked, ws),
            ask("/", "GET", asked, ws, version="1.0"),
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ):
            self.assertEqual(protocols_asked_for(read(data)), (), data)

    def test_a_body(self) -> None:
        """Nobody could say whose its bytes are."""
        for more in ("Content-Length: 3", "Transfer-Encoding: chunked"):
            self.assertRaises(Refusal, read, ask("/", "GET", "Connection: upgrade", "Upgrade: websocket", more))

    def test_requests_of_its_own(self) -> None:
        """h2c smuggling: behind such an upgrade a client may ask for what no route allows it, in requests that nobody judges."""
        for value in ("h2c", "H2C", "h2c, websocket", "websocket, h2c", "HTTP/2.0", "h2c/1", "TLS/1.2", "HTTP/1.1"):
            message = read(ask("/", "GET", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {value}", "HTTP2-Settings: AAMA"))
            self.assertEqual(protocols_asked_for(message), (), value)

    def test_head(self) -> None:
        """Built anew: the one Upgrade that was understood, and nothing of HTTP/2 beside it."""
        message = read(
            ask("/", "GET", "Connection: Upgrade, HTTP2-Settings, X-A", *WEBSOCKET[1:], "HTTP2-Settings: AAMA", "X-A: b")
        )
        head = request_head(b"GET", b"/", for_backend(message.headers.plain), 0, b"", protocols_asked_for(message))
        self.assertEqual(
            head,
            b"GET / HTTP/1.1\r\nHost: localhost\r\nSec-Websocket-Key: a2V5\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )

    def test_what_is_behind(self) -> None:
        """In whatever pieces it comes: the first bytes of another protocol are lost otherwise, or read as a request."""
        data = ask("/a") + ask("/ws", "GET", *WEBSOCKET) + ask("/evil")
        for size in (1, 7, len(data)):
            parser = RequestParser(32768, HeaderNames(), KnownHeads())
            for at in range(0, len(data), size):
                parser.feed(data[at : at + size])
            self.assertEqual([message.target for message in parser.messages], [b"/a", b"/ws"])
            self.assertEqual([message.upgrade for message in parser.messages], [False, True])
            self.assertEqual(parser.behind, ask("/evil"))

    @given(st.text(alphabet="hH2cC/,. \twebsocket", max_size=20))
    def test_any_value(self, value: str) -> None:
        """Whatever spelling somebody finds for h2c."""
        asked = protocols_asked_for(read(ask("/", "GET", "Connection: upgrade", f"Upgrade: {value}")))
        self.assertFalse(any(b"h2c" in protocol.lower().split(b"/")[:1] for protocol in asked))
        self.assertTrue(all(protocol == protocol.strip(b" \t,") != b"" for protocol in asked))


class SwitchedTests(SynchronousTestCase):
    """What a backend's 101 has to be."""

    def read(self, *pieces: bytes, protocols: tuple[bytes, ...] = (b"websocket", b"x/1")) -> ResponseParser:
        parser = ResponseParser(HeaderNames())
        parser.begin(is_head=False, protocols=protocols)
        for piece in pieces:
            parser.feed(piece)
        return parser

    def test_good(self) -> None:
        """Whole or in pieces, after a 1xx or not, with the first bytes of the other protocol behind it."""
        for data in (SWITCHED, b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCHED, SWITCHED.replace(b"websocket", b"X/1")):
            for pieces in ([data + b"\x81\x00"], [data[:40], data[40:] + b"\x81\x00"]):
                found = self.read(*pieces)
                assert found.switched is not None
                self.assertEqual((found.switched.status, found.behind, found.done), (101, b"\x81\x00", False))

    def test_bad(self) -> None:
        """A 101 that is none would turn requests into bytes for whoever knows how to get it."""
        for data in (
            SWITCHED.replace(b"websocket", b"h2c"),
            SWITCHED.replace(b"websocket", b"websocket, x/1"),
            SWITCHED.replace(b"websocket", b""),
            SWITCHED.replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: websocket"),
            SWITCHED.replace(b"Upgrade: websocket\r\n", b""),
            SWITCHED.replace(b"Connection: upgrade\r\n", b""),
            SWITCHED.replace(b"Connection: upgrade", b"Connection: close"),
            SWITCHED.replace(b"Connection", b"Content-Length: 0\r\nConnection"),
            SWITCHED.replace(b"Connection", b"Transfer-Encoding: chunked\r\nConnection"),
            SWITCHED.replace(b"HTTP/1.1", b"HTTP/1.0"),
        ):
            self.assertRaises(BadResponse, self.read, data)
            self.assertRaises(BadResponse, self.read, *[data[at : at + 1] for at in range(len(data))])

    def test_unasked(self) -> None:
        """A backend is not the one to decide that, with this status or with one that is none."""
        for data in (SWITCHED, SWITCHED.replace(b"101", b"099"), SWITCHED.replace(b"101", b"001")):
            self.assertRaises(BadResponse, self.read, data, protocols=())

    def test_two_readers(self) -> None:
        """Where ours sees an upgrade and llhttp does not, the bytes behind it are whose?"""
        parser = self.read()
        parser._parser = LenientParser(parser)
        self.assertRaises(BadResponse, parser.feed, SWITCHED)


class LenientParser:
    """A parser of responses that reads on behind a 101."""

    def __init__(self, told: ResponseParser) -> None:
        self._told = told

    def feed_data(self, data: bytes) -> None:
        for name, value in ((b"Connection", b"upgrade"), (b"Upgrade", b"websocket")):
            self._told.on_header(name, value)
        self._told.on_headers_complete()

    def get_status_code(self) -> int:
        return 101

    def get_http_version(self) -> str:
        return "1.1"


class UpgradeTestCase(ProxyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.use(RULES)

    def use(self, text: str) -> None:
        """Put a configuration in force, as a reload does."""
        path = Path("/etc/mtlsd.toml")
        rules = parse(text, path).rules
        own = self.door.site.resource
        router = Router(rules, Resources(self.reactor, path, None).make(rules), own, self.backends)
        self.door.site.router = router
        router.reconsider()

    def asked(self, *more: str, behind: bytes = b"", target: str = "/ws?a=b") -> Gate:
        gate = self.door.connect()
        gate.protocol.dataReceived(ask(target, "GET", *WEBSOCKET, *more) + behind)
        return gate

    def upgraded(self) -> tuple[Gate, Wire]:
        gate = self.asked()
        wire = self.connected()
        wire.sent()
        wire.answer(SWITCHED)
        gate.taken()
        return gate, wire

    def live(self) -> int:
        return len(self.backends.upgrades)


class UpgradeTests(UpgradeTestCase):
    def test_trailers(self) -> None:
        """A `Connection` of two minds would be asked for: what takes HTTP's place has no trailers."""
        self.asked("TE: trailers", "Trailer: X-T")
        sent = self.connected().sent()
        self.assertEqual(
            [line for line in sent.split(b"\r\n") if line.startswith((b"Connection", b"TE", b"Trailer"))],
            [b"Connection: Upgrade"],
        )

    def test_there_and_back(self) -> None:
        """What it is for: a handshake of its own, and then nothing that anybody here reads."""
        gate = self.asked("X-Client-Name: root", "Sec-WebSocket-Extensions: permessage-deflate")
        wire = self.connected()
        head = wire.sent()
        self.assertTrue(head.startswith(b"GET /ws?a=b HTTP/1.1\r\nHost: localhost\r\nSec-Websocket-Key: a2V5\r\n"), head)
        self.assertTrue(head.endswith(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), head)
        self.assertIn(b"X-Client-Name: alice\r\n", head)
        self.assertNotIn(b"root", head)
        more = b"Sec-WebSocket-Accept: x\r\nServer: app\r\nKeep-Alive: 5\r\nConnection: X-B\r\nX-B: b\r\n\r\n"
        wire.answer(SWITCHED[:-2] + more)
        answer = Answer(gate.taken())
        self.assertEqual(
            (answer.status, answer.reason, answer.headers),
            (
                101,
                "Switching Protocols",
                {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-accept": "x", "server": "mtlsd"},
            ),
        )
        gate.protocol.dataReceived(ask("/plain"))
        self.assertEqual(wire.sent(), ask("/plain"))
        wire.answer(OK)
        self.assertEqual((gate.taken(), self.attempts(), self.live()), (OK, [8000], 1))
        self.assertEqual(self.door.lines, [])
        gate.lose()
        self.assertIn(f'alice [23/Nov/2026:12:00:00 +0000] "GET /ws?a=b HTTP/1.1" 101 {len(OK)} ', self.door.lines[-1])
        self.assertTrue(wire.disconnecting)
        wire.lose()
        self.assertEqual((len(self.door.lines), self.live()), (1, 0))
        self.ask("/plain")
        self.assertEqual(self.attempts(), [8000, 8000])

    def test_what_has_come_already(self) -> None:
        """In its order, and not a byte of it to the backend before that has agreed."""
        gate = self.asked(behind=b"early ")
        self.assertEqual(gate.producerState, "paused")
        wire = self.connected()
        self.assertTrue(wire.sent().endswith(b"\r\n\r\n"))
        self.assertEqual(gate.producerState, "paused")
        wire.answer(SWITCHED + b"first ")
        self.assertEqual(gate.producerState, "producing")
        self.assertTrue(gate.taken().endswith(b"\r\n\r\nfirst "))
        gate.protocol.dataReceived(b"late")
        self.assertEqual(wire.sent(), b"early late")

    def test_no_without_more(self) -> None:
        """Whoever asks for what is not given must not have its bytes read as requests: not here, and not there."""
        wire = None
        for answer in (OK, b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", b"HTTP/1.1 200 OK\r\n\r\nno"):
            gate = self.asked(behind=ask("/plain"))
            wire = wire or self.connected()
            self.assertNotIn(b"/plain", wire.sent())
            wire.answer(answer)
            if b"Content-Length" not in answer:
                wire.lose()
            said = Answer(gate.taken())
            self.assertEqual((said.headers["connection"], gate.disconnecting), ("close", True))
            gate.protocol.dataReceived(ask("/plain"))
            self.assertEqual((wire.sent(), gate.taken(), self.live()), (b"", b"", 0))
        self.assertEqual(len(self.attempts()), 1)

    def test_where_no_route_says_so(self) -> None:
        """A backend that does not expect it may be one that anybody could talk to so."""
        gate = self.asked(target="/plain", behind=b"more")
        wire = self.connected()
        self.assertNotIn(b"pgrade", wire.sent())
        wire.answer(SWITCHED)
        self.assertEqual((Answer(gate.taken()).status, wire.aborted), (502, True))
        self.assertIn("nobody has asked for that", self.said[-1])

    def test_h2c(self) -> None:
        """It is passed on as a plain request, and what follows it goes nowhere."""
        gate = self.door.connect()
        gate.protocol.dataReceived(
            ask("/ws", "GET", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA") + ask("/plain")
        )
        wire = self.connected()
        head = wire.sent()
        self.assertTrue(b"h2c" not in head and b"HTTP2" not in head and b"pgrade" not in head, head)
        wire.answer(SWITCHED.replace(b"websocket", b"h2c"))
        self.assertEqual((Answer(gate.taken()).status, gate.disconnecting), (502, True))

    def test_a_wrong_101(self) -> None:
        """502, and a line that says why."""
        gate = self.asked()
        wire = self.connected()
        wire.answer(SWITCHED.replace(b"websocket", b"other"))
        self.assertEqual((Answer(gate.taken()).status, wire.aborted, self.live()), (502, True, 0))
        self.assertIn("alice GET /ws?a=b: http://127.0.0.1:8000: it switches to a protocol", self.said[-1])

    def test_pipelined(self) -> None:
        """It has its turn like any other request."""
        gate = self.door.connect()
        gate.protocol.dataReceived(ask("/plain") + ask("/ws", "GET", *WEBSOCKET) + b"early")
        wire = self.connected()
        self.assertTrue(wire.sent().startswith(b"GET /plain "))
        wire.answer(OK)
        self.assertTrue(wire.sent().endswith(b"Upgrade: websocket\r\n\r\n"))
        wire.answer(SWITCHED)
        self.assertEqual(gate.taken().count(b"HTTP/1.1"), 2)
        self.assertEqual(wire.sent(), b"early")

    def test_a_kept_connection_that_had_ended(self) -> None:
        """Asked again, as any GET; the early bytes are still there."""
        self.ask("/plain")
        wire = self.connected()
        wire.answer(OK)
        gate = self.asked(behind=b"early")
        wire.lose()
        fresh = self.connected()
        self.assertTrue(fresh.sent().endswith(b"Upgrade: websocket\r\n\r\n"))
        fresh.answer(SWITCHED)
        self.assertEqual((fresh.sent(), Answer(gate.taken()).status), (b"early", 101))

    def test_nobody_answers(self) -> None:
        """Until the 101 it is a request like any other."""
        gate = self.asked()
        self.connected()
        self.door.wait(62)
        self.assertEqual(Answer(gate.taken()).status, 504)

    def test_silence(self) -> None:
        """A WebSocket may say nothing for a night."""
        gate, wire = self.upgraded()
        self.door.wait(9000)
        wire.answer(b"morning")
        self.assertEqual((gate.taken(), gate.aborted, wire.aborted), (b"morning", False, False))


class PressureTests(UpgradeTestCase):
    """Whoever is slow slows the other side down."""

    def test_a_slow_client(self) -> None:
        """What it does not take is not asked of the backend; how long it may do that is its transport's affair."""
        gate, wire = self.upgraded()
        producer: Any = gate.producer
        producer.pauseProducing()
        self.assertEqual((wire.producerState, gate.producerState), ("paused", "producing"))
        producer.resumeProducing()
        self.assertEqual(wire.producerState, "producing")

    def test_a_slow_backend(self) -> None:
        """Slow is not dead."""
        gate, wire = self.upgraded()
        for _ in range(3):
            wire.producer.pauseProducing()
            self.assertEqual(gate.producerState, "paused")
            self.door.wait(50)
            wire.producer.resumeProducing()
            self.assertEqual(gate.producerState, "producing")
        self.door.wait(200)
        self.assertFalse(wire.aborted)

    def test_a_backend_that_takes_nothing(self) -> None:
        """It would hold the client, and what it has sent, for ever."""
        gate, wire = self.upgraded()
        wire.producer.pauseProducing()
        self.door.wait(62)
        self.assertTrue(wire.aborted and gate.aborted)
        self.assertIn("alice GET /ws: http://127.0.0.1:8000: cut, it takes nothing [c0ffee-1]", self.said[-1])


class EndTests(UpgradeTestCase):
    """One side's end is the other's, when all that was sent has been delivered."""

    def test_the_client_goes(self) -> None:
        """However it goes."""
        for reason in (None, ConnectionLost()):
            gate, wire = self.upgraded()
            gate.protocol.dataReceived(b"bye")
            gate.lose(reason)
            self.assertEqual((wire.sent(), wire.disconnecting, wire.aborted, wire.producer), (b"bye", True, False, None))
            wire.producerState = "paused"
            wire.lose()
            self.assertEqual(self.live(), 0)

    def test_a_backend_that_keeps_what_is_over(self) -> None:
        """Closed in good order, it takes none of the last bytes."""
        gate, wire = self.upgraded()
        gate.lose()
        self.door.wait(58)
        self.assertFalse(wire.aborted)
        self.door.wait(4)
        self.assertTrue(wire.aborted)

    def test_nothing_is_left(self) -> None:
        """A deadline that goes on keeps both connections in memory: a thousand clients that leave are 30 MiB for a minute."""
        for half in (False, True):
            gate, wire = self.upgraded()
            # As Twisted does it where the other half is closed already: at once.
            vars(wire)["loseConnection"] = wire.lose
            if half:
                gate.protocol.readConnectionLost()
            before = len(self.door.deadlines)
            gate.lose()
            self.assertEqual((len(self.door.deadlines), self.live()), (before - half, 0))

    def test_the_backend_goes(self) -> None:
        """An application that ends its WebSocket has said so in its last frame."""
        for reason in (None, ConnectionLost()):
            gate, wire = self.upgraded()
            wire.answer(b"bye")
            wire.lose(reason)
            self.assertEqual((gate.taken(), gate.disconnecting, gate.aborted, gate.producer), (b"bye", True, False, None))
            self.assertEqual(self.live(), 0)
            gate.lose()
        self.assertEqual(len(self.door.lines), 2)

    def test_half(self) -> None:
        """A client that has sent all of its input still gets the output; and the other way round."""
        gate, wire = self.upgraded()
        gate.protocol.dataReceived(b"input")
        gate.protocol.readConnectionLost()
        self.assertEqual((wire.sent(), wire.half_closed, wire.disconnecting), (b"input", True, False))
        wire.protocol.writeConnectionLost()
        self.door.wait(50)
        wire.answer(b"output")
        self.door.wait(50)
        # Nothing more is to be read from the client: its transport would come to its end again.
        gate.producerState = "paused"
        wire.protocol.resumeProducing()
        self.assertEqual(gate.producerState, "paused")
        wire.protocol.readConnectionLost()
        self.assertEqual((gate.taken(), gate.disconnecting, wire.disconnecting), (b"output", True, True))
        gate, wire = self.upgraded()
        wire.protocol.readConnectionLost()
        self.assertTrue(gate.half_closed)
        gate.protocol.dataReceived(b"more")
        gate.protocol.readConnectionLost()
        self.assertEqual((wire.sent(), gate.disconnecting, wire.disconnecting), (b"more", True, True))

    def test_half_and_silent(self) -> None:
        """A server that does not look whether its client is still there would keep the connection for ever."""
        gate, wire = self.upgraded()
        gate.protocol.readConnectionLost()
        self.door.wait(62)
        self.assertTrue(wire.aborted and gate.aborted)
        self.assertIn("the other is silent", self.said[-1])

    def test_shutdown(self) -> None:
        """Nobody waits `drain_timeout` for what may be open for days."""
        gate, wire = self.upgraded()
        gate.protocol.finish_up()
        self.assertEqual((gate.disconnecting, wire.disconnecting, gate.aborted), (True, True, False))
        gate.lose()
        wire.lose()
        self.assertEqual((len(self.door.lines), self.live()), (1, 0))

    def test_shutdown_before_it_begins(self) -> None:
        """A connection that is upgraded when all others have been told to end would hold the service."""
        gate = self.asked()
        wire = self.connected()
        gate.protocol.finish_up()
        wire.answer(SWITCHED)
        self.assertEqual((Answer(gate.taken()).status, gate.disconnecting, wire.aborted), (503, True, True))


class AllowedTests(UpgradeTestCase):
    """An upgraded connection asks for nothing any more, so it is asked itself when something changes."""

    def test_a_reload(self) -> None:
        """Each way in which the rules can stop allowing it; what they still allow goes on."""
        for text, why in (
            (RULES.replace("group:chat", "carol"), "route[0] /ws allows carol"),
            (RULES.replace('["alice"]', "[]"), "route[0] /ws allows group:chat"),
            (RULES.replace("upgrade = true", "upgrade = false"), "route[0] /ws has no upgrade = true"),
            (RULES.replace("upgrade = true", 'methods = ["POST"]'), "route[0] /ws takes POST"),
            (RULES.replace(":8000", ":8001"), "route[0] /ws leads to http://127.0.0.1:8001"),
            (RULES.replace('upstream = "http://127.0.0.1:8000"\nupgrade = true', 'static = "/"'), "leads to the files in /"),
            (RULES.replace('"/ws"', '"/wss"'), "no route has this path"),
            ("", "no route has this path"),
        ):
            self.use(RULES)
            gate, wire = self.upgraded()
            self.use(RULES + "\n# Another one, that says the same.")
            self.assertFalse(gate.aborted or wire.aborted)
            self.use(text)
            self.assertTrue(gate.aborted and wire.aborted, text)
            said = self.said[-1]
            self.assertIn("alice GET /ws: http://127.0.0.1:8000: cut, it is no longer allowed: ", said)
            self.assertIn(why, said)
            self.assertEqual((self.live(), len(self.door.lines)), (0, 1))
            self.door.lines.clear()

    def test_between_the_question_and_the_answer(self) -> None:
        """The rules of then are not those of now."""
        gate = self.asked()
        wire = self.connected()
        self.use(RULES.replace("group:chat", "carol"))
        wire.answer(SWITCHED)
        self.assertEqual((Answer(gate.taken()).status, wire.aborted, self.live()), (403, True, 0))
        self.assertIn("no longer allowed: route[0] /ws allows carol", self.said[-1])

    def test_revoked_between(self) -> None:
        """Not a byte goes to who was revoked while the backend made up its mind."""
        gate = self.asked()
        wire = self.connected()
        gate.identity = None
        wire.answer(SWITCHED)
        self.assertEqual((gate.taken(), gate.aborted, wire.aborted, self.live()), (b"", True, True, 0))

    def test_a_group(self) -> None:
        """The operator takes a client out of a group in authorized/NAME.toml; only that client is asked again."""
        self.use(RULES.replace('["alice"]', "[]"))
        gate = Gate(replace(ALICE, groups=("chat",)))
        self.door.connect(gate).protocol.dataReceived(ask("/ws", "GET", *WEBSOCKET))
        wire = self.connected()
        wire.answer(SWITCHED)
        router = self.door.site.router
        assert router is not None
        gate.identity = replace(ALICE, groups=("staff",))
        router.reconsider(frozenset({"f" * 64}))
        self.assertFalse(gate.aborted)
        router.reconsider(frozenset({ALICE.certificate.fingerprint}))
        self.assertTrue(gate.aborted and wire.aborted)
        self.assertIn("route[0] /ws allows group:chat", self.said[-1])

    def test_revoked(self) -> None:
        """Whoever is cut by the gate is not cut twice, nor asked about its rules."""
        gate, wire = self.upgraded()
        gate.identity = None
        self.use("")
        self.assertTrue(gate.aborted and wire.disconnecting)
        self.assertEqual((self.said, len(self.door.lines)), ([], 1))

    def test_one_that_fails(self) -> None:
        """One connection that cannot be asked must not keep the others open."""
        gates = [self.upgraded()[0] for _ in range(2)]
        fails = itertools.chain([ZeroDivisionError()], itertools.repeat(None))

        def objection(*_: Any) -> str:
            error = next(fails)
            if error is not None:
                raise error
            return "no"

        self.backends.upgrades.reconsider(objection)
        self.assertEqual(sorted(gate.aborted for gate in gates), [False, True])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_cut_once(self) -> None:
        """A transport that tells of its end a little later is not cut again, nor logged twice."""
        gate, _ = self.upgraded()
        upgraded: Any = gate.protocol._upgraded
        upgraded.cut("x")
        upgraded.cut("y")
        self.assertEqual((len(self.said), len(self.door.lines)), (1, 1))
        self.assertEqual(len(Upgrades()), 0)


@implementer(IHalfCloseableProtocol)
class Heard(Protocol):
    """Keeps what it hears, in order."""

    transport: Any

    def __init__(self) -> None:
        self.heard: list[bytes | str] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        self.transport.write(data.upper())

    def readConnectionLost(self) -> None:
        self.heard.append("over")

    def writeConnectionLost(self) -> None:
        self.heard.append("told")

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.heard.append("lost")


class HandOverTests(SynchronousTestCase):
    """The gate, whose connection becomes another protocol's, over real TLS."""

    def setUp(self) -> None:
        self.front = TlsDoor()
        self.alice = make_pair("alice")
        self.front.authorize(alice=self.alice)
        self.client = self.front.connect(self.alice)
        self.gate = self.client.gate
        self.heard = Heard()
        self.assertEqual(self.client.request(b"x"), b"Hello: alice")

    def test_whose_the_bytes_are(self) -> None:
        """From here on the new one's, and only its."""
        self.gate.hand_over(self.heard)
        self.assertEqual(self.client.request(b"abc"), b"ABC")
        (served,) = self.front.served.served
        self.assertEqual((self.heard.heard, served.heard), ([b"abc"], b"x"))
        self.assertIs(self.gate.above, self.heard)

    def test_a_client_that_sends_nothing_more(self) -> None:
        """What is still on its way to it arrives, and then the connection ends in good order."""
        self.gate.hand_over(self.heard)
        self.client.tls.shutdown()
        self.client.pump()
        self.assertEqual((self.heard.heard, self.client.wire.closed), (["over"], None))
        self.gate.write(b"output")
        self.client.pump()
        self.assertEqual(self.client.received, b"Hello: aliceoutput")
        self.gate.loseConnection()
        self.client.pump()
        self.assertEqual((self.heard.heard, self.client.wire.closed), (["over", "lost"], "orderly"))

    def test_a_client_that_is_sent_nothing_more(self) -> None:
        """It hears of the end, and may still say what it has to say."""
        self.gate.hand_over(self.heard)
        self.gate.loseWriteConnection()
        self.client.pump()
        self.assertIsInstance(self.client.error, SSL.ZeroReturnError)
        self.assertEqual((self.client.request(b"abc"), self.heard.heard), (b"", ["told", b"abc"]))
        self.client.tls.shutdown()
        self.client.pump()
        self.assertEqual((self.heard.heard, self.client.wire.closed), (["told", b"abc", "over", "lost"], "orderly"))

    def test_closed_after_that(self) -> None:
        """To close under a client that still sends is to reset the connection, and the last bytes to it are lost with it."""
        self.gate.hand_over(self.heard)
        self.gate.write(b"output")
        self.gate.loseWriteConnection()
        self.front.turns.turn()
        self.gate.loseConnection()
        self.assertEqual((self.client.wire.closed, self.client.wire.finished), (None, True))
        self.client.pump()
        self.assertEqual((self.client.received, self.client.wire.closed), (b"Hello: aliceoutput", "orderly"))

    def test_revoked(self) -> None:
        """At once, without a request or a byte that would ask for it."""
        self.gate.hand_over(self.heard)
        self.front.revoke(self.alice)
        self.client.pump()
        self.assertEqual((self.heard.heard, self.client.wire.closed), (["lost"], "reset"))
        self.assertEqual(self.front.verdicts()[-1], ("revoked", "revoked"))
        # Whoever still calls finds nobody.
        self.gate.readConnectionLost()
        self.gate.writeConnectionLost()

    def test_one_that_does_not_care(self) -> None:
        """Who has not said that it can do with half a connection gets none."""
        self.gate.hand_over(served := Served())
        self.client.tls.shutdown()
        self.client.pump()
        self.assertTrue(served.lost)
