"""What all connections of a listener share, and the factory that makes a gate for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from mtlsd.addresses import address_group
from mtlsd.audit.events import Event
from mtlsd.audit.sinks import IAuditSink
from mtlsd.deadlines import Deadlines
from mtlsd.policy import Reason
from mtlsd.registry.interfaces import IRegistry
from mtlsd.registry.records import Authorization
from mtlsd.settings import Settings
from mtlsd.tls.budget import HandshakeBudget
from mtlsd.tls.gate import Address, Gate
from mtlsd.tls.live import LiveConnections

#: Beats (seconds) between two looks for certificates that have come to their end on a live connection.
_SWEEP_BEATS = 15

#: Is told of each certificate (DER) that was refused because it is unknown, with the verdict on it; answers whether it is
#: kept for the operator.
Knock: TypeAlias = Callable[[Event, bytes], bool]


class Door(Factory[Gate]):
    """Makes a gate for each connection, and keeps the budgets and the live connections."""

    noisy = False

    def __init__(
        self,
        *,
        settings: Settings,
        registry: IRegistry,
        sink: IAuditSink,
        deadlines: Deadlines,
        site: IProtocolFactory,
        now: Callable[[], datetime],
        name: str,
        max_handshakes: int | None = None,
        knock: Knock | None = None,
    ) -> None:
        """*site* makes the protocol that serves an accepted client; *now* returns the wall-clock time, aware, UTC.

        *name* tells this process's connections from another's in the logs; *max_handshakes* is for a machine that
        has fewer descriptors than the settings want; *knock* is told of unknown certificates.
        """
        self.settings = settings
        self.registry = registry
        self.sink = sink
        self.deadlines = deadlines
        self.site = site
        #: Makes the protocol of whoever asks to join; ``None``: nobody may ask.
        self.join: IProtocolFactory | None = None
        #: Hears of each client that comes in with a certificate which is to end the time of another.
        self.used: Callable[[Authorization], None] | None = None
        self.now = now
        self.live = LiveConnections()
        self.log = Logger()
        self._knock = knock
        self._name = name
        self._serial = 0
        self._beats = 0
        self._handshakes: HandshakeBudget[Gate] = HandshakeBudget(max_handshakes or settings.max_handshakes)
        self._by_address: Counter[str] = Counter()
        self._drained: Deferred[None] | None = None
        self._gates = 0
        registry.listen(self.live.reconsider)

    def buildProtocol(self, addr: Address) -> Gate:  # type: ignore[override]
        gate = Gate(self, addr)
        gate.factory = self
        return gate

    def doStart(self) -> None:
        super().doStart()
        self.site.doStart()

    def doStop(self) -> None:
        self.site.doStop()
        super().doStop()

    def next_connection_id(self) -> str:
        """Return an id that no other connection has, of this process or (very likely) of another."""
        self._serial += 1
        return f"{self._name}-{self._serial}"

    def arrived(self, gate: Gate) -> bool:
        """Take a new connection in.  False: its address has too many already."""
        self._gates += 1
        group = address_group(gate.peer[0])
        self._by_address[group] += 1
        if self.settings.max_per_address and self._by_address[group] > self.settings.max_per_address:
            return False
        victim = self._handshakes.add(gate, gate.peer[0])
        if victim is not None:
            victim.drop(Reason.OVER_LIMIT)
        return True

    def handshake_is_over(self, gate: Gate) -> None:
        """Let go of *gate* as an unfinished handshake."""
        self._handshakes.remove(gate, gate.peer[0])

    def has_room(self) -> bool:
        """Tell whether another authorized connection may come in."""
        return not self.settings.max_connections or len(self.live) < self.settings.max_connections

    def accepted(self, gate: Gate, fingerprint: str) -> None:
        """Keep an accepted connection where a revocation finds it."""
        self.live.add(fingerprint, gate)

    def knocked(self, verdict: Event, der: bytes) -> bool:
        """Pass on that an unknown certificate was refused.  True: it is kept, so that the operator can approve it."""
        if self._knock is None:
            return False
        try:
            return self._knock(verdict, der)
        except Exception:
            self.log.failure("a refused certificate was not kept")
            return False

    def gone(self, gate: Gate) -> None:
        """Let go of a connection that is lost."""
        self._gates -= 1
        group = address_group(gate.peer[0])
        self._by_address[group] -= 1
        if not self._by_address[group]:
            del self._by_address[group]
        if gate.fingerprint is not None:
            self.live.remove(gate.fingerprint, gate)
        self._look_whether_drained()

    def beat(self) -> None:
        """Called once a second: from time to time, cut the connections whose certificate has come to its end."""
        self._beats += 1
        if self._beats % _SWEEP_BEATS == 0:
            self.live.sweep()

    def drain(self, timeout: float) -> Deferred[None]:
        """Finish: unfinished handshakes are dropped, idle connections closed, responses in flight may end.

        What is still there after *timeout* seconds is cut.  Fires when no connection is left.
        """
        if self._drained is not None:
            return self._drained
        self._drained = Deferred()
        for gate in self._handshakes.everything():
            gate.drop(Reason.CLOSED, "shutting down")
        for gate in self.live.everything():
            finish = getattr(gate.above, "finish_up", gate.loseConnection)
            finish()
        if not self._look_whether_drained():
            self.deadlines.set(timeout, self.cut_everything)
        return self._drained

    def cut_everything(self) -> None:
        """Close every live connection at once."""
        for gate in self.live.everything():
            gate.cut()

    def _look_whether_drained(self) -> bool:
        if self._drained is None or self._gates:
            return False
        if not self._drained.called:
            self._drained.callback(None)
        return True
