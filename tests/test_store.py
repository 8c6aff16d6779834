"""The writer of the operator's folder: what it refuses, what it writes, and what a failure in the middle leaves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.clientpair import made_and_authorized
from mtlsd.errors import CertificateError, FolderError, NotFound, Refused
from mtlsd.identity import public_key_sha256
from mtlsd.registry.atomic import Folder, System, Transaction
from mtlsd.registry.blocks import _checked, pem_of, salvaged, without_block
from mtlsd.registry.bundle import Offer
from mtlsd.registry.founding import found
from mtlsd.registry.knock import Knock, file_of, written
from mtlsd.registry.nextpair import SERVER_CERTIFICATE, SERVER_KEY, certificate_at
from mtlsd.registry.room import Change, in_force, looked_at, overruled
from mtlsd.registry.store import Store
from tests.pki import Pair, make_pair, new_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAMAGED = b"-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n"


class Killed(BaseException):
    """The process is gone."""


class Faulty(System):
    """Fails at one system call (counted from 0): with an error once, or, when *fatal*, with that one and all after it."""

    def __init__(self, at: int, fatal: bool = False) -> None:
        self.at = at
        self.fatal = fatal
        self.count = 0
        self.struck = False

    def _step(self) -> None:
        mine, self.count = self.count, self.count + 1
        if mine == self.at or (self.fatal and mine > self.at):
            self.struck = True
            if self.fatal:
                raise Killed
            raise OSError(28, "No space left on device")

    def open(self, name: str, flags: int, mode: int, folder: int) -> int:
        self._step()
        return super().open(name, flags, mode, folder)

    def write(self, descriptor: int, data: bytes) -> int:
        self._step()
        return super().write(descriptor, data)

    def fchmod(self, descriptor: int, mode: int) -> None:
        self._step()
        super().fchmod(descriptor, mode)

    def fchown(self, descriptor: int, user: int, group: int) -> None:
        self._step()
        super().fchown(descriptor, user, group)

    def fsync(self, descriptor: int) -> None:
        self._step()
        super().fsync(descriptor)

    def rename(self, old: str, new: str, folder: int) -> None:
        self._step()
        super().rename(old, new, folder)

    def unlink(self, name: str, folder: int) -> None:
        self._step()
        super().unlink(name, folder)

    def mkdir(self, name: str, mode: int, folder: int) -> None:
        self._step()
        super().mkdir(name, mode, folder)

    def rmdir(self, name: str, folder: int) -> None:
        self._step()
        super().rmdir(name, folder)


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.new_folder()
        self.store = Store(self.folder, lambda: NOW, "operator")

    def new_folder(self) -> Path:
        folder = Path(self.mktemp())
        for part in ("authorized", "revoked"):
            (folder / part).mkdir(parents=True)
        return folder

    def pair(self, name: str = "alice", **more: object) -> Pair:
        return make_pair(name, now=NOW, **more)  # type: ignore[arg-type]

    def in_force(self, folder: Path | None = None) -> dict[str, str]:
        return {one.certificate.fingerprint: one.client for one in in_force(looked_at(folder or self.folder).snapshot)}

    def ledger(self, folder: Path | None = None) -> list[dict[str, object]]:
        return [json.loads(line) for line in ((folder or self.folder) / "ledger.jsonl").read_text().splitlines() if line]

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / "authorized" / name
        path.write_bytes(data)
        return path

    def knocked(self, pair: Pair, address: str = "192.0.2.1", ago: timedelta = timedelta(), count: int = 1) -> Path:
        """Put a certificate where the server keeps those that have knocked."""
        folder = self.folder / "pending"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / file_of(pair.fingerprint)
        path.write_bytes(written(pair.der, address, NOW - ago, NOW - ago, count))
        return path

    def stone(self, fingerprint: str) -> Path:
        return self.folder / "revoked" / f"{fingerprint}.json"

    def refused(self, said: str, call: Callable[[], object], kind: type[Exception] = Refused) -> None:
        """Assert that *call* is refused with a line that has *said* in it, and changes nothing."""
        before = tree(self.folder)
        error = self.assertRaises(kind, call)
        self.assertIn(said, str(error))
        self.assertNotIn("\n", str(error))
        self.assertEqual(tree(self.folder), before)


class SweepTests(Base):
    """What a killed writer leaves is swept up by the next, who does not list the whole folder for nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.listed = 0
        real = Folder.sweep

        def sweep(folder: Folder) -> None:
            self.listed += 1
            real(folder)

        self.patch(Folder, "sweep", sweep)

    def authorize(self, name: str) -> None:
        self.store.authorize([self.pair(name, key=new_key()).der], name)

    def test_nobody_else_was_there(self) -> None:
        """With 20,000 clients each that joins would cost a list of all of them."""
        self.authorize("alice")
        self.assertEqual(self.listed, 2)
        self.authorize("bob")
        self.assertRaises(Refused, self.authorize, "bob")
        self.authorize("carol")
        self.assertEqual(self.listed, 2)

    def test_somebody_else_was_there(self) -> None:
        """What a killed command leaves would stay until the server's next start."""
        self.authorize("alice")
        left = self.put(".mtlsd-0123456789abcdef", b"")
        self.authorize("bob")
        self.assertFalse(left.exists())
        left.touch()
        left.rename(self.folder / "revoked" / left.name)
        self.authorize("carol")
        self.assertEqual([name for name in tree(self.folder) if ".mtlsd-" in name], [])

    def test_its_own_failure(self) -> None:
        """What a change leaves that could be taken back only in part would stay."""
        probe = Faulty(-1)
        Store(self.new_folder(), lambda: NOW, "operator", probe).authorize([self.pair().der], "alice")
        for at in range(probe.count):
            self.folder = self.new_folder()
            faulty = Faulty(at, fatal=True)
            self.store = Store(self.folder, lambda: NOW, "operator", faulty)
            with contextlib.suppress(Killed):
                self.authorize("alice")
            # The same writer goes on, as a server does.
            faulty.at, faulty.fatal = -1, False
            self.authorize("bob")
            self.assertEqual([name for name in tree(self.folder) if ".mtlsd-" in name], [], at)


def offer(pair: Pair, name: str, *, given: bool = True) -> Offer:
    return Offer(pair.der, pair.leaf, name, given, "clients.pem")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every file with its content, but for the lock and the ledger."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name not in (".lock", "ledger.jsonl")
    }


