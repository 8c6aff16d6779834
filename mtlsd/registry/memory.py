"""A registry in memory: for tests, for embedding, and the publishing half of every other registry."""

from __future__ import annotations

from twisted.logger import Logger
from zope.interface import implementer

from mtlsd.registry.interfaces import IRegistry, Listener
from mtlsd.registry.records import Snapshot, Standing


@implementer(IRegistry)
class MemoryRegistry:
    """Holds one snapshot, and tells its listeners when another takes its place."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self._snapshot = snapshot or Snapshot()
        self._listeners: list[Listener] = []
        self._log = Logger()

    def standing(self, fingerprint: str) -> Standing:
        return self._snapshot.standing(fingerprint)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def publish(self, snapshot: Snapshot, changed: frozenset[str] | None = None) -> None:
        """Put *snapshot* in force.

        *changed* is what differs from the one before, where the caller has found that out already (off the
        reactor's thread: with 100,000 clients it takes a while).
        """
        before, self._snapshot = self._snapshot, snapshot
        if changed is None:
            changed = before.differs(snapshot)
        if not changed:
            return
        for listener in self._listeners:
            try:
                listener(changed)
            except Exception:
                self._log.failure("a listener of the registry failed")
