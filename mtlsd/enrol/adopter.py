"""A pair that a client has already, as `mtlsd join` would have left it: from then on `mtlsd renew` looks after it."""

from __future__ import annotations

from pathlib import Path

from mtlsd.client import Pair, Rejected, Server, ServerError, whoami
from mtlsd.clientfolder import ClientFolder
from mtlsd.enrol.joiner import Membership, settled
from mtlsd.errors import CertificateError, FolderError, MtlsdError, Refused
from mtlsd.identity import fingerprint_of
from mtlsd.keys import NewPair
from mtlsd.registry.blocks import pem_of
from mtlsd.registry.folder import contents
from mtlsd.registry.pem import certificates_in
from mtlsd.text import printable


def read_pair(certificate: Path, key: Path) -> NewPair:
    """Read a pair from its files; of several certificates, the first is the client's own.  Raises :exc:`~mtlsd.errors.MtlsdError`."""
    key_pem = _read(key)
    if b"PRIVATE KEY" not in key_pem:
        raise Refused(printable(f"{key}: there is no private key in it"))
    if b"ENCRYPTED" in key_pem:
        raise Refused(
            printable(
                f"{key}: the key is encrypted, and nobody will be there to say its password: openssl pkey -in {key} decrypts it"
            )
        )
    der = _certificates(certificate)[0]
    return NewPair(key_pem, pem_of(der), der)


def fingerprint_in(server: Path) -> str:
    """Return the fingerprint of a server's certificate, from its file.  Raises :exc:`~mtlsd.errors.MtlsdError`."""
    return fingerprint_of(_certificates(server)[0])


def adopt(server: Server, made: NewPair, folder: ClientFolder) -> Membership:
    """Make the folder of a client from the pair *made*, once *server* has let it in.  The same again changes nothing.

    Raises :exc:`~mtlsd.errors.MtlsdError` with one line; nothing is written then.
    """
    pair, (certificate,) = Pair(made.key_pem, made.certificate_pem), certificates_in(made.certificate_pem).leaves
    found = folder.pair()
    if found is not None and (
        found[0] != pair or not server.fingerprints <= (folder.server_fingerprints() or server.fingerprints)
    ):
        raise FolderError(printable(f"{folder.path} holds another pair already: give another folder with --dir"))
    try:
        who = whoami(server, pair)
    except Rejected as error:
        hint = ": it has to be approved first, there: mtlsd pending lists it" if "unknown ca" in str(error) else ""
        raise ServerError(f"{error}{hint}") from error
    if who.fingerprint != certificate.fingerprint:
        raise MtlsdError(f"{server.endpoint}: it knows this certificate as {who.fingerprint[:16]}")
    if found is None:
        folder.put_pair(made)
    return settled(folder, server, pair, Membership(who, certificate, found is not None))


def _certificates(path: Path) -> tuple[bytes, ...]:
    try:
        found = certificates_in(_read(path)).certificates
    except CertificateError as error:
        raise CertificateError(printable(f"{path}: {error}")) from error
    if not found:
        raise CertificateError(printable(f"{path}: there is no certificate in it"))
    return found


def _read(path: Path) -> bytes:
    try:
        return contents(path)
    except FileNotFoundError as error:
        raise Refused(printable(f"{path}: cannot be read: {error.strerror}")) from error
