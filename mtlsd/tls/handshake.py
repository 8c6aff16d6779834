"""One connection's way to its one verdict: works on an OpenSSL ``Connection`` that is handed to it.

It knows no transport, so tests drive it in memory.  It is the ``app_data`` of its Connection: that is how the verify
callback, which belongs to the whole context, finds it.

A connection whose ALPN name is that of a join has another purpose, from its first byte to its last: its certificate is let
through where it is fit to be authorized, so that its key is proven, and it is never allowed anything.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import datetime
from functools import lru_cache

from OpenSSL import SSL, crypto

from mtlsd.errors import CertificateError
from mtlsd.identity import Certificate, Tls, fingerprint_of, key_of, public_key_sha256
from mtlsd.policy import LIMITS, Allowed, Decision, Denied, Limits, Newcomer, Reason, decide, welcome
from mtlsd.protocols import JOIN
from mtlsd.registry.interfaces import IRegistry
from mtlsd.registry.records import Authorization
from mtlsd.tls.connection import same
from mtlsd.tls.reasons import reason_of

#: Bytes of a stranger's subject, past which only the fingerprint is logged: taking apart 16 KiB of names takes 20 ms.
_SUBJECT_BYTES = 1024


class Handshake:
    """What is learned of the peer until the handshake is over, and what follows from it.

    :meth:`verify` decides in the callback, :meth:`complete` decides again when the handshake has completed (a resumed
    session has had no callback: CVE-2025-23419), :meth:`decide` decides once more, at any time after.  All three ask
    the same predicate of the live registry.
    """

    __slots__ = (
        *("_allowed", "_completed", "_connection", "_judged", "_limits", "_now", "_registry", "_shown"),
        *("callback_failed", "fingerprint", "joining", "leaf", "tls", "unknown"),
    )

    def __init__(
        self, connection: SSL.Connection, registry: IRegistry, now: Callable[[], datetime], limits: Limits = LIMITS
    ) -> None:
        """*connection* is in accept state; *now* returns the wall-clock time, aware, in UTC."""
        self._connection = connection
        self._registry = registry
        self._now = now
        self._limits = limits
        self._judged: Decision | Newcomer | None = None
        self._shown: crypto.X509 | None = None
        self._completed = False
        # What the predicate said last, where it was yes.
        self._allowed: Allowed | None = None
        #: SHA-256 of the leaf that was shown, or None.
        self.fingerprint: str | None = None
        #: The leaf that was shown, where it could be read.
        self.leaf: Certificate | None = None
        #: The leaf, DER, where it was refused because nobody has authorized it; one that is not worth parsing is not kept.
        self.unknown: bytes | None = None
        #: What was negotiated, as far as the handshake got; never None once it has completed.
        self.tls: Tls | None = None
        #: Whether this connection is there to join, and for nothing else.
        self.joining = False
        #: Set by the seam when a callback of ours failed.
        self.callback_failed = False
        connection.set_app_data(self)

    def verify(self, certificate: crypto.X509, error: int, depth: int) -> bool:
        """Answer the verify callback: go on?

        The leaf alone decides, by its fingerprint: OpenSSL's opinion (*error*) and the certificates above it never
        make it better or worse.  OpenSSL checks the signatures from the top down before it comes to the leaf, and tells
        of each certificate before it uses its key: a chain that is longer than anybody needs, or a key that costs
        more than anybody should have to pay, is refused there.  The leaf is judged once, however often it is shown.
        """
        if self._completed:
            return False
        if error == SSL.X509VerificationCodes.ERR_CERT_CHAIN_TOO_LONG:
            self._judged = Denied(Reason.TOO_LARGE)
            return False
        if depth > 0 and not self._affordable(certificate):
            self._judged = Denied(Reason.TOO_LARGE)
        if depth == 0 and self._judged is None:
            self.joining = self._connection.get_alpn_proto_negotiated() == JOIN
            if self.joining:
                # Its tickets are then only numbers, of sessions that nobody keeps: none of them resumes.
                self._connection.set_options(SSL.OP_NO_TICKET)
            self._judged = self._judge(certificate)
            self._shown = certificate
        return not isinstance(self._judged, Denied)

    def complete(self) -> Decision | Newcomer:
        """Decide when the handshake has completed: the peer has proven its key.  Nobody is let in before this."""
        certificate = self._connection.get_peer_certificate()
        shown, self._shown = self._shown, None
        self._completed = True
        resumed = self._judged is None
        self.tls = self.negotiated(resumed)
        self._judged = None
        if resumed and self._connection.get_alpn_proto_negotiated() == JOIN:
            # Its key was proven on another connection, perhaps for another purpose.
            self.joining = True
            if certificate is not None:
                self._judge(certificate)
            return Denied(Reason.NOT_ALLOWED)
        if certificate is None:
            return Denied(Reason.NO_CERTIFICATE)
        if shown is not None and not self.joining and same(shown, certificate):
            # What the callback has read is not read again: it is what has just been proven.
            return self.decide()
        return self._judge(certificate)

    def decide(self) -> Decision:
        """Decide again, from the live registry, on the leaf of a handshake that has completed.

        The predicate is pure: what it said of the very same record it says again, as long as the time is within the
        bounds of that record.  So a request costs a look into the registry and at the clock.
        """
        if self.joining:
            return Denied(Reason.NOT_ALLOWED)
        if not self._completed or self.fingerprint is None or self.leaf is None:
            return Denied(Reason.INTERNAL_ERROR)
        standing = self._registry.standing(self.fingerprint)
        now = self._now()
        allowed = self._allowed
        if allowed is not None and allowed.authorization is standing and self.leaf.not_before <= now <= standing.ends:
            return allowed
        decision = decide(self.leaf, standing, now, self._limits)
        self._allowed = decision if isinstance(decision, Allowed) else None
        return decision

    def failed(self, error: BaseException | None) -> tuple[Reason, str | None]:
        """Return (reason, detail) of a handshake that did not complete; *error* is how it ended, if anything said so."""
        if self.tls is None and self.fingerprint is not None:
            self.tls = self.negotiated()
        if self.callback_failed:
            return Reason.INTERNAL_ERROR, None
        if isinstance(self._judged, Denied):
            return self._judged.reason, None
        if isinstance(error, SSL.Error):
            return reason_of(error)
        return Reason.CLOSED, None

    def _affordable(self, certificate: crypto.X509) -> bool:
        try:
            return self._limits.affordable(key_of(certificate.to_cryptography()))
        except ValueError:
            return False

    def _judge(self, certificate: crypto.X509) -> Decision | Newcomer:
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        self.fingerprint = fingerprint_of(der)
        standing = self._registry.standing(self.fingerprint)
        if isinstance(standing, Authorization) and standing.certificate.fingerprint == self.fingerprint:
            self.leaf = standing.certificate
            # One text for all connections of a client.
            self.fingerprint = self.leaf.fingerprint
        elif len(der) > self._limits.certificate or len(certificate.get_subject().der()) > _SUBJECT_BYTES:
            # A stranger's: not worth parsing.
            return Denied(Reason.TOO_LARGE if standing is None else Reason.REVOKED)
        else:
            try:
                self.leaf = Certificate.from_der(der)
            except CertificateError:
                return Denied(Reason.UNKNOWN_CERTIFICATE if standing is None else Reason.REVOKED)
        if self.joining:
            revoked = self._registry.snapshot().buried_keys
            return welcome(self.leaf, standing, bool(revoked) and _key_in(der, revoked), self._now(), self._limits)
        decision = decide(self.leaf, standing, self._now(), self._limits)
        if isinstance(decision, Denied) and decision.reason is Reason.UNKNOWN_CERTIFICATE:
            self.unknown = der
        return decision

    def negotiated(self, resumed: bool = False) -> Tls:
        """Return what the connection has negotiated by now."""
        connection = self._connection
        return _tls(connection.get_protocol_version_name(), connection.get_cipher_name(), connection.get_group_name(), resumed)


def _key_in(der: bytes, keys: Container[str]) -> bool:
    """Tell whether a certificate's key is one of *keys*; one that cannot be read is taken for one."""
    try:
        return public_key_sha256(der) in keys
    except CertificateError:
        return True


@lru_cache(maxsize=256)
def _tls(version: str, cipher: str | None, group: str | None, resumed: bool) -> Tls:
    """Return one value for all connections that have negotiated the same: OpenSSL's names, of which there are few."""
    return Tls(version, cipher, group, resumed)
