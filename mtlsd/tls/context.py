"""The TLS context: CertificateOptions with the authorized clients as its trust root, and our callbacks on it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet._sslverify import IOpenSSLTrustRoot
from zope.interface import implementer

from mtlsd.policy import LIMITS
from mtlsd.protocols import HTTP, JOIN
from mtlsd.registry.interfaces import IRegistry
from mtlsd.tls import seam
from mtlsd.tls.connection import Connection, make_room
from mtlsd.tls.handshake import Handshake
from mtlsd.tls.pair import ServerPair

#: TLS 1.2: forward-secret and AEAD only.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: TLS 1.3 has nothing else.  The one that RFC 8446 9.1 demands of everybody comes first: no attack makes a difference between 128
#: and 256 bits here, and its hash and its rounds are cheaper.
CIPHERSUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#: The application protocols of whoever is authorized.  A client that offers no ALPN at all is fine; ``curl --http1.0`` offers the
#: second.
PROTOCOLS = (HTTP, b"http/1.0")
#: SSL_MODE_ENABLE_PARTIAL_WRITE (ssl.h), which pyOpenSSL sets and does not name.
_PARTIAL_WRITE = 1


@implementer(IOpenSSLTrustRoot)
class AuthorizedClients:
    """The trust root: the authorized client certificates, as pins.

    None of them goes into OpenSSL's X509 store.  There, each would be a certificate authority (``openssl req
    -x509`` makes CA:TRUE), and any client could mint further ones; besides, a store cannot tell twins with one subject
    apart, and would send a list of CA names that outgrows its 64 KiB at some 1,680 clients.  The verify callback looks
    the leaf's SHA-256 up in the registry instead.
    """

    def __init__(self, registry: IRegistry) -> None:
        self.registry = registry

    def _addCACertsToContext(self, context: SSL.Context) -> None:
        """Add nothing to the X509 store (called by CertificateOptions; see the class)."""

    def verify(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        """Answer OpenSSL's verify callback from the registry, by way of the connection's own handshake."""
        handshake: Handshake = connection.get_app_data()
        return handshake.verify(certificate, error, depth)


def select_protocol(connection: SSL.Connection, offered: Sequence[bytes]) -> bytes | None:
    """Choose the ALPN name; ``None`` where the client knows none of ours (RFC 7301 3.2: a fatal alert)."""
    return next((name for name in PROTOCOLS if name in offered), None)


def select_with_join(is_open: Callable[[], bool]) -> seam.SelectProtocol:
    """Return a :func:`select_protocol` that also knows the name of a join, while *is_open* says so.

    Only for a client that means nothing else, and in TLS 1.3: there, the name is known when the certificate is judged.  While
    nobody is invited, the name fails as any that is unknown.
    """

    def select(connection: SSL.Connection, offered: Sequence[bytes]) -> bytes | None:
        if list(offered) != [JOIN]:
            return select_protocol(connection, offered)
        return JOIN if connection.get_protocol_version() == SSL.TLS1_3_VERSION and is_open() else None

    return select


def make_options(pair: ServerPair, clients: AuthorizedClients, *, tickets: bool, tls_min: str) -> ssl.CertificateOptions:
    """Return the CertificateOptions of the front door for a server *pair*; *tls_min* is ``"1.2"`` or ``"1.3"``.

    What a session needs to be resumed is in its ticket, under a key of the context.  Kept here instead, a handshake would cost a
    seventh less: but a session holds the whole chain that its client has sent, OpenSSL keeps 20,480 of them, forgets those
    that have ended all at once, and those of clients that go without a goodbye at once.
    """
    return ssl.CertificateOptions(
        privateKey=pair.key,
        certificate=pair.certificate,
        extraCertChain=list(pair.chain),
        trustRoot=clients,
        # A chain of n certificates has a leaf at depth 0 and its top at n - 1.
        verifyDepth=LIMITS.chain - 1,
        enableSessions=False,
        enableSessionTickets=tickets,
        acceptableCiphers=ssl.AcceptableCiphers.fromOpenSSLCipherString(CIPHERS),
        raiseMinimumTo=ssl.TLSVersion.TLSv1_3 if tls_min == "1.3" else ssl.TLSVersion.TLSv1_2,
    )


def make_context(
    options: ssl.CertificateOptions, clients: AuthorizedClients, select: seam.SelectProtocol | None = None
) -> SSL.Context:
    """Return the context of *options* with the callbacks on it; *select* chooses the ALPN name (:func:`select_protocol`).

    CertificateOptions sets its verify mode without a callback after it has asked the trust root, so the callback is
    set here, before the first connection: a context that has one cannot be changed any more.
    """
    context = options.getContext()
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    context.set_tls13_ciphersuites(CIPHERSUITES)
    # One call sends all records of a piece, not one of them: the transport gives OpenSSL the same bytes again.
    context.clear_mode(_PARTIAL_WRITE)
    mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT | SSL.VERIFY_CLIENT_ONCE
    seam.install(context, mode, clients.verify, select or select_protocol)
    return context


class ConnectionCreator:
    """Makes the Connection of each new peer from the context in force.

    A reload builds another context and puts it here in one assignment: connections that exist keep theirs, and a
    ticket of the old one falls back to a full handshake.
    """

    def __init__(self, context: SSL.Context) -> None:
        self.context = context
        self._room = make_room()

    def connection(self, sock: socket.socket | None = None) -> Connection:
        """Return a Connection on a socket; on two memory BIOs where there is none."""
        return Connection(self.context, sock, self._room)
