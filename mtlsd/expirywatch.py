"""Says in the service's log which certificates come to their end: once a day, and never as a flood."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from twisted.logger import Logger

from mtlsd.durations import written
from mtlsd.identity import GRANT_DIGITS
from mtlsd.policy import remedy_of_end
from mtlsd.registry.records import Authorization, Snapshot
from mtlsd.text import days_left

#: Seconds from one round to the next, by a monotonic clock; the first begins with the first beat.
DAY = 86_400.0
#: Certificates that have a line each; where there are more, one line tells of all, and names the first few.
MOST_LINES = 20
NAMED = 5
#: Certificates that are looked at in one beat: a millisecond's worth, so that 100,000 hold nobody up.
AT_ONCE = 2000


class ExpiryWatch:
    """Goes through a snapshot of the registry once a day, a part of it at each beat."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        now: Callable[[], datetime],
        seconds: Callable[[], float],
        ahead: timedelta,
        log: Logger | None = None,
        *,
        renews: bool = False,
    ) -> None:
        """*snapshot* gives what is in force, *now* the aware wall-clock time; a certificate is told of once it ends within *ahead*.

        *renews*: clients may renew by themselves.
        """
        self._snapshot = snapshot
        self._now = now
        self._seconds = seconds
        self._ahead = ahead
        self._renews = renews
        self._due = float("-inf")
        self._round: _Round | None = None
        self._log = log or Logger()

    def beat(self) -> None:
        """Look at the next part.  To be called once a second."""
        if self._round is None:
            if self._seconds() < self._due:
                return
            self._due = self._seconds() + DAY
            self._round = _Round(self._snapshot(), self._now(), self._ahead)
        if not self._round.goes_on():
            done, self._round = self._round, None
            self._report(done)

    def _report(self, done: _Round) -> None:
        if done.count <= MOST_LINES:
            for one in done.soonest:
                self._log.warn(
                    "{client}: certificate {short} {ends}; to put it right: {remedy}",
                    client=one.client,
                    short=one.certificate.fingerprint[:GRANT_DIGITS],
                    ends=_ends(one, done.now),
                    remedy=remedy_of_end(one.client, renews=self._renews),
                )
            return
        self._log.warn(
            "{count} certificates end within {ahead}, first {named}, …: mtlsd clients --expiring {ahead} lists them",
            count=f"{done.count:,}",
            ahead=written(self._ahead),
            named=", ".join(f"{one.client} ({one.ends:%Y-%m-%d})" for one in done.soonest[:NAMED]),
        )


class OwnExpiryWatch:
    """Says once a day that the server's own certificate comes to its end, or that it has."""

    def __init__(
        self,
        ends: Callable[[], datetime],
        now: Callable[[], datetime],
        seconds: Callable[[], float],
        ahead: timedelta,
        remedy: str,
        log: Logger | None = None,
    ) -> None:
        """*ends* tells when; for the rest see :class:`ExpiryWatch`.  *remedy* is what puts it right."""
        self._ends = ends
        self._now = now
        self._seconds = seconds
        self._ahead = ahead
        self._remedy = remedy
        self._due = float("-inf")
        self._log = log or Logger()

    def beat(self) -> None:
        """To be called once a second."""
        if self._seconds() < self._due:
            return
        self._due = self._seconds() + DAY
        ends, now = self._ends(), self._now()
        if ends <= now:
            self._log.error(
                "the server's certificate ended on {end}; to put it right: {remedy}", end=f"{ends:%Y-%m-%d}", remedy=self._remedy
            )
        elif ends <= now + self._ahead:
            self._log.warn(
                "the server's certificate ends on {end} ({left}); to put it right: {remedy}",
                end=f"{ends:%Y-%m-%d}",
                left=days_left(ends - now),
                remedy=self._remedy,
            )


@dataclass(slots=True)
class _Round:
    """One look at all of a snapshot; ``soonest`` are the first to end, in their order, ``count`` is how many there are."""

    snapshot: Snapshot
    now: datetime
    ahead: timedelta
    count: int = 0
    soonest: list[Authorization] = field(default_factory=list)
    _left: Iterator[Authorization] = field(init=False)

    def __post_init__(self) -> None:
        self._left = iter(self.snapshot.authorized.values())

    def goes_on(self) -> bool:
        """Look at some more; False once all have been seen."""
        part = list(islice(self._left, AT_ONCE))
        until = self.now + self.ahead
        # What has ended already lets nobody in, and each refusal says so.
        ending = [one for one in part if self.now <= one.ends <= until and not one.replaced]
        ending = [one for one in ending if one.certificate.fingerprint not in self.snapshot.tombstones]
        self.count += len(ending)
        self.soonest = heapq.nsmallest(MOST_LINES, self.soonest + ending, key=lambda one: (one.ends, one.client))
        return len(part) == AT_ONCE


def _ends(one: Authorization, now: datetime) -> str:
    left = days_left(one.ends - now)
    if one.on_grace(now):
        return f"ended on {one.certificate.not_after:%Y-%m-%d} and is let in on grace until {one.ends:%Y-%m-%d} ({left})"
    return f"ends on {one.ends:%Y-%m-%d} ({left})"
