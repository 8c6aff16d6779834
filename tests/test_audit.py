"""One event is one line, whatever a certificate says; and no log stops the service."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mtlsd.audit.events import Event, Kind, certificate_fields, endpoint, rfc3339
from mtlsd.audit.sinks import COMPLAINT_INTERVAL, DAY, Fanout, GraceSink, IAuditSink, JsonLinesSink, LineFile, LogSink, MemorySink
from mtlsd.errors import SettingsError
from mtlsd.identity import Tls
from mtlsd.policy import Reason
from tests.pki import make_pair

AT = datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)
KEYS = ["time", "event", "connection", "listener", "reason", "client", "fingerprint", "subject", "not_after"]
KEYS += ["peer", "tls", "remedy", "detail", "actor"]

FULL = Event(
    time=AT,
    event=Kind.REJECTED,
    reason=Reason.UNKNOWN_CERTIFICATE,
    connection="c1",
    listener="[::]:9443",
    fingerprint="ab" * 32,
    subject="CN=bad",
    not_after=datetime(2027, 1, 1, tzinfo=UTC),
    peer=("127.0.0.1", 50514),
    tls=Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", "X25519MLKEM768", False),
    remedy="mtlsd authorize CERT.pem --name NAME",
    detail="why",
)


class EventTests(SynchronousTestCase):
    def test_the_keys_are_a_contract(self) -> None:
        """Scripts read these keys, and find every one of them in every event."""
        for event in (FULL, Event(AT, Kind.ACCEPTED)):
            self.assertEqual(list(json.loads(event.as_json())), KEYS)

    def test_the_values(self) -> None:
        """What stands in the audit log would not be what happened."""
        self.assertEqual(
            json.loads(FULL.as_json()),
            {
                "time": "2026-11-23T12:00:00.123Z",
                "event": "rejected",
                "connection": "c1",
                "listener": "[::]:9443",
                "reason": "unknown-certificate",
                "client": None,
                "fingerprint": "ab" * 32,
                "subject": "CN=bad",
                "not_after": "2027-01-01T00:00:00.000Z",
                "peer": {"address": "127.0.0.1", "port": 50514},
                "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "group": "X25519MLKEM768", "resumed": False},
                "remedy": "mtlsd authorize CERT.pem --name NAME",
                "detail": "why",
                "actor": None,
            },
        )

    def test_what_is_not_known_is_null(self) -> None:
        """A port scan has no certificate and no TLS: its event is an event all the same."""
        values = json.loads(Event(AT, Kind.REJECTED, "timeout").as_json())
        self.assertEqual([key for key in KEYS if values[key] is not None], ["time", "event", "reason"])

    @settings(deadline=None, database=None)
    @given(st.text())
    def test_a_hostile_subject_stays_in_its_line(self, subject: str) -> None:
        """One event is one line of ASCII: a subject could forge the next event, or repaint a terminal."""
        line = Event(AT, Kind.ACCEPTED, "authorized", subject=subject).as_json()
        self.assertTrue(line.isascii() and line.isprintable())
        self.assertEqual(json.loads(line)["subject"], subject)

    def test_times_are_utc_with_milliseconds(self) -> None:
        """Events of servers in two zones could not be put in order."""
        east = timezone(timedelta(hours=5, minutes=30))
        self.assertEqual(rfc3339(datetime(2026, 1, 1, 5, 30, tzinfo=east)), "2026-01-01T00:00:00.000Z")
        self.assertEqual(rfc3339(AT), "2026-11-23T12:00:00.123Z")

    def test_fields_of_a_certificate(self) -> None:
        """An event would not say which certificate was shown."""
        leaf = make_pair().leaf
        self.assertEqual(certificate_fields(leaf), (leaf.fingerprint, "CN=alice", leaf.not_after))
        self.assertEqual(certificate_fields(None), (None, None, None))

    def test_endpoints(self) -> None:
        """An IPv6 address and its port would run together (RFC 3986 3.2.2)."""
        self.assertEqual((endpoint("127.0.0.1", 80), endpoint("::1", 80)), ("127.0.0.1:80", "[::1]:80"))


class WordsTests(SynchronousTestCase):
    def test_a_rejection(self) -> None:
        """The operator who reads the log has to see who, why and what to do about it."""
        self.assertEqual(
            FULL.in_words(),
            f"rejected from 127.0.0.1:50514 because unknown-certificate (why) certificate {'ab' * 32} CN=bad "
            "TLSv1.3 TLS_AES_256_GCM_SHA384 X25519MLKEM768; to put it right: mtlsd authorize CERT.pem --name NAME [c1]",
        )

    def test_an_acceptance(self) -> None:
        """The operator has to see who came in."""
        event = Event(AT, Kind.ACCEPTED, "authorized", client="alice", peer=("::1", 5), tls=Tls("TLSv1.2", None, None, True))
        self.assertEqual(event.in_words(), "accepted alice from [::1]:5 TLSv1.2 resumed")

    def test_a_certificate_without_a_subject(self) -> None:
        """An empty subject is allowed; it must not leave a gap or a `None`."""
        event = Event(AT, Kind.REVOKED, client="alice", fingerprint="ab" * 32)
        self.assertEqual(event.in_words(), f"revoked alice certificate {'ab' * 32}")


class SinkTests(SynchronousTestCase):
    def test_memory(self) -> None:
        """Whoever embeds the server reads the verdicts here."""
        sink = MemorySink()
        verifyObject(IAuditSink, sink)
        sink.write(FULL)
        self.assertEqual(sink.events, [FULL])

    def test_the_log_says_it_in_words(self) -> None:
        """Without an audit log, the service's log is all there is; a rejection has to stand out."""
        seen = Captured()
        sink = LogSink(Logger(observer=seen))
        verifyObject(IAuditSink, sink)
        accepted = Event(AT, Kind.ACCEPTED, client="alice")
        sink.write(accepted)
        sink.write(FULL)
        self.assertEqual([formatEvent(event) for event in seen.events], [accepted.in_words(), FULL.in_words()])
        self.assertEqual([event["log_level"] for event in seen.events], [LogLevel.info, LogLevel.warn])

    def test_a_brace_in_a_subject_is_no_format(self) -> None:
        """CN={time} would be replaced, and CN={x.y} would lose the line."""
        seen = Captured()
        LogSink(Logger(observer=seen)).write(Event(AT, Kind.REJECTED, "revoked", fingerprint="f", subject="CN={event} {no.such}"))
        self.assertIn("CN={event} {no.such}", seen.lines[0])

    def test_the_others_hear_when_one_fails(self) -> None:
        """A sink with a defect would silence the audit log, or let a connection go without its verdict."""
        memory = MemorySink()

        @implementer(IAuditSink)
        class Broken:
            def write(self, event: Event) -> None:
                raise RuntimeError("broken")

        with Captured() as said:
            Fanout([Broken(), memory]).write(FULL)
        self.assertEqual(memory.events, [FULL])
        self.assertEqual(said, ["an audit sink failed: RuntimeError('broken')"])


