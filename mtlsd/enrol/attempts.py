"""How often an address may fail: never more than it takes to mistype, and nobody pays for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from mtlsd.addresses import address_group


class Attempts:
    """Counts failures by address (IPv6: by /64), *most* of them in each *period* of seconds.

    There is no limit for all together: whoever has many addresses could shut out everybody with it.  The memory is bounded:
    past *addresses*, the one whose period began first is forgiven.
    """

    def __init__(self, seconds: Callable[[], float], most: int = 10, period: float = 60.0, addresses: int = 10_000) -> None:
        """*seconds* is a monotonic clock."""
        self._seconds = seconds
        self._most = most
        self._period = period
        self._addresses = addresses
        # When the period of an address began, and its failures since; the oldest first.
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def exhausted(self, address: str) -> bool:
        """Tell whether *address* has failed too often to try again now."""
        began, count = self._failures.get(address_group(address), (float("-inf"), 0))
        return count >= self._most and self._seconds() - began < self._period

    def failed(self, address: str) -> None:
        """Count a failure of *address*."""
        now, group = self._seconds(), address_group(address)
        began, count = self._failures.get(group, (float("-inf"), 0))
        if now - began < self._period:
            self._failures[group] = (began, count + 1)
            return
        self._failures.pop(group, None)
        self._failures[group] = (now, 1)
        while len(self._failures) > self._addresses or now - next(iter(self._failures.values()))[0] >= self._period:
            self._failures.popitem(last=False)
