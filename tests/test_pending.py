"""The server's side of knock and approve: what is kept, when it is written, and what happens where it cannot be."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mtlsd.audit.events import Event, Kind
from mtlsd.audit.sinks import MemorySink
from mtlsd.enrol.book import Book
from mtlsd.enrol.files import Outcome, PendingFolder
from mtlsd.enrol.pending import AT_ONCE, REPEATED, SELDOM, Pending
from mtlsd.registry.atomic import System
from mtlsd.registry.knock import Knock, file_of, written
from mtlsd.registry.memory import MemoryRegistry
from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from mtlsd.registry.store import Store
from mtlsd.registry.waiting import waiting
from tests.pki import Pair, make_pair
from tests.test_store import Faulty, Killed

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Base(SynchronousTestCase):
    system: System | None = None

    def setUp(self) -> None:
        self.certs = Path(self.mktemp()).absolute()
        self.certs.mkdir()
        self.clock = Clock()
        self.registry = MemoryRegistry()
        self.sink = MemorySink()
        self.said: list[str] = []
        self.writes: list[float] = []

        @implementer(ILogObserver)
        def hear(event: LogEvent) -> None:
            if event["log_namespace"] == "mtlsd.enrol.pending":
                self.said.append(formatEvent(event))

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)
        self.in_thread: Callable[[Callable[[], Outcome]], Deferred[Outcome]] = lambda work: succeed(work())
        self.pending = self.start()

    def start(self, book: Book | None = None) -> Pending:
        pending = Pending(
            self.certs,
            registry=self.registry,
            sink=self.sink,
            in_thread=self.run_it,
            seconds=self.clock.seconds,
            now=self.now,
            book=book,
            files=PendingFolder(self.certs, self.system),
        )
        pending.start()
        return pending

    def run_it(self, work: Callable[[], Outcome]) -> Deferred[Outcome]:
        self.writes.append(self.clock.seconds())
        return self.in_thread(work)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.clock.seconds())

    def pair(self, name: str = "alice", **more: object) -> Pair:
        return make_pair(name, now=NOW, **more)  # type: ignore[arg-type]

    def knock(self, pair: Pair, address: str = "192.0.2.1") -> bool:
        return self.pending.knock(self.verdict(pair, address), pair.der)

    def verdict(self, pair: Pair, address: str = "192.0.2.1") -> Event:
        leaf = pair.leaf
        return Event(
            time=self.now(),
            event=Kind.REJECTED,
            reason="unknown-certificate",
            connection="test-1",
            listener="127.0.0.1:9443",
            fingerprint=leaf.fingerprint,
            subject=leaf.subject,
            not_after=leaf.not_after,
            peer=(address, 50514),
        )

    def advance(self, seconds: float = 1.0) -> None:
        """Let time pass, a beat a second."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.pending.beat()

    def kept(self) -> dict[str, Knock]:
        found = waiting(self.certs)
        self.assertEqual(found.problems, ())
        return {knock.certificate.fingerprint: knock for knock in found.knocks}

    def events(self) -> list[tuple[str, str | None]]:
        return [(str(event.event), event.fingerprint) for event in self.sink.events]