@implementer(ILogObserver)
class Captured:
    """Collects what is logged: everything when it is a Logger's observer, warnings and errors when it is entered."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)
        if event.get("log_level") in (LogLevel.warn, LogLevel.error, LogLevel.critical):
            self.lines.append(formatEvent(event))

    def __enter__(self) -> list[str]:
        globalLogPublisher.addObserver(self)
        return self.lines

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self)


class GraceSinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.captured = Captured()
        self.sink = GraceSink(self.clock.seconds, Logger(observer=self.captured))

    def accept(self, client: str = "alice", ended: timedelta = timedelta(days=1), kind: Kind = Kind.ACCEPTED) -> None:
        fingerprint = client.encode().hex().ljust(64, "0")
        self.sink.write(Event(AT, kind, client=client, fingerprint=fingerprint, not_after=AT - ended))

    def test_who_is_let_in_on_grace(self) -> None:
        """A grace hides that a renewal was forgotten, until it is over too."""
        self.accept()
        (line,) = self.captured.lines
        told, remedy = line.split("; ")
        self.assertEqual(told, "alice is let in on grace alone: certificate 616c696365000000 has ended on 2026-11-22")
        self.assertEqual(remedy, "to put it right: mtlsd authorize NEW.pem --name alice --add")

    def test_where_clients_renew(self) -> None:
        """The remedy would leave out the one that costs nobody anything."""
        self.sink = GraceSink(self.clock.seconds, Logger(observer=self.captured), renews=True)
        self.accept()
        self.assertIn("to put it right: mtlsd renew, at the client; or mtlsd authorize ", self.captured.lines[0])

    def test_once_a_day(self) -> None:
        """A client that comes back every second would fill the log with it."""
        for _ in range(3):
            self.accept()
            self.accept("bob")
            self.clock.advance(60)
        self.assertEqual(len(self.captured.lines), 2)
        self.clock.advance(DAY - 180)
        self.accept()
        self.accept("carol")
        self.accept()
        self.assertEqual([line.split(" ")[0] for line in self.captured.lines], ["alice", "bob", "alice", "carol"])

    def test_it_forgets(self) -> None:
        """Years of certificates that came and went would stay in memory."""
        for nth in range(100):
            self.accept(f"client{nth}")
            self.clock.advance(DAY)
        self.assertLessEqual(len(self.sink._said), 2)

    def test_nobody_else(self) -> None:
        """A word about grace for somebody who needs none, or was refused, sends the operator the wrong way."""
        self.accept(ended=timedelta())
        self.accept(ended=timedelta(days=-30))
        self.accept(kind=Kind.REJECTED)
        self.accept(kind=Kind.EXPIRED)
        self.sink.write(Event(AT, Kind.ACCEPTED))
        self.assertEqual(self.captured.lines, [])


class LineFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "audit.log"

    def opened(self, path: Path | None = None) -> LineFile:
        file = LineFile(path or self.path, self.clock.seconds)
        self.addCleanup(file.close)
        return file

    def test_after_the_end(self) -> None:
        """A line, or a signal, that comes after the end would go to whatever has the number of the descriptor by then."""
        file = self.opened()
        file.close()
        file.write("late")
        file.reopen()
        file.close()
        self.assertEqual(self.path.read_bytes(), b"")

    def test_owner(self) -> None:
        """A service that gives up root could not reopen its own log."""
        file = LineFile(self.path, self.clock.seconds, os.geteuid())
        self.addCleanup(file.close)
        self.assertEqual(self.path.stat().st_uid, os.geteuid())

    def test_pipe(self) -> None:
        """A reader that stops would hold the service, or lose verdicts."""
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        error = self.assertRaises(SettingsError, LineFile, Path(f"/dev/fd/{write}"), self.clock.seconds)
        self.assertIn("not a regular file", str(error))

    def swap(self, file: LineFile, path: str) -> None:
        """Let *file* write to *path* from now on: a disk that fills up, or one with room again."""
        replacement = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(replacement, file._descriptor)
        os.close(replacement)

    def test_events_are_lines(self) -> None:
        """A reader takes the file line by line, while it grows."""
        sink = JsonLinesSink(self.opened())
        verifyObject(IAuditSink, sink)
        sink.write(FULL)
        self.assertEqual(self.path.read_text(), FULL.as_json() + "\n")
        sink.write(Event(AT, Kind.ACCEPTED))
        self.assertEqual([json.loads(line)["event"] for line in self.path.read_text().splitlines()], ["rejected", "accepted"])

    def test_only_the_owner_reads_it(self) -> None:
        """The log tells who was where and when."""
        before = os.umask(0)
        try:
            self.opened()
        finally:
            os.umask(before)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_it_only_grows(self) -> None:
        """A restart would wipe the evidence."""
        self.path.write_text("before\n")
        self.opened().write("after")
        self.assertEqual(self.path.read_text(), "before\nafter\n")

    def test_text_that_has_no_encoding(self) -> None:
        """A lone surrogate would raise, and a sink never raises."""
        self.opened().write("a\ud800")
        self.assertEqual(self.path.read_text(), "a\\ud800\n")

    def test_what_cannot_be_opened_is_named_at_the_start(self) -> None:
        """The operator believes in an audit log that does not exist."""
        missing = self.folder / "missing" / "audit.log"
        error = self.assertRaises(SettingsError, LineFile, missing, self.clock.seconds)
        self.assertEqual(str(error), f"{missing}: cannot be written: No such file or directory")
        error = self.assertRaises(SettingsError, LineFile, self.folder, self.clock.seconds)
        self.assertEqual(str(error), f"{self.folder}: cannot be written: Is a directory")

    def test_a_fifo_does_not_hold_the_service(self) -> None:
        """Opening a FIFO waits for its reader, for ever."""
        os.mkfifo(self.path)
        self.assertRaises(SettingsError, LineFile, self.path, self.clock.seconds)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        error = self.assertRaises(SettingsError, LineFile, self.path, self.clock.seconds)
        self.assertEqual(str(error), f"{self.path}: cannot be written: not a regular file")

    def test_a_full_disk_is_said_and_survived(self) -> None:
        """A full disk would stop the service; or the operator would never learn that events are missing."""
        with Captured() as said:
            file = self.opened(Path("/dev/full"))
            file.write("lost")
        self.assertEqual(said, ["/dev/full: cannot be written, 1 lines lost so far: No space left on device"])

    def test_a_full_disk_is_said_once_a_minute(self) -> None:
        """A flood of rejections on a full disk would be a flood in the other log."""
        with Captured() as said:
            file = self.opened(Path("/dev/full"))
            for _ in range(100):
                file.write("lost")
            self.assertEqual(len(said), 1)
            self.clock.advance(COMPLAINT_INTERVAL - 0.01)
            file.write("lost")
            self.assertEqual(len(said), 1)
            self.clock.advance(0.01)
            file.write("lost")
        self.assertEqual(said[1:], ["/dev/full: cannot be written, 102 lines lost so far: No space left on device"])

    def test_when_there_is_room_again(self) -> None:
        """Events have to be written again without a restart, and how many are missing has to be known."""
        file = self.opened()
        file.write("first")
        with Captured() as said:
            self.swap(file, "/dev/full")
            file.write("lost")
            file.write("lost")
            self.swap(file, str(self.path))
            file.write("second")
            file.write("third")
        self.assertEqual(self.path.read_text(), "first\nsecond\nthird\n")
        self.assertEqual(said[1:], [f"{self.path}: writing again; 2 lines were lost"])

    def test_a_new_trouble_is_said_at_once(self) -> None:
        """After a recovery, the minute of silence is over."""
        file = self.opened()
        with Captured() as said:
            for _ in range(2):
                self.swap(file, "/dev/full")
                file.write("lost")
                self.swap(file, str(self.path))
                file.write("kept")
        self.assertEqual(len(said), 4)

    def test_a_torn_line_costs_one_record(self) -> None:
        """A disk that fills up in the middle of a line would spoil the next event too."""
        # A pipe that is nearly full takes a part of a line and then no more, as a disk does.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self.addCleanup(os.close, reader)
        file = self.opened()
        os.dup2(writer, file._descriptor)
        os.close(writer)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(file._descriptor, b"x" * 4096)
        os.read(reader, 4096)
        with Captured() as said:
            file.write("torn " * 2000)
        self.assertEqual(len(said), 1)
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(reader, 65536)
        file.write('{"next": 1}')
        self.assertEqual(os.read(reader, 65536), b'\n{"next": 1}\n')
        file.write('{"last": 1}')
        self.assertEqual(os.read(reader, 65536), b'{"last": 1}\n')

    def test_logrotate(self) -> None:
        """After a rotation, events would go on into the old file, which is then deleted."""
        file = self.opened()
        file.write("old")
        rotated = self.path.rename(self.folder / "audit.log.1")
        file.write("late")
        file.reopen()
        file.write("new")
        self.assertEqual((rotated.read_text(), self.path.read_text()), ("old\nlate\n", "new\n"))

    def test_a_rotation_that_fails_keeps_the_old_file(self) -> None:
        """Events would be lost because somebody removed a folder."""
        file = self.opened()
        kept = self.folder.rename(self.folder.with_name("moved"))
        with Captured() as said:
            file.reopen()
        file.write("kept")
        self.assertEqual((kept / "audit.log").read_text(), "kept\n")
        self.assertEqual(said, [f"{self.path}: cannot be opened again, the old file stays in use: No such file or directory"])