class AuthorizeTests(Base):
    """`mtlsd authorize`, below its words."""

    def test_lets_in(self) -> None:
        """Lost: what was authorized would not be let in, or under another name."""
        pair = self.pair()
        self.assertEqual(self.store.authorize([pair.der], "alice"), Change("alice", (pair.fingerprint,)))
        self.assertEqual(self.in_force(), {pair.fingerprint: "alice"})
        self.assertEqual((self.folder / "authorized" / "alice.pem").read_bytes(), pair.pem)

    def test_modes(self) -> None:
        """Lost: a server under its own user could not read what the operator made, or others could read the ledger."""
        before = os.umask(0o077)
        try:
            self.store.authorize([self.pair().der], "alice")
        finally:
            os.umask(before)
        modes = {name: stat.S_IMODE((self.folder / name).stat().st_mode) for name in ("authorized/alice.pem", "ledger.jsonl")}
        self.assertEqual(modes, {"authorized/alice.pem": 0o644, "ledger.jsonl": 0o600})

    def test_owner(self) -> None:
        """Lost: with sudo, the files would be root's in a folder that is the server's."""
        given = []

        class Root(System):
            def user(self) -> int:
                return 0

            def fchown(self, descriptor: int, user: int, group: int) -> None:
                given.append((os.readlink(f"/proc/self/fd/{descriptor}").rsplit("/", 1)[1], user, group))

        Store(self.folder, lambda: NOW, "operator", Root()).authorize([self.pair().der], "alice")
        status = self.folder.stat()
        self.assertEqual({(user, group) for _, user, group in given}, {(status.st_uid, status.st_gid)})
        self.assertEqual(len(given), 3)

    def test_other_user(self) -> None:
        """Lost: a change by a user whose files the server refuses would be reported as done."""

        class Other(System):
            def user(self) -> int:
                return 4711

        if os.geteuid() == 0:
            os.chown(self.folder, 1234, -1)
        store = Store(self.folder, lambda: NOW, "operator", Other())
        self.refused("run this as that user, or with sudo", lambda: store.authorize([self.pair().der], "alice"), FolderError)

    def test_ledger(self) -> None:
        """Lost: who let whom in, and when."""
        pair = self.pair("al\nice")
        self.store.authorize([pair.der], "alice")
        (line,) = self.ledger()
        wanted = {
            "time": "2026-11-23T12:00:00.000Z",
            "event": "authorized",
            "client": "alice",
            "fingerprint": pair.fingerprint,
            "subject": "CN=al\\0Aice",
            "actor": "operator",
        }
        self.assertEqual({key: line[key] for key in wanted}, wanted)

    def test_ledger_torn(self) -> None:
        """Lost: after a torn line, the next event would be part of it."""
        (self.folder / "ledger.jsonl").write_text('{"torn')
        self.store.authorize([self.pair().der], "alice")
        lines = (self.folder / "ledger.jsonl").read_text().splitlines()
        self.assertEqual((len(lines), lines[0], json.loads(lines[1])["client"]), (2, '{"torn', "alice"))

    def test_ledger_unwritable(self) -> None:
        """Lost: a change that no ledger tells of would look like any other."""
        pair = self.pair()
        for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/null", path)):
            with self.subTest(make=make):
                folder = self.new_folder()
                make(folder / "ledger.jsonl")
                change = Store(folder, lambda: NOW, "operator").authorize([pair.der], "alice")
                self.assertIn("ledger.jsonl: cannot be written", change.problems[0])
                self.assertIn("the change stands", change.problems[0])
                self.assertEqual(self.in_force(folder), {pair.fingerprint: "alice"})

    def test_bad_name(self) -> None:
        """Lost: a client whose name leads out of the folder, or that the server will not read."""
        for name in ("../alice", "", ".alice", "a/b", "a" * 65, "a\n", "\x1b[31m"):
            self.refused("no client's name", lambda name=name: self.store.authorize([self.pair().der], name))  # type: ignore[misc]

    def test_nothing(self) -> None:
        """Lost: an empty list would make an empty file, which revokes."""
        self.refused("no certificate", lambda: self.store.authorize([], "alice"))

    def test_no_certificate(self) -> None:
        """Lost: junk would be written where the server reads."""
        self.refused("not a certificate", lambda: self.store.authorize([b"junk"], "alice"), CertificateError)

    def test_taken(self) -> None:
        """Lost: a second person could come in as the first, by nothing but a typing mistake."""
        self.store.authorize([self.pair().der], "alice")
        self.refused("--add", lambda: self.store.authorize([self.pair().der], "alice"))

    def test_add(self) -> None:
        """Lost: a rotation with an overlap; or the operator's own text in the file."""
        old, new = self.pair(), self.pair()
        text = b"# alice's laptop\r\n" + old.pem.replace(b"\n", b"\r\n").rstrip() + b"   "
        path = self.put("alice.pem", text)
        self.store.authorize([new.der], "alice", add=True)
        self.assertEqual(path.read_bytes(), text + b"\n" + new.pem)
        self.assertEqual(self.in_force(), {old.fingerprint: "alice", new.fingerprint: "alice"})

    def test_add_to_nobody(self) -> None:
        """Lost: --add in a script, for the first certificate."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice", add=True)
        self.assertEqual(self.in_force(), {pair.fingerprint: "alice"})

    def test_several(self) -> None:
        """Lost: --all, or one event for each certificate; one that is there twice counts once."""
        one, two = self.pair(), self.pair()
        change = self.store.authorize([one.der, two.der, one.der], "alice")
        self.assertEqual(change.fingerprints, (one.fingerprint, two.fingerprint))
        self.assertEqual([line["fingerprint"] for line in self.ledger()], [one.fingerprint, two.fingerprint])

    def test_blank_file(self) -> None:
        """Lost: a file that somebody emptied to revoke would block its name for ever."""
        pair = self.pair()
        path = self.put("alice.pem", b"# moved out\n")
        self.store.authorize([pair.der], "alice")
        self.assertEqual(path.read_bytes(), b"# moved out\n" + pair.pem)

    def test_already(self) -> None:
        """Lost: a script that runs twice would fail the second time, or write the certificate twice."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        before = tree(self.folder)
        change = self.store.authorize([pair.der], "alice")
        self.assertEqual(change.fingerprints, ())
        self.assertIn("already", change.notes[0])
        self.assertEqual((tree(self.folder), len(self.ledger())), (before, 1))

    def test_already_another(self) -> None:
        """Lost: one certificate under two names, of which the server lets in neither."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.refused("alice.pem", lambda: self.store.authorize([pair.der], "bob"))

    def test_already_doubled(self) -> None:
        """Lost: a certificate that two files hold, so that it is in force in neither, would be put into a third."""
        pair = self.pair()
        self.put("alice.pem", pair.pem)
        self.put("bob.pem", pair.pem)
        self.refused("alice.pem", lambda: self.store.authorize([pair.der], "carol"))

    def test_revoked(self) -> None:
        """Lost: a revocation that holds until somebody runs the same command as before."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.store.revoke("alice")
        self.refused("as alice) since 2026-11-23T12:00:00.000Z: --again", lambda: self.store.authorize([pair.der], "alice"))

    def test_again(self) -> None:
        """Lost: the way back for a certificate that was revoked by mistake; or the ledger's word about it."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.store.revoke("alice")
        change = self.store.authorize([pair.der], "alice", again=True)
        self.assertEqual(change.fingerprints, (pair.fingerprint,))
        self.assertEqual(self.in_force(), {pair.fingerprint: "alice"})
        self.assertFalse(self.stone(pair.fingerprint).exists())
        self.assertEqual(self.ledger()[-1]["detail"], "again")

    def test_again_any_spelling(self) -> None:
        """Lost: a tombstone that was made by hand, in capitals, would stay and go on revoking."""
        pair = self.pair()
        self.put("alice.pem", pair.pem)
        (self.folder / "revoked" / f"{pair.fingerprint.upper()}.JSON").touch()
        self.assertEqual(self.in_force(), {})
        self.refused("is revoked: --again", lambda: self.store.authorize([pair.der], "alice"))
        self.store.authorize([pair.der], "alice", again=True)
        self.assertEqual(self.in_force(), {pair.fingerprint: "alice"})

    def test_key_of_a_revoked_one(self) -> None:
        """Lost: a stolen key would be back with a new certificate around it."""
        key = new_key()
        old, new = self.pair(key=key), self.pair(key=key)
        self.store.authorize([old.der], "alice")
        self.store.revoke("alice")
        self.refused("has the key of", lambda: self.store.authorize([new.der], "bob"))
        self.store.authorize([new.der], "bob", again=True)
        self.assertEqual(self.in_force(), {new.fingerprint: "bob"})
        self.assertTrue(self.stone(old.fingerprint).exists())

    def test_key_of_a_revoked_one_in_force(self) -> None:
        """Lost: running the command again for a certificate that is let in already would be an error."""
        key = new_key()
        old, new = self.pair(key=key), self.pair(key=key)
        self.store.authorize([old.der, new.der], "alice")
        self.store.revoke_fingerprint(old.fingerprint)
        self.assertEqual(self.store.authorize([new.der], "alice").fingerprints, ())

    def test_no_use(self) -> None:
        """Lost: the command would say yes to what the server refuses."""
        expired = self.pair(begins=timedelta(days=-2), ends=timedelta(days=-1))
        for pair, said in ((expired, "expired"), (self.pair(key="rsa1024"), "weak"), (self.pair(padding=20_000), "large")):
            self.refused(said, lambda pair=pair: self.store.authorize([pair.der], "alice"))  # type: ignore[misc]

    def test_one_of_several_is_refused(self) -> None:
        """Lost: half of a file would be authorized."""
        self.refused("weak", lambda: self.store.authorize([self.pair().der, self.pair(key="rsa1024").der], "alice"))

    def test_not_yet_valid(self) -> None:
        """Lost: preparing next week's certificate, and the word that it is not good before."""
        pair = self.pair(begins=timedelta(days=7))
        change = self.store.authorize([pair.der], "alice")
        self.assertIn("not valid before 2026-11-30 12:00 UTC", change.notes[0])
        self.assertIn(pair.fingerprint, self.in_force())

    def test_terms(self) -> None:
        """Lost: groups that were written before the certificate; and the word that whoever comes gets them."""
        pair = self.pair()
        self.put("alice.toml", b'groups = ["ops", "web"]\n')
        change = self.store.authorize([pair.der], "alice")
        self.assertIn("alice.toml is in force for alice, with its groups: ops, web", change.notes[0])
        (one,) = in_force(looked_at(self.folder).snapshot)
        self.assertEqual(one.groups, ("ops", "web"))
        # The second one comes under the same terms, and that is no news.
        self.assertEqual(self.store.authorize([self.pair().der], "alice", add=True).notes, ())

    def test_terms_without_groups(self) -> None:
        """Lost: a grace that lets an ended certificate in, as the server does."""
        pair = self.pair(begins=timedelta(days=-2), ends=timedelta(days=-1))
        self.put("alice.toml", b'grace = "7d"\n')
        change = self.store.authorize([pair.der], "alice")
        self.assertEqual(len(change.notes), 1)
        self.assertIn(pair.fingerprint, self.in_force())

    def test_broken_terms(self) -> None:
        """Lost: a certificate that the server passes over because of the file beside it would be reported as let in."""
        self.put("alice.toml", b"groups = [")
        self.refused("alice.toml: not TOML", lambda: self.store.authorize([self.pair().der], "alice"))
        self.put("alice.pem", self.pair().pem)
        self.refused("alice.toml: damaged: not TOML", lambda: self.store.authorize([self.pair().der], "alice", add=True))

    def test_terms_that_lead_out(self) -> None:
        """Lost: a link in the place of the terms would be trusted."""
        os.symlink("/etc/passwd", self.folder / "authorized" / "alice.toml")
        self.refused("symbolic link", lambda: self.store.authorize([self.pair().der], "alice"))

    def test_terms_unreadable(self) -> None:
        """Lost: one line where a file cannot be read, instead of a traceback."""
        path = self.folder / "authorized" / "alice.toml"
        os.symlink("alice.toml", path)
        self.refused("cannot be read", lambda: self.store.authorize([self.pair().der], "alice"))

    def test_damaged(self) -> None:
        """Lost: what stands in a damaged file would be lost, or authorized along with the new one."""
        self.put("alice.pem", DAMAGED)
        self.refused("mtlsd revoke alice", lambda: self.store.authorize([self.pair().der], "alice", add=True))

    def test_too_long(self) -> None:
        """Lost: a file that has grown so long that the server refuses it, and all clients in it."""
        self.put("alice.pem", b"#" * ((1 << 20) - 900) + b"\n" + self.pair().pem)
        self.refused("1 MiB", lambda: self.store.authorize([self.pair(padding=2000).der], "alice", add=True))

    def test_open_end(self) -> None:
        """Lost: a certificate after text that swallows it."""
        pair = self.pair()
        self.put("alice.pem", pair.pem + b"-----BEGIN NOTE-----\n")
        self.refused("alice.pem", lambda: self.store.authorize([self.pair().der], "alice", add=True))