class KeepTests(Base):
    """What is written, and when."""

    def test_kept_within_a_second(self) -> None:
        """Lost: the operator who looks would see nobody; or the list would be open to others."""
        alice = self.pair()
        self.assertTrue(self.knock(alice))
        self.assertEqual(self.kept(), {})
        self.advance()
        self.assertEqual(self.kept(), {alice.fingerprint: Knock(alice.leaf, alice.der, "192.0.2.1", NOW, NOW, 1)})
        path = self.certs / "pending" / file_of(alice.fingerprint)
        self.assertEqual([stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)], [0o600, 0o700])

    def test_one_event_for_each(self) -> None:
        """Lost: the word in the audit log that somebody new waits; or a line at each knock."""
        alice = self.pair()
        for _ in range(30):
            self.knock(alice)
            self.advance()
        (event,) = self.sink.events
        self.assertEqual((event.event, event.fingerprint, event.time), (Kind.PENDING, alice.fingerprint, NOW))
        self.assertEqual((event.connection, event.peer, event.reason), ("test-1", ("192.0.2.1", 50514), None))
        self.assertEqual(event.remedy, f"mtlsd approve {alice.fingerprint} --name NAME")

    def test_counts_now_and_then(self) -> None:
        """Lost: who hammers at the door would have us write to the disk each time."""
        alice = self.pair()
        for _ in range(30):
            for _ in range(100):
                self.knock(alice)
            self.advance()
        self.assertLessEqual(len(self.writes), 1 + 30 / REPEATED)
        self.advance(REPEATED)
        self.assertEqual(self.kept()[alice.fingerprint].count, 3000)
        self.assertEqual(self.kept()[alice.fingerprint].last, NOW + timedelta(seconds=29))

    def test_a_flood_is_written_a_bit_at_a_time(self) -> None:
        """Lost: a thousand files in one go; with a shared key the certificates differ all the same."""
        pairs = [self.pair(str(nth)) for nth in range(AT_ONCE + 20)]
        for nth, pair in enumerate(pairs):
            self.knock(pair, f"10.{nth // 250}.{nth % 250}.1")
        self.advance()
        self.assertEqual(len(self.kept()), AT_ONCE)
        self.advance()
        self.assertEqual(len(self.kept()), len(pairs))

    def test_one_write_at_a_time(self) -> None:
        """Lost: with a disk that hangs, a thread a second, each waiting for ever."""
        waits: list[tuple[Callable[[], Outcome], Deferred[Outcome]]] = []

        def hang(work: Callable[[], Outcome]) -> Deferred[Outcome]:
            waits.append((work, Deferred()))
            return waits[-1][1]

        self.in_thread = hang
        alice, bob = self.pair(), self.pair("bob")
        self.knock(alice)
        self.advance(5)
        self.knock(bob)
        self.advance(300)
        self.assertEqual(len(waits), 1)
        work, done = waits[0]
        done.callback(work())
        self.advance()
        self.assertEqual(len(waits), 2)
        # A stop in between leaves the one that hangs alone.
        self.pending.stop()
        self.assertEqual(set(self.kept()), {alice.fingerprint})

    def test_stop_writes_what_is_left(self) -> None:
        """Lost: whoever knocked in the last second before a restart."""
        alice = self.pair()
        self.knock(alice)
        self.pending.stop()
        self.assertEqual(set(self.kept()), {alice.fingerprint})
        self.assertEqual(self.events(), [("pending", alice.fingerprint)])

    def test_restart(self) -> None:
        """Lost: after a restart the same certificate would be news again, and its count would begin anew."""
        alice = self.pair()
        self.knock(alice)
        self.advance()
        (self.certs / "pending" / ".mtlsd-left").touch()
        self.pending = self.start()
        self.knock(alice)
        self.advance(REPEATED)
        self.assertEqual(self.kept()[alice.fingerprint].count, 2)
        self.assertEqual(len(self.sink.events), 1)
        self.assertEqual(list((self.certs / "pending").glob(".*")), [])

    def test_ended(self) -> None:
        """Lost: what nobody may approve would stand in the list."""
        self.assertFalse(self.knock(self.pair(begins=timedelta(days=-2), ends=timedelta(days=-1))))
        alice = self.pair(ends=timedelta(seconds=90))
        self.knock(alice)
        self.advance(60)
        self.assertEqual(set(self.kept()), {alice.fingerprint})
        self.advance(SELDOM + 1)
        self.assertEqual(self.kept(), {})


