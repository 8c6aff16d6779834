"""The server's own key and certificate: read, checked, and read again when they change."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from OpenSSL import SSL, crypto
from twisted.logger import Logger

from mtlsd.errors import CertificateError
from mtlsd.identity import Certificate
from mtlsd.policy import LIMITS
from mtlsd.registry.folder import signature_at
from mtlsd.registry.nextpair import FROM, SERVER_CERTIFICATE, SERVER_KEY, since
from mtlsd.registry.pem import certificates_in
from mtlsd.text import printable

_Signature: TypeAlias = tuple[bytes | None, ...]

_LARGEST = 1 << 20
_REPEAT = 60.0


@dataclass(frozen=True)
class ServerPair:
    """The server's private key, its certificate, the certificates above it, and the facts of the certificate."""

    key: crypto.PKey
    certificate: crypto.X509
    chain: tuple[crypto.X509, ...]
    facts: Certificate

    def pem(self) -> str:
        """Return the certificate, without those above it, as PEM."""
        return crypto.dump_certificate(crypto.FILETYPE_PEM, self.certificate).decode("ascii")


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


@dataclass(frozen=True)
class Upcoming:
    """The server's next pair, and from when it is used (aware)."""

    pair: ServerPair
    since: datetime


@dataclass(frozen=True)
class Pairs:
    """The pair in force and the next one, if one waits.  ``wrong`` is why there is a next one and it would not serve."""

    current: ServerPair
    upcoming: Upcoming | None = None
    wrong: str | None = None


class PairFiles:
    """Where the server's pair is: in two files or, once its moment has come, in the folder of the next one."""

    def __init__(self, key: Path, certificate: Path, upcoming: Path | None, now: Callable[[], datetime]) -> None:
        """*upcoming* is the folder of the next pair (:mod:`mtlsd.registry.nextpair`); *now* gives the aware wall-clock time."""
        self._usual = key, certificate
        self._folder = upcoming
        self._now = now
        # The folder too: in one that we may not look into, the files are as if they were not there.
        self._next_files = () if upcoming is None else (upcoming, *_pair_in(upcoming), upcoming / FROM)

    def load(self) -> Pairs:
        """Read what there is.  Raises :exc:`~mtlsd.errors.CertificateError` where no pair can be used now."""
        upcoming = wrong = None
        if self._folder is not None:
            try:
                moment = since(self._folder)
                if moment is not None:
                    upcoming = Upcoming(load_pair(*_pair_in(self._folder)), moment)
            except CertificateError as error:
                wrong = str(error)
        if upcoming is not None and self.has_come(upcoming):
            return Pairs(upcoming.pair)
        return Pairs(load_pair(*self._usual), upcoming, wrong)

    def has_come(self, upcoming: Upcoming | None) -> bool:
        """Tell whether the moment of a next pair has come."""
        return upcoming is not None and upcoming.since <= self._now()

    def signatures(self) -> tuple[_Signature, _Signature]:
        """Return what is another value once one of the two files has changed, and the same for the next pair's."""
        return tuple(map(signature_at, self._usual)), tuple(map(signature_at, self._next_files))


