"""Bundles on the disk: what ``mtlsd import`` reads, and what ``mtlsd export`` writes."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mtlsd.errors import CertificateError, FolderError
from mtlsd.identity import fingerprint_of
from mtlsd.registry.atomic import TEMPORARY
from mtlsd.registry.bundle import Bundle, Offer, read_bundle, read_member, written
from mtlsd.registry.folder import Unsafe, opened_folder, read_file
from mtlsd.registry.listing import AUTHORIZED
from mtlsd.registry.pem import PemFile, certificates_in
from mtlsd.registry.records import Authorization
from mtlsd.registry.room import in_force
from mtlsd.registry.scan import Scan
from mtlsd.text import printable

#: Bytes of a bundle, and of a file of a folder: some 250,000 certificates, and as much as the server reads of one.
LARGEST_BUNDLE, LARGEST_FILE = 1 << 28, 1 << 20
#: How the files of a folder end that are looked at.
SUFFIXES = (".pem", ".crt", ".cer")
#: Clients that a sentence names.
_NAMED = 5
# A FIFO in a folder must not hold the command.  One that is named by itself (`<(…)`) is waited for.
_MEMBER = os.O_NONBLOCK | os.O_NOCTTY


def read(path: str) -> Bundle:
    """Read a bundle, a folder of PEM files, or standard input for ``-``.

    Raises :exc:`~mtlsd.errors.CertificateError`, naming the file, where it cannot be read or is damaged.  In a folder,
    the other files are taken all the same.
    """
    if path != "-" and os.path.isdir(path):
        return _read_folder(Path(path))
    shown = "standard input" if path == "-" else printable(path)
    try:
        bundle = read_bundle(_content(path, LARGEST_BUNDLE), shown)
    except CertificateError as error:
        raise CertificateError(f"{shown}: {error}") from error
    if not bundle.offers:
        raise CertificateError(f"{shown}: there is no certificate in it")
    return bundle


def _read_folder(folder: Path) -> Bundle:
    offers: list[Offer] = []
    warnings: list[str] = []
    refused: list[str] = []
    others = terms = 0
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CertificateError(printable(f"{folder}: cannot be read: {error.strerror}")) from error
    for name in names:
        stem, suffix = os.path.splitext(name)
        if name.startswith("."):
            continue
        if suffix.lower() not in SUFFIXES:
            others, terms = others + 1, terms + (suffix == ".toml")
            continue
        shown = printable(str(folder / name))
        try:
            member = read_member(_content(str(folder / name), LARGEST_FILE, _MEMBER), shown, stem)
        except CertificateError as error:
            refused.append(f"{shown}: refused: {error}")
            continue
        offers += member.offers
        warnings += member.warnings
    if others:
        warnings.append(
            printable(
                f"{folder}: {others} of its files {'was' if others == 1 else 'were'} passed over: only .pem, .crt and .cer are read"
            )
            + ("; groups and terms (NAME.toml) are not taken over" if terms else "")
        )
    if not offers and not refused:
        raise CertificateError(printable(f"{folder}: there is no certificate in it"))
    return Bundle(tuple(offers), tuple(warnings), tuple(refused))


def _content(path: str, most: int, flags: int = 0) -> bytes:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(most + 1)
        else:
            with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
                data = file.read(most + 1) or b""
    except OSError as error:
        raise CertificateError(f"cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise CertificateError(f"it is larger than {most >> 20} MiB")
    return data


@dataclass(frozen=True, slots=True)
class Export:
    """A bundle of who is let in, the number of its certificates, and sentences for the operator about what is not in it."""

    text: bytes
    count: int
    warnings: tuple[str, ...]


def exported(folder: Path, seen: Scan, now: datetime) -> Export:
    """Make a bundle of who is authorized in *folder*, as *seen* has it, by name.

    What has ended, or is let in on grace alone, is left out: nobody else would take it.  Raises
    :exc:`~mtlsd.errors.FolderError` where a client's file can no longer be read.
    """
    live: list[Authorization] = []
    ended: list[Authorization] = []
    for one in in_force(seen.snapshot):
        (live if now <= min(one.ends, one.certificate.not_after) else ended).append(one)
    warnings = []
    if ended:
        warnings.append(f"left out, for it has ended: {_some(ended)}")
    with_terms = [one for one in live if one.groups or one.ends != one.certificate.not_after]
    if with_terms:
        warnings.append(f"groups and terms (NAME.toml) are not in a bundle: {_some(with_terms)}")
    try:
        with opened_folder(str(folder)) as (certs, _), opened_folder(AUTHORIZED, inside=certs) as (authorized, _):
            clients = [(one.client, _der(authorized, one, seen.server_uid)) for one in live]
    except (OSError, Unsafe) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FolderError(printable(f"{folder / AUTHORIZED}: cannot be read: {why}")) from error
    return Export(written(clients), len(clients), tuple(warnings))


def put(path: Path, text: bytes) -> None:
    """Write a bundle to a file, whole or not at all: whoever reads it meanwhile (nginx) sees the old one or the new one.

    Raises :exc:`~mtlsd.errors.FolderError`.
    """
    # Where a link leads, for the link is to stay.
    target = Path(os.path.realpath(path))
    fresh = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        if target.exists() and not target.is_file():
            # A terminal, a pipe, /dev/null: nothing to be put in the place of.
            target.write_bytes(text)
            return
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
        except BaseException:
            with suppress(OSError):
                fresh.unlink()
            raise
    except OSError as error:
        raise FolderError(printable(f"{path}: cannot be written: {error.strerror}")) from error


def _der(authorized: int, one: Authorization, server_uid: int) -> bytes:
    """Read one certificate of a client again: what is known of it does not have the whole of it."""
    try:
        found = certificates_in(read_file(authorized, f"{one.client}.pem", server_uid=server_uid, wall=time.time).data)
    except CertificateError:
        found = PemFile((), False)
    for der in found.certificates:
        if fingerprint_of(der) == one.certificate.fingerprint:
            return der
    raise FolderError(f"{one.file}: it has changed meanwhile: do that again")


def _some(authorizations: Sequence[Authorization]) -> str:
    names = list(dict.fromkeys(one.client for one in authorizations))
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
