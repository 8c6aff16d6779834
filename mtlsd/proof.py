"""How a client proves that it has the key of the certificate it wants next, here and now: docs/protocol.md.

The signature is over what only the two ends of this one connection know, so it is good for no other; and over the new
certificate, so it is good for no other.  One scheme for each kind of key.  Pure.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mtlsd.errors import CertificateError

#: The label of the exporter (RFC 8446 7.5; without a context), and its bytes.
LABEL, SIZE = "EXPORTER-mtlsd-renew", 32
#: Where a renewal is asked for.
PATH = "/.mtlsd/renew"
#: Bytes of a request's body.
LARGEST = 32_768

_PREFIX = b"mtlsd-renew/1\0"


def statement(exporter: bytes, der: bytes) -> bytes:
    """Return what is signed: *exporter* is of the connection on which the certificate *der* is asked for."""
    return _PREFIX + exporter + hashlib.sha256(der).digest()


def signed(key_pem: bytes, text: bytes) -> bytes:
    """Return the signature over *text* by a private key (PEM)."""
    key: Any = load_pem_private_key(key_pem, None)
    signature: bytes = key.sign(text, *_scheme(key))
    return signature


def proves(der: bytes, text: bytes, signature: bytes) -> bool:
    """Tell whether *signature* is over *text*, by the key of the certificate *der*.  Fails closed.

    What a key costs is the caller's to look at first.
    """
    try:
        key: Any = x509.load_der_x509_certificate(der).public_key()
        key.verify(signature, text, *_scheme(key))
    except (InvalidSignature, UnsupportedAlgorithm, CertificateError, ValueError, TypeError, AttributeError):
        return False
    return True


def _scheme(key: Any) -> tuple[Any, ...]:
    """Return the arguments that make the one scheme of a kind of key; raises :exc:`~mtlsd.errors.CertificateError` for others."""
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size), hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        # As TLS 1.3 pairs them (RFC 8446 4.2.3).
        curves: dict[str, hashes.HashAlgorithm] = {
            "secp256r1": hashes.SHA256(),
            "secp384r1": hashes.SHA384(),
            "secp521r1": hashes.SHA512(),
        }
        if key.curve.name not in curves:
            raise CertificateError("a curve that is not used")
        return (ec.ECDSA(curves[key.curve.name]),)
    # Ed25519, Ed448 (RFC 8032) and ML-DSA (FIPS 204, without a context) say it all themselves.
    return ()