class RevokeTests(Base):
    """`mtlsd revoke`, below its words."""

    def test_stays_out(self) -> None:
        """Lost: a revoked client, put back by hand, would be let in."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.put("alice.toml", b"groups = []")
        self.assertEqual(self.store.revoke("alice").fingerprints, (pair.fingerprint,))
        self.assertEqual(list((self.folder / "authorized").iterdir()), [])
        path = self.put("alice.pem", pair.pem)
        self.assertEqual(self.in_force(), {})
        self.assertIn(f"{path}: certificate {pair.fingerprint[:16]} is revoked", overruled(looked_at(self.folder))[0])

    def test_tombstone(self) -> None:
        """Lost: when, who, why and which key, for whoever asks later; a reason cannot break the file."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.store.revoke("alice", 'lost "it"\n\x1b[31m')
        path = self.stone(pair.fingerprint)
        self.assertEqual(
            json.loads(path.read_text()),
            {
                "time": "2026-11-23T12:00:00.000Z",
                "name": "alice",
                "key_sha256": public_key_sha256(pair.der),
                "reason": 'lost "it"\n\x1b[31m',
            },
        )
        self.assertNotIn(b"\x1b", path.read_bytes())
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o644)

    def test_ledger(self) -> None:
        """Lost: who shut whom out, and why."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.store.revoke("alice", "gone")
        line = self.ledger()[-1]
        wanted = {
            "event": "revoked-client",
            "client": "alice",
            "fingerprint": pair.fingerprint,
            "detail": "gone",
            "actor": "operator",
        }
        self.assertEqual({key: line[key] for key in wanted}, wanted)

    def test_all_of_them(self) -> None:
        """Lost: in a rotation, one of the two certificates would stay."""
        pairs = [self.pair(), self.pair()]
        self.store.authorize([pair.der for pair in pairs], "alice")
        self.store.revoke("alice")
        self.assertEqual(set(looked_at(self.folder).snapshot.tombstones), {pair.fingerprint for pair in pairs})

    def test_nobody(self) -> None:
        """Lost: a mistyped name would look like a revocation."""
        for name in ("alice", "../alice", "\x1b"):
            self.refused("no client", lambda name=name: self.store.revoke(name), NotFound)  # type: ignore[misc]

    def test_twice(self) -> None:
        """Lost: a script that runs twice would fail the second time."""
        self.store.authorize([self.pair().der], "alice")
        self.store.revoke("alice")
        change = self.store.revoke("alice")
        self.assertEqual((change.fingerprints, change.notes), ((), ("alice is revoked already",)))

    def test_finishes(self) -> None:
        """Lost: after a kill between tombstone and removal, the same command would not remove what is left."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.store.revoke("alice", "first")
        path = self.put("alice.pem", pair.pem)
        self.store.revoke("alice", "second")
        self.assertFalse(path.exists())
        self.assertEqual(json.loads(self.stone(pair.fingerprint).read_text())["reason"], "first")

    def test_damaged(self) -> None:
        """Lost: a client whose file is damaged could not be shut out, or the readable half of it would come back."""
        pair = self.pair()
        path = self.put("alice.pem", DAMAGED + pair.pem)
        change = self.store.revoke("alice")
        self.assertEqual(change.fingerprints, (pair.fingerprint,))
        self.assertIn("could not be read whole", change.notes[0])
        self.assertFalse(path.exists())
        self.assertTrue(self.stone(pair.fingerprint).exists())

    def test_nothing_to_read(self) -> None:
        """Lost: a FIFO, a link that leads out or junk under a client's name could not be removed; or the link would be followed."""
        outside = Path(self.mktemp())
        outside.write_bytes(self.pair().pem)
        makers: list[Callable[[Path], object]] = [
            os.mkfifo,
            lambda path: os.symlink(outside.resolve(), path),
            lambda path: path.write_bytes(b"junk"),
            lambda path: path.write_bytes(b""),
            lambda path: os.symlink("nowhere", path),
        ]
        for make in makers:
            path = self.folder / "authorized" / "alice.pem"
            make(path)
            change = self.store.revoke("alice")
            self.assertFalse(os.path.lexists(path))
            self.assertEqual((change.fingerprints, change.problems), ((), ()))
            self.assertIn("removed", change.notes[-1])
            self.assertEqual((self.ledger()[-1]["client"], self.ledger()[-1]["fingerprint"]), ("alice", None))
        self.assertEqual((outside.exists(), list((self.folder / "revoked").iterdir())), (True, []))

    def test_refused_file(self) -> None:
        """Lost: whoever may write to alice's file could have bob revoked along with her."""
        alice, bob = self.pair(), self.pair("bob")
        self.put("bob.pem", bob.pem)
        self.put("alice.pem", alice.pem + bob.pem).chmod(0o666)
        change = self.store.revoke("alice")
        self.assertEqual(change.fingerprints, (alice.fingerprint,))
        self.assertIn("it is bob's and stays", change.notes[0])
        self.assertEqual(self.in_force(), {bob.fingerprint: "bob"})

    def test_cannot_be_removed(self) -> None:
        """Lost: a revocation would be taken back because a file cannot be removed, or be called done."""
        path = self.folder / "authorized" / "alice.pem"
        pair = self.pair()
        path.write_bytes(pair.pem)

        class Stuck(System):
            def rename(self, old: str, new: str, folder: int) -> None:
                if old == "alice.pem":
                    raise OSError(1, "Operation not permitted")
                super().rename(old, new, folder)

        self.put("alice.toml", b"groups = []")
        change = Store(self.folder, lambda: NOW, "operator", Stuck()).revoke("alice")
        self.assertIn("cannot be removed: Operation not permitted; its tombstones keep it out", change.problems[0])
        self.assertEqual(self.in_force(), {})
        self.assertTrue((self.folder / "authorized" / "alice.toml").exists())

    def test_link_inside(self) -> None:
        """Lost: a client whose file is a link within the folder would be revoked without a tombstone."""
        pair = self.pair()
        (self.folder / "authorized" / ".store").write_bytes(pair.pem)
        os.symlink(".store", self.folder / "authorized" / "alice.pem")
        self.assertEqual(self.in_force(), {pair.fingerprint: "alice"})
        self.assertEqual(self.store.revoke("alice").fingerprints, (pair.fingerprint,))
        self.assertEqual(self.in_force(), {})

    def test_unreadable_key(self) -> None:
        """Lost: a certificate with a curve that the library does not know could not be revoked."""
        der = self.pair().der
        # Same length, another curve: 1.2.840.10045.3.1.99 is none.
        odd = der.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030163"), 1)
        self.assertNotEqual(odd, der)
        self.put("alice.pem", pem_of(odd))
        (fingerprint,) = self.store.revoke("alice").fingerprints
        self.assertIsNone(json.loads(self.stone(fingerprint).read_text())["key_sha256"])


