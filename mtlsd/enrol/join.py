"""The server's side of a join: docs/protocol.md.

The peer has shown a certificate and proven its key, on a connection that is good for nothing else.  It sends one line, with
the secret of an invite, and gets one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from mtlsd.audit.sinks import IAuditSink
from mtlsd.enrol.attempts import Attempts
from mtlsd.enrol.exchange import FAILED, LATER, LONGEST, REFUSED, error_line, secret_in, welcome_line
from mtlsd.enrol.invite import INVITES
from mtlsd.enrol.invites import Arrival, Invites, Joined, NotInvited
from mtlsd.enrol.openings import Openings
from mtlsd.errors import MtlsdError
from mtlsd.policy import LIMITS, Limits, Reason
from mtlsd.registry.listing import AUTHORIZED, files_of
from mtlsd.text import printable

#: Runs something that may block off the reactor's thread.
InThread: TypeAlias = Callable[[Callable[[], Any]], Deferred[Any]]
#: Fires when what these files of ``authorized/`` say is in force.
Look: TypeAlias = Callable[[frozenset[str]], Deferred[None]]


class Joins(Factory["JoinProtocol"]):
    """Where one joins: makes a protocol for each who asks, and has the joins done one after the other."""

    noisy = False

    def __init__(
        self,
        folder: Path,
        *,
        invites: Invites,
        openings: Openings,
        attempts: Attempts,
        sink: IAuditSink,
        in_thread: InThread,
        look: Look,
        longest: timedelta = timedelta(days=400),
        limits: Limits = LIMITS,
    ) -> None:
        """A certificate that joins may end *longest* from now, and its key is within *limits*."""
        self._folder = folder
        self._invites = invites
        self._openings = openings
        self._sink = sink
        self._in_thread = in_thread
        self._look = look
        self._longest = longest
        self._limits = limits
        # Each waits for the folder's lock, and for the disk: many threads would do it no sooner.
        self._turn = DeferredLock()
        self.attempts = attempts
        self.log = Logger(namespace="mtlsd")

    def buildProtocol(self, addr: IAddress | None) -> JoinProtocol:
        return JoinProtocol(self)

    def is_open(self) -> bool:
        """Tell whether there is anything to be had here: whether somebody is invited, now."""
        return self._openings.any()

    def start(self) -> None:
        """Clear away what is used up; or say where nobody can join, for want of a permission.  After root was given up."""
        for part in (self._folder, self._folder / AUTHORIZED, self._folder / INVITES):
            if part.exists() and not os.access(part, os.W_OK | os.X_OK, effective_ids=True):
                self.log.error(
                    "{path}: enrol is on, but the server's user may not write here, so nobody can join: chown the folder",
                    path=printable(str(part)),
                )
                return
        # What a kill has left of a join is cleared away before its name can be free again.
        swept: Deferred[Any] = self._turn.run(self._in_thread, self._invites.sweep)
        swept.addErrback(lambda failure: self.log.error("{why}", why=str(failure.value)))

    def join(self, secret: bytes, arrival: Arrival) -> Deferred[Joined]:
        """Do a join.  Fires when the client is in force; fails with what :meth:`~mtlsd.enrol.invites.Invites.join` raises."""
        if not self._openings.has(secret):
            done: Deferred[Joined] = Deferred()
            done.errback(Failure(NotInvited("there is no such invite")))
            return done
        done = self._turn.run(self._in_thread, lambda: self._invites.join(secret, arrival, self._longest, self._limits))
        done.addCallback(self._joined)
        return done

    def _joined(self, joined: Joined) -> Deferred[Joined]:
        self._sink.write(joined.event)
        for problem in joined.problems:
            self.log.error("{problem}", problem=problem)
        looked: Deferred[Any] = self._look(files_of(joined.invite.name))
        looked.addCallback(lambda _: joined)
        return looked


class JoinProtocol(Protocol):
    """One peer that asks: reads its line, has it decided, answers, and closes."""

    # An IJoiningTransport.
    transport: Any

    def __init__(self, joins: Joins) -> None:
        self._joins = joins
        self._line = b""
        self._done = False

    def connectionMade(self) -> None:
        self._is_late()

    def dataReceived(self, data: bytes) -> None:
        # Whoever opened a thousand connections before the first of them failed has no more tries than anybody.
        if self._done or self._is_late():
            return
        self._line += data
        line, end, more = self._line.partition(b"\n")
        if not end and len(self._line) < LONGEST:
            return
        secret = secret_in(line) if end and not more and len(self._line) <= LONGEST else None
        self._line = b""
        if secret is None:
            self._fail("it said something else than a join does")
            return
        self._done = True
        self.transport.deciding()
        transport = self.transport
        arrival = Arrival(
            transport.certificate(), transport.connection_id, transport.listener, transport.peer, transport.negotiated()
        )
        self._joins.join(secret, arrival).addCallbacks(self._welcome, self._turn_away)

    def _welcome(self, joined: Joined) -> None:
        self.transport.joined(joined.invite.name)
        self._answer(welcome_line(joined.invite.name, joined.groups, joined.event.fingerprint))

    def _turn_away(self, failure: Failure) -> None:
        if failure.check(NotInvited):
            self._fail(str(failure.value))
            return
        # The secret is nowhere in it: what was raised is about the folder.
        if failure.check(MtlsdError):
            self._joins.log.error("a join failed: {why}", why=str(failure.value))
        else:
            self._joins.log.failure("a join failed", failure)
        self._refuse(Reason.INTERNAL_ERROR, "the join could not be written", FAILED)

    def _is_late(self) -> bool:
        """Tell, and say, whether the peer's address has failed too often to be heard now."""
        late = self._joins.attempts.exhausted(self.transport.peer[0])
        if late:
            self._refuse(Reason.OVER_LIMIT, "too many failed joins from this address", LATER)
        return late

    def _fail(self, detail: str) -> None:
        self._joins.attempts.failed(self.transport.peer[0])
        self._refuse(Reason.NOT_ALLOWED, f"join: {detail}", REFUSED)

    def _refuse(self, reason: Reason, detail: str, answer: str) -> None:
        self._done = True
        self.transport.refused(reason, detail)
        self._answer(error_line(answer))

    def _answer(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.loseConnection()
