"""The daily word about certificates that come to their end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.expirywatch import AT_ONCE, DAY, ExpiryWatch, OwnExpiryWatch
from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from tests.pki import make_pair
from tests.test_audit import Captured

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class OwnExpiryWatchTests(SynchronousTestCase):
    def test_the_servers_own(self) -> None:
        """The server's end is everybody's outage; and a warning each second would hide all others."""
        clock, captured = Clock(), Captured()
        ends = NOW + timedelta(days=31)
        watch = OwnExpiryWatch(
            lambda: ends,
            lambda: NOW + timedelta(seconds=clock.seconds()),
            clock.seconds,
            timedelta(days=30),
            "mtlsd init --renew",
            Logger(observer=captured),
        )
        said: list[list[str]] = []
        for _ in range(33):
            captured.lines.clear()
            for _ in range(24):
                watch.beat()
                clock.advance(3600)
            said.append(list(captured.lines))
        self.assertEqual(said[0], [])
        self.assertEqual(
            said[1], ["the server's certificate ends on 2026-12-24 (30 days left); to put it right: mtlsd init --renew"]
        )
        self.assertEqual([len(lines) for lines in said[1:]], [1] * 32)
        self.assertEqual(said[31], ["the server's certificate ended on 2026-12-24; to put it right: mtlsd init --renew"])
        ends = NOW + timedelta(days=365)
        captured.lines.clear()
        clock.advance(86_400)
        watch.beat()
        self.assertEqual(captured.lines, [])


class ExpiryWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.snapshot = Snapshot()
        self.leaf = make_pair(now=NOW, ends=timedelta(days=365)).leaf
        self.captured = Captured()
        self.log = Logger(observer=self.captured)
        self.watch = ExpiryWatch(lambda: self.snapshot, self.now, self.clock.seconds, timedelta(days=30), self.log)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.clock.seconds())

    def know(self, *clients: tuple[str, timedelta], leaf_ends: timedelta | None = None) -> None:
        """Put clients in force, each with the time that it has left."""
        known = {}
        for nth, (name, left) in enumerate(clients):
            leaf = replace(
                self.leaf, fingerprint=f"{nth:016x}" + "0" * 48, not_after=NOW + (left if leaf_ends is None else leaf_ends)
            )
            known[leaf.fingerprint] = Authorization(name, leaf, NOW + left)
        self.snapshot = Snapshot(known)

    def beats(self, count: int = 1) -> list[str]:
        """Beat, and return what was said."""
        self.captured.lines.clear()
        for _ in range(count):
            self.clock.advance(1)
            self.watch.beat()
        return list(self.captured.lines)

    def test_who_ends_soon(self) -> None:
        """A forgotten renewal would be an outage on a day that nobody was told of."""
        remedy = "; to put it right: mtlsd authorize NEW.pem --name {} --add"
        self.know(("late", timedelta(days=31)), ("bob", timedelta(days=3)), ("alice", timedelta(days=30)))
        self.assertEqual(
            self.beats(),
            [
                f"bob: certificate 0000000000000001 ends on 2026-11-26 (3 days left){remedy.format('bob')}",
                f"alice: certificate 0000000000000002 ends on 2026-12-23 (30 days left){remedy.format('alice')}",
            ],
        )

    def test_where_clients_renew(self) -> None:
        """The operator would carry a file, where a word to the client is enough."""
        self.watch = ExpiryWatch(lambda: self.snapshot, self.now, self.clock.seconds, timedelta(hours=90), self.log, renews=True)
        self.know(("bob", timedelta(days=3)), ("alice", timedelta(hours=91)))
        (line,) = self.beats()
        self.assertTrue(line.endswith("mtlsd renew, at the client; or mtlsd authorize NEW.pem --name bob --add"), line)
        self.know(*((f"client{nth}", timedelta(days=3)) for nth in range(21)))
        self.clock.advance(DAY)
        self.assertTrue(self.beats()[0].endswith(": mtlsd clients --expiring 90h lists them"))

    def test_once_a_day(self) -> None:
        """A word each second is one that nobody reads; one that comes only once is forgotten."""
        self.know(("alice", timedelta(days=3)))
        self.assertEqual(len(self.beats(100)), 1)
        self.clock.advance(DAY - 101)
        self.assertEqual(self.beats(), [])
        self.assertIn("2 days left", self.beats(2)[0])

    def test_nobody(self) -> None:
        """A log that says every day that there is nothing to say."""
        self.assertEqual(self.beats(3), [])
        self.know(("alice", timedelta(days=300)))
        self.clock.advance(DAY)
        self.assertEqual(self.beats(3), [])

    def test_grace_and_retirement_count(self) -> None:
        """What counts is when the client is shut out, not what its certificate says."""
        self.know(("alice", timedelta(days=3)), leaf_ends=timedelta(days=-4))
        self.assertIn("ended on 2026-11-19 and is let in on grace until 2026-11-26 (3 days left)", self.beats()[0])
        self.know(("alice", timedelta(days=3)), leaf_ends=timedelta(days=300))
        self.clock.advance(DAY)
        self.assertIn("ends on 2026-11-26 (2 days left)", self.beats()[0])

    def test_those_who_are_out(self) -> None:
        """Every day a line about somebody who was shut out long ago."""
        self.know(("gone", timedelta(seconds=-1)), ("revoked", timedelta(days=3)))
        fingerprint = f"{1:016x}" + "0" * 48
        self.snapshot = Snapshot(self.snapshot.authorized, {fingerprint: Tombstone(fingerprint)})
        self.assertEqual(self.beats(), [])

    def test_no_flood(self) -> None:
        """100,000 clients of one day would fill the disk, and bury what else the log says; or hold the server up meanwhile."""
        self.know(*((f"client{nth}", timedelta(days=3, seconds=nth)) for nth in range(3 * AT_ONCE + 7)))
        self.assertEqual(self.beats(3), [])
        first = ", ".join(f"client{nth} (2026-11-26)" for nth in range(5))
        self.assertEqual(
            self.beats(100),
            [f"6,007 certificates end within 30d, first {first}, …: mtlsd clients --expiring 30d lists them"],
        )

    def test_as_many_lines(self) -> None:
        """Where there are few, each is named."""
        self.know(*((f"client{nth}", timedelta(days=3)) for nth in range(20)))
        self.assertEqual(len(self.beats()), 20)
        self.know(*((f"client{nth}", timedelta(days=3)) for nth in range(21)))
        self.clock.advance(DAY)
        self.assertEqual(len(self.beats()), 1)

    def test_a_round_is_one_look(self) -> None:
        """A client that comes or goes while the round lasts would stop it, or be told of twice."""
        self.know(*((f"client{nth}", timedelta(days=300)) for nth in range(AT_ONCE)))
        self.beats()
        self.know(("alice", timedelta(days=3)))
        self.assertEqual(self.beats(5), [])
        self.clock.advance(DAY)
        self.assertEqual(len(self.beats(5)), 1)
