"""The folder, kept in force while it changes."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet import defer, reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReactorTime
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from mtlsd.errors import FolderError
from mtlsd.registry.clients import SETTLE
from mtlsd.registry.directory import FULL_SCAN, HANGS, SHARE, DirectoryRegistry, InThread
from mtlsd.registry.problem_log import MOST_LINES, REPEAT, ProblemLog
from mtlsd.registry.problems import Problem, Severity
from mtlsd.registry.records import Authorization, Tombstone
from mtlsd.registry.scan import Scan
from mtlsd.registry.watch import FolderWatch, Names
from tests.pki import make_pair, new_key


def make_folder(path: str) -> Path:
    folder = Path(path)
    for each in (folder, folder / "authorized", folder / "revoked"):
        each.mkdir()
        each.chmod(0o755)
    return folder


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[tuple[str, str]] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_namespace"].startswith("mtlsd."):
                self.lines.append((event["log_level"].name, formatEvent(event)))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def said(self) -> list[tuple[str, str]]:
        """What was logged since this was asked last."""
        lines, self.lines = self.lines, []
        return lines


class ProblemLogTests(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.log = ProblemLog(self.clock.seconds)
        self.bad = Problem("a.pem", "damaged {x}; it stays")
        self.odd = Problem("b.pem", "odd", Severity.WARNING)

    def test_said_when_it_begins(self) -> None:
        """A broken file would not be told, or be told at every look."""
        self.log.report([self.odd, self.bad])
        self.log.report([self.odd, self.bad])
        self.assertEqual([("error", "a.pem: damaged {x}; it stays"), ("warn", "b.pem: odd")], self.said())

    def test_repeated(self) -> None:
        """An error that lasts would be in last week's log only."""
        self.log.report([self.bad])
        self.said()
        self.clock.advance(REPEAT - 1)
        self.log.report([self.bad])
        self.log.repeat()
        self.assertEqual([], self.said())
        self.clock.advance(1)
        self.log.repeat()
        self.log.repeat()
        self.assertEqual([("error", self.bad.text)], self.said())

    def test_over(self) -> None:
        """An operator would not see that the mistake is mended."""
        self.log.report([self.bad, self.odd])
        self.said()
        self.log.report([Problem("a.pem", "worse")])
        self.assertEqual([("error", "a.pem: worse"), ("info", "b.pem: no longer so: odd")], self.said())
        self.log.report([])
        self.log.report([self.bad])
        self.assertEqual([("info", "a.pem: no longer so: worse"), ("error", self.bad.text)], self.said())

    def test_flood(self) -> None:
        """A folder of 100,000 odd files would fill the disk with lines, and hide the one error among them."""
        many = [Problem(f"{number}.txt", "odd", Severity.WARNING) for number in range(MOST_LINES + 5)]
        self.log.report([*many, self.bad])
        lines = self.said()
        self.assertEqual(MOST_LINES + 1, len(lines))
        self.assertEqual(("error", self.bad.text), lines[0])
        self.assertEqual(("error", "6 more problems in the folder of certificates"), lines[-1])
        self.log.report([])
        lines = self.said()
        self.assertEqual(MOST_LINES + 1, len(lines))
        self.assertIn("6 more", lines[-1][1])


