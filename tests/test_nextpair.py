"""The server's next pair: prepared whole or not at all, and given the usual names without a moment in which none is whole."""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import CertificateError, FolderError, Refused
from mtlsd.registry.atomic import System
from mtlsd.registry.founding import found
from mtlsd.registry.nextpair import (
    FROM,
    NEXT,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    Waiting,
    certificate_at,
    files_in_force,
    prepare,
    read_moment,
    waiting,
)
from mtlsd.tls.pair import PairFiles
from tests.pki import make_pair
from tests.test_store import Faulty, Killed, tree

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=40)


class NextPairCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = NOW
        self.template = Path(self.mktemp())
        found(self.template, ["a.org"], ["localhost"], lambda: NOW, 100)
        self.folder = self.new_folder()
        self.first = certificate_at(self.folder / SERVER_CERTIFICATE)[0].fingerprint

    def new_folder(self) -> Path:
        folder = Path(self.mktemp())
        shutil.copytree(self.template, folder)
        return folder

    def prepare(
        self,
        moment: datetime | None = None,
        *,
        days: int = 100,
        again: bool = False,
        system: System | None = None,
        folder: Path | None = None,
    ) -> Waiting:
        return prepare(folder or self.folder, ["b.org"], lambda: self.now, moment, days, system, again=again)

    def found(self, folder: Path, system: System | None = None) -> None:
        found(folder, [], ["localhost"], lambda: self.now, 100, system)

    def served(self, folder: Path) -> str:
        """Return the fingerprint of the certificate that a server would show which starts now."""
        files = PairFiles(folder / SERVER_KEY, folder / SERVER_CERTIFICATE, folder / NEXT, lambda: self.now)
        return files.load().current.facts.fingerprint

    def refused(self, words: str, moment: datetime | None = None, *, days: int = 100) -> None:
        before = tree(self.folder)
        self.assertIn(words, str(self.assertRaises(Refused, self.prepare, moment, days=days)))
        self.assertEqual(tree(self.folder), before)


