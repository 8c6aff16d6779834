"""A client's folder: its key, its certificate, the certificates of its server, and a configuration for curl.

The pair is there as a whole or not at all: it is made in a folder beside, which then gets its name.  Nothing that is there is
ever overwritten, but for the server's certificates when the server has told others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mtlsd.client import Pair
from mtlsd.errors import CertificateError, FolderError
from mtlsd.identity import Certificate, fingerprint_of
from mtlsd.keys import NewPair, read_endpoint
from mtlsd.registry.atomic import TEMPORARY, Folder, System, Transaction
from mtlsd.registry.blocks import pem_of
from mtlsd.registry.folder import contents
from mtlsd.registry.pem import certificates_in
from mtlsd.text import printable

KEY, CERTIFICATE, SERVER, CURL, ENDPOINT = "key.pem", "cert.pem", "server.pem", "curl", "endpoint"
# What a pair is made in.
_STAGING = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{16}")
_TRIES = 10


def usual_folder(host: str, environ: Mapping[str, str], home: Path) -> Path:
    """Return the folder for the server *host* (as :func:`mtlsd.keys.read_host` gives it), by the XDG base directories."""
    given = Path(environ.get("XDG_CONFIG_HOME", ""))
    # Relative ones are to be ignored, says the specification.
    base = given if given.is_absolute() else home / ".config"
    return base / "mtlsd" / host


class _TakenError(OSError):
    """There is something of this name already."""


class ClientFolder:
    """The folder of one client of one server.  Methods raise :exc:`~mtlsd.errors.FolderError` with one line."""

    def __init__(self, path: Path, system: System | None = None) -> None:
        self.path = Path(os.path.abspath(path))
        self._system = system or System()

    @property
    def key(self) -> Path:
        return self.path / KEY

    @property
    def certificate(self) -> Path:
        return self.path / CERTIFICATE

    @property
    def server(self) -> Path:
        return self.path / SERVER

    @property
    def curl(self) -> Path:
        return self.path / CURL

    def pair(self) -> tuple[Pair, Certificate] | None:
        """Return the pair that is there and what its certificate says; ``None`` where there is no folder, or an empty one."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FolderError(printable(f"{self.path}: cannot be used: {error.strerror}")) from error
        if not names:
            return None
        if not {KEY, CERTIFICATE} <= set(names):
            raise FolderError(printable(f"{self.path} holds something else: give another folder with --dir"))
        try:
            mode = stat.S_IMODE(os.stat(self.key).st_mode)
        except OSError as error:
            # A link of a renewal (mtlsd.clientpairs), whose other end somebody has removed.
            raise FolderError(printable(f"{self.key}: cannot be read: {error.strerror}")) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise FolderError(printable(f"{self.key}: the private key is open to others (mode {mode:04o}): chmod 600 it"))
        pair = Pair(contents(self.key), contents(self.certificate))
        try:
            found = certificates_in(pair.certificate_pem).leaves
        except CertificateError as error:
            raise FolderError(printable(f"{self.certificate}: {error}")) from error
        if not found:
            raise FolderError(printable(f"{self.certificate}: there is no certificate in it"))
        return pair, found[0]

    def server_certificates(self) -> tuple[bytes, ...]:
        """Return the certificates of the server that are trusted, DER; none where no server is known yet."""
        try:
            return certificates_in(contents(self.server)).certificates
        except FileNotFoundError:
            return ()
        except CertificateError as error:
            raise FolderError(printable(f"{self.server}: {error}")) from error

    def server_fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of :meth:`server_certificates`."""
        return frozenset(map(fingerprint_of, self.server_certificates()))

    def put_pair(self, pair: NewPair) -> None:
        """Make the folder, mode 0700, with the pair in it.  On the disk when this returns."""
        parent = self.path.parent
        try:
            _make_private(parent)
            inside = Folder(str(parent), self._system)
            try:
                sweep_pairs(inside)
                put_pair(inside, parent, self.path.name, pair.key_pem, pair.certificate_pem)
            finally:
                inside.close()
        except _TakenError as error:
            raise FolderError(printable(f"{self.path} is there already: give another folder with --dir")) from error
        except OSError as error:
            raise FolderError(printable(f"{self.path}: cannot be written: {error.strerror}")) from error

    def put_server(self, der: bytes) -> None:
        """Keep the certificate of the server.  Where some are there, it has to be among them."""
        if der not in self.server_certificates():
            self._put(SERVER, pem_of(der), 0o644)

    def replace_server(self, ders: Sequence[bytes]) -> None:
        """Trust these certificates of the server's instead of those that are there, by one rename.

        For whoever holds the folder's lock (:meth:`mtlsd.clientpairs.ClientPairs.locked`).  On the disk when this returns.
        """
        with self._opened(self.server) as folder, Transaction() as steps:
            before = steps.stage(folder, contents(self.server), 0o644)
            steps.replace(folder, steps.stage(folder, b"".join(map(pem_of, ders)), 0o644), SERVER, before)

    def put_endpoint(self, endpoint: str) -> None:
        """Keep where the server is: ``HOST:PORT``."""
        self._put(ENDPOINT, endpoint.encode("ascii") + b"\n", 0o644)

    def endpoint(self) -> tuple[str, int] | None:
        """Return host and port of the server, or ``None`` where that is not known."""
        try:
            return read_endpoint(contents(self.path / ENDPOINT).decode("ascii"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise FolderError(printable(f"{self.path / ENDPOINT}: {error}")) from error

    def put_curl(self) -> None:
        """Write the configuration for ``curl --config``."""
        lines = [f'{option} = "{_quoted(text)}"\n' for option, text in _curl_options(self)]
        self._put(CURL, "".join(lines).encode(), 0o644)

    def forget(self) -> None:
        """Remove what :meth:`put_pair` and :meth:`put_server` have made, and the folder where nothing else is in it."""
        for path in (self.key, self.certificate, self.server):
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            self.path.rmdir()

    def _put(self, name: str, data: bytes, mode: int) -> None:
        path = self.path / name
        with self._opened(path) as folder:
            if folder.has(name):
                if contents(path) != data:
                    raise FolderError(printable(f"{path} is there already, and says something else"))
                return
            with Transaction() as steps:
                steps.place(folder, steps.stage(folder, data, mode), name)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Folder]:
        """Open the folder, to write *path* in it."""
        try:
            folder = Folder(str(self.path), self._system)
            try:
                # The others that write here wait; so what is there besides, a kill has left.
                with suppress(OSError):
                    fcntl.flock(folder.descriptor, fcntl.LOCK_EX)
                    folder.sweep()
                yield folder
            finally:
                folder.close()
        except OSError as error:
            raise FolderError(printable(f"{path}: cannot be written: {error.strerror}")) from error


def _make_private(path: Path) -> None:
    """Make a folder and those above it, mode 0700, where they are missing: os.makedirs would leave those above it to the umask."""
    for one in reversed([path, *path.parents]):
        if not one.is_dir():
            with suppress(FileExistsError):
                os.mkdir(one, 0o700)


def put_pair(inside: Folder, parent: Path, name: str, key_pem: bytes, certificate_pem: bytes) -> None:
    """Make a folder *name*, mode 0700, with a pair in it, in the open folder *inside*, which is *parent*; whole or not at all.

    On the disk when this returns.  Raises :exc:`OSError`.
    """
    system, aside = inside.system, ""
    try:
        with Transaction() as around:
            aside, made = _staging(around, inside)
            try:
                with Transaction() as steps:
                    for file, data, mode in ((KEY, key_pem, 0o600), (CERTIFICATE, certificate_pem, 0o644)):
                        steps.place(made, steps.stage(made, data, mode), file)
                try:
                    # Over an empty folder this goes, over any other not.
                    system.rename(aside, name, inside.descriptor)
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise _TakenError(*error.args) from error
                    raise
                inside.sync()
            finally:
                made.close()
    except BaseException:
        if aside:
            shutil.rmtree(parent / aside, ignore_errors=True)
        raise


def sweep_pairs(inside: Folder) -> None:
    """Remove the pairs that a kill has left half made: a key among them, perhaps, which nobody will ever use.

    No lock is needed for it: whoever makes one holds that one.
    """
    for name in os.listdir(inside.descriptor):
        if _STAGING.fullmatch(name):
            # What cannot be removed does no harm; it is tried again the next time.
            with suppress(OSError):
                _remove_abandoned(inside, name)


def _staging(steps: Transaction, inside: Folder) -> tuple[str, Folder]:
    """Make a folder for a pair that is not whole yet, and hold it: nobody takes it for something that a kill has left."""
    for _ in range(_TRIES):
        aside = TEMPORARY + os.urandom(8).hex()
        try:
            steps.make_folder(inside, aside, 0o700)
            made = Folder(aside, inside.system, inside)
        except FileNotFoundError:
            # Somebody who sweeps was quicker.
            continue
        # Where that cannot be done (NFS), nobody else can do it either, and nothing is swept.
        with suppress(OSError):
            fcntl.flock(made.descriptor, fcntl.LOCK_EX)
        if _is_named(inside, aside, made):
            return aside, made
        made.close()
    raise OSError(errno.EAGAIN, "others are at work there")


def _remove_abandoned(inside: Folder, name: str) -> None:
    folder = Folder(name, inside.system, inside)
    try:
        if os.fstat(folder.descriptor).st_uid != inside.system.user():
            return
        fcntl.flock(folder.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_named(inside, name, folder):
            # It became whole while we looked, and has its own name now.
            return
        for file in os.listdir(folder.descriptor):
            if file in (KEY, CERTIFICATE) or file.startswith(TEMPORARY):
                folder.system.unlink(file, folder.descriptor)
        folder.system.rmdir(name, inside.descriptor)
    finally:
        folder.close()


def _is_named(inside: Folder, name: str, folder: Folder) -> bool:
    status = os.fstat(folder.descriptor)
    return inside.identity(name) == (status.st_dev, status.st_ino)


def _curl_options(folder: ClientFolder) -> tuple[tuple[str, str], ...]:
    # What follows a colon is a password to --cert, and to no other option: an IPv6 address has some, and is a folder's name.
    certificate = str(folder.certificate).replace("\\", "\\\\").replace(":", "\\:")
    return ("cacert", str(folder.server)), ("cert", certificate), ("key", str(folder.key))


def _quoted(text: str) -> str:
    """Return a value as it stands in quotes in curl's configuration (curl(1), --config)."""
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\v", "\\v")):
        text = text.replace(character, escaped)
    return text
