"""A bundle: the certificates of many clients as one PEM text, as nginx's ``ssl_client_certificate`` has them.  Pure.

A line ``# name: NAME`` before a certificate says whose it is; whoever else reads PEM passes over it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from mtlsd.errors import CertificateError
from mtlsd.identity import GRANT_DIGITS, LOOKUP_DIGITS, Certificate, fingerprint_of
from mtlsd.registry.blocks import pem_of
from mtlsd.registry.pem import blocks_in
from mtlsd.text import printable

_NAME_LINE = re.compile(rb"^[ \t]*#[ \t]*name:([^\r\n]*)", re.MULTILINE)
_LONGEST_NAME = 64
#: Certificates of one subject that are tried as the issuer of another: a word about it is not worth more.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Offer:
    """A certificate (DER) that somebody wants to be let in, and under which name.

    ``given`` tells a name that the operator has written from one that was made of what the certificate says: that one
    may be changed where it is taken.  ``leaf`` is ``None`` for a certificate that cannot be read, and ``flaw`` says
    why.  ``place`` is where it stands, for messages; it is printable.
    """

    der: bytes
    leaf: Certificate | None
    name: str
    given: bool
    place: str
    flaw: str = ""

    @property
    def fingerprint(self) -> str:
        return self.leaf.fingerprint if self.leaf is not None else fingerprint_of(self.der)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What there is to take in, in its order, and sentences for the operator about it.

    ``refused`` tells of what is not among the offers, and should have been: files of a folder that are damaged.
    """

    offers: tuple[Offer, ...]
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def read_bundle(data: bytes, place: str) -> Bundle:
    """Read a bundle: each certificate under the name of the line before it or, without one, of its common name.

    *place* is its file, printable.  Raises :exc:`~mtlsd.errors.CertificateError`, with the cause but not the file,
    where its edges or its base64 are damaged: what would be left of it is not what somebody wanted.
    """
    return _read(data, place, lambda offers: offers)


def read_member(data: bytes, place: str, stem: str) -> Bundle:
    """Read a file of a folder, the clients' own: its certificates belong to the client that the file is named after.

    Lines with names go first here too.  Of a chain, only the first certificate is the client's.  Raises
    :exc:`~mtlsd.errors.CertificateError` as :func:`read_bundle` does, and where it holds those of several subjects.
    """

    def named(offers: list[Offer]) -> list[Offer]:
        if len(offers) > 1 and issuers(offers):
            offers = offers[:1]
        if len({one.leaf.subject for one in offers if one.leaf is not None}) > 1:
            raise CertificateError(f"{len(offers)} certificates of several subjects in it: mtlsd import takes it by itself")
        clean = name_like(stem)
        return [
            Offer(one.der, one.leaf, clean or one.name, clean == stem, one.place, one.flaw) if not one.given else one
            for one in offers
        ]

    return _read(data, place, named)


def name_like(text: str) -> str:
    """Make a client's name of any text: what may not stand in one becomes ``_``, and it begins with a letter or digit.

    Empty where nothing is left.  It never leads out of a folder, for it has no slash and begins with no dot.
    """
    return re.sub(r"\A[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._@-]", "_", text[:1024]))[:_LONGEST_NAME]


def free_name(name: str, nth: int) -> str:
    """Return the *nth* name (from 1) to be tried for who would be called *name*: ``alice``, ``alice-2`` and so on."""
    suffix = "" if nth == 1 else f"-{nth}"
    return name[: _LONGEST_NAME - len(suffix)] + suffix


def written(clients: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the bundle of (name, DER): each with its name in a line before it."""
    return b"\n".join(b"# name: " + name.encode("ascii") + b"\n" + pem_of(der) for name, der in clients)


def issuers(offers: Sequence[Offer]) -> dict[str, str]:
    """Return the certificates that have issued another one among *offers*: of each, the fingerprints of both."""
    parsed = [(offer, certificate) for offer in offers if (certificate := _parsed(offer)) is not None]
    by_subject: dict[bytes, list[tuple[Offer, x509.Certificate]]] = {}
    for offer, certificate in parsed:
        by_subject.setdefault(certificate.subject.public_bytes(), []).append((offer, certificate))
    found: dict[str, str] = {}
    for offer, certificate in parsed:
        if certificate.issuer == certificate.subject:
            continue
        for above, issuer in islice(by_subject.get(certificate.issuer.public_bytes(), ()), _TRIES):
            if above.fingerprint != offer.fingerprint and above.fingerprint not in found and _has_issued(issuer, certificate):
                found[above.fingerprint] = offer.fingerprint
    return found


def _read(data: bytes, place: str, named: Callable[[list[Offer]], list[Offer]]) -> Bundle:
    blocks, has_private_key = blocks_in(data)
    offers = []
    for nth, block in enumerate(blocks, 1):
        where = place if len(blocks) == 1 else f"{place}: certificate {nth}"
        leaf, flaw = None, ""
        try:
            leaf = Certificate.from_der(block.der)
        except CertificateError as error:
            flaw = printable(str(error))
        lines = _NAME_LINE.findall(block.before)
        name = lines[-1].strip().decode("utf-8", "replace") if lines else _common_name(block.der)
        offers.append(Offer(block.der, leaf, name, bool(lines), where, flaw))
    offers = named(offers)
    warnings = _authorities(offers)
    if has_private_key:
        warnings.append(
            f"{place} holds a private key too: it was not copied; keep it with the client, and send only the certificate"
        )
    return Bundle(tuple(offers), tuple(warnings))


def _authorities(offers: Sequence[Offer]) -> list[str]:
    """Return a sentence for each certificate that looks like a CA, and was perhaps not meant as a client's.

    CA:TRUE alone tells nothing: plain ``openssl req -x509`` makes every client's certificate so.
    """
    above = issuers(offers)
    sentences = []
    for offer in offers:
        issued = above.get(offer.fingerprint)
        if issued is not None:
            why = f"is a CA, it has issued {issued[:GRANT_DIGITS]}"
        elif _says_that_it_signs(offer):
            why = "says that it is a CA (CA:TRUE and keyCertSign)"
        else:
            continue
        sentences.append(
            f"{offer.place}: {offer.fingerprint[:GRANT_DIGITS]} {why}: here it stands for one client, and nobody else is let in by it; "
            "if that is not wanted, take it out of the bundle"
        )
    return sentences


def _says_that_it_signs(offer: Offer) -> bool:
    certificate = _parsed(offer)
    if certificate is None:
        return False
    with suppress(x509.ExtensionNotFound, ValueError):
        extensions = certificate.extensions
        return (
            extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            and extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        )
    return False


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _common_name(der: bytes) -> str:
    """Return a name made of the certificate's own claim or, where that gives none, of its fingerprint."""
    name = ""
    with suppress(ValueError):
        found = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        # The last one is the most specific.
        name = name_like(str(found[-1].value)) if found else ""
    return name or f"client-{fingerprint_of(der)[:LOOKUP_DIGITS]}"


def _parsed(offer: Offer) -> x509.Certificate | None:
    with suppress(ValueError):
        return x509.load_der_x509_certificate(offer.der) if offer.leaf is not None else None
    return None