class PrepareTests(NextPairCase):
    """`mtlsd init --renew`, below its words."""

    def test_prepares(self) -> None:
        """Lost: the names by which clients know the server; and a key is nobody else's to read."""
        made = self.prepare()
        self.assertEqual(made.hosts.names, ("localhost", "a.org", "b.org"))
        self.assertEqual((made.since, made.certificate.not_before < NOW), (NOW + timedelta(days=30), True))
        self.assertEqual(waiting(self.folder), made)
        upcoming = self.folder / NEXT
        modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (upcoming, upcoming / SERVER_KEY, upcoming / SERVER_CERTIFICATE)]
        self.assertEqual(modes, [0o700, 0o600, 0o644])
        self.assertEqual((upcoming / FROM).read_text(), "2026-12-25T12:00:00Z\n")
        self.assertEqual(self.served(self.folder), self.first)
        self.now = made.since
        self.assertEqual(self.served(self.folder), made.certificate.fingerprint)
        self.assertEqual(certificate_at(files_in_force(self.folder, self.now)[1])[0], made.certificate)
        self.assertEqual(files_in_force(self.folder, self.now), (upcoming / SERVER_KEY, upcoming / SERVER_CERTIFICATE))

    def test_who_may_read(self) -> None:
        """Lost: a server that reads its key by its group could not read the next one."""
        (self.folder / SERVER_KEY).chmod(0o640)
        self.prepare()
        upcoming = self.folder / NEXT
        self.assertEqual([stat.S_IMODE(os.stat(path).st_mode) for path in (upcoming, upcoming / SERVER_KEY)], [0o750, 0o640])

    def test_the_usual_moment(self) -> None:
        """Lost: a week before the end of the present one, or a month for clients to learn; or now, where that is over."""
        for day, since in ((0, 30), (80, 93), (95, 95), (200, 200)):
            self.now = NOW + timedelta(days=day)
            made = self.prepare(again=True)
            self.assertEqual((made.since - NOW).days, since, day)
            shutil.rmtree(self.folder / NEXT)

    def test_refused(self) -> None:
        """Lost: a gap between the two, or a next one that has ended before it is used."""
        self.refused("the present certificate ends on 2027-03-05, before", NOW + timedelta(days=101), days=300)
        self.refused("it would have ended by 2026-12-25: give --days", days=30)
        self.refused("2026-11-20 is past: --in 0s uses the next pair at once", NOW - timedelta(days=5))
        made = self.prepare()
        self.refused(
            f"{self.folder / NEXT} is there already: {made.certificate.fingerprint}, used from 2026-12-25 on; --again makes"
        )
        (self.folder / NEXT / FROM).unlink()
        self.refused("is no pair of mtlsd's: move it away")

    def test_no_pair_of_ours(self) -> None:
        """Lost: a pair that certbot renews would get another one beside it, which nobody asked for."""
        for name in (SERVER_CERTIFICATE, SERVER_KEY):
            aside = self.folder / "aside.pem"
            (self.folder / name).rename(aside)
            self.refused("has no pair of the server yet: mtlsd init makes it")
            (self.folder / name).symlink_to(aside.name)
            self.refused(f"{self.folder / name} is a link")
            (self.folder / name).unlink()
            aside.rename(self.folder / name)

    def test_of_an_authority(self) -> None:
        """Lost: a certificate that browsers and partners trust would make way for one that nobody knows."""
        make_pair("localhost", issuer=make_pair("issuer")).write(self.folder, "server")
        self.refused(f"{self.folder / SERVER_CERTIFICATE} is from an authority: renew it there")

    def test_again(self) -> None:
        """Lost: a second thought, also about one that is damaged; but not the only pair that clients may know by now."""
        for damage in (False, True):
            first = self.prepare(again=True)
            if damage:
                (self.folder / NEXT / FROM).write_text("x")
                self.assertIn("put the date right", str(self.assertRaises(Refused, self.prepare, again=True)))
                (self.folder / NEXT / SERVER_CERTIFICATE).write_text("x")
            second = self.prepare(NOW + timedelta(days=1), again=True)
            self.assertNotEqual(first.certificate, second.certificate)
            self.assertEqual(waiting(self.folder), second)
            self.assertEqual([path.name for path in self.folder.iterdir() if path.name.startswith(".mtlsd-")], [])

    def test_a_folder_of_somebody_elses(self) -> None:
        """Lost: what somebody keeps in a folder that happens to be called next, at the word --again."""
        (self.folder / NEXT).mkdir()
        (self.folder / NEXT / "notes").write_text("mine")
        error = self.assertRaises(Refused, self.prepare, again=True)
        self.assertIn("is no pair of mtlsd's: move it away", str(error))
        self.assertEqual((self.folder / NEXT / "notes").read_text(), "mine")

    def test_moments(self) -> None:
        """Lost: a date that is read as another one."""
        self.assertEqual(read_moment("2027-01-31"), datetime(2027, 1, 31, tzinfo=UTC))
        self.assertEqual(read_moment("2027-01-31T06:00:00+01:00"), datetime(2027, 1, 31, 5, tzinfo=UTC))
        for wrong in ("", "31.1.2027", "2027-02-30", "2027-01-31T06:00:00", "2027-01-31 06:00:00", "20270131T06", "now"):
            self.assertRaises(ValueError, read_moment, wrong)

    def test_damaged(self) -> None:
        """Lost: one line that names the file."""
        self.prepare()
        (self.folder / NEXT / SERVER_CERTIFICATE).write_bytes(b"junk")
        self.assertIn(
            str(self.folder / NEXT / SERVER_CERTIFICATE), str(self.assertRaises(CertificateError, waiting, self.folder))
        )
        (self.folder / NEXT / SERVER_CERTIFICATE).unlink()
        self.assertRaises(CertificateError, waiting, self.folder)

    def test_interrupted(self) -> None:
        """Lost: a full disk or a kill at any moment, and half a pair is what the server starts with when its day has come."""
        probe = Faulty(-1)
        self.prepare(system=probe)
        self.assertGreater(probe.count, 20)
        for fatal in (False, True):
            for again in (False, True):
                for at in range(probe.count):
                    with self.subTest(fatal=fatal, again=again, at=at):
                        self.interrupted(Faulty(at, fatal), again=again)

    def interrupted(self, system: Faulty, *, again: bool) -> None:
        folder = self.new_folder()
        first = self.served(folder)
        known = {first}
        if again:
            known.add(self.prepare(folder=folder).certificate.fingerprint)
        try:
            self.prepare(folder=folder, system=system, again=again)
        except (FolderError, Killed):
            self.assertTrue(system.struck)
        present = waiting(folder)
        if present is not None:
            known.add(present.certificate.fingerprint)
        self.assertEqual(self.served(folder), first)
        self.now = LATER
        try:
            self.assertIn(self.served(folder), known)
        finally:
            self.now = NOW
        whole = self.prepare(folder=folder, again=True)
        self.assertEqual(waiting(folder), whole)
        self.assertEqual([path.name for path in folder.iterdir() if path.name.startswith(".mtlsd-")], [])


