"""The budget of unfinished handshakes: full, it costs the heaviest address its oldest, never the newcomer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from mtlsd.addresses import address_group

#: Unfinished handshakes that any one address may have without being taken for a flood.
FAIR_SHARE = 8

T = TypeVar("T")


class HandshakeBudget(Generic[T]):
    """Holds up to *limit* unfinished handshakes, by address.

    Each is silent at the moment it is judged: what a handshake needs of us is done as soon as its bytes are there.  So
    the one to go is the oldest, and where an address holds more than its share, it is the oldest of the one that
    holds most: who floods, pays.  A byte now and then buys no time.  Adding and removing cost the same whatever is held.
    """

    def __init__(self, limit: int, fair_share: int = FAIR_SHARE) -> None:
        self._limit = limit
        self._fair_share = fair_share
        self._order: OrderedDict[T, str] = OrderedDict()
        self._held: dict[str, OrderedDict[T, None]] = {}
        # For each number of handshakes, the addresses that hold so many, longest at that number first.
        self._addresses_by_count: dict[int, OrderedDict[str, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, handshake: T, address: str) -> T | None:
        """Take *handshake* in.  Returns the one that has to go for it, already removed, or ``None``."""
        group = address_group(address)
        victim = self._victim() if len(self._order) >= self._limit else None
        if victim is not None:
            self.remove(*victim)
        held = self._held.setdefault(group, OrderedDict())
        held[handshake] = None
        self._order[handshake] = group
        self._moved(group, len(held) - 1, len(held))
        return None if victim is None else victim[0]

    def remove(self, handshake: T, address: str) -> None:
        """Let go of *handshake*; one that is not held is ignored."""
        group = address_group(address)
        held = self._held.get(group)
        if held is None or handshake not in held:
            return
        del held[handshake]
        del self._order[handshake]
        self._moved(group, len(held) + 1, len(held))
        if not held:
            del self._held[group]

    def everything(self) -> list[T]:
        """Return all that is held."""
        return list(self._order)

    def _victim(self) -> tuple[T, str]:
        if self._most <= self._fair_share:
            # A flood from many addresses, one or two from each: nobody is to blame, so the oldest of all goes.
            return next(iter(self._order.items()))
        group = next(iter(self._addresses_by_count[self._most]))
        return next(iter(self._held[group])), group

    def _moved(self, group: str, before: int, after: int) -> None:
        if before:
            at_that = self._addresses_by_count[before]
            del at_that[group]
            if not at_that:
                del self._addresses_by_count[before]
                if before == self._most:
                    self._most = after if after > before else before - 1
        if after:
            self._addresses_by_count.setdefault(after, OrderedDict())[group] = None
            self._most = max(self._most, after)
