"""The server's own key and certificate: read, checked, and read again when they change."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.logger import Logger

from mtlsd.errors import CertificateError
from mtlsd.identity import Certificate
from mtlsd.policy import LIMITS
from mtlsd.registry.pem import certificates_in
from mtlsd.text import printable

_LARGEST = 1 << 20
_REPEAT = 60.0


@dataclass(frozen=True)
class ServerPair:
    """The server's private key, its certificate, the certificates above it, and the facts of the certificate."""

    key: crypto.PKey
    certificate: crypto.X509
    chain: tuple[crypto.X509, ...]
    facts: Certificate


def load_pair(key_path: Path, cert_path: Path) -> ServerPair:
    """Read the server's pair.

    Raises :exc:`~mtlsd.errors.CertificateError`, naming the file, where one cannot be read, the key is open to
    others or encrypted, or the two do not belong together.
    """
    if (mode := _stat(key_path).st_mode) & stat.S_IRWXO:
        raise CertificateError(
            f"{key_path}: the private key is open to others (mode {stat.S_IMODE(mode):04o}): chmod o= {key_path}"
        )
    key_pem, cert_pem = _read(key_path), _read(cert_path)
    if b"ENCRYPTED" in key_pem:
        raise CertificateError(f"{key_path}: the private key is encrypted, and nobody is there to type the passphrase")
    try:
        # pyOpenSSL reads it, not cryptography's loader: the PKey is what the context takes, ML-DSA included.
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, key_pem, passphrase=b"")
    except (crypto.Error, ValueError, TypeError) as error:
        raise CertificateError(f"{key_path}: no private key that can be read") from error
    try:
        ders = certificates_in(cert_pem).certificates
        certificates = [crypto.load_certificate(crypto.FILETYPE_ASN1, der) for der in ders]
        if not certificates:
            raise CertificateError("no certificate in it")
        facts = Certificate.from_der(ders[0])
        if not LIMITS.sound(facts.key):
            raise CertificateError(f"not fit for a server: its key is {facts.key.label}")
    except (CertificateError, crypto.Error) as error:
        raise CertificateError(f"{cert_path}: {printable(str(error))}") from error
    _check_that_they_belong_together(key, certificates[0], key_path, cert_path)
    return ServerPair(key, certificates[0], tuple(certificates[1:]), facts)


class PairWatcher:
    """Reads the pair again when its files change, and hands it on when they form a valid pair.

    Whatever is wrong is said by name, once, and again each minute while it lasts; the old pair stays in use.
    A pair is two files, so a change is seen half-way: what does not fit together is complained of at the second look.
    """

    def __init__(self, key_path: Path, cert_path: Path, use: Callable[[ServerPair], None], seconds: Callable[[], float]) -> None:
        """*use* takes a valid pair; *seconds* is a monotonic clock.  The files as they are now count as known."""
        self._paths = key_path, cert_path
        self._use = use
        self._seconds = seconds
        self._log = Logger()
        self._seen = self._signature()
        self._wrong: str | None = None
        self._complained = float("-inf")

    def beat(self) -> None:
        """Look whether the files have changed; called about once a second."""
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            # A problem that this look finds is said at the next one, if the files are still the same by then.
            self._wrong = self._try()
        elif self._wrong is not None:
            self._complain(self._wrong)

    def reload(self) -> None:
        """Read the pair now, changed or not, and say at once what is wrong (SIGHUP)."""
        self._seen = self._signature()
        self._wrong = self._try()
        if self._wrong is not None:
            self._complained = float("-inf")
            self._complain(self._wrong)

    def _try(self) -> str | None:
        try:
            pair = load_pair(*self._paths)
            self._use(pair)
        except (CertificateError, SSL.Error) as error:
            return str(error)
        self._complained = float("-inf")
        self._log.info("the server's certificate is now {fingerprint}", fingerprint=pair.facts.fingerprint)
        return None

    def _complain(self, wrong: str) -> None:
        now = self._seconds()
        if now - self._complained >= _REPEAT:
            self._complained = now
            self._log.error("{wrong}; the server's old pair stays in use", wrong=wrong)

    def _signature(self) -> tuple[tuple[int, ...] | None, ...]:
        signatures: list[tuple[int, ...] | None] = []
        for path in self._paths:
            try:
                found = os.stat(path)
            except OSError:
                signatures.append(None)
            else:
                signatures.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        return tuple(signatures)


def _check_that_they_belong_together(key: crypto.PKey, certificate: crypto.X509, key_path: Path, cert_path: Path) -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    try:
        context.use_certificate(certificate)
    except SSL.Error as error:
        # OpenSSL's security level: an RSA key under 2048 bits, or the like.
        raise CertificateError(f"{cert_path}: not fit for a server: {_words(error)}") from error
    try:
        context.use_privatekey(key)
        context.check_privatekey()
    except SSL.Error as error:
        raise CertificateError(f"{key_path}: not the key of {cert_path}: {_words(error)}") from error


def _words(error: SSL.Error) -> str:
    queue = error.args[0] if error.args else None
    return str(queue[-1][2]) if queue else "OpenSSL refuses it"


def _stat(path: Path) -> os.stat_result:
    try:
        found = os.stat(path)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise CertificateError(f"{path}: not a regular file")
    if found.st_size > _LARGEST:
        raise CertificateError(f"{path}: larger than 1 MiB")
    return found


def _read(path: Path) -> bytes:
    _stat(path)
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from error