class RevokeFingerprintTests(Base):
    """`mtlsd revoke --fingerprint`, below its words."""

    def test_one_of_two(self) -> None:
        """Lost: after a rotation, the old certificate could not be revoked without the new one; or the file would change beside it."""
        old, new = self.pair(), self.pair()
        path = self.put("alice.pem", b"# old\n" + old.pem + b"# new\n" + new.pem + b"# end")
        self.put("alice.toml", b"groups = []")
        change = self.store.revoke_fingerprint(old.fingerprint[:8].upper())
        self.assertEqual(change, Change("alice", (old.fingerprint,)))
        self.assertEqual(path.read_bytes(), b"# old\n# new\n" + new.pem + b"# end")
        self.assertEqual(self.in_force(), {new.fingerprint: "alice"})
        self.assertTrue((self.folder / "authorized" / "alice.toml").exists())

    def test_last_one(self) -> None:
        """Lost: an empty client, whose name is taken and whose groups wait for the next of that name."""
        pair = self.pair()
        self.put("alice.pem", pair.pem)
        self.put("alice.toml", b'groups = ["ops"]')
        self.store.revoke_fingerprint(pair.fingerprint)
        self.assertEqual(list((self.folder / "authorized").iterdir()), [])

    def test_in_two_files(self) -> None:
        """Lost: a certificate under two names would stay in one of them."""
        pair = self.pair()
        self.put("alice.pem", pair.pem)
        self.put("bob.pem", pair.pem)
        self.assertEqual(self.store.revoke_fingerprint(pair.fingerprint).fingerprints, (pair.fingerprint,))
        self.assertEqual(list((self.folder / "authorized").iterdir()), [])

    def test_ambiguous(self) -> None:
        """Lost: the wrong client would be shut out."""
        for last in "abcde":
            self.stone("0" * 63 + last).touch()
        self.refused("fits 5 certificates (0000000000000000", lambda: self.store.revoke_fingerprint("0" * 8))

    def test_ambiguous_two(self) -> None:
        """Lost: the list of candidates, whole where it is short."""
        for last in "ab":
            self.stone(last * 16 + "0" * 48).touch()
        self.stone("a" * 8 + "1" * 56).touch()
        self.refused("(aaaaaaaa11111111, aaaaaaaaaaaaaaaa)", lambda: self.store.revoke_fingerprint("a" * 8))

    def test_twice(self) -> None:
        """Lost: a script that runs twice would fail the second time."""
        pair = self.pair()
        self.put("alice.pem", pair.pem)
        self.store.revoke_fingerprint(pair.fingerprint)
        change = self.store.revoke_fingerprint(pair.fingerprint[:8])
        self.assertEqual((change.fingerprints, len(change.notes)), ((), 1))
        self.assertIn("revoked already", change.notes[0])

    def test_in_advance(self) -> None:
        """Lost: a stolen certificate could not be kept out before somebody authorizes it."""
        pair = self.pair()
        change = self.store.revoke_fingerprint(pair.fingerprint)
        self.assertEqual(change.fingerprints, (pair.fingerprint,))
        self.assertIn("nobody held", change.notes[0])
        self.assertIsNone(json.loads(self.stone(pair.fingerprint).read_text())["name"])
        self.refused("is revoked", lambda: self.store.authorize([pair.der], "alice"))

    def test_nobody(self) -> None:
        """Lost: half a fingerprint, mistyped, would look like a revocation."""
        self.refused("give all 64 digits", lambda: self.store.revoke_fingerprint("0" * 63), NotFound)

    def test_no_fingerprint(self) -> None:
        """Lost: seven digits, or a name, would be looked for among fingerprints."""
        for text in ("0" * 7, "alice", "0" * 65, ""):
            self.assertRaises(ValueError, self.store.revoke_fingerprint, text)

    def test_cannot_be_cut(self) -> None:
        """Lost: a revocation would be taken back because the file cannot be changed, or be called done."""
        old, new = self.pair(), self.pair()
        self.put("alice.pem", old.pem + new.pem)

        class Stuck(System):
            def rename(self, old: str, new: str, folder: int) -> None:
                if new == "alice.pem":
                    raise OSError(1, "Operation not permitted")
                super().rename(old, new, folder)

        change = Store(self.folder, lambda: NOW, "operator", Stuck()).revoke_fingerprint(old.fingerprint)
        self.assertIn("cannot be changed: Operation not permitted; the tombstone keeps", change.problems[0])
        self.assertEqual(self.in_force(), {new.fingerprint: "alice"})