class TakeOverTests(NextPairCase):
    """The next pair gets the usual names."""

    def test_taken_over(self) -> None:
        """Lost: the next renewal would find the last one in its place."""
        made = self.prepare()
        self.found(self.folder)
        self.assertEqual(waiting(self.folder), made)
        self.now = LATER
        self.found(self.folder)
        self.assertEqual((waiting(self.folder), self.served(self.folder)), (None, made.certificate.fingerprint))
        self.assertFalse((self.folder / NEXT).exists())
        self.assertEqual(stat.S_IMODE(os.stat(self.folder / SERVER_KEY).st_mode), 0o600)
        second = self.prepare()
        self.assertEqual((self.served(self.folder), second.hosts.names), (made.certificate.fingerprint, made.hosts.names))

    def test_damaged(self) -> None:
        """Lost: what works would be overwritten with what does not; or `make serve`, which runs init, would not start."""
        made = self.prepare()
        upcoming, other = self.folder / NEXT, make_pair("x")
        for name, data in (
            (SERVER_CERTIFICATE, b"junk"),
            (SERVER_KEY, b"junk"),
            (SERVER_CERTIFICATE, other.pem),
            (SERVER_KEY, other.key_pem),
            (FROM, b"junk"),
        ):
            with self.subTest(name=name, data=data[:8]):
                good = (upcoming / name).read_bytes()
                (upcoming / name).write_bytes(data)
                self.now = LATER
                before = tree(self.folder)
                self.assertIn(str(upcoming), found(self.folder, [], ["localhost"], lambda: self.now, 100).problem or "")
                self.assertEqual((tree(self.folder), self.served(self.folder)), (before, self.first))
                (upcoming / name).write_bytes(good)
        (upcoming / SERVER_KEY).unlink()
        self.assertIn(str(upcoming), found(self.folder, [], ["localhost"], lambda: self.now, 100).problem or "")
        self.assertEqual(self.served(self.folder), self.first)
        self.assertNotEqual(self.prepare(again=True).certificate, made.certificate)

    def test_open_to_others(self) -> None:
        """Lost: the present pair, for one that no server would start with."""
        self.prepare()
        before = self.served(self.folder)
        (self.folder / NEXT / SERVER_KEY).chmod(0o644)
        self.now = LATER
        self.assertIn("is open to others (mode 0644)", found(self.folder, [], ["localhost"], lambda: self.now, 100).problem or "")
        self.assertEqual((self.served(self.folder), (self.folder / NEXT).is_dir()), (before, True))

    def test_whose_it_is(self) -> None:
        """Lost: a key of root's that the server reads by its group would be read by nobody after the change."""
        given: list[tuple[str, int, int]] = []

        class Root(System):
            def user(self) -> int:
                return 0

            def fchown(self, descriptor: int, user: int, group: int) -> None:
                given.append((os.readlink(f"/proc/self/fd/{descriptor}"), user, group))

        key = os.stat(self.folder / SERVER_KEY)
        self.prepare(system=Root())
        last = {path.rpartition("/")[2]: owner for path, *owner in given}
        for name in (SERVER_KEY, SERVER_CERTIFICATE, FROM):
            self.assertEqual(last[name], [key.st_uid, key.st_gid])
        given.clear()
        self.now = LATER
        self.found(self.folder, Root())
        # To the folder's owner, as any file; the two that take the usual names then to the key's.
        times = Counter(path for path, _, _ in given if "/.mtlsd-" in path)
        self.assertEqual(sorted(times.values()), [1, 1, 2, 2])

    def test_only_the_pair(self) -> None:
        """Lost: a server without the usual two files, which has a next pair all the same."""
        made = self.prepare()
        (self.folder / SERVER_KEY).unlink()
        (self.folder / SERVER_CERTIFICATE).unlink()
        self.now = LATER
        self.found(self.folder)
        self.assertEqual(self.served(self.folder), made.certificate.fingerprint)

    def test_interrupted(self) -> None:
        """Lost: a kill between the key and the certificate, and no server starts any more; or the old one comes back."""
        probe = Faulty(-1)
        self.prepare()
        self.now = LATER
        self.found(self.folder, probe)
        for fatal in (False, True):
            for at in range(probe.count):
                self.now = NOW
                folder = self.new_folder()
                made = self.prepare(folder=folder).certificate.fingerprint
                self.now = LATER
                system = Faulty(at, fatal)
                with self.subTest(fatal=fatal, at=at):
                    try:
                        self.found(folder, system)
                    except (FolderError, Killed):
                        self.assertTrue(system.struck)
                    self.assertEqual(self.served(folder), made)
                    self.found(folder)
                    self.assertEqual((self.served(folder), waiting(folder)), (made, None))
                    self.assertEqual([path.name for path in folder.iterdir() if path.name.startswith(".mtlsd-")], [])

    def test_no_next_of_ours(self) -> None:
        """Lost: a folder of that name that has been there all the time."""
        (self.folder / NEXT).mkdir()
        make_pair("x").write(self.folder / NEXT, "server")
        self.now = LATER
        self.found(self.folder)
        self.assertEqual((self.served(self.folder), waiting(self.folder)), (self.first, None))
