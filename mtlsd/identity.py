"""Who is at the other end: frozen values made from a certificate.

The identity of a client is the SHA-256 of its whole leaf certificate.  Names are for people to read, never for
a decision.  Nothing here knows of Twisted or OpenSSL connections.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtlsd.errors import CertificateError
from mtlsd.text import shortened

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
FINGERPRINT_DIGITS = 64
#: An unambiguous prefix of this many digits serves for looking up and for revoking.
LOOKUP_DIGITS = 8
#: A verb that grants something wants this many.
GRANT_DIGITS = 16

#: Characters of a subject that are kept: it is for people to read, and a stranger chooses its length.
SUBJECT_LENGTH = 512

_HEX = re.compile(r"[0-9a-f]+\Z")

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

_NAMED_KEYS: tuple[tuple[type, str, int], ...] = (
    (ed25519.Ed25519PublicKey, "Ed25519", 256),
    (ed448.Ed448PublicKey, "Ed448", 448),
    (mldsa.MLDSA44PublicKey, "ML-DSA-44", 44),
    (mldsa.MLDSA65PublicKey, "ML-DSA-65", 65),
    (mldsa.MLDSA87PublicKey, "ML-DSA-87", 87),
)


def fingerprint_of(der: bytes) -> str:
    """Return the identity of a certificate: the lower-case hex SHA-256 (64 digits) of its DER."""
    return hashlib.sha256(der).hexdigest()


def parse_fingerprint(text: str, minimum: int = FINGERPRINT_DIGITS) -> str:
    """Read a fingerprint, or a prefix of one, as a person types or pastes it.

    Any case and colons are fine.  Raises :exc:`ValueError` for anything that is not *minimum* to 64 hex digits.
    """
    digits = text.strip().replace(":", "").lower()
    if not _HEX.match(digits) or not minimum <= len(digits) <= FINGERPRINT_DIGITS:
        wanted = "64" if minimum == FINGERPRINT_DIGITS else f"{minimum} to 64"
        raise ValueError(f"a fingerprint is {wanted} hex digits")
    return digits


def is_client_name(name: str) -> bool:
    """Tell whether *name* can be the name of a client, and so of a file: nothing that leaves a folder can."""
    return CLIENT_NAME.match(name) is not None


@dataclass(frozen=True, slots=True)
class Key:
    """The kind of a public key: what a policy can judge without the key itself.

    ``algorithm`` is ``RSA``, ``EC P-256``, ``Ed25519``, ``ML-DSA-65``…; ``bits`` is the modulus or field size.
    """

    algorithm: str
    bits: int

    @property
    def label(self) -> str:
        return f"RSA-{self.bits}" if self.algorithm == "RSA" else self.algorithm


@dataclass(frozen=True, slots=True)
class Certificate:
    """What mtlsd keeps of a leaf certificate.

    ``subject`` is RFC 4514 text in which whatever is not printable is escaped as ``\\XX`` (its section 2.4), so it
    can stand in a log line; the dates are aware, UTC; ``size`` is the length of the DER in bytes.
    """

    fingerprint: str
    subject: str
    not_before: datetime
    not_after: datetime
    key: Key
    size: int

    @classmethod
    def from_der(cls, der: bytes) -> Certificate:
        """Read a certificate.  Raises :exc:`~mtlsd.errors.CertificateError` where it cannot be understood."""
        try:
            parsed = x509.load_der_x509_certificate(der)
            return cls(
                fingerprint=fingerprint_of(der),
                subject=shortened(_escaped(parsed.subject.rfc4514_string()[:SUBJECT_LENGTH]), SUBJECT_LENGTH),
                not_before=parsed.not_valid_before_utc,
                not_after=parsed.not_valid_after_utc,
                key=key_of(parsed),
                size=len(der),
            )
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise CertificateError(f"not a certificate that can be read: {_first_line(error)}") from error


def public_key_sha256(der: bytes) -> str:
    """Return the hex SHA-256 of a certificate's SubjectPublicKeyInfo: what a tombstone keeps of a key."""
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"not a public key that can be read: {_first_line(error)}") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@dataclass(frozen=True, slots=True)
class Tls:
    """What the handshake negotiated: protocol version, cipher, key-exchange group, and whether it was resumed."""

    version: str
    cipher: str | None
    group: str | None
    resumed: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """An authorized client, as a resource sees it: its name and groups, its leaf certificate, and the TLS below."""

    client: str
    groups: tuple[str, ...]
    certificate: Certificate
    tls: Tls


def hush_the_parser() -> None:
    """Have nothing said of oddities in certificates: a stranger would write lines of our log with them.

    For a process as a whole, where it starts: filters of warnings know no threads.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mtlsd\.|cryptography\.")


def key_of(certificate: x509.Certificate) -> Key:
    """Return the kind of the certificate's key; one that nobody should use gets a name that no policy allows."""
    try:
        key = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Key("unknown", 0)
    if isinstance(key, rsa.RSAPublicKey):
        # A huge public exponent makes each verification as dear as a signature; 1 is no signature at all.
        exponent = key.public_numbers().e
        sound = 3 <= exponent < 2**33 and exponent % 2 == 1
        return Key("RSA" if sound else "RSA with an unusual exponent", key.key_size)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return Key(f"EC {_CURVES.get(key.curve.name, key.curve.name)}", key.curve.key_size)
    if isinstance(key, dsa.DSAPublicKey):
        return Key("DSA", key.key_size)
    for kind, name, bits in _NAMED_KEYS:
        if isinstance(key, kind):
            return Key(name, bits)
    return Key("unknown", 0)


def _escaped(name: str) -> str:
    if name.isprintable():
        return name
    return "".join(
        character if character.isprintable() else "".join(f"\\{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
        for character in name
    )


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200] or type(error).__name__
