"""A client's folder: whole or not at all, for nobody else to read, and never overwritten."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import pkcs12
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.clientfolder import ClientFolder, sweep_pairs, usual_folder
from mtlsd.errors import CertificateError, FolderError
from mtlsd.keys import new_client_pair
from mtlsd.pkcs12 import Bundle
from mtlsd.registry.atomic import Folder, System
from tests.pki import make_pair
from tests.test_store import Faulty, Killed

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Meanwhile(Faulty):
    """Somebody else sweeps just before one system call (``None``: before each)."""

    def __init__(self, at: int | None, parent: Path) -> None:
        super().__init__(-1 if at is None else at)
        self.always = at is None
        self.parent = parent

    def _step(self) -> None:
        mine, self.count = self.count, self.count + 1
        if self.always or mine == self.at:
            inside = Folder(str(self.parent), System())
            try:
                sweep_pairs(inside)
            finally:
                inside.close()


class Stranger(System):
    """Somebody to whom nothing here belongs."""

    def user(self) -> int:
        return 54321


class FolderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.base = Path(self.mktemp()).resolve()
        self.folder = ClientFolder(self.base / "very" / "deep" / "host")
        self.made = new_client_pair("bob", NOW, 30)
        self.server = make_pair("server")

    def refused(self, said: str, call: object, *arguments: object) -> None:
        error = self.assertRaises(FolderError, call, *arguments)
        self.assertIn(said, str(error))
        self.assertNotIn("\n", str(error))

    def test_makes(self) -> None:
        """Others on the machine could read the key, or curl would not find what it needs."""
        before = os.umask(0)
        try:
            self.folder.put_pair(self.made)
            self.folder.put_server(self.server.der)
            self.folder.put_curl()
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.folder.path.iterdir()}
        self.assertEqual(modes, {"key.pem": 0o600, "cert.pem": 0o644, "server.pem": 0o644, "curl": 0o644})
        for path in (self.folder.path, *list(self.folder.path.parents)[:2]):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o700, path)
        self.assertEqual(self.folder.server.read_bytes(), self.server.pem)
        found = self.folder.pair()
        assert found is not None
        self.assertEqual((found[0].key_pem, found[0].certificate_pem), (self.made.key_pem, self.made.certificate_pem))
        self.assertEqual(found[1].subject, "CN=bob")
        self.assertEqual(self.folder.server_fingerprints(), {self.server.fingerprint})
        self.assertNotIn("PRIVATE", repr(found[0]))
        # Once more changes nothing.
        self.folder.put_server(self.server.der)
        self.folder.put_curl()

    def test_nothing_there(self) -> None:
        """The first join would be taken for one that was interrupted."""
        self.assertIsNone(self.folder.pair())
        self.folder.path.mkdir(parents=True)
        self.assertIsNone(self.folder.pair())
        self.folder.put_pair(self.made)
        self.assertIsNotNone(self.folder.pair())

    def test_never_overwrites(self) -> None:
        """A key that is in use would be gone, or a server that is known be replaced by another."""
        self.folder.path.mkdir(parents=True)
        mine = self.folder.path / "mine"
        mine.write_text("mine")
        self.refused("is there already", self.folder.put_pair, self.made)
        self.refused("holds something else", self.folder.pair)
        self.assertEqual(list(self.folder.path.iterdir()), [mine])
        self.assertEqual(list(self.folder.path.parent.iterdir()), [self.folder.path])
        mine.unlink()
        self.folder.put_pair(self.made)
        self.refused("is there already", self.folder.put_pair, new_client_pair("bob", NOW, 30))
        self.folder.put_server(self.server.der)
        self.refused("says something else", self.folder.put_server, make_pair("other").der)

    def test_half_a_pair(self) -> None:
        """A certificate without its key would be used, and fail with words of OpenSSL's."""
        self.folder.put_pair(self.made)
        self.folder.key.unlink()
        self.refused("holds something else", self.folder.pair)

    def test_damaged(self) -> None:
        """One line that names the file."""
        self.folder.put_pair(self.made)
        self.folder.certificate.write_text("")
        self.refused("cert.pem: there is no certificate in it", self.folder.pair)
        self.folder.certificate.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        self.refused("cert.pem: ", self.folder.pair)
        self.folder.server.write_bytes(self.folder.certificate.read_bytes())
        self.refused("server.pem: ", self.folder.server_fingerprints)

    def test_open_to_others(self) -> None:
        """A key that everybody has read already would be sent to the server as proof of who it is."""
        self.folder.put_pair(self.made)
        self.folder.key.chmod(0o640)
        self.refused("open to others (mode 0640): chmod 600", self.folder.pair)

    def test_cannot_be_written(self) -> None:
        """One line where there is no room."""
        for path, said in ((Path("/dev/null/x"), "cannot be"), (Path("/proc/x/y"), "cannot be written")):
            self.refused(said, ClientFolder(path).put_pair, self.made)

    def test_forget(self) -> None:
        """After a join that was refused, a pair would lie about that nobody lets in; but what is somebody else's stays."""
        self.folder.put_pair(self.made)
        self.folder.put_server(self.server.der)
        self.folder.forget()
        self.assertFalse(self.folder.path.exists())
        self.folder.put_pair(self.made)
        (self.folder.path / "mine").touch()
        self.folder.forget()
        self.assertEqual([path.name for path in self.folder.path.iterdir()], ["mine"])

    def test_killed(self) -> None:
        """After a full disk or kill -9 at any moment, the same command could not be given again, or half a key be in use."""
        probe = Faulty(-1)
        ClientFolder(self.base / "probe" / "x", probe).put_pair(self.made)
        self.assertGreater(probe.count, 10)
        for fatal in (False, True):
            for at in range(probe.count):
                path = self.base / f"{fatal}{at}" / "host"
                with self.subTest(at=at, fatal=fatal):
                    with contextlib.suppress(Killed, FolderError):
                        ClientFolder(path, Faulty(at, fatal)).put_pair(self.made)
                    folder = ClientFolder(path)
                    if folder.pair() is None:
                        folder.put_pair(self.made)
                    self.assertEqual(sorted(entry.name for entry in path.iterdir()), ["cert.pem", "key.pem"])
                    self.assertEqual(folder.key.read_bytes(), self.made.key_pem)
                    # Not even a key beside it that nobody will ever use.
                    self.assertEqual([entry.name for entry in path.parent.iterdir()], ["host"])

    def test_killed_while_it_writes_the_rest(self) -> None:
        """What is half written would lie in the folder for good."""
        probe = Faulty(-1)
        self.folder.put_pair(self.made)
        ClientFolder(self.folder.path, probe).put_server(self.server.der)
        for at in range(probe.count):
            self.folder.server.unlink(missing_ok=True)
            with contextlib.suppress(Killed):
                ClientFolder(self.folder.path, Faulty(at, fatal=True)).put_server(self.server.der)
            self.folder.put_server(self.server.der)
            self.assertEqual(self.folder.server_fingerprints(), {self.server.fingerprint})
            self.assertEqual(sorted(os.listdir(self.folder.path)), ["cert.pem", "key.pem", "server.pem"])

    def test_another_sweeps_meanwhile(self) -> None:
        """Two joins at once, for two servers, would take each other's keys for something that a kill has left."""
        probe = Faulty(-1)
        ClientFolder(self.base / "probe" / "x", probe).put_pair(self.made)
        for at in range(probe.count):
            path = self.base / str(at) / "host"
            path.parent.mkdir(parents=True)
            with self.subTest(at=at):
                folder = ClientFolder(path, Meanwhile(at, path.parent))
                folder.put_pair(self.made)
                self.assertIsNotNone(folder.pair())
                self.assertEqual(os.listdir(path.parent), ["host"])

    def test_always_another(self) -> None:
        """It would go on for ever where somebody else takes everything away."""
        self.folder.path.parent.mkdir(parents=True)
        self.refused(
            "others are at work", ClientFolder(self.folder.path, Meanwhile(None, self.folder.path.parent)).put_pair, self.made
        )
        self.assertEqual(os.listdir(self.folder.path.parent), [])

    def test_what_is_swept(self) -> None:
        """Something of somebody else's, or that is no pair of ours, would be removed."""
        parent = self.folder.path.parent
        foreign, odd, full = (parent / f".mtlsd-{digit * 16}" for digit in "123")
        named = parent / ".mtlsd-notes"
        for path in (foreign, odd, full, named):
            path.mkdir(parents=True)
            (path / "key.pem").touch()
        (odd / "mine").touch()
        inside = Folder(str(parent), Stranger())
        self.addCleanup(inside.close)
        sweep_pairs(inside)
        self.assertEqual(len(os.listdir(parent)), 4)
        foreign.rename(parent / "foreign")
        (parent / ".mtlsd-4444444444444444").symlink_to(parent / "foreign")
        self.folder.put_pair(self.made)
        self.assertEqual(sorted(os.listdir(parent)), [odd.name, ".mtlsd-4444444444444444", ".mtlsd-notes", "foreign", "host"])
        self.assertEqual(os.listdir(odd), ["mine"])
        self.assertEqual(os.listdir(parent / "foreign"), ["key.pem"])

    def test_where_a_folder_cannot_be_held(self) -> None:
        """On NFS nobody could join; or a pair that is being made there would be swept."""

        def flock(descriptor: int, how: int) -> None:
            raise OSError(9, "Bad file descriptor")

        self.patch(fcntl, "flock", flock)
        left = self.folder.path.parent / ".mtlsd-0123456789abcdef"
        left.mkdir(parents=True)
        self.folder.put_pair(self.made)
        self.folder.put_server(self.server.der)
        self.assertIsNotNone(self.folder.pair())
        self.assertTrue(left.exists())

    def test_odd_paths(self) -> None:
        """A folder with a quotation mark in its name would be another file to curl."""
        folder = ClientFolder(self.base / 'a "b" \\c')
        folder.put_pair(self.made)
        folder.put_curl()
        self.assertIn('/a \\"b\\" \\\\c/key.pem"\n', folder.curl.read_text())

    def test_a_colon(self) -> None:
        """A client of a server that is known by its IPv6 address only would be asked for a certificate that is not there."""
        folder = ClientFolder(self.base / "::1\\")
        folder.put_pair(self.made)
        folder.put_curl()
        # To curl, it is the password that follows a colon in `cert`, unless a backslash is before it.
        self.assertIn('/\\\\:\\\\:1\\\\\\\\/cert.pem"\n', folder.curl.read_text())
        self.assertIn('/::1\\\\/key.pem"\n', folder.curl.read_text())

    def test_usual_folder(self) -> None:
        """The pair would be where nobody looks for it."""
        home = Path("/home/bob")
        for environ, wanted in (
            ({}, "/home/bob/.config/mtlsd/www.example.org"),
            ({"XDG_CONFIG_HOME": "/x"}, "/x/mtlsd/www.example.org"),
            ({"XDG_CONFIG_HOME": ""}, "/home/bob/.config/mtlsd/www.example.org"),
            ({"XDG_CONFIG_HOME": "x"}, "/home/bob/.config/mtlsd/www.example.org"),
        ):
            self.assertEqual(usual_folder("www.example.org", environ, home), Path(wanted))


class BundleTests(SynchronousTestCase):
    """`--p12`, for a browser."""

    def test_bundle(self) -> None:
        """A browser could not read it, or others could."""
        pair = make_pair("bob")
        path = Path(self.mktemp())
        Bundle(path, b"secret").write(pair.key_pem, pair.pem, "bob")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        found = pkcs12.load_pkcs12(path.read_bytes(), b"secret")
        assert found.cert is not None
        self.assertEqual((found.cert.certificate, found.cert.friendly_name), (pair.certificate, b"bob"))
        self.assertRaises(ValueError, pkcs12.load_pkcs12, path.read_bytes(), b"other")
        self.assertRaises(FolderError, Bundle(path, b"x").write, pair.key_pem, pair.pem, "bob")

    def test_not_every_key(self) -> None:
        """One line, for a kind of key that no such file can hold."""
        pair = make_pair("bob", key="mldsa65")
        self.assertRaises(CertificateError, Bundle(Path(self.mktemp()), b"x").write, pair.key_pem, pair.pem, "bob")
        self.assertRaises(CertificateError, Bundle(Path(self.mktemp()), b"x").write, b"", pair.pem, "bob")
