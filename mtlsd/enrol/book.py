"""Who has knocked: bounded bookkeeping in memory.  Pure: no files, no clock.

Whoever shows a certificate that nobody knows chooses all that is noted here, and may do so a hundred thousand times.  So
what is kept is bounded, and so is what a stranger can push out:

- An address (IPv6: a /64) has a share.  When that is full, its own newcomer takes the place of one of its own.
- When the book is full, the neighbourhood (IPv4: a /24, IPv6: a /48) that holds most gives one up, be it that of the newcomer;
  in it, the address that holds most.  One that holds a few only is not to blame: where there is no other, all pay alike.
- Of those, it is not simply the oldest.  Who came back after a minute is more likely to be somebody who waits: the place is
  taken of the one who was silent longest among those who did not, as long as they hold more than a fifth of the places.  So
  who floods with certificates that are shown once fights for the places of such, and who waits keeps his.
- Where places are fought for, nothing is written of a newcomer who may not last: a flood costs the disk next to nothing.
- Who was pushed out is remembered for a while, by a few bytes: who comes back to that has come back too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mtlsd.addresses import address_group, neighbourhood
from mtlsd.audit.events import Event
from mtlsd.registry.knock import Knock, plain

#: Certificates in all, and from one address.
LIMIT, SHARE = 1000, 50
#: Certificates from one neighbourhood that are no flood.
FAIR = 10
#: What has been silent for so long goes.
LONGEST = timedelta(days=30)
#: Who comes back after this has come back.
RETURNS = timedelta(minutes=1)
#: A newcomer who has had to fight for its place has won it after this.
LASTS = timedelta(seconds=10)
#: Certificates that are remembered after they were pushed out: at 300 knocks a second, for a minute.
_REMEMBERED = 20_000
#: Those who came back may hold all but one part in this many.
_NEWCOMERS = 5


@dataclass(slots=True)
class Entry:
    """One certificate.  ``der`` and ``event`` are there until the file is written that tells of them."""

    fingerprint: str
    address: str
    not_after: datetime
    first: datetime
    last: datetime
    count: int = 1
    group: str = ""
    hood: str = ""
    #: Whether there is a file, or is about to be.
    filed: bool = False
    #: Knocks that no file tells of, and the first of them.
    untold: int = 1
    since: datetime | None = None
    der: bytes | None = None
    event: Event | None = None

    @property
    def came_back(self) -> bool:
        return self.last - self.first >= RETURNS


@dataclass(frozen=True, slots=True)
class Page:
    """What is to be written about one certificate.

    ``fresh``: there is no file yet.  Where there was one and it is gone, the operator has removed it, and the last ``untold``
    knocks, from ``since`` on, are all that counts.
    """

    fingerprint: str
    der: bytes
    event: Event
    address: str
    first: datetime
    last: datetime
    count: int
    fresh: bool
    untold: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be done to the files: first ``gone`` (fingerprints) is removed, then ``pages`` are written."""

    gone: tuple[str, ...] = ()
    pages: tuple[Page, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.gone or self.pages)


