"""The gate between TLS and whatever is served: nothing behind it exists before the peer is accepted."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from OpenSSL import crypto
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from mtlsd.audit.events import Event, Kind, certificate_fields, endpoint
from mtlsd.deadlines import Deadline
from mtlsd.identity import Identity, Tls
from mtlsd.policy import Allowed, Denied, Newcomer, Reason, remedy
from mtlsd.registry.records import Authorization
from mtlsd.tls.handshake import Handshake
from mtlsd.tls.interfaces import IJoiningTransport
from mtlsd.web.interfaces import IAuthenticatedTransport

if TYPE_CHECKING:
    from mtlsd.tls.door import Door

Address: TypeAlias = IPv4Address | IPv6Address


#: Seconds from the end of the handshake to the last byte of what a peer says who wants to join.
JOIN_TIMEOUT = 10.0


@implementer(IHandshakeListener, IAuthenticatedTransport, IJoiningTransport, ISSLTransport, IPushProducer)
class Gate(Protocol):
    """One connection: below it TLS, above it (once accepted) the protocol that serves.

    Sends exactly one ``accepted`` or ``rejected`` event, and at most one of ``revoked`` and ``expired`` after an
    ``accepted``.  It is the transport of the protocol above, which gets an identity from it, not a connection.
    """

    transport: Any
    handshake: Handshake

    def __init__(self, door: Door, address: Address) -> None:
        self._door = door
        self._address = address
        self._verdict: Kind | None = None
        self._cut = False
        self._deciding = False
        self._arrived = False
        self._deadline: Deadline | None = None
        # Who it is, and the registry's record that says so.
        self._identity: Identity | None = None
        self._authorization: Authorization | None = None
        self._client: str | None = None
        self._above: IProtocol | None = None
        self._der: bytes | None = None
        self.connection_id = door.next_connection_id()
        self.peer = plain_address(address)
        self.listener: str | None = None
        # All attributes of all gates are set here, in one order: one that gets another later, when there are some already,
        # pays most of a kilobyte for a dictionary of its own.
        self.transport = self.handshake = self.factory = None  # type: ignore[assignment]
        # Nothing is heard or said before there is somebody to hear or say it.
        self.dataReceived = self.write = _nothing  # type: ignore[method-assign]

    # From TLS below.

    def connectionMade(self) -> None:
        """Begin: the handshake's first byte is still to come."""
        # Handing the Connection over: the handshake becomes its app_data, where the verify callback finds it.
        self.handshake = Handshake(self.transport.getHandle(), self._door.registry, self._door.now)
        self.listener = _listener(self.transport.getHost())
        self._arrived = True
        if not self._door.arrived(self):
            self.drop(Reason.OVER_LIMIT)
            return
        self._deadline = self._door.deadlines.set(self._door.settings.handshake_timeout, self._handshake_is_late)

    def handshakeCompleted(self) -> None:
        """Decide, now that the peer has proven its key; let the protocol above begin only where it is accepted."""
        decision = self.handshake.complete() if self._verdict is None else None
        if isinstance(decision, Newcomer):
            self._let_ask()
            return
        self._end_of_handshake()
        if decision is None:
            return
        if isinstance(decision, Denied):
            self.drop(decision.reason)
        elif not self._door.has_room():
            self.drop(Reason.OVER_LIMIT)
        else:
            self._accept(decision.authorization)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: give the verdict if none was given yet, and let go of everything."""
        self._end_of_handshake()
        if self._verdict is None and not self._deciding:
            error = None if reason.check(ConnectionDone) else reason.value
            self._reject(*self.handshake.failed(error))
        above, self._above = self._above, None
        # What stands above holds this gate, and would live on with it until the collector comes.
        self.dataReceived = _nothing  # type: ignore[method-assign]
        try:
            if above is not None:
                above.connectionLost(reason)
        finally:
            # Last: with its last connection the service ends, and closes the log that the above still writes to.
            if self._arrived:
                self._arrived = False
                self._door.gone(self)

    # From TLS below, where the protocol above wants to hear of it: see hand_over.

    def readConnectionLost(self) -> None:
        """The client sends nothing more."""
        if self._above is not None:
            IHalfCloseableProtocol(self._above).readConnectionLost()

    def writeConnectionLost(self) -> None:
        """The client has been told that nothing more comes."""
        if self._above is not None:
            IHalfCloseableProtocol(self._above).writeConnectionLost()

    # From the door.

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of an accepted client, or ``None``."""
        return None if self._client is None else self.handshake.fingerprint

    @property
    def above(self) -> IProtocol | None:
        """The protocol that serves this client; ``None`` before it is accepted and after it is gone."""
        return self._above

    def drop(self, reason: Reason, detail: str | None = None) -> None:
        """Reject (if no verdict was given yet) and cut the connection at once."""
        if self._verdict is None:
            self._reject(reason, detail)
        self.cut()

    @property
    def is_cut(self) -> bool:
        """Whether the client was found to be no longer authorized."""
        return self._cut

    def reconsider(self) -> None:
        """Ask the live registry again, and cut the connection where the answer is no; once more where it still lives."""
        if self._cut:
            self.cut()
        else:
            self.authorize()

    def cut(self) -> None:
        """Close at once: not a byte goes out after this, and none comes in."""
        self.dataReceived = _nothing  # type: ignore[method-assign]
        self.transport.abortConnection()

    # IAuthenticatedTransport: what the protocol above has instead of a connection.

    def authorize(self) -> Identity | None:
        """Return who the peer is if it is still authorized, now; otherwise cut the connection and return ``None``."""
        if self._cut or self._client is None:
            return None
        decision = self.handshake.decide()
        if isinstance(decision, Allowed):
            return self._identity_from(decision.authorization)
        self._cut = True
        kind = Kind.EXPIRED if decision.reason is Reason.EXPIRED else Kind.REVOKED
        self._send(kind, decision.reason, client=self._client)
        self.cut()
        return None

    def certificate(self) -> bytes:
        """Return the client's certificate, DER."""
        if self._der is None:
            shown = self.transport.getPeerCertificate()
            self._der = crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)
        return self._der

    def exporter(self, label: str, length: int) -> bytes:
        """Return so many bytes that only the two ends of this connection know, for *label*."""
        found: bytes = self.transport.getHandle().export_keying_material(label.encode("ascii"), length)
        return found

    def hand_over(self, above: IProtocol) -> None:
        """Let *above* serve the client from here on, instead of whoever has until now."""
        if IHalfCloseableProtocol.providedBy(above):
            alsoProvides(self, IHalfCloseableProtocol)
        self._serve(above)

    # IJoiningTransport: what the protocol of a join has instead.

    def negotiated(self) -> Tls:
        """Return what TLS has negotiated."""
        return self.handshake.tls or self.handshake.negotiated()

    def deciding(self) -> None:
        """Wait for the verdict of :meth:`joined` or :meth:`refused`, as long as it takes, and even if the peer goes away."""
        self._deciding = True
        self._forget_the_deadline()

    def joined(self, client: str) -> None:
        """Give the verdict on somebody who has joined as *client*.  This connection is none of an authorized client's."""
        if self._verdict is None:
            self._verdict = Kind.ACCEPTED
            self._send(Kind.ACCEPTED, Reason.AUTHORIZED, client=client)
        self._end_of_handshake()

    def refused(self, reason: Reason, detail: str) -> None:
        """Give the verdict on somebody who may not join."""
        if self._verdict is None:
            self._reject(reason, detail)
        self._end_of_handshake()

    # ISSLTransport, by way of the TLS below.

    @property
    def disconnecting(self) -> bool:
        """Whether the connection is being closed."""
        return bool(self.transport.disconnecting)

    def writeSequence(self, data: Any) -> None:
        self.transport.writeSequence(data)

    def loseConnection(self) -> None:
        self.transport.loseConnection()

    def hang_up(self) -> None:
        """Close, to a client that has said that it sends nothing more."""
        self.transport.hang_up()

    def abortConnection(self) -> None:
        """Close at once, dropping what waits to be sent."""
        self.transport.abortConnection()

    def getPeer(self) -> Address:
        return self._address

    def getHost(self) -> Address:
        host: Address = self.transport.getHost()
        return host

    def getPeerCertificate(self) -> crypto.X509 | None:
        certificate: crypto.X509 | None = self.transport.getPeerCertificate()
        return certificate

    def loseWriteConnection(self) -> None:
        """Send close_notify when all is sent, and go on reading."""
        self.transport.loseWriteConnection()

    def getTcpNoDelay(self) -> bool:
        return bool(self.transport.getTcpNoDelay())

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.transport.setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(self.transport.getTcpKeepAlive())

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.transport.setTcpKeepAlive(enabled)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.transport.stopProducing()

    # Its own.

    def _let_ask(self) -> None:
        """Let the peer ask to join.  It goes on counting as an unfinished handshake, with a time of its own."""
        asking = self._door.join.buildProtocol(self._address) if self._door.join is not None else None
        if asking is None:
            self._end_of_handshake()
            self.drop(Reason.NOT_ALLOWED)
            return
        self._forget_the_deadline()
        self._deadline = self._door.deadlines.set(JOIN_TIMEOUT, self._handshake_is_late)
        self.write = self.transport.write
        self._serve(asking)

    def _accept(self, authorization: Authorization) -> None:
        self._verdict = Kind.ACCEPTED
        self._client = authorization.client
        self._send(Kind.ACCEPTED, Reason.AUTHORIZED, client=authorization.client)
        self._door.accepted(self, authorization.certificate.fingerprint)
        above = self._door.site.buildProtocol(self._address)
        if above is None:
            self.cut()
            return
        self.write = self.transport.write
        self._serve(above)
        if authorization.retires is not None and self._door.used is not None:
            self._door.used(authorization)

    def _serve(self, above: IProtocol) -> None:
        self._above = above
        # From here on nothing is decided by a byte that comes or goes: it is handed on without a stop at the gate.
        self.dataReceived = above.dataReceived  # type: ignore[method-assign]
        above.makeConnection(self)

    def _reject(self, reason: Reason, detail: str | None = None) -> None:
        self._verdict = Kind.REJECTED
        client = None
        if reason in (Reason.EXPIRED, Reason.NOT_YET_VALID) and self.handshake.fingerprint is not None:
            # The certificate is authorized, under a name that helps whoever has to renew it.
            standing = self._door.registry.standing(self.handshake.fingerprint)
            client = standing.client if isinstance(standing, Authorization) else None
        verdict = self._event(Kind.REJECTED, reason, client, detail)
        unknown = self.handshake.unknown if reason is Reason.UNKNOWN_CERTIFICATE else None
        kept = unknown is not None and self._door.knocked(verdict, unknown)
        put_right = remedy(reason, self.handshake.leaf, verdict.time, kept=kept)
        self._door.sink.write(verdict if put_right is None else verdict._replace(remedy=put_right))

    def _send(self, kind: Kind, reason: Reason, *, client: str | None) -> None:
        self._door.sink.write(self._event(kind, reason, client))

    def _event(self, kind: Kind, reason: Reason, client: str | None, detail: str | None = None) -> Event:
        fingerprint, subject, not_after = certificate_fields(self.handshake.leaf)
        return Event(
            time=self._door.now(),
            event=kind,
            reason=reason,
            connection=self.connection_id,
            listener=self.listener,
            client=client,
            fingerprint=fingerprint or self.handshake.fingerprint,
            subject=subject,
            not_after=not_after,
            peer=self.peer,
            tls=self.handshake.tls,
            detail=detail,
        )

    def _identity_from(self, authorization: Authorization) -> Identity:
        # Made anew only when the registry's record is another one.
        if self._identity is None or self._authorization is not authorization:
            tls = self.handshake.tls or self.handshake.negotiated()
            self._client = authorization.client
            self._authorization = authorization
            self._identity = Identity(authorization.client, authorization.groups, authorization.certificate, tls)
        return self._identity

    def _handshake_is_late(self) -> None:
        self.drop(Reason.TIMEOUT)

    def _forget_the_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_of_handshake(self) -> None:
        self._forget_the_deadline()
        if self._arrived:
            self._door.handshake_is_over(self)


def _nothing(data: bytes) -> None:
    """Stand in for ``dataReceived`` and ``write`` where there is nobody."""


@lru_cache(maxsize=256)
def _listener(address: Address) -> str:
    """Return the address that was connected to, as text: the same one for all of its connections."""
    return endpoint(*plain_address(address))


def plain_address(address: object) -> tuple[str, int]:
    """Return (address, port) of a peer; an IPv4 one that came in over an IPv6 socket is written as IPv4."""
    host = str(getattr(address, "host", "unknown"))
    return host.removeprefix("::ffff:") if "." in host else host, int(getattr(address, "port", 0))