class ApproveTests(Base):
    """`mtlsd approve`, below its words."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.pair()
        self.file = self.knocked(self.alice)

    def test_lets_in(self) -> None:
        """Lost: what was approved would not be let in, would stay in the list, or nobody would know who approved it."""
        change = self.store.approve(self.alice.fingerprint[:16], "alice")
        self.assertEqual(change, Change("alice", (self.alice.fingerprint,)))
        self.assertEqual(self.in_force(), {self.alice.fingerprint: "alice"})
        self.assertEqual(list((self.folder / "pending").iterdir()), [])
        (line,) = self.ledger()
        wanted = {"event": "approved", "client": "alice", "fingerprint": self.alice.fingerprint, "actor": "operator"}
        self.assertEqual({key: line[key] for key in wanted}, wanted)

    def test_dry(self) -> None:
        """Lost: the question would be asked after the answer was taken for granted."""
        self.refused("is no client's name", lambda: self.store.approve(self.alice.fingerprint, "../x", dry=True))
        before = tree(self.folder)
        self.assertEqual(self.store.approve(self.alice.fingerprint, "alice", dry=True), Change("alice"))
        self.assertEqual((tree(self.folder), (self.folder / "ledger.jsonl").exists()), (before, False))

    def test_short(self) -> None:
        """Lost: eight digits can be had by trying: somebody else would be let in."""
        for digits in (self.alice.fingerprint[:15], "", "z" * 16):
            self.assertRaises(ValueError, self.store.approve, digits, "alice")

    def test_ambiguous(self) -> None:
        """Lost: of two that begin alike, the wrong one; that one of them cannot be read does not make it go away."""
        other = self.alice.fingerprint[:20] + "0" * 44
        (self.folder / "pending" / file_of(other)).write_bytes(b"junk")
        self.refused(
            f"fits 2 certificates ({', '.join(sorted((other, self.alice.fingerprint)))}): give more",
            lambda: self.store.approve(self.alice.fingerprint[:20], "alice"),
        )
        self.assertEqual(self.store.approve(self.alice.fingerprint, "alice").fingerprints, (self.alice.fingerprint,))

    def test_nobody(self) -> None:
        """Lost: a word of where to look, for digits that fit nobody, before anybody has knocked, too."""
        self.refused("mtlsd pending lists", lambda: self.store.approve("0" * 16, "alice"), NotFound)
        shutil.rmtree(self.folder / "pending")
        self.refused("mtlsd pending lists", lambda: self.store.approve("0" * 16, "alice"), NotFound)

    def test_edited(self) -> None:
        """Lost: who can write to the list would have another certificate approved under a fingerprint that was compared."""
        self.file.write_bytes(written(self.pair("eve").der, "192.0.2.1", NOW, NOW, 1))
        self.refused("another one than its name says", lambda: self.store.approve(self.alice.fingerprint, "alice"))

    def test_link(self) -> None:
        """Lost: a link in the list would have any file read, or another certificate approved."""
        outside = Path(self.mktemp()).absolute()
        self.file.rename(outside)
        self.file.symlink_to(outside)
        self.refused("leads out of the folder", lambda: self.store.approve(self.alice.fingerprint, "alice"))

    def test_folder_is_a_link(self) -> None:
        """Lost: a link in the place of the whole list; and other changes must go on working beside it."""
        (self.folder / "pending").rename(self.folder / "elsewhere")
        (self.folder / "pending").symlink_to("elsewhere")
        self.refused("cannot be used", lambda: self.store.approve(self.alice.fingerprint, "alice"), FolderError)
        self.refused("cannot be used", lambda: self.store.dismiss(self.alice.fingerprint), FolderError)
        self.store.authorize([self.alice.der], "alice")
        self.store.revoke("alice")

    def test_checked_like_any_other(self) -> None:
        """Lost: by way of the list, somebody would come in whom `authorize` refuses."""
        old = self.pair("old", begins=timedelta(days=-2), ends=timedelta(days=-1))
        weak, gone, key = self.pair("weak", key="rsa1024"), self.pair("gone", key=new_key()), new_key()
        twin, stolen = self.pair("twin", key=key), self.pair("stolen", key=key)
        self.store.authorize([self.pair("bob").der], "bob")
        for pair, name in ((gone, "gone"), (stolen, "stolen")):
            self.store.authorize([pair.der], name)
            self.store.revoke(name)
        for pair in (old, weak, gone, twin):
            self.knocked(pair)
        for said, pair, name in (
            ("it has expired", old, "old"),
            ("too weak", weak, "weak"),
            ("is revoked", gone, "gone"),
            ("which is revoked", twin, "twin"),
            ("is taken", self.alice, "bob"),
            ("is no client's name", self.alice, "../alice"),
            ("is no client's name", self.alice, "a/b"),
        ):
            self.refused(said, lambda pair=pair, name=name: self.store.approve(pair.fingerprint, name))  # type: ignore[misc]
        self.assertEqual(self.store.approve(gone.fingerprint, "gone", again=True).fingerprints, (gone.fingerprint,))
        self.assertEqual(self.store.approve(twin.fingerprint, "bob", add=True, again=True).fingerprints, (twin.fingerprint,))

    def test_expired_meanwhile(self) -> None:
        """Lost: what was good when it knocked and has ended since would be let in, or be reported as let in."""
        brief = self.pair("brief", ends=timedelta(hours=1))
        self.knocked(brief)
        self.store = Store(self.folder, lambda: NOW + timedelta(hours=2), "operator")
        self.refused("it has expired", lambda: self.store.approve(brief.fingerprint, "brief"))

    def test_authorized_meanwhile(self) -> None:
        """Lost: one certificate under two names; or, for the same name, an error where all is as it was asked for."""
        (self.folder / "authorized" / "alice.pem").write_bytes(self.alice.pem)
        self.refused("one certificate is one client", lambda: self.store.approve(self.alice.fingerprint, "bob"))
        change = self.store.approve(self.alice.fingerprint, "alice")
        self.assertIn("stands in", change.notes[0])
        self.assertEqual(list((self.folder / "pending").iterdir()), [])
        self.assertIn("stands in", self.store.approve(self.alice.fingerprint, "alice").notes[0])

    def test_authorize_takes_off_the_list(self) -> None:
        """Lost: who was let in by its file would go on waiting in the list."""
        self.knocked(self.pair("bob"))
        self.store.authorize([self.alice.der], "alice")
        self.assertFalse(self.file.exists())
        self.assertEqual(len(list((self.folder / "pending").iterdir())), 1)

    def test_the_server_is_quicker(self) -> None:
        """Lost: the server, which removes what has become known, would make the command fail and take everything back."""
        file = self.file

        class Quick(System):
            def rename(self, old: str, new: str, folder: int) -> None:
                super().rename(old, new, folder)
                file.unlink(missing_ok=True)

        store = Store(self.folder, lambda: NOW, "operator", Quick())
        self.assertEqual(store.approve(self.alice.fingerprint, "alice").fingerprints, (self.alice.fingerprint,))

    def test_owned_by_the_server(self) -> None:
        """Lost: the list could not be the only thing that the server's user may write to."""
        if os.geteuid() == 0:
            for path in (self.folder / "pending", self.file):
                os.chown(path, 1234, -1)
        self.assertEqual(self.store.approve(self.alice.fingerprint, "alice").fingerprints, (self.alice.fingerprint,))


