"""``pending/FINGERPRINT.json``: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import CertificateError, FolderError, MtlsdError, SettingsError
from mtlsd.registry.knock import Knock, file_of, fingerprint_in, read_knock, written
from mtlsd.registry.waiting import is_waiting, waiting
from tests.pki import make_pair

FIRST = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LAST = FIRST + timedelta(hours=1, milliseconds=5)


class ReadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = make_pair()
        self.text = written(self.pair.der, "192.0.2.1", FIRST, LAST, 3)

    def told(self, **other: object) -> bytes:
        """Return the file with other facts; a key that is given as ``None`` is left out."""
        told = {**json.loads(self.text), **other}
        return json.dumps({key: value for key, value in told.items() if value is not None}).encode()

    def refused(self, kind: type[MtlsdError], said: str, data: bytes, fingerprint: str = "") -> None:
        error = self.assertRaises(kind, read_knock, fingerprint or self.pair.fingerprint, data)
        self.assertIn(said, str(error))
        self.assertTrue(str(error).isprintable())

    def test_round_trip(self) -> None:
        """Lost: whatever the server has kept."""
        self.assertEqual(
            read_knock(self.pair.fingerprint, self.text), Knock(self.pair.leaf, self.pair.der, "192.0.2.1", FIRST, LAST, 3)
        )

    def test_largest(self) -> None:
        """Lost: a large certificate (ML-DSA) would be kept and then refused."""
        pair = make_pair(padding=15_500)
        self.assertEqual(read_knock(pair.fingerprint, written(pair.der, "::1", FIRST, LAST, 1)).der, pair.der)

    def test_other_certificate(self) -> None:
        """Lost: who edits a file has somebody else approved under a fingerprint that was compared."""
        self.refused(CertificateError, "another one than its name says", self.told(certificate=make_pair("eve").pem.decode()))
        self.refused(CertificateError, "another one than its name says", self.text, make_pair("bob").fingerprint)

    def test_not_one_certificate(self) -> None:
        """Lost: a second certificate would be approved along with the first."""
        pem = self.pair.pem.decode()
        for certificate in (pem + make_pair("eve").pem.decode(), "", None, 7, ["x"]):
            self.refused(CertificateError, "not one certificate", self.told(certificate=certificate))
        for certificate in ("junk", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", "\ud800"):
            self.refused(CertificateError, "", self.told(certificate=certificate))

    def test_odd_claims(self) -> None:
        """Lost: text of a stranger's, or an error, where the command expects a time, a number or an address."""
        for key, value in (
            ("address", None),
            ("address", "\x1b[31m"),
            ("address", "fe80::1%\x1b[31m"),
            ("address", "::ffff:192.0.2.999"),
            ("address", 7),
            ("first", "yesterday"),
            ("first", "2026-11-23"),
            ("first", "2026-13-23T12:00:00.000Z"),
            ("last", None),
            ("last", 7),
            ("count", 0),
            ("count", True),
            ("count", "3"),
            ("count", 1.5),
            ("count", 10**13),
        ):
            self.refused(SettingsError, key, self.told(**{key: value}))

    def test_not_a_file_of_ours(self) -> None:
        """Lost: a traceback for a file that is torn, empty, huge or something else."""
        for data in (b"", b"\xff", b"[]", b"null", self.text[:100], b"[" * 30_000):
            self.refused(SettingsError, "not ", data)
        self.refused(SettingsError, "32 KiB", self.text + b" " * 32_768)

    def test_names(self) -> None:
        """Lost: a file that is no knock would be taken for one."""
        self.assertEqual(fingerprint_in(file_of(self.pair.fingerprint)), self.pair.fingerprint)
        for name in ("x.json", self.pair.fingerprint, f"{self.pair.fingerprint.upper()}.json", f".{self.pair.fingerprint}.json"):
            self.assertIsNone(fingerprint_in(name))


class WaitingTests(SynchronousTestCase):
    """The folder."""

    def setUp(self) -> None:
        self.certs = Path(self.mktemp())
        self.folder = self.certs / "pending"
        self.folder.mkdir(parents=True)
        self.pair = make_pair()
        self.path = self.folder / file_of(self.pair.fingerprint)
        self.path.write_bytes(written(self.pair.der, "192.0.2.1", FIRST, LAST, 3))

    def passed_over(self, said: str) -> None:
        found = waiting(self.certs)
        self.assertEqual(found.knocks, ())
        (problem,) = found.problems
        self.assertTrue(problem.startswith(f"{self.path}: "), problem)
        self.assertIn(said, problem)
        self.assertFalse(is_waiting(self.certs, self.pair.fingerprint))

    def test_lists(self) -> None:
        """Lost: who has knocked; who knocked last stands last, and what is not ours is let be."""
        later = make_pair("bob")
        (self.folder / file_of(later.fingerprint)).write_bytes(
            written(later.der, "::1", FIRST - timedelta(days=9), LAST + timedelta(days=1), 1)
        )
        (self.folder / "notes.txt").touch()
        (self.folder / ".mtlsd-0123").touch()
        found = waiting(self.certs)
        self.assertEqual([knock.certificate for knock in found.knocks], [self.pair.leaf, later.leaf])
        self.assertEqual(found.problems, ())
        self.assertTrue(is_waiting(self.certs, self.pair.fingerprint))
        self.assertFalse(is_waiting(self.certs, make_pair().fingerprint))

    def test_link(self) -> None:
        """Lost: a link in there would have any file on the machine read by root."""
        elsewhere = Path(self.mktemp()).absolute()
        self.path.rename(elsewhere)
        self.path.symlink_to(elsewhere)
        self.passed_over("symbolic link that leads out")

    def test_dangling_link(self) -> None:
        """Lost: a link to nothing would stop the whole list."""
        self.path.unlink()
        self.path.symlink_to("nothing")
        self.assertEqual(waiting(self.certs).knocks, ())

    def test_fifo(self) -> None:
        """Lost: a FIFO in there would hold the command for ever."""
        self.path.unlink()
        os.mkfifo(self.path)
        self.passed_over("it is a FIFO")

    def test_anybody_may_write(self) -> None:
        """Lost: a file that anybody may have written."""
        self.path.chmod(0o666)
        self.passed_over("others may write to it")

    def test_folder_that_anybody_may_write(self) -> None:
        """Lost: in such a folder anybody may have put anything."""
        self.folder.chmod(0o777)
        self.assertIn("others may write to it", str(self.assertRaises(FolderError, waiting, self.certs)))
        self.assertFalse(is_waiting(self.certs, self.pair.fingerprint))

    def test_folder_is_a_link(self) -> None:
        """Lost: a link in the folder's place would lead the command into some other folder."""
        self.folder.rename(self.certs / "other")
        self.folder.symlink_to("other")
        self.assertIn("cannot be used", str(self.assertRaises(FolderError, waiting, self.certs)))
        self.assertFalse(is_waiting(self.certs, self.pair.fingerprint))

    def test_no_folder(self) -> None:
        """Lost: an empty list, and no error, before anybody has knocked."""
        self.path.unlink()
        self.folder.rmdir()
        self.assertEqual(waiting(self.certs).knocks, ())
        self.assertFalse(is_waiting(self.certs, self.pair.fingerprint))