class KnownTests(Base):
    """What has become known no longer waits."""

    def test_authorized(self) -> None:
        """Lost: who was let in, by whichever way, would stay in the list."""
        alice, bob = self.pair(), self.pair("bob")
        for pair in (alice, bob):
            self.knock(pair)
        self.advance()
        self.registry.publish(Snapshot({alice.fingerprint: Authorization("alice", alice.leaf, alice.leaf.not_after)}))
        self.advance()
        self.assertEqual(set(self.kept()), {bob.fingerprint})
        # Whoever is taken out again may knock again.
        self.registry.publish(Snapshot())
        self.knock(alice)
        self.advance()
        self.assertEqual(set(self.kept()), {alice.fingerprint, bob.fingerprint})

    def test_tombstone(self) -> None:
        """Lost: what was revoked would wait to be approved."""
        alice = self.pair()
        self.knock(alice)
        self.registry.publish(Snapshot({}, {alice.fingerprint: Tombstone(alice.fingerprint)}))
        self.advance()
        self.assertEqual((self.kept(), self.events()), ({}, []))

    def test_known_while_it_was_down(self) -> None:
        """Lost: the same, for what was authorized or revoked by hand while the server was down."""
        alice = self.pair()
        self.knock(alice)
        self.advance()
        self.registry.publish(Snapshot({}, {alice.fingerprint: Tombstone(alice.fingerprint)}))
        self.pending = self.start()
        self.advance()
        self.assertEqual(self.kept(), {})

    def test_dismissed(self) -> None:
        """Lost: who was dismissed and knocks again could not be approved, or would have the old count."""
        alice = self.pair()
        for _ in range(7):
            self.knock(alice)
        self.advance()
        (self.certs / "pending" / file_of(alice.fingerprint)).unlink()
        self.advance(REPEATED)
        self.assertEqual(self.kept(), {})
        again = self.now()
        self.assertTrue(self.knock(alice))
        self.advance(REPEATED)
        found = self.kept()[alice.fingerprint]
        self.assertEqual((found.first, found.count), (again, 1))
        self.assertEqual(self.events(), [("pending", alice.fingerprint)] * 2)
        self.knock(alice)
        self.advance(REPEATED)
        self.assertEqual(self.kept()[alice.fingerprint].count, 2)

    def test_dismissed_keeps_no_place(self) -> None:
        """Lost: those who were dismissed would be in the way of others, for a month."""
        self.pending = self.start(Book(limit=4, share=4))
        for name in ("a", "b", "c"):
            self.knock(self.pair(name))
        self.advance(61)
        for path in (self.certs / "pending").iterdir():
            path.unlink()
        self.advance(SELDOM + 1)
        for name in ("d", "e", "f"):
            self.knock(self.pair(name))
        # Where places are fought for, that would not be within a second.
        self.advance()
        self.assertEqual(len(self.kept()), 3)

    def test_a_network_is_dismissed(self) -> None:
        """Lost: after a flood, `mtlsd dismiss --all-from` would have to be said again and again, for files that come later."""
        self.pending = self.start(Book(limit=100, share=2))
        told, quiet, other = self.pair("a"), self.pair("b"), self.pair("c")
        self.knock(told)
        self.advance()
        self.knock(told)
        self.knock(quiet)
        self.knock(other, "198.51.100.1")
        change = Store(self.certs, self.now, "operator").dismiss_all(lambda _: True, "192.0.2.0/24")
        self.assertEqual(change.fingerprints, (told.fingerprint,))
        self.advance(60)
        self.assertEqual(list(self.kept()), [other.fingerprint])
        self.assertEqual([path.name for path in (self.certs / "pending").iterdir()], [file_of(other.fingerprint)])
        # Who knocks again is kept again.
        self.knock(told)
        self.advance()
        self.assertEqual(self.kept()[told.fingerprint].count, 1)

    def test_notes_that_say_nothing(self) -> None:
        """Lost: one damaged note would keep everybody from being kept, or stay for ever."""
        folder = self.certs / "pending"
        for number, text in enumerate(
            ("", "[]", "{}", '{"network": "x", "time": "y"}', '{"network": "192.0.2.0/24", "time": "2030-01-01"}')
        ):
            (folder / f"dismissed-{number:016x}.json").write_text(text)
        alice = self.pair()
        self.knock(alice)
        self.advance()
        self.assertEqual(os.listdir(folder), [file_of(alice.fingerprint)])

    def test_notes_that_nobody_takes(self) -> None:
        """Lost: where no server runs, notes would heap up; and one that is left would count for those who come later."""
        store = Store(self.certs, self.now, "operator")
        store.dismiss_all(lambda _: False, "192.0.2.0/24")
        (old,) = (self.certs / "pending").iterdir()
        os.utime(old, (0, 0))
        store.dismiss_all(lambda _: False, "192.0.2.0/24")
        (fresh,) = (self.certs / "pending").iterdir()
        self.assertNotEqual(fresh, old)
        self.pending = self.start()
        self.assertEqual(os.listdir(self.certs / "pending"), [])


