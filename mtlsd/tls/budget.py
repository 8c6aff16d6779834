"""The budget of unfinished handshakes: full, it costs the heaviest address its oldest, never the newcomer."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


def address_group(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one (a /64 is one subscriber)."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.split("%", 1)[0], 64), strict=False))
    except ValueError:
        return address


class HandshakeBudget(Generic[T]):
    """Holds up to *limit* unfinished handshakes, by address.

    Each waits for its peer: what a handshake needs of us is done as soon as its bytes are there.  So the one to go
    is the oldest, and it is taken from the address that holds most of them: who floods, pays.  Adding and
    removing cost the same whatever is held.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._held: dict[str, OrderedDict[T, None]] = {}
        # For each number of handshakes, the addresses that hold so many, longest at that number first.
        self._addresses_by_count: dict[int, OrderedDict[str, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return self._size

    def add(self, handshake: T, address: str) -> T | None:
        """Take *handshake* in.  Returns the one that has to go for it, already removed, or ``None``."""
        group = address_group(address)
        victim = self._oldest_of_the_heaviest() if self._size >= self._limit else None
        if victim is not None:
            self.remove(*victim)
        held = self._held.setdefault(group, OrderedDict())
        held[handshake] = None
        self._size += 1
        self._moved(group, len(held) - 1, len(held))
        return None if victim is None else victim[0]

    def remove(self, handshake: T, address: str) -> None:
        """Let go of *handshake*; one that is not held is ignored."""
        group = address_group(address)
        held = self._held.get(group)
        if held is None or handshake not in held:
            return
        del held[handshake]
        self._size -= 1
        self._moved(group, len(held) + 1, len(held))
        if not held:
            del self._held[group]

    def everything(self) -> list[T]:
        """Return all that is held."""
        return [handshake for held in self._held.values() for handshake in held]

    def _oldest_of_the_heaviest(self) -> tuple[T, str]:
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