class DismissTests(Base):
    """`mtlsd dismiss`, below its words."""

    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.pair(), self.pair("bob")
        self.knocked(self.alice, "192.0.2.1")
        self.knocked(self.bob, "192.0.2.2", timedelta(days=9))

    def left(self) -> set[str]:
        return {path.name[:64] for path in (self.folder / "pending").iterdir()}

    def test_one(self) -> None:
        """Lost: a stranger stays in the list; or nobody knows who took them off it."""
        self.assertEqual(self.store.dismiss(self.alice.fingerprint[:8]), Change(None, (self.alice.fingerprint,)))
        self.assertEqual(self.left(), {self.bob.fingerprint})
        (line,) = self.ledger()
        wanted = {"event": "dismissed", "client": None, "fingerprint": self.alice.fingerprint, "subject": "CN=alice"}
        self.assertEqual({key: line[key] for key in wanted}, wanted)

    def test_nobody(self) -> None:
        """Lost: status 1 for digits that fit nobody, or too many."""
        self.refused("mtlsd pending lists", lambda: self.store.dismiss("0" * 8), NotFound)
        (self.folder / "pending" / file_of(self.alice.fingerprint[:10] + "0" * 54)).touch()
        self.refused("fits 2 certificates", lambda: self.store.dismiss(self.alice.fingerprint[:8]))
        self.assertRaises(ValueError, self.store.dismiss, "0" * 7)
        shutil.rmtree(self.folder / "pending")
        self.refused("nobody has knocked", lambda: self.store.dismiss("0" * 8), NotFound)
        self.assertEqual(self.store.dismiss_all(lambda _: True), Change(None))

    def test_all(self) -> None:
        """Lost: a flood would have to be taken off the list one by one; what cannot be read is named and stays."""
        odd = self.folder / "pending" / file_of("0" * 64)
        odd.touch()

        def old(knock: Knock) -> bool:
            return knock.last < NOW - timedelta(days=7)

        change = self.store.dismiss_all(old)
        self.assertEqual(change.fingerprints, (self.bob.fingerprint,))
        self.assertIn(f"{odd}: passed over", change.problems[0])
        self.assertEqual(self.left(), {self.alice.fingerprint, "0" * 64})
        self.assertEqual(self.store.dismiss("0" * 64).fingerprints, ("0" * 64,))

    def test_gone_meanwhile(self) -> None:
        """Lost: what the server has removed at that moment would be recorded as dismissed."""

        class Gone(System):
            def unlink(self, name: str, folder: int) -> None:
                os.unlink(name, dir_fd=folder)
                super().unlink(name, folder)

        store = Store(self.folder, lambda: NOW, "operator", Gone())
        self.assertEqual(store.dismiss(self.alice.fingerprint), Change(None))

    def test_failure(self) -> None:
        """Lost: what could not be removed would be reported as dismissed."""

        class Stuck(System):
            def unlink(self, name: str, folder: int) -> None:
                raise PermissionError(1, "Operation not permitted")

        change = Store(self.folder, lambda: NOW, "operator", Stuck()).dismiss_all(lambda _: True)
        self.assertEqual(change.fingerprints, ())
        self.assertIn("cannot be removed: Operation not permitted", change.problems[0])
        self.assertEqual(len(self.left()), 2)


class BlocksTests(SynchronousTestCase):
    """PEM text, changed by a block."""

    def test_every_copy(self) -> None:
        """Lost: a certificate that stands twice in a file would be revoked once."""
        one, two = make_pair(), make_pair()
        self.assertEqual(without_block(one.pem + two.pem + one.pem, one.der), two.pem)

    def test_odd_text(self) -> None:
        """Lost: a cut in text that hides a block from us would leave something else than was meant."""
        one, two = make_pair(), make_pair()
        hidden = one.pem.replace(b"-----BEGIN CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----\n\n \t", 1)
        self.assertEqual(without_block(hidden + two.pem, one.der), two.pem)
        inside = b"-----BEGIN NOTE-----\n" + b"-----END NOTE-----\n" + one.pem
        self.assertEqual(without_block(inside, two.der), inside)

    def test_byte_order_mark(self) -> None:
        """Lost: a certificate that Notepad saved could be revoked by name only, or without a tombstone."""
        one, two = make_pair(), make_pair()
        marked = b"\xef\xbb\xbf" + one.pem + two.pem
        self.assertEqual(without_block(marked, one.der), two.pem)
        self.assertEqual(salvaged(marked), ([one.der, two.der], 0))
        self.assertEqual(salvaged(b"\xef\xbb\xbf" + one.pem + DAMAGED), ([one.der], 1))

    def test_never_something_else(self) -> None:
        """Lost: the last check that a changed file says what it should, and nothing more."""
        one, two = make_pair(), make_pair()
        self.assertRaises(CertificateError, _checked, one.pem + two.pem, [one.der])

    def test_salvage(self) -> None:
        """Lost: what can still be read of a damaged file."""
        pair = make_pair()
        self.assertEqual(salvaged(DAMAGED + pair.pem + b"-----BEGIN CERTIFICATE-----\nMII"), ([pair.der], 2))
        unpadded = b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
        self.assertEqual(salvaged(unpadded + pair.pem), ([pair.der], 1))


