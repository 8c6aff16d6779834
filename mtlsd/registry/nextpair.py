"""The server's next pair: prepared in a folder of its own beside the present one, and in force from a moment on.

Clients that pin the server's certificate learn the next one before it is shown to them.  Nobody has to write when the moment
has come: a server that may only read changes over by its clock.  The next pair gets the usual names later, from whoever runs
``mtlsd init``; while the folder stands and its moment has come, the two usual files do not matter, so that this may be
interrupted anywhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mtlsd.errors import CertificateError, FolderError, Refused
from mtlsd.identity import Certificate
from mtlsd.keys import Hosts, NewPair, hosts_in, new_server_pair
from mtlsd.registry.atomic import TEMPORARY, Folder, System, Transaction, failing_whole
from mtlsd.registry.folder import contents
from mtlsd.registry.lock import locked
from mtlsd.registry.pem import certificates_in
from mtlsd.text import printable

SERVER_KEY = "serverKey.pem"
SERVER_CERTIFICATE = "serverCrt.pem"
#: The folder of the next pair, in the server's own; in it are a pair of the usual names, and from when it is used.
NEXT, FROM = "next", "from"
#: How long clients have to learn of it, where nobody says otherwise; and how long before its end the present one goes.
USUAL_WAIT, MARGIN = timedelta(days=30), timedelta(days=7)
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:Z|[+-][0-9]{2}:[0-9]{2}))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A next pair that has been prepared: its certificate, what that says it is, and from when it is used."""

    certificate: Certificate
    hosts: Hosts
    since: datetime


def read_moment(text: str) -> datetime:
    """Return a moment, aware: a date (midnight UTC) or RFC 3339.  Raises :exc:`ValueError` for anything else."""
    found = _MOMENT.match(text.strip())
    try:
        if found is not None:
            return datetime.fromisoformat(text.strip() if found[1] else f"{text.strip()}T00:00:00Z").astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("a date is wanted, as 2027-01-31 or 2027-01-31T06:00:00Z")


