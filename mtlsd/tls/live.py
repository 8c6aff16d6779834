"""The live connections, by fingerprint: a revocation finds them here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from mtlsd.tls.gate import Gate


class LiveConnections:
    """Accepted connections by the fingerprint of their client (64 lower-case hex digits)."""

    def __init__(self) -> None:
        self._by_fingerprint: dict[str, set[Gate]] = {}
        self._count = 0
        self._log = Logger()

    def __len__(self) -> int:
        return self._count

    def add(self, fingerprint: str, connection: Gate) -> None:
        """Keep *connection*."""
        self._by_fingerprint.setdefault(fingerprint, set()).add(connection)
        self._count += 1

    def remove(self, fingerprint: str, connection: Gate) -> None:
        """Let go of *connection*, which is kept."""
        held = self._by_fingerprint[fingerprint]
        held.remove(connection)
        self._count -= 1
        if not held:
            del self._by_fingerprint[fingerprint]

    def reconsider(self, fingerprints: frozenset[str]) -> None:
        """Have each connection of these clients decide again: called with what has changed in the registry."""
        for fingerprint in fingerprints & self._by_fingerprint.keys():
            self._each(list(self._by_fingerprint.get(fingerprint, ())))

    def sweep(self) -> None:
        """Have the clients whose certificate ended since the last look cut: time passes without an event.

        One connection of each client is asked; where it has to go, so have the others.
        """
        for held in list(self._by_fingerprint.values()):
            self._each([next(iter(held))])
            if any(gate.is_cut for gate in held):
                self._each(list(held))

    def _each(self, gates: list[Gate]) -> None:
        for gate in gates:
            try:
                gate.reconsider()
            except Exception:
                # What stands behind one connection must not keep the others open.
                self._log.failure("a connection could not be reconsidered [{connection}]", connection=gate.connection_id)

    def everything(self) -> list[Gate]:
        """Return all of them."""
        return [connection for held in self._by_fingerprint.values() for connection in held]