class DirectoryCase(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = make_folder(self.mktemp())
        self.alice = make_pair()
        self.path = self.folder / "authorized" / "alice.pem"
        put(self.path, self.alice.pem)
        self.clock = Clock()
        self.clock.advance(1000)
        self.registry = self.made()
        self.heard: list[frozenset[str]] = []
        self.registry.listen(self.heard.append)

    def made(self, in_thread: InThread = defer.execute) -> DirectoryRegistry:
        return DirectoryRegistry(self.folder, reactor=self.clock, seconds=self.clock.seconds, in_thread=in_thread)

    def begin(self) -> None:
        self.registry.load()
        self.registry.start()
        self.heard.clear()
        self.addCleanup(self.registry.stop)

    def looked(self) -> None:
        waiting = self.registry.look()
        self.clock.advance(SETTLE)
        self.successResultOf(waiting)

    def let_in(self) -> set[str]:
        return {known.client for known in self.registry.snapshot().authorized.values()}


class LoadTests(DirectoryCase):
    def test_load(self) -> None:
        """A server would start with nobody authorized."""
        self.registry.load()
        self.assertEqual({"alice"}, self.let_in())

    def test_garbage_collector(self) -> None:
        """A service would run without its garbage collector, and grow, or one that wants none would have it."""
        self.registry.load()
        self.assertTrue(gc.isenabled())
        gc.disable()
        self.addCleanup(gc.enable)
        self.registry.load()
        self.assertFalse(gc.isenabled())

    def test_before_load(self) -> None:
        """Somebody would be let in before the folder has been read."""
        self.assertIsNone(self.registry.standing(self.alice.fingerprint))
        self.registry.beat()
        self.successResultOf(self.registry.look())
        self.assertEqual(set(), self.let_in())

    def test_no_folder(self) -> None:
        """A server without its folder would start."""
        shutil.rmtree(self.folder / "authorized")
        self.assertRaises(FolderError, self.registry.load)

    def test_change_before_start(self) -> None:
        """A revocation between the first scan and the first watch would be missed."""
        self.registry.load()
        put(self.folder / "revoked" / f"{self.alice.fingerprint}.json", b"{}")
        self.registry.start()
        self.addCleanup(self.registry.stop)
        self.assertIsInstance(self.registry.standing(self.alice.fingerprint), Tombstone)

    def test_started_without_load(self) -> None:
        """A registry that was started on a missing folder would be an unhandled error."""
        shutil.rmtree(self.folder / "authorized")
        self.registry.start()
        self.addCleanup(self.registry.stop)
        self.registry.beat()
        self.assertIn("could not be read again (FolderError: ", self.said()[0][1])


class LookTests(DirectoryCase):
    def test_added(self) -> None:
        """SIGHUP would not bring a new client in."""
        self.begin()
        bob = make_pair()
        put(self.path.with_name("bob.pem"), bob.pem)
        self.successResultOf(self.registry.look())
        self.assertEqual({"alice", "bob"}, self.let_in())
        self.assertEqual([frozenset({bob.fingerprint})], self.heard)

    def test_one_name(self) -> None:
        """With 100,000 clients, each that joins would wait for a look at all of them."""
        self.begin()
        put(self.folder / "authorized" / "bob.pem", make_pair("bob", key=new_key()).pem)
        names = frozenset({"bob.pem", "bob.toml"})
        self.assertEqual({one.client for one in self.registry.glance(names).snapshot.authorized.values()}, {"alice", "bob"})
        self.assertEqual(self.let_in(), {"alice"})
        waiting = self.registry.look(names)
        self.clock.advance(1)
        self.successResultOf(waiting)
        self.assertEqual(self.let_in(), {"alice", "bob"})

    def test_removed(self) -> None:
        """A client whose file was removed would stay in until something else changes."""
        self.begin()
        self.path.unlink()
        waiting = self.registry.look()
        self.assertNoResult(waiting)
        self.assertEqual({"alice"}, self.let_in())
        self.clock.advance(SETTLE)
        self.successResultOf(waiting)
        self.assertEqual(set(), self.let_in())
        self.assertEqual([frozenset({self.alice.fingerprint})], self.heard)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_back_in_time(self) -> None:
        """Copying a file once more would cut its client's connections."""
        self.begin()
        put(self.path, b"")
        self.registry.look()
        put(self.path, self.alice.pem)
        self.looked()
        self.assertEqual(({"alice"}, []), (self.let_in(), self.heard))

    def test_a_thread_that_begins_late(self) -> None:
        """On a busy machine a renewal would be answered before it is in force, and the client's first use of it be refused."""
        held: list[Callable[[], object]] = []

        def in_thread(work: Callable[[], Scan]) -> Deferred[Scan]:
            done: Deferred[Scan] = defer.Deferred()
            held.append(lambda: defer.execute(work).chainDeferred(done))
            return done

        def run() -> None:
            while held:
                held.pop(0)()

        self.registry = self.made(in_thread)
        self.begin()
        run()
        new = make_pair("alice", key=new_key())
        put(self.path.with_name("alice.toml"), f'[renewed]\n{new.fingerprint} = "{self.alice.fingerprint}"\n'.encode())
        put(self.path, self.alice.pem + new.pem)
        waiting = self.registry.look()
        self.clock.advance(SETTLE / 2)
        run()
        looks = 0
        while not waiting.called:
            # Looks of others, for other clients.
            self.registry.look(frozenset())
            self.clock.advance(SETTLE / 20)
            run()
            looks += 1
        self.assertIsInstance(self.registry.standing(new.fingerprint), Authorization)
        self.assertGreater(looks, 10)

    def test_others_settle(self) -> None:
        """Files that keep coming and going would keep whoever waits for the scan waiting for ever."""
        self.begin()
        self.path.unlink()
        waiting = self.registry.look()
        for number in range(4):
            put(self.path.with_name("bob.pem"), make_pair().pem if number % 2 else b"")
            self.registry.look()
            self.clock.advance(SETTLE / 2)
        self.successResultOf(waiting)
        self.assertNotIn("alice", self.let_in())

    def test_problems(self) -> None:
        """An operator would not learn why a file has no effect, nor that it has one again."""
        self.begin()
        self.said()
        put(self.path, b"garbage")
        self.looked()
        self.looked()
        [(level, line)] = self.said()
        self.assertEqual("error", level)
        self.assertIn("authorized/alice.pem: damaged: ", line)
        self.clock.advance(REPEAT)
        self.registry.beat()
        self.assertEqual([("error", line)], self.said())
        put(self.path, self.alice.pem)
        self.looked()
        self.assertEqual(["info"], [level for level, _ in self.said()])
        self.assertEqual(({"alice"}, []), (self.let_in(), self.heard))


class BeatTests(DirectoryCase):
    """Without inotify: a Clock watches no descriptors."""

    def setUp(self) -> None:
        super().setUp()
        self.scans = 0
        self.cost = 1.0
        self.registry = self.made(self.counted)
        self.begin()
        # What is young is looked at once more; from here on, nothing is.
        while True:
            before = self.scans
            self.registry.beat()
            if self.scans == before:
                break
        self.scans = 0

    def counted(self, work: Callable[[], Scan]) -> Deferred[Scan]:
        self.scans += 1
        self.clock.advance(self.cost)
        return defer.execute(work)

    def test_folder_changed(self) -> None:
        """Where inotify says nothing, a change would wait for a minute."""
        self.registry.beat()
        self.assertEqual(0, self.scans)
        put(self.path.with_name("bob.pem"), make_pair().pem)
        self.registry.beat()
        self.assertEqual({"alice", "bob"}, self.let_in())
        put(self.folder / "revoked" / f"{self.alice.fingerprint}.json", b"{}")
        self.registry.beat()
        self.assertIsInstance(self.registry.standing(self.alice.fingerprint), Tombstone)

    def test_now_and_then(self) -> None:
        """A file changed in place on a network file system would never be read again."""
        bob = make_pair()
        put(self.path, self.alice.pem + bob.pem)
        self.registry.beat()
        self.assertIsNone(self.registry.standing(bob.fingerprint))
        self.clock.advance(FULL_SCAN)
        self.registry.beat()
        self.assertIsNotNone(self.registry.standing(bob.fingerprint))

    def test_small_folder(self) -> None:
        """A small folder, which costs nothing to read, would be read as seldom as one of 100,000 files."""
        self.cost = 1.0 / SHARE
        self.clock.advance(FULL_SCAN)
        for _ in range(5):
            self.registry.beat()
            self.clock.advance(1)
        self.assertEqual(5, self.scans)

    def test_clock_of_the_reactor(self) -> None:
        """A loss would be believed late where the system's clock is set back, for the reactor's timers follow that."""
        self.cost = 0.0
        self.path.unlink()
        self.registry.beat()
        for call in self.clock.getDelayedCalls():
            call.delay(1e6)
        self.clock.advance(SETTLE)
        self.registry.beat()
        self.assertEqual(set(), self.let_in())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stopped(self) -> None:
        """A registry that was stopped would go on reading."""
        self.path.unlink()
        self.registry.stop()
        self.registry.beat()
        self.assertEqual(0, self.scans)


class ThreadTests(DirectoryCase):
    """A scan that takes its time."""

    def setUp(self) -> None:
        super().setUp()
        self.running: list[tuple[Callable[[], Scan], Deferred[Scan]]] = []
        self.registry = self.made(self.started)
        self.registry.listen(self.heard.append)
        self.begin()
        self.finish()

    def started(self, work: Callable[[], Scan]) -> Deferred[Scan]:
        ended: Deferred[Scan] = Deferred()
        self.running.append((work, ended))
        return ended

    def finish(self) -> None:
        [(work, ended)] = self.running
        self.running = []
        ended.callback(work())

    def test_one_at_a_time(self) -> None:
        """Two scans at once could put the older of two states in force."""
        waiting = [self.registry.look() for _ in range(3)]
        self.assertEqual(1, len(self.running))
        work, ended = self.running.pop()
        found = work()
        bob = make_pair()
        put(self.path.with_name("bob.pem"), bob.pem)
        late = self.registry.look()
        self.registry.beat()
        self.assertEqual([], self.running)
        ended.callback(found)
        self.assertEqual({"alice"}, self.let_in())
        self.successResultOf(waiting[0])
        # The first look of three has begun the scan; the rest came while it ran, like the late one.
        self.assertNoResult(late)
        self.finish()
        self.successResultOf(late)
        self.assertEqual({"alice", "bob"}, self.let_in())
        self.assertEqual([], self.running)

    def test_late(self) -> None:
        """Of fifty who renew at once, one would be told that it is done before it is, and not be let in."""
        self.registry.look()
        work, ended = self.running.pop()
        found = work()
        newer = make_pair(key=new_key())
        put(self.path.with_name("alice.toml"), f'[renewed]\n{newer.fingerprint} = "{self.alice.fingerprint}"\n'.encode())
        put(self.path, self.alice.pem + newer.pem)
        waiting = self.registry.look(frozenset({"alice.pem", "alice.toml"}))
        # The one that runs takes longer than what is new needs to settle, and has not seen it.
        self.clock.advance(2 * SETTLE)
        ended.callback(found)
        self.finish()
        self.assertNoResult(waiting)
        self.assertIsNone(self.registry.standing(newer.fingerprint))
        self.clock.advance(SETTLE)
        self.finish()
        self.successResultOf(waiting)
        self.assertIsNotNone(self.registry.standing(newer.fingerprint))

    def test_fails(self) -> None:
        """A scan that fails in a way nobody thought of would stop all scans after it, or say nothing."""
        self.said()
        waiting = self.registry.look()
        self.running.pop()[1].errback(ZeroDivisionError("no\x1b reason"))
        self.successResultOf(waiting)
        [(level, line)] = self.said()
        self.assertEqual("error", level)
        self.assertIn(r"could not be read again (ZeroDivisionError: no\x1b reason); what was known before stays in force", line)
        self.assertEqual({"alice"}, self.let_in())
        self.registry.look()
        self.finish()
        self.assertEqual(["info"], [level for level, _ in self.said()])

    def test_no_thread(self) -> None:
        """A thread pool that takes nothing more would break whoever asks for a look."""
        self.registry.stop()

        def refusing(_: Callable[[], Scan]) -> Deferred[Scan]:
            raise ZeroDivisionError

        registry = self.made(refusing)
        registry.load()
        registry.start()
        self.addCleanup(registry.stop)
        self.successResultOf(registry.look())
        self.assertIn("ZeroDivisionError", self.said()[-1][1])

    def test_bad_result(self) -> None:
        """A scan whose result cannot be taken would be an unhandled error, and the last one."""
        self.registry.look()
        self.running.pop()[1].callback(cast("Scan", None))
        self.assertEqual(1, len(self.flushLoggedErrors(AttributeError)))
        self.registry.look()
        self.finish()

    def test_hangs(self) -> None:
        """A file system that hangs would keep every revocation from taking force, and nobody would know."""
        self.said()
        self.registry.look()
        self.clock.advance(HANGS - 1)
        self.registry.beat()
        self.assertEqual([], self.said())
        self.clock.advance(1)
        self.registry.beat()
        self.registry.beat()
        [(level, line)] = self.said()
        self.assertEqual("error", level)
        self.assertIn("does not come to an end", line)
        self.finish()
        self.assertEqual(["info"], [level for level, _ in self.said()])

    def test_stopped_while_it_runs(self) -> None:
        """A scan that ends after the service would change what is in force, or leave a timer in the reactor."""
        self.path.unlink()
        waiting = self.registry.look()
        self.registry.stop()
        self.successResultOf(waiting)
        self.finish()
        self.assertEqual({"alice"}, self.let_in())
        self.assertEqual(([], []), (self.clock.getDelayedCalls(), self.running))

    def test_stopped_while_it_settles(self) -> None:
        """A stopped service would leave a timer in the reactor."""
        self.path.unlink()
        self.registry.look()
        self.finish()
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.registry.stop()
        self.assertEqual([], self.clock.getDelayedCalls())


class Descriptors(Clock):
    """A clock that also takes descriptors: what a reactor is to a watch."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def removeWriter(self, writer: Any) -> None:
        """None was ever added."""

    def read(self) -> None:
        for reader in self.readers[:]:
            reader.doRead()


class FolderWatchTests(SynchronousTestCase):
    """On the real kernel, which has queued an event by the time that the call which caused it returns."""

    def setUp(self) -> None:
        self.folder = make_folder(self.mktemp())
        self.reactor = Descriptors()
        self.heard = 0
        self.watch = FolderWatch(cast("IReactorFDSet", self.reactor), self.folder, ("authorized", "revoked"), self.hear)
        self.addCleanup(self.watch.close)

    def hear(self, names: Names) -> None:
        self.heard += 1
        self.names = names

    def hears(self) -> bool:
        before = self.heard
        self.reactor.read()
        return self.heard > before

    def test_changes(self) -> None:
        """A change would wait for the next beat."""
        self.assertTrue(self.watch.follow())
        path = self.folder / "authorized" / "alice.pem"
        changes: list[Callable[[], object]] = [
            lambda: path.write_bytes(b"1"),
            lambda: path.write_bytes(b"2"),
            lambda: path.chmod(0o600),
            lambda: path.rename(path.with_name("bob.pem")),
            lambda: path.with_name("bob.pem").unlink(),
            (self.folder / "revoked" / "x.json").touch,
            (self.folder / "new").mkdir,
        ]
        for change in changes:
            self.assertFalse(self.hears())
            change()
            self.assertTrue(self.hears(), change)
        self.assertFalse(self.watch.follow())

    def test_names(self) -> None:
        """With 100,000 clients each change would be a look at all of them, and bite seconds later."""
        self.watch.follow()
        authorized = self.folder / "authorized"
        (authorized / "alice.pem").touch()
        (authorized / "bob.toml").touch()
        self.hears()
        self.assertEqual(frozenset({"alice.pem", "bob.toml"}), self.names)
        (self.folder / "revoked" / "x.json").touch()
        self.hears()
        self.assertEqual(frozenset(), self.names)
        authorized.chmod(0o700)
        self.hears()
        self.assertIsNone(self.names)
        (self.folder / "new").mkdir()
        (authorized / "alice.pem").touch()
        self.hears()
        self.assertIsNone(self.names)

    def test_temporary_files_are_no_change(self) -> None:
        """Each change by the command or a join would be several looks, each of which goes through all clients once."""
        self.watch.follow()
        path = self.folder / "authorized" / ".mtlsd-0123"
        path.write_bytes(b"half")
        path.chmod(0o644)
        self.assertFalse(self.hears())
        path.rename(path.with_name("alice.pem"))
        self.assertTrue(self.hears())
        self.assertEqual(frozenset({"alice.pem"}), self.names)

    def test_reading_is_no_change(self) -> None:
        """Each scan would set off another one."""
        path = self.folder / "authorized" / "alice.pem"
        path.touch()
        self.watch.follow()
        path.read_bytes()
        list(path.parent.iterdir())
        self.assertFalse(self.hears())

    def test_log_beside(self) -> None:
        """A log that is kept in the folder would set off a scan with each of its lines."""
        log = self.folder / "ledger.jsonl"
        log.touch()
        self.watch.follow()
        log.write_bytes(b"x")
        self.assertFalse(self.hears())

    def test_replaced(self) -> None:
        """A folder that was replaced by mv would not be watched any more: revocations in it would come late."""
        self.watch.follow()
        for inner in ("authorized", "revoked", "."):
            old = self.folder / inner
            old.resolve().rename(self.folder.resolve().with_name("away"))
            self.assertTrue(self.hears())
            self.assertTrue(self.watch.follow())
            shutil.copytree(self.folder.with_name("away"), self.folder.resolve() if inner == "." else old)
            shutil.rmtree(self.folder.with_name("away"))
            self.assertTrue(self.watch.follow())
            self.assertFalse(self.watch.follow())
            self.hears()
            (self.folder / "authorized" / f"{len(inner)}.pem").touch()
            self.assertTrue(self.hears())

    def test_same_inode(self) -> None:
        """A folder made anew can have the number of the removed one, and would pass for it."""
        self.watch.follow()
        (self.folder / "revoked").rmdir()
        (self.folder / "revoked").mkdir()
        self.assertTrue(self.hears())
        self.assertTrue(self.watch.follow())
        (self.folder / "revoked" / "x.json").touch()
        self.assertTrue(self.hears())

    def test_overflow(self) -> None:
        """Events that the kernel had to drop would be revocations that nobody hears of."""
        self.watch.follow()
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        path = self.folder / "authorized" / "alice.pem"
        # Two names in turn: the kernel merges equal neighbours.
        for _ in range(limit // 2 + 10):
            path.touch()
            path.unlink()
        while self.hears():
            pass
        self.assertTrue(self.watch.follow())

    def test_close(self) -> None:
        """A stopped service would leave a descriptor in the reactor, or close one of somebody else."""
        self.watch.follow()
        [reader] = self.reactor.readers
        self.watch.close()
        self.watch.close()
        self.assertEqual([], self.reactor.readers)
        with (self.folder / "other").open("wb") as other:
            # The reactor does this to every reader when it ends.
            reader.connectionLost(None)
            other.write(b"still open")

    def test_folder_that_cannot_be_watched(self) -> None:
        """A watch that the kernel refuses would pass for one that works."""
        shutil.rmtree(self.folder / "revoked")
        (self.folder / "revoked").touch()
        self.assertRaises(OSError, self.watch.follow)
        self.assertEqual([], self.reactor.readers)


class KernelTests(TestCase):
    """The whole of it: the real reactor, its threads, and the kernel's inotify."""

    # Seconds; what is waited for takes milliseconds.
    timeout = 30

    def setUp(self) -> None:
        self.folder = make_folder(self.mktemp())
        self.alice = make_pair()
        self.path = self.folder / "authorized" / "alice.pem"
        put(self.path, self.alice.pem)
        self.registry = DirectoryRegistry(
            self.folder, reactor=cast("IReactorTime", reactor), seconds=time.monotonic, in_thread=deferToThread
        )
        self.registry.load()
        self.waiting: list[Deferred[frozenset[str]]] = []
        self.registry.listen(self.listener)
        self.registry.start()
        self.addCleanup(self.registry.stop)

    def listener(self, changed: frozenset[str]) -> None:
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(changed)

    def next_change(self) -> Deferred[frozenset[str]]:
        waiting: Deferred[frozenset[str]] = Deferred()
        self.waiting.append(waiting)
        return waiting

    async def test_comes_and_goes(self) -> None:
        """cp into the folder would not let a client in, or rm not put it out, without a restart."""
        await self.registry.look()
        bob = make_pair()
        change = self.next_change()
        put(self.folder / "authorized" / "bob.pem", bob.pem)
        self.assertEqual({bob.fingerprint}, await change)
        change = self.next_change()
        (self.folder / "authorized" / "bob.pem").unlink()
        self.assertEqual({bob.fingerprint}, await change)
        self.assertIsNone(self.registry.standing(bob.fingerprint))

    async def test_revoked(self) -> None:
        """A tombstone would not take force without a restart."""
        await self.registry.look()
        change = self.next_change()
        put(self.folder / "revoked" / f"{self.alice.fingerprint}.json", b"{}")
        self.assertEqual({self.alice.fingerprint}, await change)
        self.assertIsInstance(self.registry.standing(self.alice.fingerprint), Tombstone)

    async def test_folder_replaced(self) -> None:
        """After mv of the folder, a server would go on with the old one, deaf to the new."""
        await self.registry.look()
        bob, carol = make_pair(), make_pair()
        new = make_folder(self.mktemp())
        put(new / "authorized" / "alice.pem", self.alice.pem)
        put(new / "authorized" / "bob.pem", bob.pem)
        change = self.next_change()
        self.folder.rename(self.folder.with_name("old"))
        self.addCleanup(shutil.rmtree, self.folder.with_name("old"))
        new.rename(self.folder)
        # The kernel tells that the old folder left; the heartbeat would find the new one if that came too early.
        self.registry.beat()
        self.assertEqual({bob.fingerprint}, await change)
        await self.registry.look()
        change = self.next_change()
        put(self.folder / "authorized" / "carol.pem", carol.pem)
        self.assertEqual({carol.fingerprint}, await change)

    async def test_no_watch(self) -> None:
        """Where the kernel has no watch left, the server would not start, or nobody be told."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] is LogLevel.warn:
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        shutil.rmtree(self.folder / "revoked")
        (self.folder / "revoked").touch()
        await self.registry.look()
        self.registry.beat()
        await self.registry.look()
        self.assertEqual(1, len([line for line in lines if "inotify" in line]), lines)
        self.assertIsNotNone(self.registry.standing(self.alice.fingerprint))
