"""What a TLS transport stands on: a descriptor that the reactor watches, as long as there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import Any

from twisted.internet.abstract import FileDescriptor


class Phase(Enum):
    """Where a connection stands."""

    #: Before the handshake has completed.
    HANDSHAKE = auto()
    #: Bytes go both ways.
    OPEN = auto()
    #: All is said, close_notify too; what the peer still sends is not for the protocol.
    FAREWELL = auto()
    #: The descriptor is closed; the protocol has not heard of it yet.
    ABORTED = auto()
    #: Over.
    LOST = auto()


#: Without a descriptor.
GONE = (Phase.ABORTED, Phase.LOST)


class Wire(FileDescriptor, ABC):
    """A descriptor and its phase.  The methods at its end are for whoever knows what kind of descriptor it is."""

    reactor: Any
    _phase = Phase.HANDSHAKE
    _wants_to_write = False
    _is_writing = False

    def _is_open(self) -> bool:
        return self._phase is Phase.OPEN

    # Once there is no descriptor, the reactor is not asked to watch it.

    def startReading(self) -> None:
        if self._phase not in GONE:
            self.reactor.addReader(self)

    def stopReading(self) -> None:
        if self._phase not in GONE:
            self.reactor.removeReader(self)

    def startWriting(self) -> None:
        self._wants_to_write = True
        if not self._is_writing and self._phase not in GONE:
            self.reactor.addWriter(self)

    def stopWriting(self) -> None:
        self._wants_to_write = False
        if not self._is_writing and self._phase not in GONE:
            self.reactor.removeWriter(self)

    def _unwatch(self) -> None:
        """Have the reactor forget the descriptor, now, also where it is this that it calls: the next to get its number is another's."""
        self._is_writing = False
        self.stopReading()
        self.stopWriting()

    def _begin_to_write(self) -> None:
        """The poller calls: until :meth:`_end_to_write`, starting and stopping are only noted.

        A producer that is asked for piece after piece would stop and start, that is two calls of the kernel, at each.
        """
        self._is_writing = True
        self._wants_to_write = True

    def _end_to_write(self) -> None:
        self._is_writing = False
        if not self._wants_to_write:
            self.stopWriting()

    # What a subclass knows of its descriptor.

    def _cork(self) -> None:
        """Hold back what is sent until :meth:`_uncork`, where the descriptor can: many small pieces become one packet."""

    def _uncork(self) -> None:
        """Send what was held back."""

    @abstractmethod
    def _discard(self) -> int | None:
        """Throw away what the peer has sent, undecrypted, and return how many bytes it was; ``None``: it has hung up."""

    @abstractmethod
    def _end_of_writing(self) -> None:
        """Tell the peer's TCP that nothing more comes."""

    @abstractmethod
    def _untaken_by_peer(self) -> int:
        """Return the bytes in the kernel that the peer's TCP has not taken."""

    @abstractmethod
    def _close_wire(self, *, orderly: bool) -> None:
        """Close the descriptor, once; with a reset where that is not *orderly*."""
