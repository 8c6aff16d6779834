"""Makes certificates and keys for the tests, at run time.

Keys are made once a process and kind, for RSA takes its time; certificates are new on every call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mtlsd.identity import Certificate

PrivateKey = CertificateIssuerPrivateKeyTypes

_MAKERS: dict[str, Callable[[], PrivateKey]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "mldsa65": mldsa.MLDSA65PrivateKey.generate,
    "dsa": lambda: dsa.generate_private_key(2048),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
}


def new_key(kind: str = "p256") -> PrivateKey:
    """Return a key that no other test has."""
    return _MAKERS[kind]()


@functools.cache
def shared_key(kind: str = "p256", nth: int = 0) -> PrivateKey:
    """Return the *nth* key of a kind: the same one for every test of this process."""
    return new_key(kind)


@dataclass(frozen=True)
class Pair:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def leaf(self) -> Certificate:
        return Certificate.from_der(self.der)

    @property
    def fingerprint(self) -> str:
        return self.leaf.fingerprint

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write ``NAMECrt.pem`` and ``NAMEKey.pem`` (0600) and return their paths."""
        crt, key = folder / f"{name}Crt.pem", folder / f"{name}Key.pem"
        crt.write_bytes(self.pem)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return crt, key


def make_pair(
    name: str = "alice",
    *,
    key: PrivateKey | str = "p256",
    issuer: Pair | None = None,
    ca: bool = True,
    serial: int | None = None,
    begins: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=30),
    hosts: Sequence[str] = (),
    now: datetime | None = None,
    padding: int = 0,
) -> Pair:
    """Make a certificate, self-signed and CA:TRUE as ``openssl req -x509`` makes it unless told otherwise.

    *key* is a key, or the kind of a shared one; *begins* and *ends* count from *now*; *padding* is a number of
    bytes to make it larger by.
    """
    if isinstance(key, str):
        key = shared_key(key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    at = now or datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(at + begins)
        .not_valid_after(at + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
    if padding:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\x00" * padding), critical=False)
    signer = issuer.key if issuer else key
    unhashed = isinstance(
        signer,
        ed25519.Ed25519PrivateKey
        | ed448.Ed448PrivateKey
        | mldsa.MLDSA44PrivateKey
        | mldsa.MLDSA65PrivateKey
        | mldsa.MLDSA87PrivateKey,
    )
    return Pair(builder.sign(signer, None if unhashed else hashes.SHA256()), key)
