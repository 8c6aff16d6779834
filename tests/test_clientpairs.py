"""A client's folder while its pair is renewed: what is found in it, wherever that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.clientfolder import CERTIFICATE, KEY, ClientFolder
from mtlsd.clientpairs import CURRENT, MARK, NEXT, PAIRS, ClientPairs, folders
from mtlsd.errors import FolderError, Refused
from mtlsd.identity import Certificate
from mtlsd.keys import NewPair, new_client_pair
from mtlsd.registry.atomic import Folder, System
from tests.test_store import Faulty, Killed

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Links(Faulty):
    """Fails at links as well."""

    def symlink(self, target: str, name: str, folder: int) -> None:
        self._step()
        super().symlink(target, name, folder)


def pair(days: int = 30, now: datetime = NOW) -> NewPair:
    return new_client_pair("bob", now, days)


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = ClientFolder(Path(self.mktemp()) / "server")
        self.old, self.new = pair(), pair(60)
        self.folder.put_pair(self.old)
        self.pairs = ClientPairs(self.folder)

    def copy(self) -> ClientFolder:
        copy = Path(self.mktemp())
        shutil.copytree(self.folder.path, copy, symlinks=True)
        return ClientFolder(copy)

    def present(self, folder: ClientFolder | None = None) -> NewPair:
        """Return the one of the two pairs that whoever opens the two files finds: it is one of them, and whole."""
        found = (folder or self.folder).pair()
        assert found is not None
        (one,) = [
            one
            for one in (self.old, self.new)
            if (one.key_pem, one.certificate_pem) == (found[0].key_pem, found[0].certificate_pem)
        ]
        return one

    def prepare(self, pairs: ClientPairs, folder: ClientFolder) -> None:
        found = folder.pair()
        assert found is not None
        pairs.prepare(*found, self.new)

    def name(self, made: NewPair) -> str:
        return Certificate.from_der(made.der).fingerprint[:16]


class RenewingTests(Base):
    def test_from_one_to_the_next(self) -> None:
        """The new pair would not be where programs look for it, or its key be open to others."""
        self.prepare(self.pairs, self.folder)
        self.assertIs(self.present(), self.old)
        waiting = self.pairs.waiting()
        assert waiting is not None
        self.assertEqual(waiting[0].key_pem, self.new.key_pem)
        self.assertFalse(self.pairs.is_under_way)
        self.pairs.commit()
        self.assertIs(self.present(), self.new)
        self.assertIsNone(self.pairs.waiting())
        self.assertTrue(self.pairs.is_under_way)
        self.pairs.finish()
        self.assertFalse(self.pairs.is_under_way)
        self.assertEqual([one[0] for one in self.pairs.others()], [self.name(self.old)])
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (self.folder.path, self.folder.path / PAIRS, self.folder.key)]
        self.assertEqual(modes, [0o700, 0o700, 0o600])

    def test_can_be_moved(self) -> None:
        """A folder that is copied to another place would still lead to the pair in the old one."""
        self.prepare(self.pairs, self.folder)
        self.pairs.commit()
        moved = self.folder.path.with_name("moved")
        self.folder.path.rename(moved)
        self.assertIs(self.present(ClientFolder(moved)), self.new)

    def test_on_and_on(self) -> None:
        """A year of renewals would leave a year of keys."""
        for turn in range(4):
            self.old, self.new = self.new if turn else self.old, pair(60 + turn, NOW + timedelta(days=turn))
            self.prepare(self.pairs, self.folder)
            self.pairs.commit()
            self.pairs.finish()
            self.assertIs(self.present(), self.new)
        self.assertEqual(sorted(os.listdir(self.folder.path / PAIRS)), sorted(map(self.name, (self.old, self.new))))

    def test_refused(self) -> None:
        """A pair that the server does not want would stand in the way of the next."""
        self.prepare(self.pairs, self.folder)
        self.pairs.drop()
        self.assertIsNone(self.pairs.waiting())
        self.assertIs(self.present(), self.old)
        self.assertEqual(os.listdir(self.folder.path / PAIRS), [self.name(self.old)])
        self.prepare(self.pairs, self.folder)
        self.pairs.commit()
        self.assertIs(self.present(), self.new)

    def test_another_one(self) -> None:
        """A client whose newest pair is not let in could not take the one before."""
        self.prepare(self.pairs, self.folder)
        self.pairs.use(self.name(self.new))
        self.assertIs(self.present(), self.new)
        self.assertIsNone(self.pairs.waiting())
        self.pairs.use(self.name(self.old))
        self.assertIs(self.present(), self.old)
        self.assertTrue(self.pairs.is_under_way)

    def test_a_pair_that_was_put_there(self) -> None:
        """A pair that somebody has copied over the links would be lost."""
        self.prepare(self.pairs, self.folder)
        self.pairs.commit()
        other = pair(90)
        for path, data in ((self.folder.key, other.key_pem), (self.folder.certificate, other.certificate_pem)):
            path.unlink()
            path.write_bytes(data)
            path.chmod(0o600)
        self.old, self.new = other, pair(91)
        self.prepare(self.pairs, self.folder)
        self.assertIs(self.present(), other)
        self.pairs.commit()
        self.assertIs(self.present(), self.new)

    def test_a_pair_that_was_removed(self) -> None:
        """It would be a traceback, or a new pair made out of nothing."""
        self.prepare(self.pairs, self.folder)
        shutil.rmtree(self.folder.path / PAIRS)
        self.assertIn("key.pem: cannot be read", str(self.assertRaises(FolderError, self.folder.pair)))
        self.assertIsNone(self.pairs.waiting())
        self.assertEqual(self.pairs.others(), [])

    def test_one_at_a_time(self) -> None:
        """Two that renew at once would each take the other's new pair for its own."""
        with self.pairs.locked():
            error = self.assertRaises(Refused, ClientPairs(self.folder).locked().__enter__)
        self.assertIn("at work", str(error))
        with self.pairs.locked():
            pass

    def test_a_join_that_is_still_writing(self) -> None:
        """A renewal that is started too early would take the files of a join away before they have their names."""
        self.prepare(self.pairs, self.folder)
        pairs = Folder(str(self.folder.path / PAIRS), System())
        self.addCleanup(pairs.close)
        staging = self.folder.path / PAIRS / ".mtlsd-0123456789abcdef"
        staging.mkdir(0o700)
        (staging / KEY).touch()
        held = Folder(staging.name, System(), pairs)
        fcntl.flock(held.descriptor, fcntl.LOCK_EX)
        with self.pairs.locked():
            self.assertTrue((staging / KEY).exists())
        held.close()
        with self.pairs.locked():
            self.assertFalse(staging.exists())
        # Where nobody has renewed yet, nothing is made for it.
        other = ClientFolder(Path(self.mktemp()))
        other.put_pair(self.old)
        with ClientPairs(other).locked():
            self.assertFalse((other.path / PAIRS).exists())

    def test_what_stands_in_the_way(self) -> None:
        """It would be a traceback, or a key of somebody else's that is overwritten."""
        (self.folder.path / PAIRS).mkdir(mode=0o700)
        ClientFolder(self.folder.path / PAIRS / self.name(self.new)).put_pair(self.old)
        error = self.assertRaises(FolderError, self.prepare, self.pairs, self.folder)
        self.assertIn("holds another pair", str(error))
        self.assertIs(self.present(), self.old)
        other = ClientFolder(Path(self.mktemp()))
        other.put_pair(self.old)
        (other.path / PAIRS).touch()
        self.assertIn("cannot be written", str(self.assertRaises(FolderError, self.prepare, ClientPairs(other), other)))
        self.assertIs(self.present(other), self.old)

    def test_folders(self) -> None:
        """`mtlsd renew` without a name would not know which server is meant."""
        base = self.folder.path.parent
        (base / "empty").mkdir()
        self.assertEqual(folders(base), ["server"])
        self.assertEqual(folders(base / "nowhere"), [])