def since(folder: Path) -> datetime | None:
    """Return from when the pair in *folder* (the one called ``next``) is used; ``None`` where there is none.

    Raises :exc:`~mtlsd.errors.CertificateError`, naming the file, where that cannot be read.
    """
    path = folder / FROM
    if not folder.is_dir():
        return None
    try:
        return read_moment(_read(path).decode("ascii"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CertificateError(printable(f"{path}: {error}")) from error


def files_in_force(folder: Path, now: datetime) -> tuple[Path, Path]:
    """Return where the server's key and certificate are now, for a server that has its pair in *folder*."""
    upcoming = folder / NEXT
    moment = since(upcoming)
    place = folder if moment is None or moment > now else upcoming
    return place / SERVER_KEY, place / SERVER_CERTIFICATE


def certificate_at(path: Path) -> tuple[Certificate, Hosts]:
    """Read the server's own certificate in a file, and what it says it is.

    Raises :exc:`FileNotFoundError` where there is none, and :exc:`~mtlsd.errors.CertificateError`, naming the file,
    where it cannot be read.
    """
    data = _read(path)
    try:
        found = certificates_in(data)
        if not found.certificates:
            raise CertificateError("there is no certificate in it")
        return found.leaves[0], hosts_in(found.certificates[0])
    except CertificateError as error:
        raise CertificateError(printable(f"{path}: {error}")) from error


def waiting(folder: Path) -> Waiting | None:
    """Return the next pair in the server's *folder*, if there is one, in force or not.

    Raises :exc:`~mtlsd.errors.CertificateError` where it is damaged.
    """
    upcoming = folder / NEXT
    moment = since(upcoming)
    if moment is None:
        return None
    try:
        return Waiting(*certificate_at(upcoming / SERVER_CERTIFICATE), moment)
    except FileNotFoundError as error:
        raise CertificateError(printable(f"{upcoming / SERVER_CERTIFICATE}: {error.strerror}")) from error


def prepare(
    folder: Path,
    wanted: Sequence[str],
    now: Callable[[], datetime],
    moment: datetime | None,
    days: int,
    system: System | None = None,
    *,
    again: bool = False,
) -> Waiting:
    """Make the next pair, good for what the present one is good for and for *wanted*, used from *moment* on (default: see
    :func:`usual_moment`).  *again*: in the place of one that waits already.

    Raises :exc:`~mtlsd.errors.Refused` for what may not be, and :exc:`~mtlsd.errors.FolderError` where the folder cannot be
    written.
    """
    system = system or System()
    with locked(folder, system) as root:
        root.sweep()
        try:
            take_over(folder, root, now())
        except CertificateError:
            # Of a damaged one nobody knows whether its moment has come: it is thrown away where that was asked for, and where
            # nobody can have learned it, or use it any more.
            if not again:
                raise
            with suppress(CertificateError):
                _insist_on_a_pair(folder / NEXT)
                raise Refused(
                    printable(
                        f"{folder / NEXT / FROM}: put the date right: this pair may be in use, and clients may know no other"
                    )
                ) from None
        try:
            present, hosts = certificate_at(folder / SERVER_CERTIFICATE)
            key = os.lstat(folder / SERVER_KEY)
        except FileNotFoundError:
            raise Refused(printable(f"{folder} has no pair of the server yet: mtlsd init makes it")) from None
        for name in (SERVER_KEY, SERVER_CERTIFICATE):
            if (folder / name).is_symlink():
                raise Refused(printable(f"{folder / name} is a link: whoever puts the pair where it leads renews it, not mtlsd"))
        if not _is_of_itself(folder / SERVER_CERTIFICATE):
            raise Refused(
                printable(
                    f"{folder / SERVER_CERTIFICATE} is from an authority: renew it there; one that is made here is from nobody"
                )
            )
        # A folder without a moment is none of ours, and stays: what is swept is lost.
        if root.has(NEXT) and (not again or not os.path.lexists(folder / NEXT / FROM)):
            raise Refused(_is_there(folder))
        at = now()
        moment = usual_moment(present, at) if moment is None else moment
        if moment < at - timedelta(days=1):
            raise Refused(f"{moment:%Y-%m-%d} is past: --in 0s uses the next pair at once")
        if at < present.not_after < moment:
            raise Refused(f"the present certificate ends on {present.not_after:%Y-%m-%d}, before the next one would be used")
        if moment >= at + timedelta(days=days):
            raise Refused(f"made now for {days} days, it would have ended by {moment:%Y-%m-%d}: give --days")
        names = [*hosts.names, *hosts.addresses] or [name for name in (hosts.common_name,) if name]
        pair = new_server_pair([*names, *wanted], at, days)
        with failing_whole(folder):
            _put(root, pair, moment, key)
    return Waiting(Certificate.from_der(pair.der), hosts_in(pair.der), moment)


def usual_moment(present: Certificate, now: datetime) -> datetime:
    """Return from when a next pair is used if nobody says otherwise: late enough to be learnt, and before the present one ends."""
    return max(now, min(now + USUAL_WAIT, present.not_after - MARGIN)).replace(microsecond=0)


def take_over(folder: Path, root: Folder, now: datetime) -> bool:
    """Give a next pair whose moment has come the usual names; tell whether there was one.  For the holder of the lock.

    Raises :exc:`~mtlsd.errors.FolderError` and :exc:`~mtlsd.errors.CertificateError`.
    """
    upcoming = folder / NEXT
    moment = since(upcoming)
    if moment is None or moment > now:
        return False
    _insist_on_a_pair(upcoming)
    with failing_whole(folder):
        with Transaction() as steps:
            for name in (SERVER_KEY, SERVER_CERTIFICATE):
                status = os.stat(upcoming / name)
                mode = stat.S_IMODE(status.st_mode)
                fresh = steps.stage(root, _read(upcoming / name), mode)
                if root.system.user() == 0:
                    _give(root.system, root, fresh, status)
                if root.has(name):
                    steps.replace(root, fresh, name, steps.stage(root, _read(folder / name), mode))
                else:
                    steps.place(root, fresh, name)
            # From here on the two usual files count again.
            root.system.rename(NEXT, TEMPORARY + os.urandom(8).hex(), root.descriptor)
        root.sync()
        root.sweep()
    return True


def _insist_on_a_pair(folder: Path) -> None:
    """Raise :exc:`~mtlsd.errors.CertificateError` unless the two files in *folder* are a pair: what works is not given up for less."""
    path = folder / SERVER_KEY
    try:
        if (mode := stat.S_IMODE(os.stat(path).st_mode)) & stat.S_IRWXO:
            # The server refuses it, and so has told nobody of it; in the usual place it would stop its next start.
            raise CertificateError(printable(f"{path}: the private key is open to others (mode {mode:04o}): chmod o= it"))
        certificate = x509.load_der_x509_certificate(certificates_in(_read(folder / SERVER_CERTIFICATE)).certificates[0])
        key: Any = load_pem_private_key(_read(path), None)
        fits = key.public_key() == certificate.public_key()
    except OSError as error:
        raise CertificateError(printable(f"{error.filename}: cannot be read: {error.strerror}")) from error
    except (CertificateError, UnsupportedAlgorithm, ValueError, TypeError, IndexError) as error:
        raise CertificateError(printable(f"{folder}: the next pair is damaged: {error}")) from error
    if not fits:
        raise CertificateError(printable(f"{path}: not the key of {folder / SERVER_CERTIFICATE}"))


def _is_of_itself(path: Path) -> bool:
    certificate = x509.load_der_x509_certificate(certificates_in(_read(path)).certificates[0])
    return certificate.issuer == certificate.subject


def _put(root: Folder, pair: NewPair, moment: datetime, key: os.stat_result) -> None:
    """Put the folder of the next pair in its place, by one rename.  *key* is what the present key's file is like."""
    system, aside = root.system, TEMPORARY + os.urandom(8).hex()
    # Who may read the present key through its group is the server, and has to read the next one.
    group = stat.S_IMODE(key.st_mode) & stat.S_IRGRP
    when = moment.strftime("%Y-%m-%dT%H:%M:%SZ\n").encode("ascii")
    contents = ((SERVER_KEY, pair.key_pem, 0o600 | group), (SERVER_CERTIFICATE, pair.certificate_pem, 0o644), (FROM, when, 0o644))
    try:
        with Transaction() as around:
            around.make_folder(root, aside, 0o750 if group else 0o700)
            made = Folder(aside, system, root)
            try:
                with Transaction() as steps:
                    for name, data, mode in contents:
                        steps.place(made, steps.stage(made, data, mode), name)
                if system.user() == 0:
                    for name in (SERVER_KEY, SERVER_CERTIFICATE, FROM):
                        _give(system, made, name, key)
                    system.fchown(made.descriptor, key.st_uid, key.st_gid)
            finally:
                made.close()
            if root.has(NEXT):
                system.rename(NEXT, TEMPORARY + os.urandom(8).hex(), root.descriptor)
            system.rename(aside, NEXT, root.descriptor)
            root.sync()
    finally:
        root.sweep()


def _give(system: System, folder: Folder, name: str, like: os.stat_result) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.descriptor)
    try:
        system.fchown(descriptor, like.st_uid, like.st_gid)
    finally:
        os.close(descriptor)


def _is_there(folder: Path) -> str:
    try:
        found = waiting(folder)
    except CertificateError as error:
        return f"{error}; --again makes another in its place"
    if found is None:
        return printable(f"{folder / NEXT} is there, and is no pair of mtlsd's: move it away")
    return printable(
        f"{folder / NEXT} is there already: {found.certificate.fingerprint}, used from {found.since:%Y-%m-%d} on; "
        "--again makes another in its place"
    )


def _read(path: Path) -> bytes:
    """Return what is in a file of a pair.  Raises :exc:`FileNotFoundError` and :exc:`~mtlsd.errors.CertificateError`."""
    try:
        return contents(path)
    except FolderError as error:
        raise CertificateError(str(error)) from error
