"""A client's PEM file as text: one block more, one block less, and nothing else touched.  Pure."""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import suppress

from mtlsd.errors import CertificateError
from mtlsd.identity import Certificate
from mtlsd.registry.pem import certificates_in

# The same edges as in pem.py, but lenient in between: what is damaged has to be found too.
_BLOCK = re.compile(
    rb"^(?:\xef\xbb\xbf)?[ \t]*-----BEGIN ((?:X509 )?CERTIFICATE)-----[ \t]*\r?$(.*?)^[ \t]*-----END \1-----[ \t]*(?:\r?\n|\r?\Z)",
    re.MULTILINE | re.DOTALL,
)
_BEGIN = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")


def pem_of(der: bytes) -> bytes:
    """Return a certificate as PEM (RFC 7468: lines of 64 characters)."""
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def with_blocks(data: bytes, ders: list[bytes]) -> bytes:
    """Return *data* as it is, and *ders* after it.

    Raises :exc:`~mtlsd.errors.CertificateError` where the result would not say what it should.
    """
    apart = b"\n" if data and not data.endswith(b"\n") else b""
    return _checked(data + apart + b"".join(pem_of(der) for der in ders), [*certificates_in(data).certificates, *ders])


def without_block(data: bytes, der: bytes) -> bytes:
    """Return *data* without the blocks that hold *der*; the rest stays byte for byte.

    Raises :exc:`~mtlsd.errors.CertificateError` where the result would not say what it should.
    """
    left = [other for other in certificates_in(data).certificates if other != der]
    return _checked(_BLOCK.sub(lambda block: b"" if _decoded(block[2]) == der else block[0], data), left)


def salvaged(data: bytes) -> tuple[list[bytes], int]:
    """Return the certificates that can still be read in a file that may be damaged, and the number of those that cannot."""
    with suppress(CertificateError):
        # Whole: then what is read here and what the server reads cannot differ.
        return list(certificates_in(data).certificates), 0
    ders = []
    for block in _BLOCK.finditer(data):
        der = _decoded(block[2])
        try:
            Certificate.from_der(der)
        except CertificateError:
            continue
        ders.append(der)
    return ders, len(_BEGIN.findall(data)) - len(ders)


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b""


def _checked(data: bytes, wanted: list[bytes]) -> bytes:
    # What was cut or pasted is read again before anybody relies on it.
    if list(certificates_in(data).certificates) != wanted:
        raise CertificateError("its text is in a form that cannot be changed safely")
    return data
