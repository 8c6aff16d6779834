"""The server's side of renewals: takes the next certificates of clients in, and ends the time of those before.

Both are changes of the folder, which happen off the reactor's thread, one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, DeferredLock, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from mtlsd.audit.sinks import IAuditSink
from mtlsd.enrol.attempts import Attempts
from mtlsd.errors import CertificateError, MtlsdError
from mtlsd.identity import GRANT_DIGITS, Certificate, Identity
from mtlsd.policy import LIMITS, Limits
from mtlsd.proof import proves, statement
from mtlsd.registry.interfaces import IRegistry
from mtlsd.registry.listing import AUTHORIZED, files_of
from mtlsd.registry.records import Authorization
from mtlsd.registry.renewals import NotRenewed, Origin, Renewals, Renewed, Retired, Why
from mtlsd.text import printable

#: Renewals that a client may ask for in so many seconds.
MOST, PERIOD = 10, 3600.0
#: Seconds after which an end that could not be written is tried again, at the next use.
PAUSE = 60.0

#: Runs something that may block off the reactor's thread.
InThread: TypeAlias = Callable[[Callable[[], Any]], Deferred[Any]]
#: Fires when what these files of ``authorized/`` say is in force.
Look: TypeAlias = Callable[[frozenset[str]], Deferred[None]]


class Successions:
    """From a client's certificate to its next."""

    def __init__(
        self,
        folder: Path,
        *,
        renewals: Renewals,
        registry: IRegistry,
        sink: IAuditSink,
        in_thread: InThread,
        look: Look,
        now: Callable[[], datetime],
        seconds: Callable[[], float],
        longest: timedelta,
        grace: timedelta,
        limits: Limits = LIMITS,
    ) -> None:
        """*now* gives the aware wall-clock time, *seconds* are of a monotonic clock.

        A new certificate may end *longest* from now, and its key is within *limits*; an old one ends *grace* after the first use of the new one.
        """
        self._folder = folder
        self._renewals = renewals
        self._registry = registry
        self._sink = sink
        self._in_thread = in_thread
        self._look = look
        self._now = now
        self._seconds = seconds
        self._longest = longest
        self._grace = grace
        self._limits = limits
        # Each waits for the folder's lock, and for the disk.
        self._turn = DeferredLock()
        self._asked = Attempts(seconds, MOST, PERIOD)
        # New certificates whose old one is being retired, or could not be: until when nobody tries again.
        self._retiring: dict[str, float] = {}
        self._log = Logger(namespace="mtlsd")

    def start(self) -> None:
        """Say at once where nobody will be able to renew, for want of a permission.  After root was given up."""
        for part in (self._folder, self._folder / AUTHORIZED):
            if part.exists() and not os.access(part, os.W_OK | os.X_OK, effective_ids=True):
                self._log.error(
                    "{path}: renew is on, but the server's user may not write here, so nobody can renew: chown the folder",
                    path=printable(str(part)),
                )
                return
        # What a kill has kept from the ledger is written there: else it would wait for the next change.
        done: Deferred[Any] = self._turn.run(self._in_thread, self._renewals.catch_up)
        done.addErrback(lambda failure: self._log.error("{why}", why=str(failure.value)))

    def renew(self, client: Identity, der: bytes, signature: bytes, exporter: bytes, origin: Origin) -> Deferred[Renewed]:
        """Let *client* have the certificate *der* too.  Fires when it is in force.

        *exporter* is of the connection on which it has asked.  Fails with
        :exc:`~mtlsd.registry.renewals.NotRenewed` for what may not be, and with what
        :meth:`~mtlsd.registry.renewals.Renewals.renew` raises.
        """
        # By its name, which is counted as it is: no name has a colon in it.
        if self._asked.exhausted(client.client):
            return fail(NotRenewed(Why.TOO_OFTEN, "it has asked too often"))
        self._asked.failed(client.client)
        try:
            leaf = Certificate.from_der(der)
        except CertificateError as error:
            return fail(NotRenewed(Why.UNFIT, str(error)))
        # Before the signature: one by a key of 16,384 bits costs more than anybody should have to pay.
        if leaf.size > LIMITS.certificate or not LIMITS.sound(leaf.key):
            return fail(
                NotRenewed(Why.UNFIT, f"certificate {leaf.fingerprint[:GRANT_DIGITS]} or its key is not of a kind that is used")
            )
        if not self._limits.sound(leaf.key):
            return fail(
                NotRenewed(
                    Why.KIND,
                    f"certificate {leaf.fingerprint[:GRANT_DIGITS]} has a key ({leaf.key.label}) that enrol_keys does not allow",
                )
            )
        if not proves(der, statement(exporter, der), signature):
            return fail(NotRenewed(Why.NOT_PROVEN, f"the key of {leaf.fingerprint[:GRANT_DIGITS]} was not proven"))
        old = client.certificate.fingerprint
        done: Deferred[Renewed] = self._turn.run(
            self._in_thread, lambda: self._renewals.renew(client.client, old, der, self._longest, origin)
        )
        done.addCallback(self._renewed)
        return done

    def used(self, authorization: Authorization) -> None:
        """Hear that a client has come in with a certificate: where it was renewed from another, set that one's end."""
        new, old = authorization.certificate.fingerprint, authorization.retires
        standing = None if old is None else self._registry.standing(old)
        # One that ends by itself by then needs no word.
        if not isinstance(standing, Authorization) or standing.ends <= self._now() + self._grace:
            return
        if self._seconds() < self._retiring.get(new, float("-inf")):
            return
        self._retiring[new] = float("inf")
        done: Deferred[Retired | None] = self._turn.run(
            self._in_thread, lambda: self._renewals.retire(authorization.client, new, self._grace)
        )
        done.addCallback(partial(self._retired, authorization.client))
        done.addCallbacks(lambda _: self._retiring.pop(new, None), partial(self._not_retired, authorization))

    def _renewed(self, renewed: Renewed) -> Deferred[Renewed]:
        if renewed.event is not None:
            self._sink.write(renewed.event)
        self._tell(renewed.problems)
        looked: Deferred[Any] = self._look(files_of(renewed.client))
        looked.addCallback(lambda _: renewed)
        return looked

    def _retired(self, client: str, retired: Retired | None) -> Deferred[None]:
        if retired is not None:
            self._sink.write(retired.event)
            self._tell(retired.problems)
        return self._look(files_of(client))

    def _not_retired(self, authorization: Authorization, failure: Failure) -> None:
        self._retiring[authorization.certificate.fingerprint] = self._seconds() + PAUSE
        if not failure.check(MtlsdError):
            self._log.failure("a certificate could not be retired", failure)
            return
        self._log.error(
            "{client}: the end of certificate {short}, which was renewed, could not be set: {why}",
            client=authorization.client,
            short=(authorization.retires or "")[:GRANT_DIGITS],
            why=str(failure.value),
        )

    def _tell(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            self._log.error("{problem}", problem=problem)