class WholeOrNotAtAllTests(Base):
    """A failure, or a kill, at each system call of each change."""

    def prepare(self) -> None:
        self.waits = self.pair("erin")
        self.knocked(self.waits)
        self.old, self.new, self.gone, self.bob = self.pair(), self.pair(), self.pair(key=new_key()), self.pair("bob")
        self.store.authorize([self.gone.der], "carol")
        self.store.revoke("carol")
        self.store.authorize([self.old.der, self.bob.der], "alice")
        self.put("alice.toml", b'groups = ["ops"]')
        # A newcomer with two, one who is in, one who is revoked, one whose name is taken, and another newcomer.
        more = [self.pair(str(nth)) for nth in range(3)]
        self.bundle = [(self.new, "dave"), (more[0], "dave"), (self.bob, "bob"), (self.gone, "carol")]
        self.bundle += [(more[1], "alice"), (more[2], "erin")]

    def scenarios(self) -> dict[str, Callable[[Store], object]]:
        return {
            "authorize": lambda store: store.authorize([self.new.der], "dave"),
            "add": lambda store: store.authorize([self.new.der], "alice", add=True),
            "again": lambda store: store.authorize([self.gone.der], "carol", again=True),
            "add again": lambda store: store.authorize([self.gone.der, self.new.der], "alice", add=True, again=True),
            "revoke": lambda store: store.revoke("alice"),
            "revoke one": lambda store: store.revoke_fingerprint(self.old.fingerprint),
            "in advance": lambda store: store.revoke_fingerprint(self.new.fingerprint),
            "import": lambda store: store.admit([offer(pair, name) for pair, name in self.bundle]),
            "import add": lambda store: store.admit([offer(pair, name) for pair, name in self.bundle], add=True),
            "approve": lambda store: store.approve(self.waits.fingerprint[:16], "erin"),
            "approve further": lambda store: store.approve(self.waits.fingerprint, "alice", add=True),
        }

    def each(self, fatal: bool) -> list[tuple[str, Callable[[Store], object], Path, Path, Faulty]]:
        """Return (name, change, folder before, folder to work on, faulty system) for each call of each scenario."""
        self.prepare()
        found = []
        for name, change in self.scenarios().items():
            probe = Faulty(-1)
            change(Store(self.copy(), lambda: NOW, "operator", probe))
            self.assertGreater(probe.count, 5)
            found += [(name, change, self.folder, self.copy(), Faulty(at, fatal)) for at in range(probe.count)]
        return found

    def copy(self) -> Path:
        copy = Path(self.mktemp())
        shutil.copytree(self.folder, copy)
        return copy

    def after(self, change: Callable[[Store], object]) -> dict[str, str]:
        copy = self.copy()
        change(Store(copy, lambda: NOW, "operator"))
        return self.in_force(copy)

    def test_failure(self) -> None:
        """Lost: after a full disk, somebody would be half in, or half out, or files would lie about."""
        wanted = {name: self.after_lazily(name) for name in self.scenario_names()}
        for name, change, before, folder, system in self.each(fatal=False):
            with self.subTest(scenario=name, at=system.at):
                store = Store(folder, lambda: NOW, "operator", system)
                try:
                    change(store)
                except FolderError as error:
                    self.assertIn("No space left on device", str(error))
                    self.assertEqual(tree(folder), tree(before))
                else:
                    self.assertEqual(self.in_force(folder), wanted[name]())
                self.assertTrue(system.struck)

    def test_kill(self) -> None:
        """Lost: a kill -9 would let in more than was asked for, or stand in the way of the same command given again."""
        wanted = {name: self.after_lazily(name) for name in self.scenario_names()}
        for name, change, before, folder, system in self.each(fatal=True):
            with self.subTest(scenario=name, at=system.at):
                with contextlib.suppress(Killed):
                    change(Store(folder, lambda: NOW, "operator", system))
                was, middle, will = self.in_force(before), self.in_force(folder), wanted[name]()
                self.assertLessEqual(was.items() & will.items(), middle.items())
                self.assertLessEqual(middle.items(), was.items() | will.items())
                change(Store(folder, lambda: NOW, "operator"))
                self.assertEqual(self.in_force(folder), will)
                self.assertEqual(
                    [path for part in ("authorized", "revoked", "pending") for path in (folder / part).glob(".mtlsd-*")], []
                )

    def scenario_names(self) -> list[str]:
        return [
            *("authorize", "add", "again", "add again", "revoke", "revoke one", "in advance", "import", "import add"),
            *("approve", "approve further"),
        ]

    def after_lazily(self, name: str) -> Callable[[], dict[str, str]]:
        known: list[dict[str, str]] = []

        def after() -> dict[str, str]:
            if not known:
                known.append(self.after(self.scenarios()[name]))
            return known[0]

        return after

    def test_undo_that_fails(self) -> None:
        """Lost: one step that cannot be taken back would keep the others from it."""
        folder = Folder(str(self.folder / "authorized"), System())

        def fail_after_all() -> None:
            with Transaction() as steps:
                for name in ("one", "two"):
                    steps.place(folder, steps.stage(folder, b"x", 0o644), name)
                (self.folder / "authorized" / "two").unlink()
                raise OSError(28, "No space left on device")

        try:
            self.assertRaises(OSError, fail_after_all)
        finally:
            folder.close()
        self.assertEqual(list((self.folder / "authorized").iterdir()), [])

    def test_place_is_taken(self) -> None:
        """Lost: what came there in the meantime would be overwritten."""
        self.put("one", b"mine")
        folder = Folder(str(self.folder / "authorized"), System())
        try:
            with self.assertRaises(FileExistsError), Transaction() as steps:
                steps.place(folder, steps.stage(folder, b"x", 0o644), "one")
        finally:
            folder.close()
        self.assertEqual(tree(self.folder), {"authorized": None, "authorized/one": b"mine", "revoked": None})

    def test_short_writes(self) -> None:
        """Lost: a file system that takes a few bytes at a time would leave half a certificate."""

        class Slow(System):
            def write(self, descriptor: int, data: bytes) -> int:
                return super().write(descriptor, data[:100])

        pair = self.pair()
        Store(self.folder, lambda: NOW, "operator", Slow()).authorize([pair.der], "alice")
        self.assertEqual(self.in_force(), {pair.fingerprint: "alice"})
        self.assertEqual(len(self.ledger()), 1)