class UnwritableTests(Base):
    """A folder that cannot be written."""

    def test_full_disk(self) -> None:
        """Lost: the remedy would be a command that cannot work; or what was noted meanwhile."""

        class Full(System):
            full = True

            def write(self, descriptor: int, data: bytes) -> int:
                if self.full:
                    raise OSError(28, "No space left on device")
                return super().write(descriptor, data)

        self.system = system = Full()
        self.pending = self.start()
        alice, bob = self.pair(), self.pair("bob")
        self.assertTrue(self.knock(alice))
        self.advance()
        self.assertFalse(self.knock(bob))
        self.advance(10 * SELDOM)
        (line,) = self.said
        self.assertIn("pending: cannot be used: No space left on device", line)
        self.assertEqual((self.kept(), self.events()), ({}, []))
        self.assertEqual(list((self.certs / "pending").iterdir()), [])
        self.pending.stop()
        system.full = False
        self.advance(SELDOM)
        self.assertEqual(set(self.kept()), {alice.fingerprint, bob.fingerprint})
        self.assertIn("can be used again", self.said[-1])
        self.assertTrue(self.knock(self.pair("carol")))

    def test_not_ours_to_write(self) -> None:
        """Lost: a server under its own user, in a folder that is root's, would promise what it cannot keep, or not start."""
        shutil.rmtree(self.certs)
        self.pending = self.start()
        self.assertIn("cannot be used: No such file or directory", self.said[0])
        alice = self.pair()
        self.assertFalse(self.knock(alice))
        self.advance(SELDOM)
        self.certs.mkdir()
        self.advance(SELDOM)
        self.assertEqual(set(self.kept()), {alice.fingerprint})
        self.assertEqual(len(self.said), 2)

    def test_others_may_write(self) -> None:
        """Lost: names that anybody may put there would be what the operator chooses from."""
        os.chmod(self.certs / "pending", 0o777)
        self.pending = self.start()
        self.assertIn("others may write to it; chmod o-w", self.said[0])
        self.assertFalse(self.knock(self.pair()))

    def test_read_only(self) -> None:
        """Lost: the word about it at the start, and not with the first client that knocks."""
        real = os.access

        def access(path: str, mode: int, **more: object) -> bool:
            return False if path == "pending" else real(path, mode, **more)  # type: ignore[arg-type]

        self.patch(os, "access", access)
        self.pending = self.start()
        self.assertIn("may not write to it", self.said[0])

    def test_a_name_that_is_no_file(self) -> None:
        """Lost: one odd name would keep all that come after it from being kept, without a word."""
        alice = self.pair()
        path = self.certs / "pending" / file_of(alice.fingerprint)
        path.mkdir()
        self.pending = self.start()
        self.assertIn("passed over", self.said[0])
        self.knock(alice)
        self.advance()
        self.assertIn("Is a directory", self.said[-1])
        path.rmdir()
        self.advance(SELDOM)
        self.assertEqual(set(self.kept()), {alice.fingerprint})

    def test_cannot_be_opened_for_a_while(self) -> None:
        """Lost: what was to go while the folder could not be used would stay on the disk until the next start."""
        alice = self.pair()
        self.knock(alice)
        self.advance()
        (self.certs / "pending").chmod(0o777)
        self.registry.publish(Snapshot({}, {alice.fingerprint: Tombstone(alice.fingerprint)}))
        self.advance()
        (self.certs / "pending").chmod(0o700)
        self.assertEqual(set(self.kept()), {alice.fingerprint})
        self.advance(SELDOM)
        self.assertEqual(self.kept(), {})

    def test_swept_up(self) -> None:
        """Lost: a command that tidies up at the same moment would cost a knock, or be taken for a broken disk."""

        class Swept(System):
            swept = 1

            def rename(self, old: str, new: str, folder: int) -> None:
                if self.swept:
                    self.swept -= 1
                    os.unlink(old, dir_fd=folder)
                super().rename(old, new, folder)

        self.system = Swept()
        self.pending = self.start()
        alice = self.pair()
        self.knock(alice)
        self.advance()
        self.assertEqual((self.kept(), self.said), ({}, []))
        self.advance()
        self.assertEqual(set(self.kept()), {alice.fingerprint})

    def test_cannot_be_removed(self) -> None:
        """Lost: a file that cannot be removed would keep the others from being written."""

        class Stuck(System):
            def unlink(self, name: str, folder: int) -> None:
                raise PermissionError(1, "Operation not permitted")

        alice, bob = self.pair(), self.pair("bob")
        self.knock(alice)
        self.advance()
        self.system = Stuck()
        self.pending = self.start()
        self.registry.publish(Snapshot({}, {alice.fingerprint: Tombstone(alice.fingerprint)}))
        self.knock(bob)
        self.advance()
        self.assertEqual(set(self.kept()), {alice.fingerprint, bob.fingerprint})

    def test_our_own_fault(self) -> None:
        """Lost: a fault of ours would lose what was noted, and nothing would ever be written again."""
        alice = self.pair()
        self.knock(alice)
        healthy = self.in_thread

        def broken(work: Callable[[], Outcome]) -> Deferred[Outcome]:
            done: Deferred[Outcome] = Deferred()
            done.errback(Failure(ZeroDivisionError("a fault")))
            return done

        self.in_thread = broken
        self.advance()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.in_thread = healthy
        self.advance(SELDOM)
        self.assertEqual(set(self.kept()), {alice.fingerprint})


