"""The book of those who knock: bounded, and hard to push anybody out of."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.addresses import neighbourhood
from mtlsd.audit.events import Event, Kind
from mtlsd.enrol.book import FAIR, LIMIT, LONGEST, SHARE, Batch, Book
from mtlsd.registry.knock import Knock
from tests.pki import make_pair

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
YEAR = NOW + timedelta(days=365)


def fingerprint(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def verdict(name: str, address: str = "192.0.2.1", after: float = 0.0, ends: datetime | None = YEAR) -> Event:
    """Return the refusal of a certificate that goes by *name* here, *after* so many seconds."""
    return Event(
        time=NOW + timedelta(seconds=after),
        event=Kind.REJECTED,
        reason="unknown-certificate",
        fingerprint=fingerprint(name),
        not_after=ends,
        peer=(address, 50514),
    )


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.book = Book()
        self.seconds = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def knock(self, name: str, address: str = "192.0.2.1") -> bool:
        """Have *name* knock, a thousandth of a second after whoever was before."""
        self.seconds += 0.001
        return self.book.knock(verdict(name, address, self.seconds), name.encode())

    def comes_back(self, name: str, address: str = "192.0.2.1") -> None:
        self.knock(name, address)
        self.seconds += 61
        self.knock(name, address)

    def has(self, name: str) -> bool:
        return fingerprint(name) in self.book


class KnockTests(Base):
    def test_counts(self) -> None:
        """Lost: how often, and from when to when; from where is where it was shown first, whoever shows it after that."""
        for address in ("192.0.2.1", "198.51.100.9", "192.0.2.1"):
            self.assertTrue(self.knock("alice", address))
        (page,) = self.book.take(10, repeated=False).pages
        self.assertEqual((page.count, page.address, page.der, page.fresh), (3, "192.0.2.1", b"alice", True))
        self.assertEqual((page.first, page.last), (NOW + timedelta(seconds=0.001), NOW + timedelta(seconds=0.003)))

    def test_clock_set_back(self) -> None:
        """Lost: a last time that is before the first, in a file that would then be refused."""
        self.book.knock(verdict("alice", after=60), b"")
        self.book.knock(verdict("alice", after=0), b"")
        (page,) = self.book.take(10, repeated=False).pages
        self.assertLessEqual(page.first, page.last)

    def test_ended(self) -> None:
        """Lost: what nobody may approve would take a place."""
        self.assertFalse(self.book.knock(verdict("alice", ends=NOW - timedelta(seconds=1)), b""))
        self.assertFalse(self.book.knock(verdict("alice", ends=None), b""))
        self.assertEqual(len(self.book), 0)

    def test_from_nowhere(self) -> None:
        """Lost: an address that is none would stand in the file, and then the file would be refused."""
        self.assertFalse(self.book.knock(verdict("alice", "unknown"), b""))
        self.assertFalse(self.book.knock(verdict("alice")._replace(peer=None), b""))

    def test_zone(self) -> None:
        """Lost: a client on the same link, whose address has a zone."""
        self.assertTrue(self.knock("alice", "fe80::1%eth0"))
        self.assertEqual(self.book.take(1, repeated=False).pages[0].address, "fe80::1")

    def test_takes_a_few_at_a_time(self) -> None:
        """Lost: a flood would be one long write."""
        for nth in range(5):
            self.knock(str(nth))
        self.assertEqual([len(self.book.take(2, repeated=False).pages) for _ in range(4)], [2, 2, 1, 0])

    def test_repeats_wait(self) -> None:
        """Lost: who knocks a thousand times would have the file written a thousand times."""
        self.knock("alice")
        self.book.take(10, repeated=False)
        self.knock("alice")
        self.assertFalse(self.book.take(10, repeated=False))
        (page,) = self.book.take(10, repeated=True).pages
        self.assertEqual((page.count, page.fresh, page.untold), (2, False, 1))
        self.assertFalse(self.book.take(10, repeated=True))

    def test_put_back(self) -> None:
        """Lost: after a full disk, what was noted would never be written; or would be, with a smaller count."""
        self.knock("alice")
        batch = self.book.take(10, repeated=True)
        self.knock("alice")
        self.book.put_back(batch.pages)
        (page,) = self.book.take(10, repeated=False).pages
        self.assertEqual((page.count, page.untold, page.fresh, page.since), (2, 2, True, batch.pages[0].since))
        self.book.forget(page.fingerprint)
        self.book.put_back([page])
        self.assertEqual(len(self.book), 0)

    def test_begins_again(self) -> None:
        """Lost: what the operator has dismissed would be back with its old count, as if nobody had said no."""
        for _ in range(5):
            self.knock("alice")
        self.book.take(10, repeated=True)
        self.knock("alice")
        (page,) = self.book.take(10, repeated=True).pages
        self.book.begun_again(page)
        self.knock("alice")
        (page,) = self.book.take(10, repeated=True).pages
        self.assertEqual((page.count, page.first), (2, NOW + timedelta(seconds=0.006)))
        self.book.forget(page.fingerprint)
        self.book.begun_again(page)

    def test_forgets(self) -> None:
        """Lost: what was approved would stay in the folder; a file that was never written needs no removal."""
        self.knock("alice")
        self.book.take(10, repeated=True)
        self.knock("bob")
        for name in ("alice", "bob", "carol"):
            self.book.forget(fingerprint(name))
        self.assertEqual(self.book.take(10, repeated=True), Batch((fingerprint("alice"),)))

    def test_prunes(self) -> None:
        """Lost: the list would hold for ever what nobody wants any more."""
        self.knock("alice")
        self.book.knock(verdict("bob", ends=NOW + timedelta(days=1)), b"")
        self.book.prune(NOW + timedelta(days=2))
        self.assertEqual((self.has("alice"), self.has("bob")), (True, False))
        self.book.prune(NOW + LONGEST + timedelta(seconds=1))
        self.assertEqual(len(self.book), 0)

    def test_adopts(self) -> None:
        """Lost: after a restart, the count would begin anew, or a file would be written that there is."""
        pair = make_pair()
        known = Knock(pair.leaf, pair.der, "192.0.2.1", NOW, NOW + timedelta(hours=1), 7)
        self.book.adopt(known)
        self.assertFalse(self.book.take(10, repeated=True))
        again = verdict("")._replace(fingerprint=pair.fingerprint, time=NOW + timedelta(hours=2), not_after=pair.leaf.not_after)
        self.book.knock(again, pair.der)
        self.book.adopt(known)
        (page,) = self.book.take(10, repeated=True).pages
        self.assertEqual((page.count, page.first, page.fresh), (8, NOW, False))


class PlaceTests(Base):
    """Who gives up a place, and who does not."""

    def test_one_address_replaces_its_own(self) -> None:
        """Lost: one stranger would push out all the others."""
        self.knock("alice", "192.0.2.2")
        for nth in range(10 * LIMIT):
            self.knock(f"flood {nth}", "192.0.2.1")
        self.assertTrue(self.has("alice"))
        self.assertEqual(len(self.book), SHARE + 1)

    def test_one_subscriber_of_ipv6_is_one_address(self) -> None:
        """Lost: a /64 has more addresses than the list has places."""
        self.knock("alice", "2001:db8:0:1::1")
        for nth in range(10 * LIMIT):
            self.knock(f"flood {nth}", f"2001:db8:0:2::{nth:x}")
        self.assertTrue(self.has("alice"))
        self.assertEqual(len(self.book), SHARE + 1)

    def test_one_neighbourhood_replaces_its_own(self) -> None:
        """Lost: who has a /24, or a /48, would have the whole list."""
        for network in ("198.51.100.{}", "2001:db8:1:{:x}::1"):
            self.book = Book()
            self.knock("alice", "192.0.2.2")
            for nth in range(5 * LIMIT):
                self.knock(f"flood {nth}", network.format(nth % 256))
            self.assertTrue(self.has("alice"))
            self.assertEqual(len(self.book), LIMIT)

    def test_siblings(self) -> None:
        """Lost: of ten machines of one office, each that knocks would push out the one before, while strangers stay."""
        for nth in range(LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250}.{nth % 250}.1")
        for nth in range(FAIR):
            self.knock(f"node {nth}", f"192.0.2.{nth}")
        self.assertTrue(all(self.has(f"node {nth}") for nth in range(FAIR)))

    def test_beside_a_flood(self) -> None:
        """Lost: who has one bad neighbour would pay for it, as if the flood were theirs."""
        self.knock("alice", "198.51.100.7")
        for nth in range(3 * SHARE):
            self.knock(f"flood {nth}", "198.51.100.1")
        for nth in range(LIMIT - SHARE + 20):
            self.knock(f"elsewhere {nth}", f"10.{nth // 250}.{nth % 250}.1")
        self.assertTrue(self.has("alice"))

    def test_who_was_pushed_out_comes_back(self) -> None:
        """Lost: with thousands of networks knocking, whoever waits is off the list again before the minute is over."""
        self.knock("alice", "192.0.2.2")
        for nth in range(5 * LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250}.{nth % 250}.1")
        self.assertFalse(self.has("alice"))
        self.seconds += 61
        self.knock("alice", "192.0.2.2")
        for nth in range(5 * LIMIT):
            self.knock(f"more {nth}", f"11.{nth // 250}.{nth % 250}.1")
        self.assertTrue(self.has("alice"))

    def test_memory_of_those_pushed_out_is_bounded(self) -> None:
        """Lost: a flood would grow what is remembered of it for ever."""
        for nth in range(25 * LIMIT):
            self.knock(f"flood {nth}", "192.0.2.1")
        self.assertEqual(len(self.book._pushed_out), 20_000)

    def test_who_comes_back_stays(self) -> None:
        """Lost: whoever waits for the operator would be pushed out by certificates that are made to be shown once."""
        self.comes_back("alice", "192.0.2.2")
        self.comes_back("bob", "198.51.100.1")
        for nth in range(3 * SHARE):
            self.knock(f"beside bob {nth}", "198.51.100.1")
        for nth in range(5 * LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250 % 250}.{nth % 250}.1")
        self.assertEqual((self.has("alice"), self.has("bob"), len(self.book)), (True, True, LIMIT))

    def test_newcomers_find_a_place(self) -> None:
        """Lost: who fills the list, and comes back to each place, would keep everybody else off it for ever."""
        book = self.book
        for nth in range(LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250}.{nth % 250}.1")
        self.seconds += 61
        for nth in range(LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250}.{nth % 250}.1")
        self.knock("alice", "192.0.2.2")
        for nth in range(LIMIT // 5 - 1):
            self.knock(f"more {nth}", f"11.{nth // 250}.{nth % 250}.1")
        self.assertEqual((self.has("alice"), len(book)), (True, LIMIT))
        self.assertFalse(self.has("flood 0"))

    def test_never_simply_the_oldest(self) -> None:
        """Lost: a handful of other addresses would do to push out whoever has waited longest."""
        self.comes_back("alice", "192.0.2.2")
        for nth in range(LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250}.{nth % 250}.1")
        self.assertEqual((self.has("alice"), self.has("flood 0")), (True, False))

    def test_a_flood_is_not_written(self) -> None:
        """Lost: a disk that is written as fast as strangers knock; or who does last, and then is not written either."""
        for nth in range(SHARE):
            self.knock(f"before {nth}", "192.0.2.1")
        written = 0
        for second in range(30):
            for nth in range(SHARE):
                self.knock(f"flood {second} {nth}", "192.0.2.1")
            self.seconds += 1
            batch = self.book.take(LIMIT, repeated=True, now=self.now())
            written += len(batch.pages)
        self.assertEqual(written, 0)
        self.knock("alice", "192.0.2.2")
        self.assertEqual([page.der for page in self.book.take(LIMIT, repeated=True, now=self.now()).pages], [b"alice"])
        self.seconds += 10
        self.assertEqual(len(self.book.take(LIMIT, repeated=True, now=self.now()).pages), SHARE)

    def test_a_full_book_is_written_by_those_who_last(self) -> None:
        """Lost: the same, from thousands of networks; who came back is written at once."""
        for nth in range(LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250}.{nth % 250}.1")
        self.comes_back("alice", "192.0.2.2")
        self.knock("bob", "192.0.2.3")
        written = {page.der for page in self.book.take(2 * LIMIT, repeated=True, now=self.now()).pages}
        self.assertEqual((b"alice" in written, b"bob" in written), (True, False))

    def test_its_files_are_bounded_too(self) -> None:
        """Lost: what is pushed out of memory would stay on the disk."""
        files: set[str] = set()
        for nth in range(5 * LIMIT):
            self.knock(f"flood {nth}", f"10.{nth // 250 % 250}.{nth % 250}.1")
            if nth % 300 == 0:
                batch = self.book.take(100, repeated=True)
                files -= set(batch.gone)
                files |= {page.fingerprint for page in batch.pages}
                self.assertLessEqual(len(files), LIMIT)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.sampled_from("kkkktfb")), max_size=200))
    def test_whatever_happens(self, steps: list[tuple[int, int, str]]) -> None:
        """Lost: the bounds, or the promise that what is in the book has a file, and nothing else has, once all is written."""
        book, files, seconds = Book(limit=8, share=3), set[str](), 0.0
        for who, where, what in steps:
            seconds += 20
            if what == "k":
                book.knock(verdict(str(who), f"10.0.{where // 3}.{where % 3}", seconds), b"")
            elif what == "f":
                book.forget(fingerprint(str(who)))
            else:
                batch = book.take(3, repeated=bool(who % 2))
                if what == "b":
                    book.put_back(batch.pages, batch.gone)
                else:
                    files = files - set(batch.gone) | {page.fingerprint for page in batch.pages}
            self.assertLessEqual(len(book), 8)
        for _ in range(10):
            batch = book.take(3, repeated=True)
            files = files - set(batch.gone) | {page.fingerprint for page in batch.pages}
        self.assertEqual(len(files), len(book))
        self.assertTrue(all(one in book for one in files))
        for one in list(files):
            book.forget(one)
        left = [book._groups, book._once, book._back, book._within, book._untold, dict(book._weights)]
        self.assertEqual((len(book), [one for one in left if one]), (0, []))


class NeighbourhoodTests(SynchronousTestCase):
    def test_networks(self) -> None:
        """Lost: the network that pays for a flood, and not one beside it."""
        self.assertEqual(neighbourhood("192.0.2.1"), neighbourhood("192.0.2.200"))
        self.assertNotEqual(neighbourhood("192.0.2.1"), neighbourhood("192.0.3.1"))
        self.assertEqual(neighbourhood("2001:db8:1:2::1"), neighbourhood("2001:db8:1:ffff::1"))
        self.assertNotEqual(neighbourhood("2001:db8:1::1"), neighbourhood("2001:db8:2::1"))
        self.assertEqual(neighbourhood("unknown"), "unknown")
