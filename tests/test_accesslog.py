"""The access log: one line a request, whatever the request says."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import server
from twisted.web.resource import Resource
from zope.interface import implementer

from mtlsd.audit.sinks import LineFile
from mtlsd.web.accesslog import AccessLog, escaped
from mtlsd.web.request import Request
from tests.site_in_memory import NOW, FrontDoor, Gate, ask

#: The combined log format as log readers take it apart, with the connection's id behind it.
COMBINED = re.compile(r'(\S+) - (\S+) \[([^]]+)\] "([^"]*)" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)" (\S+)')


class AccessLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.front = FrontDoor()
        self.gate = self.front.connect()

    def line(self, data: bytes) -> tuple[str, ...]:
        self.gate.protocol.dataReceived(data)
        (line,) = self.front.lines
        self.assertTrue(line.isprintable())
        found = COMBINED.fullmatch(line)
        assert found is not None, line
        return found.groups()

    def test_line(self) -> None:
        """The programs that read access logs could not read ours, nor find the client and the connection in it."""
        self.assertEqual(
            self.line(ask("/hello?q=1", "GET", "Referer: https://a.example/", "User-Agent: curl/8.0")),
            (
                "192.0.2.7",
                "alice",
                "23/Nov/2026:12:00:00 +0000",
                "GET /hello?q=1 HTTP/1.1",
                "200",
                "13",
                "https://a.example/",
                "curl/8.0",
                "c0ffee-1",
            ),
        )

    def test_hostile_request(self) -> None:
        """A request could write lines of its own into the log, or hide the rest of its own."""
        fields = self.line(ask('/"{line}', "GET", 'Referer: " 200 1 "-"', 'User-Agent: evil"\\ \x9b \xe2\x80\xae {0}'))
        self.assertEqual(fields[3], "GET /\\x22{line} HTTP/1.1")
        self.assertEqual(fields[4], "404")
        self.assertEqual(fields[6], "\\x22 200 1 \\x22-\\x22")
        self.assertEqual(fields[7], "evil\\x22\\x5C \\x9B \\xE2\\x80\\xAE {0}")

    @given(st.binary())
    def test_escaped(self, text: bytes) -> None:
        """Some byte or other would break out of its quotes, or two requests look the same."""
        shown = escaped(text)
        self.assertTrue(shown.isascii() and shown.isprintable())
        self.assertNotIn('"', shown)
        self.assertEqual(re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), shown).encode("latin-1"), text)

    def test_no_body(self) -> None:
        """An answer without a body would be an empty field, and the line not be read."""
        self.assertEqual(self.line(ask("/hello", "HEAD"))[4:6], ("200", "-"))

    def test_what_is_no_request(self) -> None:
        """Whoever sends nonsense would leave no trace."""
        self.assertEqual(
            self.line(b"nonsense\r\n\r\n")[1:], ("alice", "23/Nov/2026:12:00:00 +0000", "-", "400", "12", "-", "-", "c0ffee-1")
        )

    def test_cut_short(self) -> None:
        """A download that was cut (by a revocation, or by its client) would leave no trace."""
        for begun, status, length in ((True, "200", "5"), (False, "499", "-")):
            self.front = FrontDoor(Waiting(begun))
            self.gate = self.front.connect()
            self.gate.protocol.dataReceived(ask("/"))
            self.assertEqual(self.front.lines, [])
            self.gate.lose()
            self.assertEqual(self.line(b"")[4:6], (status, length))

    def test_never_read_to_its_end(self) -> None:
        """A request of which only a part came would be logged as if somebody had decided on it."""
        self.gate.protocol.dataReceived(ask("/hello", "POST", "Content-Length: 3") + b"x")
        self.gate.lose()
        self.assertEqual(self.front.lines, [])

    def test_each_request_once(self) -> None:
        """Counts that are made from the log would be wrong."""
        self.gate.protocol.dataReceived(ask("/hello") * 3 + ask("/nothing") + ask("*", "OPTIONS"))
        self.gate.lose()
        self.assertEqual([COMBINED.fullmatch(line).group(5) for line in self.front.lines], ["200"] * 3 + ["404", "200"])  # type: ignore[union-attr]

    def test_refused_peer(self) -> None:
        """A client that was revoked before its request would stand there as if it had been served."""
        self.front.connect(Gate(None)).protocol.dataReceived(ask("/hello"))
        self.assertEqual(self.front.lines, [])

    def test_file(self) -> None:
        """The file that was asked for would stay empty, or be lost at logrotate."""
        path = Path(self.mktemp())
        file = LineFile(path, Clock().seconds)
        self.addCleanup(file.close)
        self.front.site.access_log = AccessLog(file, lambda: NOW)
        self.gate.protocol.dataReceived(ask("/hello"))
        path.rename(f"{path}.1")
        file.reopen()
        self.gate.protocol.dataReceived(ask("/nothing"))
        self.assertIn('"GET /hello HTTP/1.1" 200', Path(f"{path}.1").read_text())
        self.assertIn('"GET /nothing HTTP/1.1" 404', path.read_text())

    def test_service_log(self) -> None:
        """`make serve` would not show the requests, or fail on one with braces in it."""
        events: list[LogEvent] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.front.site.access_log = AccessLog(None, lambda: NOW)
        self.gate.protocol.dataReceived(ask("/{0}{line!r}"))
        self.assertIn('"GET /{0}{line!r} HTTP/1.1" 404', "\n".join(map(formatEvent, events)))


class Waiting(Resource):
    isLeaf = True

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self._begun = begun

    def render_GET(self, request: Request) -> int:
        if self._begun:
            request.write(b"begun")
        return server.NOT_DONE_YET