class WholeTests(Base):
    """A failure, or a kill, at each system call of the server's own writing."""

    def scenario(self, system: System) -> Outcome:
        """Start, and write: one that is new, one that is known, and one that is to go."""
        files = PendingFolder(self.certs, system)
        book = Book()
        for knock in files.load().knocks:
            book.adopt(knock)
        for pair in (self.new, self.known):
            book.knock(self.verdict(pair), pair.der)
        book.forget(self.old.fingerprint)
        return files.apply(book.take(10, repeated=True))

    def prepare(self) -> None:
        shutil.rmtree(self.certs)
        self.certs.mkdir()
        self.old, self.known, self.new = self.pair("old"), self.pair("known"), self.pair("new")
        folder = self.certs / "pending"
        folder.mkdir(mode=0o700)
        for pair in (self.old, self.known):
            (folder / file_of(pair.fingerprint)).write_bytes(written(pair.der, "192.0.2.1", NOW, NOW, 1))
        (folder / ".mtlsd-left").touch()

    def test_each(self) -> None:
        """Lost: half a file, which would be passed over, or one that nobody asked to be rid of; or what a kill has left."""
        self.prepare()
        probe = Faulty(-1)
        self.assertIsNone(self.scenario(probe).problem)
        self.assertGreater(probe.count, 8)
        for fatal in (False, True):
            for at in range(probe.count):
                self.prepare()
                with self.subTest(at=at, fatal=fatal):
                    with contextlib.suppress(Killed, OSError):
                        self.scenario(Faulty(at, fatal))
                    kept = self.kept()
                    self.assertIn(self.known.fingerprint, kept)
                    self.assertIn(kept[self.known.fingerprint].count, (1, 2))
                    self.scenario(System())
                    self.assertEqual(set(self.kept()), {self.known.fingerprint, self.new.fingerprint})
                    self.assertEqual(list((self.certs / "pending").glob(".*")), [])

    def test_makes_its_folder(self) -> None:
        """Lost: a folder that a kill has left half made would keep the server from keeping anything."""
        shutil.rmtree(self.certs)
        self.certs.mkdir()
        probe = Faulty(-1)
        PendingFolder(self.certs, probe).load()
        for fatal in (False, True):
            for at in range(probe.count):
                shutil.rmtree(self.certs)
                self.certs.mkdir()
                with contextlib.suppress(Killed, OSError):
                    PendingFolder(self.certs, Faulty(at, fatal)).load()
                PendingFolder(self.certs).load()
                self.assertEqual(stat.S_IMODE((self.certs / "pending").stat().st_mode), 0o700)