class PairWatcher:
    """Reads the pair again when its files change or the next one's moment has come, and hands it on when it is a valid pair.

    Whatever is wrong is said by name, once, and again each minute while it lasts; the old pair stays in use.
    A pair is two files, so a change is seen half-way: what does not fit together is complained of at the second look.
    """

    def __init__(self, files: PairFiles, seconds: Callable[[], float]) -> None:
        """Read the pair for the first time; *seconds* is a monotonic clock.

        Raises :exc:`~mtlsd.errors.CertificateError`.
        """
        self._files = files
        self._use: Callable[[ServerPair], None] = _use_nothing
        self._seconds = seconds
        self._log = Logger()
        # Before they are read: what is written meanwhile must not count as read.
        self._seen = files.signatures()
        #: What was read last and could be used.
        self.pairs = files.load()
        self._wrong = self._of_next(self.pairs)
        #: The pair in use, where its moment is to come again.
        self._early: Upcoming | None = None
        self._complained = float("-inf")

    @property
    def ends(self) -> datetime:
        """When the server's certificate ends or, where another one is used before that, that one."""
        current, upcoming = self.pairs.current.facts.not_after, self.pairs.upcoming
        return current if upcoming is None or upcoming.since > current else upcoming.pair.facts.not_after

    def hand_to(self, use: Callable[[ServerPair], None]) -> None:
        """Have *use* take each valid pair from now on."""
        self._use = use

    def beat(self) -> None:
        """Look whether the files have changed, or their moment has come; called about once a second."""
        before, self._seen = self._seen, self._files.signatures()
        if self._seen != before or self._files.has_come(self.pairs.upcoming):
            # A problem that this look finds is said at the next one, if the files are still the same by then.
            self._wrong = self._try(only_next=self._seen[0] == before[0])
        elif self._wrong is not None:
            self._complain(self._wrong)
        elif self._early is not None and not self._files.has_come(self._early):
            self._complain(
                f"the server's certificate in use is prepared from {self._early.since:%Y-%m-%d %H:%M:%S} UTC on, and clients may know "
                "no other: put that date (or the clock) right, or the next start shows the one before it"
            )

    def reload(self) -> None:
        """Read the pair now, changed or not, and say at once what is wrong (SIGHUP)."""
        before, self._seen = self._seen, self._files.signatures()
        self._wrong = self._try(only_next=self._seen[0] == before[0], anew=True)
        if self._wrong is not None:
            self._complained = float("-inf")
            self._complain(self._wrong)

    def _try(self, *, only_next: bool, anew: bool = False) -> str | None:
        before, self._early = self.pairs, None
        try:
            pairs = self._files.load()
            if pairs.upcoming is not None and pairs.upcoming.pair.facts == before.current.facts:
                # The clock was set back, or the date put off: clients know this one, and have forgotten the one before it.
                self._early = pairs.upcoming
                pairs = Pairs(pairs.upcoming.pair)
            is_changed = pairs.current.facts != before.current.facts
            if only_next and is_changed and pairs.wrong is not None:
                # What is damaged is the one in use: the one before it is what clients have forgotten.
                raise CertificateError(pairs.wrong)
            # One that is prepared is no reason for a context anew: that would be the end of every ticket.
            is_other = anew or not only_next or is_changed
            if is_other:
                self._use(pairs.current)
        except (CertificateError, SSL.Error) as error:
            # Whether or not its moment has come: it was looked at, and is looked at again when its files change.
            self.pairs = replace(before, upcoming=None)
            return f"{error}; the server's old pair stays in use"
        self.pairs = pairs
        self._complained = float("-inf")
        if is_other:
            self._log.info("the server's certificate is now {fingerprint}", fingerprint=pairs.current.facts.fingerprint)
        if pairs.upcoming is not None:
            self._log.info(
                "the server's next certificate is {fingerprint}, from {since} on",
                fingerprint=pairs.upcoming.pair.facts.fingerprint,
                since=f"{pairs.upcoming.since:%Y-%m-%d %H:%M:%S} UTC",
            )
        return self._of_next(pairs)

    def _of_next(self, pairs: Pairs) -> str | None:
        return None if pairs.wrong is None else f"{pairs.wrong}; so the server's next pair is not used"

    def _complain(self, wrong: str) -> None:
        now = self._seconds()
        if now - self._complained >= _REPEAT:
            self._complained = now
            self._log.error("{wrong}", wrong=wrong)


def _use_nothing(pair: ServerPair) -> None:
    """Stand in until there is somebody to use it."""


def _pair_in(folder: Path) -> tuple[Path, Path]:
    return folder / SERVER_KEY, folder / SERVER_CERTIFICATE


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