@dataclass(slots=True)
class Book:
    """At most *limit* certificates, at most *share* from one address."""

    limit: int = LIMIT
    share: int = SHARE
    _entries: dict[str, Entry] = field(default_factory=dict)
    # The same entries by address, and by whether they came back; each in the order in which they knocked last.
    _groups: dict[str, dict[str, Entry]] = field(default_factory=dict)
    _once: dict[str, Entry] = field(default_factory=dict)
    _back: dict[str, Entry] = field(default_factory=dict)
    # How many a neighbourhood holds, and the addresses in it.
    _weights: Counter[str] = field(default_factory=Counter)
    _within: dict[str, set[str]] = field(default_factory=dict)
    # Those of which a file is to be written, and the files that are to go.
    _untold: dict[str, Entry] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    # When those who were pushed out had knocked first.
    _pushed_out: OrderedDict[bytes, datetime] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._entries

    def knock(self, verdict: Event, der: bytes) -> bool:
        """Note the refusal of a certificate (DER).  False: it is not kept, for it has ended or came from nowhere."""
        fingerprint, at = verdict.fingerprint, verdict.time
        address = plain(verdict.peer[0]) if verdict.peer is not None else None
        if fingerprint is None or verdict.not_after is None or address is None or at > verdict.not_after:
            return False
        entry = self._entries.get(fingerprint)
        if entry is None:
            before = self._pushed_out.pop(_short(fingerprint), at)
            entry = Entry(fingerprint, address, verdict.not_after, min(before, at), at, since=at)
            self._add(entry)
        else:
            entry.count += 1
            entry.untold += 1
            entry.last = max(entry.last, at)
            self._ordered(entry)
        if entry.der is None:
            entry.der, entry.event, entry.since = der, verdict, at
        self._untold[fingerprint] = entry
        return True

    def adopt(self, knock: Knock) -> None:
        """Take in what a file tells."""
        leaf = knock.certificate
        if leaf.fingerprint not in self._entries:
            self._add(
                Entry(leaf.fingerprint, knock.address, leaf.not_after, knock.first, knock.last, knock.count, filed=True, untold=0)
            )

    def forget(self, fingerprint: str) -> None:
        """Let go of a certificate, and of its file."""
        entry = self._entries.pop(fingerprint, None)
        if entry is None:
            return
        self._untold.pop(fingerprint, None)
        self._once.pop(fingerprint, None)
        self._back.pop(fingerprint, None)
        del self._groups[entry.group][fingerprint]
        if not self._groups[entry.group]:
            del self._groups[entry.group]
            self._within[entry.hood].discard(entry.group)
        self._weights[entry.hood] -= 1
        if not self._weights[entry.hood]:
            del self._weights[entry.hood], self._within[entry.hood]
        if entry.filed:
            self._gone.add(fingerprint)

    def prune(self, now: datetime) -> None:
        """Let go of what has ended, and of what has been silent for long."""
        for entry in list(self._entries.values()):
            if now > entry.not_after or now - entry.last > LONGEST:
                self.forget(entry.fingerprint)

    def missed(self, there: AbstractSet[str]) -> None:
        """Let go of those whose file is gone, where *there* are the fingerprints of all files: the operator has removed it."""
        for entry in list(self._entries.values()):
            if entry.filed and not entry.untold and entry.fingerprint not in there:
                entry.filed = False
                self.forget(entry.fingerprint)

    def dismiss(self, is_dismissed: Callable[[str, datetime], bool]) -> None:
        """Let go of those of whose address and last time *is_dismissed* says so, be there a file of them or not."""
        for entry in list(self._entries.values()):
            if is_dismissed(entry.address, entry.last):
                self.forget(entry.fingerprint)

    def take(self, most: int, *, repeated: bool, now: datetime | None = None) -> Batch:
        """Return what is to be written, *most* pages of it, and count it as written.

        *repeated*: with those that have a file already, of which only the count and the last time are news.  At *now*
        those who may not last are left out (``None``: they are not).
        """
        pages: list[Page] = []
        for entry in list(self._untold.values()):
            if len(pages) == most:
                break
            if now is not None and not self._lasts(entry, now):
                continue
            if (repeated or not entry.filed) and entry.der is not None and entry.event is not None:
                pages.append(
                    Page(
                        fingerprint=entry.fingerprint,
                        der=entry.der,
                        event=entry.event,
                        address=entry.address,
                        first=entry.first,
                        last=entry.last,
                        count=entry.count,
                        fresh=not entry.filed,
                        untold=entry.untold,
                        since=entry.since or entry.first,
                    )
                )
                entry.filed, entry.untold, entry.der, entry.event = True, 0, None, None
                del self._untold[entry.fingerprint]
        gone, self._gone = tuple(sorted(self._gone)), set()
        return Batch(gone, tuple(pages))

    def put_back(self, pages: Iterable[Page], gone: Iterable[str] = ()) -> None:
        """Take back that these pages were written, and that the files of *gone* were removed: they were not."""
        self._gone |= {fingerprint for fingerprint in gone if fingerprint not in self._entries}
        for page in pages:
            entry = self._entries.get(page.fingerprint)
            if entry is not None:
                entry.filed = entry.filed and not page.fresh
                entry.untold += page.untold
                entry.der, entry.event, entry.since = page.der, page.event, page.since
                self._untold[page.fingerprint] = entry

    def begun_again(self, page: Page) -> None:
        """Note that the file of *page* had been removed, so that what it told before is gone."""
        entry = self._entries.get(page.fingerprint)
        if entry is not None:
            entry.first = page.since
            entry.count -= page.count - page.untold

    def _lasts(self, entry: Entry, now: datetime) -> bool:
        fought_for = len(self._entries) >= self.limit or len(self._groups[entry.group]) >= self.share
        # The clock may have been set.
        return not fought_for or entry.filed or entry.came_back or abs(now - (entry.since or now)) >= LASTS

    def _add(self, entry: Entry) -> None:
        entry.group, entry.hood = address_group(entry.address), neighbourhood(entry.address)
        own = self._groups.get(entry.group, {})
        if len(own) >= self.share:
            self._push_out(_least(list(own.values())))
        elif len(self._entries) >= self.limit:
            self._push_out(self._least_of_the_heaviest(entry.hood))
        self._entries[entry.fingerprint] = entry
        self._groups.setdefault(entry.group, {})
        self._weights[entry.hood] += 1
        self._within.setdefault(entry.hood, set()).add(entry.group)
        self._ordered(entry)

    def _ordered(self, entry: Entry) -> None:
        """Put *entry* where it belongs: it is the last to have knocked."""
        group = self._groups[entry.group]
        for order in (group, self._once, self._back):
            order.pop(entry.fingerprint, None)
        for order in (group, self._back if entry.came_back else self._once):
            order[entry.fingerprint] = entry

    def _push_out(self, entry: Entry) -> None:
        self._pushed_out[_short(entry.fingerprint)] = entry.first
        if len(self._pushed_out) > _REMEMBERED:
            self._pushed_out.popitem(last=False)
        self.forget(entry.fingerprint)

    def _least_of_the_heaviest(self, newcomer: str) -> Entry:
        # It costs some ten microseconds of a refusal, and only when the book is full.
        most = max(self._weights.values())
        once_first = len(self._once) * _NEWCOMERS > len(self._entries)
        everyone = [*self._once.values(), *self._back.values()] if once_first else [*self._back.values(), *self._once.values()]
        if max(most, self._weights[newcomer] + 1) <= FAIR:
            # From many networks, a few from each: nobody is to blame, and siblings are not to push each other out.
            return everyone[0]
        if self._weights[newcomer] + 1 > most:
            hood = newcomer
        else:
            hood = next(entry.hood for entry in everyone if self._weights[entry.hood] == most)
        largest = max(len(self._groups[group]) for group in self._within[hood])
        return next(entry for entry in everyone if entry.hood == hood and len(self._groups[entry.group]) == largest)


def _least(entries: Sequence[Entry]) -> Entry:
    """Return the one that gives up its place to another of its address."""
    once = [entry for entry in entries if not entry.came_back]
    return once[0] if len(once) * _NEWCOMERS > len(entries) else next(entry for entry in entries if entry.came_back)


def _short(fingerprint: str) -> bytes:
    return bytes.fromhex(fingerprint[:32])