class LockTests(Base):
    """Several writers, and a folder that is not as it should be."""

    def test_at_once(self) -> None:
        """Lost: of two changes at the same time, one would be lost, or the ledger would have half lines."""
        pairs = [self.pair(str(number)) for number in range(16)]
        errors: list[BaseException] = []

        def add(pair: Pair) -> None:
            try:
                Store(self.folder, lambda: NOW, "operator").authorize([pair.der], "alice", add=True)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=add, args=(pair,)) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(set(self.in_force()), {pair.fingerprint for pair in pairs})
        self.assertEqual({line["fingerprint"] for line in self.ledger()}, {pair.fingerprint for pair in pairs})

    def test_lock_removed_while_waiting(self) -> None:
        """Lost: somebody who tidies up `.lock` would let two writers in at once."""
        held: list[int] = []

        class Tidied(System):
            def open(self, name: str, flags: int, mode: int, folder: int) -> int:
                descriptor = super().open(name, flags, mode, folder)
                if name == ".lock" and not held:
                    os.unlink(name, dir_fd=folder)
                    held.append(descriptor)
                return descriptor

        Store(self.folder, lambda: NOW, "operator", Tidied()).authorize([self.pair().der], "alice")
        self.assertEqual(len(held), 1)
        self.assertTrue((self.folder / ".lock").exists())

    def test_released(self) -> None:
        """Lost: a refused command would hold up all that follow."""
        self.assertRaises(NotFound, self.store.revoke, "alice")
        with open(self.folder / ".lock", "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_lock_is_no_file(self) -> None:
        """Lost: a link or a FIFO in the lock's place would lead the command elsewhere, or hold it for ever."""
        for make in (os.mkfifo, lambda path: os.symlink("/dev/null", path)):
            make(self.folder / ".lock")
            self.refused(".lock: cannot be locked", lambda: self.store.revoke("alice"), FolderError)
            (self.folder / ".lock").unlink()

    def test_no_folder(self) -> None:
        """Lost: the word that `mtlsd init` makes it."""
        for folder, said in (
            (Path("certs"), "no such folder certs: run mtlsd init"),
            (Path("a b"), "run mtlsd init --certs 'a b'"),
        ):
            for call in (
                lambda folder=folder: Store(folder, lambda: NOW, "x").revoke("alice"),
                lambda folder=folder: looked_at(folder),
            ):
                self.assertTrue(str(self.assertRaises(FolderError, call)).endswith(said))

    def test_no_rooms(self) -> None:
        """Lost: the same, for a folder that has only the server's pair."""
        (self.folder / "authorized").rmdir()
        self.refused("authorized: run mtlsd init", lambda: self.store.revoke("alice"), FolderError)
        self.refused("authorized: run mtlsd init", lambda: looked_at(self.folder), FolderError)

    def test_no_folder_but_a_file(self) -> None:
        """Lost: one line where --certs is a file."""
        path = Path(self.mktemp())
        path.touch()
        error = self.assertRaises(FolderError, Store(path, lambda: NOW, "x").revoke, "alice")
        self.assertIn("cannot be used: Not a directory", str(error))

    def test_room_is_a_link(self) -> None:
        """Lost: a link in the place of `authorized` would carry the change into some other folder."""
        other = self.new_folder()
        (self.folder / "authorized").rmdir()
        os.symlink(other.resolve() / "authorized", self.folder / "authorized")
        self.refused("authorized: the folder cannot be used", lambda: self.store.authorize([self.pair().der], "a"), FolderError)

    def test_leftovers(self) -> None:
        """Lost: a key's worth of temporary files after each kill."""
        self.put(".mtlsd-0123", b"half")
        self.put(".hidden", b"the operator's")
        self.store.authorize([self.pair().der], "alice")
        self.assertEqual(sorted(os.listdir(self.folder / "authorized")), [".hidden", "alice.pem"])


class FoundTests(Base):
    """`mtlsd init`, below its words."""

    def setUp(self) -> None:
        super().setUp()
        self.fresh = Path(self.mktemp()) / "deep" / "certs"

    def found(self, *wanted: str, system: System | None = None, folder: Path | None = None) -> tuple[str, ...]:
        return found(folder or self.fresh, wanted, ["localhost", "127.0.0.1"], lambda: NOW, 825, system).made

    def test_makes(self) -> None:
        """Lost: the first command of everybody; the key must be nobody else's to read."""
        self.assertEqual(self.found("a.org"), (".", "authorized/", "revoked/", "pending/", SERVER_KEY, SERVER_CERTIFICATE))
        names = (".", "authorized", "revoked", "pending", SERVER_KEY, SERVER_CERTIFICATE)
        modes = [stat.S_IMODE((self.fresh / name).stat().st_mode) for name in names]
        self.assertEqual(modes, [0o755, 0o755, 0o755, 0o700, 0o600, 0o644])
        self.assertEqual(certificate_at(self.fresh / SERVER_CERTIFICATE)[1].names, ("localhost", "a.org"))
        self.assertEqual(self.in_force(self.fresh), {})

    def test_twice(self) -> None:
        """Lost: `make serve`, which runs init each time, would make a new pair each time."""
        self.found()
        before = tree(self.fresh)
        self.assertEqual(self.found(), ())
        self.assertEqual(self.found("localhost"), ())
        self.assertEqual(tree(self.fresh), before)

    def test_what_is_missing(self) -> None:
        """Lost: a folder in which only the recipe's pair, or only a README, lies."""
        self.fresh.mkdir(parents=True)
        make_pair("localhost").write(self.fresh, "server")
        self.assertEqual(self.found(), ("authorized/", "revoked/", "pending/"))

    def test_half_a_pair(self) -> None:
        """Lost: a key without its certificate would be overwritten, or the server would say so much later."""
        self.found()
        for lost in (SERVER_KEY, SERVER_CERTIFICATE):
            aside = self.fresh / "aside"
            (self.fresh / lost).rename(aside)
            error = self.assertRaises(Refused, self.found)
            self.assertTrue(str(error).startswith(f"{self.fresh / lost} is missing"), error)
            aside.rename(self.fresh / lost)

    def test_other_host(self) -> None:
        """Lost: the operator would believe that the server goes by a name that no client accepts."""
        self.found()
        self.assertIn("does not name b.org", str(self.assertRaises(Refused, self.found, "localhost", "b.org")))

    def test_damaged(self) -> None:
        """Lost: one line that names the file, for a certificate of the server that cannot be read."""
        self.found()
        path = self.fresh / SERVER_CERTIFICATE
        for data in (b"junk", b"", DAMAGED):
            path.write_bytes(data)
            self.assertTrue(str(self.assertRaises(CertificateError, self.found)).startswith(f"{path}: "))
        path.unlink()
        path.mkdir()
        self.assertIn("cannot be read", str(self.assertRaises(CertificateError, self.found)))

    def test_cannot_be_made(self) -> None:
        """Lost: one line where the folder cannot be."""
        path = Path(self.mktemp())
        path.touch()
        for folder in (path, path / "certs"):
            error = self.assertRaises(FolderError, lambda folder=folder: self.found(folder=folder))
            self.assertIn("cannot be made", str(error))

    def test_failure(self) -> None:
        """Lost: after a full disk, half a pair would keep init from ever working again."""
        probe = Faulty(-1)
        folder = Path(self.mktemp())
        folder.mkdir()
        self.found(system=probe, folder=folder)
        for fatal in (False, True):
            for at in range(probe.count):
                folder = Path(self.mktemp())
                folder.mkdir()
                with self.subTest(at=at, fatal=fatal):
                    try:
                        self.found(system=Faulty(at, fatal), folder=folder)
                    except FolderError:
                        self.assertEqual(tree(folder), {})
                    except Killed:
                        if (folder / SERVER_KEY).exists() and not (folder / SERVER_CERTIFICATE).exists():
                            # The one moment in which a kill leaves half a pair: it is named, not guessed at.
                            self.assertIn("is missing", str(self.assertRaises(Refused, self.found, folder=folder)))
                            continue
                    self.found(folder=folder)
                    self.assertEqual(certificate_at(folder / SERVER_CERTIFICATE)[1].names, ("localhost",))
                    self.assertEqual(list(folder.glob(".mtlsd-*")), [])


class ClientPairTests(Base):
    """`mtlsd new`, below its words."""

    def setUp(self) -> None:
        super().setUp()
        self.out = Path(self.mktemp())

    def make(self, name: str = "alice", store: Store | None = None, add: bool = False) -> Change:
        return made_and_authorized(store or self.store, name, self.out, NOW, 30, add=add).change

    def test_makes(self) -> None:
        """Lost: a pair that is let in, whose key nobody else can read."""
        change = self.make()
        self.assertEqual(self.in_force(), {change.fingerprints[0]: "alice"})
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (self.out, self.out / "aliceKey.pem")]
        self.assertEqual(modes, [0o700, 0o600])

    def test_never_overwrites(self) -> None:
        """Lost: a key that is in use would be gone."""
        self.out.mkdir()
        for name in ("aliceKey.pem", "aliceCrt.pem"):
            path = self.out / name
            path.write_text("mine")
            self.refused(f"{path}: it is there already", self.make, FolderError)
            self.assertEqual([(left.name, left.read_text()) for left in self.out.iterdir()], [(name, "mine")])
            path.unlink()

    def test_refused(self) -> None:
        """Lost: a pair would lie about that nobody lets in."""
        self.store.authorize([self.pair().der], "alice")
        self.refused("is taken", self.make)
        self.assertFalse(self.out.exists())
        self.make(add=True)
        self.assertEqual(len(self.in_force()), 2)

    def test_bad_name(self) -> None:
        """Lost: a name that leads out of the folder."""
        self.refused("no client's name", lambda: self.make("../alice"))

    def test_no_room(self) -> None:
        """Lost: one line where the pair cannot be written."""
        self.out = Path("/dev/null")
        self.refused("cannot be written", self.make, FolderError)
        self.out = Path(self.mktemp()) / "deeper"
        self.refused("cannot be written: No such file", self.make, FolderError)
