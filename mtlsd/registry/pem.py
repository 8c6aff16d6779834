"""PEM text, split into certificates.  Pure."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from mtlsd.errors import CertificateError
from mtlsd.identity import Certificate
from mtlsd.text import printable, shortened

# RFC 7468 edges, each on a line of its own.  (The look behind, not a ^ in front, lets re search for the dashes.)
_EDGE = re.compile(rb"-----(?<![^\n]-----)(BEGIN|END) ([^\r\n]*?)-----[ \t]*\r?$", re.MULTILINE)
_LONE = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)\n-----END CERTIFICATE-----\s*")
# TRUSTED CERTIFICATE is not among them: it carries OpenSSL's trust settings behind the certificate.
_CERTIFICATE = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class PemFile:
    """What a PEM file holds, in its order: the DER of each certificate, and the same certificates read."""

    certificates: tuple[bytes, ...]
    has_private_key: bool
    leaves: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """The DER in one CERTIFICATE block, and the text between it and the one before."""

    der: bytes
    before: bytes


def certificates_in(data: bytes) -> PemFile:
    """Return the certificates in *data*; none for a blank file (nothing but white space and ``#`` comments).

    Everything outside the BEGIN and END lines is ignored, and so are blocks of other kinds.  Raises
    :exc:`~mtlsd.errors.CertificateError`, with the cause but not the file, where the text is damaged: an edge
    without its other half, base64 that is not strict, a certificate that cannot be read, or text without any.
    """
    if lone := _LONE.fullmatch(data):
        # Nearly every file of 100,000: one certificate and nothing else, without the search for edges.
        der = _decoded(lone[1], 1)
        return PemFile((der,), False, (_read(der, 1),))
    blocks, has_private_key = blocks_in(data)
    leaves = tuple(_read(block.der, nth) for nth, block in enumerate(blocks, 1))
    return PemFile(tuple(block.der for block in blocks), has_private_key, leaves)


def blocks_in(data: bytes) -> tuple[list[Block], bool]:
    """Return the certificates in *data*, not read yet, and whether there is a private key among the other blocks.

    Raises :exc:`~mtlsd.errors.CertificateError` as :func:`certificates_in` does, but for what is inside a certificate.
    """
    data = data.removeprefix(_BYTE_ORDER_MARK)
    found: list[Block] = []
    has_private_key = False
    end = 0
    other = b""
    begin: re.Match[bytes] | None = None
    for edge in _EDGE.finditer(data):
        side, label = edge.groups()
        if begin is None:
            if side == b"END":
                raise CertificateError(f"an END line of {_shown(label)} without its BEGIN line")
            begin = edge
            continue
        if side == b"BEGIN" or label != begin[2]:
            raise CertificateError(f"a BEGIN line of {_shown(begin[2])} without its END line")
        if label in _CERTIFICATE:
            before = data[end : begin.start()]
            found.append(Block(_decoded(data[begin.end() : edge.start()], len(found) + 1), before))
            end = edge.end()
        else:
            other = label
            has_private_key = has_private_key or label.endswith(b"PRIVATE KEY")
        begin = None
    if begin is not None:
        raise CertificateError(f"a BEGIN line of {_shown(begin[2])} without its END line")
    if not found and other:
        raise CertificateError(f"no certificate in it, but {_shown(other)}")
    if not found and not _blank(data):
        hint = ", it looks like DER: convert it with openssl x509 -inform DER" if data.startswith(b"\x30\x82") else ""
        raise CertificateError(f"no line -----BEGIN CERTIFICATE----- in it{hint}")
    return found, has_private_key


def _decoded(body: bytes, nth: int) -> bytes:
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except binascii.Error as error:
        raise CertificateError(f"certificate {nth}: bad base64: {error}") from error


def _read(der: bytes, nth: int) -> Certificate:
    try:
        return Certificate.from_der(der)
    except CertificateError as error:
        raise CertificateError(f"certificate {nth}: {printable(str(error))}") from error


def _blank(data: bytes) -> bool:
    return all(not line.strip() or line.lstrip().startswith(b"#") for line in data.splitlines())


def _shown(label: bytes) -> str:
    return shortened(printable(label.decode("ascii", "backslashreplace")), 40)