class InterruptedTests(Base):
    """A failure, or a kill, at each system call."""

    def scenarios(self) -> dict[str, tuple[Callable[[ClientPairs, ClientFolder], None], ...]]:
        commit = lambda pairs, _: pairs.commit()  # noqa: E731 (a row of steps)
        return {
            "prepare": (self.prepare,),
            "commit": (self.prepare, commit),
            "finish": (self.prepare, commit, lambda pairs, _: pairs.finish()),
            "drop": (self.prepare, lambda pairs, _: pairs.drop()),
            "use": (self.prepare, lambda pairs, _: pairs.use(self.name(self.new))),
        }

    def each(self, fatal: bool) -> list[tuple[str, ClientFolder, Links, Callable[[], None]]]:
        found: list[tuple[str, ClientFolder, Links, Callable[[], None]]] = []
        for name, (*before, last) in self.scenarios().items():
            start = ClientFolder(self.copy().path)
            for step in before:
                step(ClientPairs(start), start)
            original, self.folder = self.folder, start
            probe_folder, probe = self.copy(), Links(-1)
            last(ClientPairs(probe_folder, probe), probe_folder)
            for at in range(probe.count):
                folder, system = self.copy(), Links(at, fatal)
                found.append((name, folder, system, partial(last, ClientPairs(folder, system), folder)))
            self.folder = original
        return found

    def finished(self, folder: ClientFolder) -> None:
        """Renew, from wherever it was left, and see that it comes to its end."""
        pairs = ClientPairs(folder)
        with pairs.locked():
            # What a kill has left, keys among it, is gone from here on.
            self.assertEqual([path.name for path in folder.path.rglob(".mtlsd-*")], [])
            if self.present(folder) is not self.new:
                if pairs.waiting() is None:
                    self.prepare(pairs, folder)
                pairs.commit()
        pairs.finish()
        self.assertIs(self.present(folder), self.new)
        self.assertEqual([path.name for path in folder.path.rglob(".mtlsd-*")], [])
        self.assertTrue(folder.key.is_symlink() and folder.certificate.is_symlink())
        self.assertFalse((folder.path / NEXT).is_symlink() or (folder.path / MARK).exists())
        self.assertTrue((folder.path / CURRENT).is_symlink())

    def test_kill(self) -> None:
        """After a kill -9 of the client, a key would be found with the certificate of another, or none at all."""
        for name, folder, system, run in self.each(fatal=True):
            with self.subTest(scenario=name, at=system.at):
                self.assertRaises(Killed, run)
                present = self.present(folder)
                if name in ("prepare", "drop"):
                    self.assertIs(present, self.old)
                if name == "finish":
                    self.assertIs(present, self.new)
                # What was changed is known to be, for whatever uses it has perhaps not been told.
                if present is self.new and name in ("commit", "use"):
                    self.assertTrue(ClientPairs(folder).is_under_way)
                self.assertEqual({path.name for path in folder.path.iterdir()} >= {KEY, CERTIFICATE}, True)
                self.finished(folder)

    def test_failure(self) -> None:
        """After a full disk, the pair that was there would be gone."""
        for name, folder, system, run in self.each(fatal=False):
            with self.subTest(scenario=name, at=system.at):
                with contextlib.suppress(FolderError):
                    run()
                self.present(folder)
                self.finished(folder)
