"""Who is let in: one predicate, asked by the verify callback, after the handshake, and at every request.

Pure: values in, a decision out.  Fails closed: whatever is not known to be right is :class:`Denied`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from mtlsd.identity import Certificate, Key
from mtlsd.registry.records import Authorization, Standing, Tombstone


class Reason(StrEnum):
    """Why a connection was accepted or rejected.  The values are a contract: scripts read them in the audit log."""

    AUTHORIZED = "authorized"
    UNKNOWN_CERTIFICATE = "unknown-certificate"
    REVOKED = "revoked"
    NO_CERTIFICATE = "no-certificate"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WEAK_KEY = "weak-key"
    TOO_LARGE = "too-large"
    BAD_HANDSHAKE = "bad-handshake"
    PLAIN_HTTP = "plain-http"
    OLD_PROTOCOL = "old-protocol"
    NO_COMMON_PROTOCOL = "no-common-protocol"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    OVER_LIMIT = "over-limit"
    NOT_ALLOWED = "not-allowed"
    INTERNAL_ERROR = "internal-error"


@dataclass(frozen=True, slots=True)
class Allowed:
    """The certificate is authorized, now, under ``authorization.client``."""

    authorization: Authorization


@dataclass(frozen=True, slots=True)
class Denied:
    """The certificate is refused."""

    reason: Reason


Decision: TypeAlias = Allowed | Denied


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Nobody has authorized the certificate, and it is fit to be: its connection may ask for that, and for nothing else."""

    leaf: Certificate


@dataclass(frozen=True, slots=True)
class Limits:
    """What a certificate may be.  RSA sizes in bits, ``certificate`` in bytes of DER, ``chain`` in certificates.

    The upper bounds are there because a stranger's certificate is work for us before it is refused.
    """

    rsa: bool = True
    rsa_least: int = 2048
    rsa_most: int = 8192
    algorithms: frozenset[str] = frozenset(
        {"EC P-256", "EC P-384", "EC P-521", "Ed25519", "Ed448", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"}
    )
    certificate: int = 16_384
    chain: int = 4

    def sound(self, key: Key) -> bool:
        """Tell whether *key* is of a kind and size to rely on."""
        if key.algorithm == "RSA":
            return self.rsa and self.rsa_least <= key.bits <= self.rsa_most
        return key.algorithm in self.algorithms

    def only(self, kinds: tuple[str, ...]) -> Limits:
        """Return these limits for keys of *kinds* alone, names of :data:`KINDS`."""
        allowed = {KINDS[kind] for kind in kinds}
        return replace(self, rsa=self.rsa and "RSA" in allowed, algorithms=self.algorithms & allowed)

    def affordable(self, key: Key) -> bool:
        """Tell whether a signature by *key* costs little to check, be it strong or not: for what stands above a leaf.

        OpenSSL checks those before the leaf is judged: three of DSA-10000 would be sixty handshakes' worth of work.
        """
        return key.bits <= self.rsa_most if key.algorithm == "RSA" else key.algorithm in self.algorithms


LIMITS = Limits()

#: The kinds of key that a setting can name.
KINDS = {
    "p256": "EC P-256",
    "p384": "EC P-384",
    "p521": "EC P-521",
    "ed25519": "Ed25519",
    "ed448": "Ed448",
    "mldsa44": "ML-DSA-44",
    "mldsa65": "ML-DSA-65",
    "mldsa87": "ML-DSA-87",
    "rsa": "RSA",
}


def decide(leaf: Certificate | None, standing: Standing, now: datetime, limits: Limits = LIMITS) -> Decision:
    """Decide on a leaf certificate (``None``: none was shown) with what the live registry knows of it.

    *now* is aware, UTC.  The order is that of usefulness to the operator: the first thing that has to be put right
    is the one that is named.  Dates are judged from the certificate itself, as RFC 5280 4.1.2.5 has them: both ends
    belong to the validity.
    """
    if leaf is None:
        return Denied(Reason.NO_CERTIFICATE)
    if isinstance(standing, Tombstone):
        return Denied(Reason.REVOKED)
    if leaf.size > limits.certificate:
        return Denied(Reason.TOO_LARGE)
    if not limits.sound(leaf.key):
        return Denied(Reason.WEAK_KEY)
    # A standing that is some other certificate's cannot stand in for this one.
    if standing is None or standing.certificate.fingerprint != leaf.fingerprint:
        return Denied(Reason.UNKNOWN_CERTIFICATE)
    if now < leaf.not_before:
        return Denied(Reason.NOT_YET_VALID)
    if now > standing.ends:
        return Denied(Reason.EXPIRED)
    return Allowed(standing)


def welcome(
    leaf: Certificate, standing: Standing, key_is_revoked: bool, now: datetime, limits: Limits = LIMITS
) -> Newcomer | Denied:
    """Decide whether somebody with this certificate may ask to join: on a connection that can do nothing else.

    Who is authorized has no business there; who was shut out, or has only its key, stays out.  *now* is aware, UTC.
    """
    if isinstance(standing, Tombstone) or key_is_revoked:
        return Denied(Reason.REVOKED)
    if leaf.size > limits.certificate:
        return Denied(Reason.TOO_LARGE)
    if not limits.sound(leaf.key):
        return Denied(Reason.WEAK_KEY)
    if standing is not None:
        return Denied(Reason.NOT_ALLOWED)
    if now < leaf.not_before:
        return Denied(Reason.NOT_YET_VALID)
    if now > leaf.not_after:
        return Denied(Reason.EXPIRED)
    return Newcomer(leaf)


def remedy(reason: Reason, leaf: Certificate | None = None, now: datetime | None = None, *, kept: bool = False) -> str | None:
    """Return the command that would put a rejection right, or ``None`` where no single command does.

    Made of fixed text, the literal word ``NAME`` and the full fingerprint, never of certificate text: an operator
    pastes it into a root shell.  *kept*: the unknown *leaf* waits among those that can be approved.
    """
    if reason is Reason.UNKNOWN_CERTIFICATE:
        # Authorizing what has ended would only be refused again.
        if leaf is not None and now is not None and now > leaf.not_after:
            return None
        if leaf is not None and kept:
            return approval(leaf.fingerprint)
        return "mtlsd authorize CERT.pem --name NAME"
    if reason is Reason.REVOKED:
        return "mtlsd authorize CERT.pem --name NAME --again"
    if reason is Reason.EXPIRED:
        return "mtlsd authorize NEW.pem --name NAME --add"
    if reason is Reason.WEAK_KEY or reason is Reason.NO_CERTIFICATE:
        return "mtlsd new NAME --out DIR"
    return None


def approval(fingerprint: str) -> str:
    """Return the command that approves a certificate that has knocked."""
    return f"mtlsd approve {fingerprint} --name NAME"


def remedy_of_end(client: str, *, renews: bool) -> str:
    """Return what keeps the authorized *client* from being shut out by the end of its certificate; *renews*: it may renew by itself."""
    authorize = f"mtlsd authorize NEW.pem --name {client} --add"
    return f"mtlsd renew, at the client; or {authorize}" if renews else authorize
