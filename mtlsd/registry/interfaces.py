"""What the server asks of a registry, and what a registry promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from zope.interface import Interface

from mtlsd.registry.records import Snapshot, Standing

#: Called with the fingerprints whose standing has changed, after the new snapshot is in force.
Listener: TypeAlias = Callable[[frozenset[str]], None]


class IRegistry(Interface):
    """Who is authorized, now.

    Every answer comes from one whole, immutable :class:`~mtlsd.registry.records.Snapshot`; a change is the
    assignment of another one, so nobody ever sees half of it.  All methods belong to the reactor's thread.
    """

    def standing(fingerprint: str) -> Standing:
        """Return what is known of a fingerprint (64 lower-case hex digits).  Costs one or two hash lookups."""

    def snapshot() -> Snapshot:
        """Return everything that is known, as it stands now."""

    def listen(listener: Listener) -> None:
        """Call *listener* after every change, with what changed.  One that raises is logged, and the others hear."""
