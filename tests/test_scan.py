"""How the operator's folder is read."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import FolderError
from mtlsd.registry.clients import SETTLE, Reading
from mtlsd.registry.folder import MOST_BYTES, File, Unsafe, objection, read_file
from mtlsd.registry.listing import AUTHORIZED, REVOKED, marks
from mtlsd.registry.problems import Severity
from mtlsd.registry.reader import Reader
from mtlsd.registry.records import Tombstone
from mtlsd.registry.scan import Scan, _Look, scan
from mtlsd.registry.terms import Terms
from tests.pki import Pair, make_pair

#: A user that owns none of the files here, whoever runs the tests.
STRANGER = 54321


class FolderCase(SynchronousTestCase):
    """A folder, the looks at it, and a clock that stands still until it is told."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        for folder in (self.folder, self.folder / AUTHORIZED, self.folder / REVOKED):
            folder.mkdir()
            folder.chmod(0o755)
        self.uid = os.geteuid()
        self.now = 1000.0
        # By the real time the files of a test are young: they are read at every look, as their stamps tell too little.
        self.wall: Callable[[], float] = time.time
        self.last: Scan | None = None

    def age(self) -> None:
        """From here on no file is young."""
        self.wall = lambda: 0.0

    def put(self, name: str, data: bytes, folder: str = AUTHORIZED, mode: int = 0o644) -> Path:
        path = self.folder / folder / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def look(self, later: float = 0.0) -> Scan:
        self.now += later
        self.last = scan(self.folder, self.last, server_uid=self.uid, monotonic=self.now, wall=self.wall)
        return self.last

    def clients(self, later: float = 0.0) -> dict[str, str]:
        """Who is authorized, by fingerprint, after a look."""
        return {fingerprint: found.client for fingerprint, found in self.look(later).snapshot.authorized.items()}

    def texts(self, severity: Severity = Severity.ERROR) -> list[str]:
        assert self.last is not None
        for problem in self.last.problems:
            self.assertTrue(problem.text.isprintable(), problem.text)
        return [problem.text for problem in self.last.problems if problem.severity is severity]

    def told(self, *parts: str, severity: Severity = Severity.ERROR) -> None:
        """Exactly one problem of that severity is told, and its text has all *parts*."""
        texts = self.texts(severity)
        self.assertEqual(1, len(texts), texts)
        for part in parts:
            self.assertIn(part, texts[0])

    def quiet(self) -> None:
        self.assertEqual([], self.texts() + self.texts(Severity.WARNING))


class AuthorizedTests(FolderCase):
    def test_one_file(self) -> None:
        """A certificate that was copied into the folder would not let its client in."""
        alice = make_pair()
        self.put("alice.pem", alice.pem)
        self.age()
        found = self.look()
        standing = found.snapshot.authorized[alice.fingerprint]
        self.assertEqual(("alice", alice.leaf, alice.leaf.not_after), (standing.client, standing.certificate, standing.ends))
        self.assertEqual(str(self.folder / "authorized/alice.pem"), standing.file)
        self.assertEqual((frozenset({alice.fingerprint}), None, False), (found.changed, found.again_in, found.unsure))
        self.quiet()

    def test_several_in_one_file(self) -> None:
        """A client in the middle of a rotation would be let in with one of its two certificates only."""
        one, two = make_pair(), make_pair()
        self.put("alice.pem", one.pem + two.pem + one.pem)
        self.assertEqual({one.fingerprint: "alice", two.fingerprint: "alice"}, self.clients())

    def test_unchanged_is_not_read_again(self) -> None:
        """A look at 100,000 files would take as long as the start, and every look would count as a change."""
        alice, bob = make_pair(), make_pair()
        path = self.put("alice.pem", alice.pem)
        self.age()
        first = self.look()
        self.put("bob.pem", bob.pem)
        second = self.look()
        self.assertEqual(frozenset({bob.fingerprint}), second.changed)
        self.assertIs(first.snapshot.authorized[alice.fingerprint], second.snapshot.authorized[alice.fingerprint])
        self.assertIs(first.clients["alice"], second.clients["alice"])
        self.assertIs(second.snapshot, self.look().snapshot)
        # Read again, but the same: still no change.
        os.utime(path, ns=(1, 1))
        third = self.look()
        self.assertIsNot(second.clients["alice"], third.clients["alice"])
        self.assertIs(second.snapshot, third.snapshot)
        self.assertEqual(frozenset(), third.changed)

    def test_same_size_in_the_same_tick(self) -> None:
        """A certificate replaced within the kernel's tick, by one of the same size, would stay authorized for ever."""
        alice = make_pair()
        other = make_pair()
        while len(other.pem) != len(alice.pem):
            other = make_pair()
        path = self.put("alice.pem", alice.pem)
        stamp = path.stat().st_ctime
        self.wall = lambda: stamp
        self.assertTrue(self.look().unsure)
        # What the kernel does within a tick cannot be arranged, so the look itself is asked: it reads once more.
        assert self.last is not None
        self.assertIsNone(self.last.clients["alice"].pem.signature)
        self.put("alice.pem", other.pem)
        self.assertIn(other.fingerprint, self.clients())
        self.age()
        self.assertFalse(self.look(SETTLE).unsure)
        self.assertEqual({other.fingerprint: "alice"}, self.clients())

    def test_names(self) -> None:
        """A file whose name no client can have would be let in, or would go unnoticed by the operator."""
        pem = make_pair().pem
        self.put("-rf.pem", pem)
        self.assertEqual({}, self.clients())
        self.told("/authorized/-rf.pem: refused: a client's name")
        (self.folder / AUTHORIZED / "-rf.pem").unlink()
        for name in ("a\nb\x1b.pem", "x" * 65 + ".pem", "\udcff.pem", ".pem "):
            self.put(name, pem)
        self.assertEqual({}, self.clients())
        self.assertEqual(3, len(self.texts()))

    def test_other_files(self) -> None:
        """A certificate under the wrong suffix would be passed over without a word, or a README be an error."""
        for name in (".hidden.pem", ".alice.pem.swp", "orphan.toml"):
            self.put(name, b"groups = 1")
        self.look()
        self.quiet()
        self.put("alice.crt", make_pair().pem)
        self.assertEqual({}, self.clients())
        self.told("alice.crt: ignored, only NAME.pem is read", severity=Severity.WARNING)
        self.assertEqual([], self.texts())

    def test_private_key(self) -> None:
        """Nobody would be told that a private key lies on the server."""
        alice = make_pair()
        self.put("alice.pem", alice.key_pem + alice.pem)
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        self.told("alice.pem: it holds a private key", severity=Severity.WARNING)

    def test_many(self) -> None:
        """A file of the largest size, or a folder of thousands of names, would be read in part."""
        pair = make_pair()
        pems = [pair.pem] * (MOST_BYTES // len(pair.pem))
        self.put("alice.pem", b"".join(pems))
        for number in range(2000):
            self.put(f"client{number}.pem", b"")
        self.assertEqual({pair.fingerprint: "alice"}, self.clients())
        assert self.last is not None
        self.assertEqual(2001, len(self.last.clients))
        self.quiet()


class DamagedTests(FolderCase):
    def test_last_good_state_stays(self) -> None:
        """A file that was garbled while the server runs would cut its client off."""
        alice = make_pair()
        self.put("alice.pem", alice.pem)
        before = self.look().snapshot
        self.put("alice.pem", alice.pem[:-40])
        found = self.look()
        self.assertIs(before, found.snapshot)
        self.told("authorized/alice.pem: damaged: ", "without its END line", "what it authorized before stays")
        self.assertIsNone(found.again_in)
        self.assertEqual({alice.fingerprint: "alice"}, self.clients(1e6))
        self.told("what it authorized before stays")
        self.put("alice.pem", alice.pem)
        self.look()
        self.quiet()

    def test_not_at_the_first_look(self) -> None:
        """What is damaged when the server starts would be guessed at."""
        bob = make_pair()
        self.put("alice.pem", b"garbage")
        self.put("bob.pem", bob.pem)
        self.assertEqual({bob.fingerprint: "bob"}, self.clients())
        self.told("alice.pem: damaged: ", "it authorizes nobody")

    def test_unreadable(self) -> None:
        """A file that cannot be opened for once would revoke its client."""
        alice = make_pair()
        path = self.put("alice.pem", alice.pem)
        self.look()
        path.unlink()
        path.symlink_to("alice.pem")
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        self.told("alice.pem: cannot be read: ", "stays")
        path.unlink()
        self.put("alice.pem", alice.pem)
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        self.quiet()

    def test_beyond_us(self) -> None:
        """One certificate that makes a library fail in a way of its own would stop the revoking of all others."""
        reader = Reader(self.uid, time.time)

        def failing(data: bytes) -> tuple[int, tuple[str, ...]]:
            raise ZeroDivisionError(data)

        reading = reader.parsed(File(b"x", b"signature", False), failing)
        self.assertEqual((None, "damaged: ZeroDivisionError"), (reading.content, reading.error))


class SettlingTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = make_pair()
        self.path = self.put("alice.pem", self.alice.pem)
        self.let_in = {self.alice.fingerprint: "alice"}
        self.look()

    def test_copied_once_more(self) -> None:
        """cp of the same file, which truncates it first, would cut the live connections of its client."""
        before = self.look().snapshot
        self.put("alice.pem", b"")
        found = self.look()
        self.assertIs(before, found.snapshot)
        self.assertEqual(SETTLE, found.again_in)
        self.put("alice.pem", self.alice.pem)
        found = self.look(SETTLE / 2)
        self.assertIs(before, found.snapshot)
        self.assertIsNone(found.again_in)
        # A later loss has a time of its own.
        self.put("alice.pem", b"")
        self.assertEqual(self.let_in, self.clients(SETTLE))

    def test_emptied(self) -> None:
        """Emptying a file would not revoke."""
        self.put("alice.pem", b"\n")
        self.assertEqual(self.let_in, self.clients())
        found = self.look(SETTLE / 2)
        self.assertAlmostEqual(SETTLE / 2, found.again_in or 0)
        found = self.look(SETTLE / 2)
        self.assertEqual(({}, frozenset(self.let_in)), (dict(found.snapshot.authorized), found.changed))
        self.assertIsNone(found.again_in)
        self.quiet()

    def test_removed(self) -> None:
        """Removing a file would not revoke."""
        self.path.unlink()
        self.assertEqual(self.let_in, self.clients())
        self.assertEqual({}, self.clients(SETTLE))
        assert self.last is not None
        self.assertEqual({}, dict(self.last.clients))

    def test_removed_and_back(self) -> None:
        """git checkout, which removes a file before it makes it anew, would cut live connections."""
        self.path.unlink()
        self.look()
        self.put("alice.pem", self.alice.pem)
        self.assertEqual(self.let_in, self.clients(SETTLE))

    def test_fewer(self) -> None:
        """Taking one of two certificates out of a file would not revoke it; a half-copied file would."""
        two = make_pair()
        self.put("alice.pem", self.alice.pem + two.pem)
        self.look()
        self.put("alice.pem", two.pem)
        self.assertEqual(self.let_in | {two.fingerprint: "alice"}, self.clients())
        self.assertEqual({two.fingerprint: "alice"}, self.clients(SETTLE))

    def test_damaged_while_it_settles(self) -> None:
        """A file seen empty, then half-written, would lose its client before the copy is done."""
        self.put("alice.pem", b"")
        self.look()
        self.put("alice.pem", self.alice.pem[:100])
        self.assertIsNone(self.look(SETTLE / 2).again_in)
        self.assertEqual(self.let_in, self.clients(SETTLE * 10))

    def test_replaced(self) -> None:
        """A new certificate would wait for the old one to go."""
        two = make_pair()
        self.put("alice.pem", two.pem)
        self.assertEqual(self.let_in | {two.fingerprint: "alice"}, self.clients())
        self.assertEqual({two.fingerprint: "alice"}, self.clients(SETTLE))

    def test_with_a_tombstone(self) -> None:
        """mtlsd revoke would take longer than it must."""
        self.put(f"{self.alice.fingerprint}.json", b"{}", REVOKED)
        self.path.unlink()
        found = self.look()
        self.assertIsInstance(found.snapshot.standing(self.alice.fingerprint), Tombstone)
        self.assertEqual(({}, None), (dict(found.snapshot.authorized), found.again_in))

    def test_renamed(self) -> None:
        """mv alice.pem bob.pem would be called a certificate under two names, or cut the client off in between."""
        self.path.rename(self.path.with_name("bob.pem"))
        self.assertEqual(self.let_in, self.clients())
        self.quiet()
        self.assertEqual({self.alice.fingerprint: "bob"}, self.clients(SETTLE))
        self.quiet()

    def test_while_the_folder_is_away(self) -> None:
        """A loss would be believed by the time alone, without another look at the file."""
        self.path.unlink()
        self.look()
        (self.folder / AUTHORIZED).rename(self.folder / "away")
        self.assertEqual(self.let_in, self.clients(SETTLE * 10))
        (self.folder / "away").rename(self.folder / AUTHORIZED)
        self.put("alice.pem", self.alice.pem)
        self.assertEqual(self.let_in, self.clients())


class SafetyTests(FolderCase):
    def refused(self, *parts: str) -> None:
        """alice.pem is refused, whatever it said before."""
        self.assertEqual({}, self.clients())
        self.told("authorized/alice.pem: refused, so the client is not authorized: ", *parts)

    def test_writable_by_others(self) -> None:
        """Any user of the machine could put a certificate into a file that others may write."""
        alice = make_pair()
        path = self.put("alice.pem", alice.pem)
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        path.chmod(0o646)
        self.refused("others may write to it; chmod o-w")
        path.chmod(0o644)
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        self.quiet()

    def test_writable_by_the_group(self) -> None:
        """A folder kept by a group would be unusable, or its risk go unsaid."""
        alice = make_pair()
        self.put("alice.pem", alice.pem, mode=0o664)
        (self.folder / REVOKED).chmod(0o775)
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        self.assertEqual([], self.texts())
        warnings = self.texts(Severity.WARNING)
        self.assertEqual(2, len(warnings))
        self.assertIn("/revoked: its group may write", warnings[0])
        self.assertIn("alice.pem: its group may write", warnings[1])

    def test_owner(self) -> None:
        """A file of any user, moved or linked into the folder, would authorize."""
        alice = make_pair()
        path = self.put("alice.pem", alice.pem)
        if not self.uid:
            os.chown(path, STRANGER, -1)
            self.refused(f"belongs to user {STRANGER}")
            self.uid = STRANGER
            self.assertEqual({alice.fingerprint: "alice"}, self.clients())
            os.chown(path, 0, -1)
            self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        else:
            self.look()
            self.uid = STRANGER
            self.refused(f"belongs to user {os.geteuid()}")

    def test_objection(self) -> None:
        """Root's files, or the server's own, would be refused; everybody else's be taken."""

        def status(mode: int = 0o100644, uid: int = 0, size: int = 10) -> os.stat_result:
            return os.stat_result((mode, 1, 1, 1, uid, 0, size, 0, 0, 0))

        for fine in (status(), status(uid=7), status(0o100664), status(size=MOST_BYTES)):
            self.assertIsNone(objection(fine, 7))
        for kind, why in ((0o020644, "a device"), (0o060644, "a device"), (0o120777, "no regular file"), (0o010644, "a FIFO")):
            self.assertIn(why, objection(status(kind), 7) or "")
        self.assertIn("user 8", objection(status(uid=8), 7) or "")
        self.assertIn("larger", objection(status(size=MOST_BYTES + 1), 7) or "")

    def test_owner_of_the_folder(self) -> None:
        """Nobody would be told that a user who is neither root nor the server may swap the files."""
        if not self.uid:
            os.chown(self.folder / AUTHORIZED, STRANGER, -1)
        else:
            (self.folder / REVOKED).rmdir()
            self.uid = STRANGER
        self.look()
        self.told("/authorized: the folder belongs to user", severity=Severity.WARNING)

    def test_fifo(self) -> None:
        """A FIFO would hold the registry for ever."""
        os.mkfifo(self.folder / AUTHORIZED / "alice.pem", 0o644)
        self.refused("a FIFO")

    def test_folder(self) -> None:
        """A folder named like a client would stop the scan."""
        (self.folder / AUTHORIZED / "alice.pem").mkdir()
        self.refused("a folder")

    def test_socket(self) -> None:
        """A socket would stop the scan."""
        with socket.socket(socket.AF_UNIX) as listening:
            here = os.open(".", os.O_RDONLY)
            try:
                # The path of a socket is short.
                os.chdir(self.folder / AUTHORIZED)
                listening.bind("alice.pem")
                os.chmod("alice.pem", 0o644)
            finally:
                os.fchdir(here)
                os.close(here)
        self.refused("a socket")

    def test_too_large(self) -> None:
        """A huge file would eat the memory."""
        self.put("alice.pem", b"\n" * (MOST_BYTES + 1))
        self.refused("larger than 1 MiB")

    def test_refusal_is_not_last_good(self) -> None:
        """What somebody else may have written would be trusted as far as the state before it."""
        self.put("alice.pem", make_pair().pem)
        self.look()
        (self.folder / AUTHORIZED / "alice.pem").chmod(0o666)
        self.refused()
        assert self.last is not None
        self.assertEqual(1, len(self.last.changed))

    def test_symlink_within(self) -> None:
        """A folder that Kubernetes mounts, in which every name is a link to ..data, would authorize nobody."""
        alice, bob = make_pair(), make_pair()
        inner = self.folder / AUTHORIZED / "..2026_11_23"
        inner.mkdir()
        (inner / "alice.pem").write_bytes(alice.pem)
        (inner / "alice.pem").chmod(0o644)
        (self.folder / AUTHORIZED / "..data").symlink_to("..2026_11_23")
        (self.folder / AUTHORIZED / "alice.pem").symlink_to("..data/alice.pem")
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        self.quiet()
        # The link that is swapped is not the one with the name.
        inner.rename(inner.with_name("..2026_11_24"))
        inner.mkdir()
        (inner / "alice.pem").write_bytes(bob.pem)
        (inner / "alice.pem").chmod(0o644)
        self.look()
        self.assertEqual({bob.fingerprint: "alice"}, self.clients(SETTLE))

    def test_symlink_out(self) -> None:
        """A link would let files in that were never put into the folder, the server's own certificate for one."""
        outside = self.folder / "serverCrt.pem"
        outside.write_bytes(make_pair().pem)
        outside.chmod(0o644)
        path = self.folder / AUTHORIZED / "alice.pem"
        for target in ("../serverCrt.pem", str(outside.absolute()), "/dev/null"):
            path.symlink_to(target)
            self.refused("leads out of the folder")
            path.unlink()

    def test_symlink_into_a_twin(self) -> None:
        """authorized-old/, whose name begins like that of the folder, would count as within."""
        twin = self.folder / "authorized-old"
        twin.mkdir()
        (twin / "alice.pem").write_bytes(make_pair().pem)
        (self.folder / AUTHORIZED / "alice.pem").symlink_to("../authorized-old/alice.pem")
        self.refused("leads out of the folder")

    def test_symlink_to_nothing(self) -> None:
        """Removing the file behind a link would not revoke, or not be told."""
        alice = make_pair()
        self.put(".alice", alice.pem)
        path = self.folder / AUTHORIZED / "alice.pem"
        path.symlink_to(".alice")
        self.assertEqual({alice.fingerprint: "alice"}, self.clients())
        (self.folder / AUTHORIZED / ".alice").unlink()
        self.look()
        self.assertEqual({}, self.clients(SETTLE))
        self.told("a symbolic link to a file that is not there", severity=Severity.WARNING)

    def test_symlink_to_fifo(self) -> None:
        """A FIFO behind a link would hold the registry for ever."""
        os.mkfifo(self.folder / AUTHORIZED / ".fifo", 0o644)
        (self.folder / AUTHORIZED / "alice.pem").symlink_to(".fifo")
        self.refused("a FIFO")

    def test_gone_between_listing_and_reading(self) -> None:
        """A file that goes away while the folder is read would be an error."""
        folder = os.open(self.folder / AUTHORIZED, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        self.assertRaises(FileNotFoundError, read_file, folder, "alice.pem", server_uid=self.uid, wall=lambda: 0.0)
        self.put("alice.pem", b"x" * 100)
        self.assertEqual(100, len(read_file(folder, "alice.pem", server_uid=self.uid, wall=lambda: 0.0).data))

    def test_grown_since(self) -> None:
        """A file that grows past the limit while it is read would be read without end."""
        path = self.put("alice.pem", b"x")

        def growing() -> float:
            path.write_bytes(b"y" * (MOST_BYTES + 1))
            return 0.0

        folder = os.open(self.folder / AUTHORIZED, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        self.assertRaises(Unsafe, read_file, folder, "alice.pem", server_uid=self.uid, wall=growing)

        def shrinking() -> float:
            path.write_bytes(b"z")
            return 0.0

        path.write_bytes(b"y" * 1000)
        self.assertEqual(b"z", read_file(folder, "alice.pem", server_uid=self.uid, wall=shrinking).data)


class TwoNamesTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.pair = make_pair()

    def test_at_the_first_look(self) -> None:
        """One of two clients would act under the other's name, as the order of a folder has it."""
        self.put("alice.pem", self.pair.pem)
        self.put("bob.pem", self.pair.pem)
        self.assertEqual({}, self.clients())
        self.told("authorized/alice.pem: ", "authorized/bob.pem as well", "neither", self.pair.fingerprint[:16])
        self.assertEqual({}, self.clients(100))
        (self.folder / AUTHORIZED / "bob.pem").unlink()
        self.look()
        self.assertEqual({self.pair.fingerprint: "alice"}, self.clients(SETTLE))
        self.quiet()

    def test_earlier_holder_keeps_it(self) -> None:
        """Whoever adds a file could take a certificate over from the client that has it."""
        self.put("bob.pem", self.pair.pem)
        self.look()
        self.put("alice.pem", self.pair.pem)
        self.put("carol.pem", self.pair.pem)
        self.assertEqual({self.pair.fingerprint: "bob"}, self.clients())
        self.told("alice.pem", "bob.pem", "carol.pem", "stays with bob")
        self.assertEqual({self.pair.fingerprint: "bob"}, self.clients(100))
        # The problem stays while it lasts, also through a look that changes something else.
        self.put("dave.pem", make_pair().pem)
        self.look()
        self.told("stays with bob")

    def test_both_new(self) -> None:
        """Two files added at once would be taken in the order of their names."""
        self.look()
        self.put("alice.pem", self.pair.pem)
        self.put("bob.pem", self.pair.pem)
        self.assertEqual({}, self.clients())
        self.told("neither")


class TermsTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = make_pair()
        self.put("alice.pem", self.alice.pem)

    def groups(self, later: float = 0.0) -> tuple[str, ...] | None:
        found = self.look(later).snapshot.authorized.get(self.alice.fingerprint)
        return None if found is None else found.groups

    def test_terms(self) -> None:
        """An operator's terms would not take force."""
        retired = datetime(2026, 12, 1, tzinfo=UTC)
        self.put(
            "alice.toml", f'groups = ["ops"]\ngrace = "7d"\n[retire]\n{self.alice.fingerprint} = 2026-12-01T00:00:00Z'.encode()
        )
        found = self.look().snapshot.authorized[self.alice.fingerprint]
        self.assertEqual((("ops",), retired), (found.groups, found.ends))
        self.put("alice.toml", b'grace = "7d"')
        self.look()
        found = self.look(SETTLE).snapshot.authorized[self.alice.fingerprint]
        self.assertEqual(((), self.alice.leaf.not_after + timedelta(days=7)), (found.groups, found.ends))

    def test_terms_alone(self) -> None:
        """A change of terms would go unseen where the certificate's file has not changed."""
        self.age()
        self.put("alice.toml", b'groups = ["ops"]')
        self.look()
        self.put("alice.toml", b'groups = ["operators"]')
        self.look()
        self.assertEqual(("operators",), self.groups(SETTLE))

    def test_change_settles(self) -> None:
        """A TOML file seen empty while it is copied would bring a retired certificate back for a moment."""
        self.put("alice.toml", b'groups = ["ops"]')
        self.assertEqual(("ops",), self.groups())
        self.put("alice.toml", b"")
        self.assertEqual(("ops",), self.groups())
        assert self.last is not None
        self.assertEqual(SETTLE, self.last.again_in)
        self.put("alice.toml", b'groups = ["ops", "more"]')
        # Each new state has to stand for itself.
        self.assertEqual(("ops",), self.groups(SETTLE))
        self.assertEqual(("ops", "more"), self.groups(SETTLE))
        assert self.last is not None
        self.assertIsNone(self.last.again_in)
        (self.folder / AUTHORIZED / "alice.toml").unlink()
        self.assertEqual(("ops", "more"), self.groups())
        self.assertEqual((), self.groups(SETTLE))

    def test_damaged_at_the_first_look(self) -> None:
        """A certificate that the operator has retired would be let in because of a slip in the file that says so."""
        self.put("alice.toml", b"retired = 1")
        self.assertIsNone(self.groups())
        self.told("authorized/alice.toml: damaged: unknown key retired", "it authorizes nobody")
        self.put("alice.toml", b"")
        self.assertEqual((), self.groups())

    def test_damaged_later(self) -> None:
        """A slip in a client's terms would cut it off."""
        self.put("alice.toml", b'groups = ["ops"]')
        self.look()
        self.put("alice.toml", b"groups = [")
        self.assertEqual(("ops",), self.groups(100))
        self.told("alice.toml: damaged: not TOML", "what it authorized before stays")

    def test_nothing_new_under_damaged_terms(self) -> None:
        """A certificate would come in under terms that were not meant for it; one that was taken out would stay."""
        self.put("alice.toml", b'groups = ["ops"]')
        self.look()
        self.put("alice.toml", b"groups = [")
        new = make_pair()
        self.put("alice.pem", new.pem)
        self.look()
        self.assertEqual({}, self.clients(SETTLE))
        self.put("alice.toml", b'groups = ["new"]')
        found = self.look().snapshot.authorized[new.fingerprint]
        self.assertEqual(("new",), found.groups)

    def test_new_certificate_waits_for_its_terms(self) -> None:
        """A new certificate would have the groups of the old one for a moment."""
        self.put("alice.toml", b'groups = ["ops"]')
        self.look()
        new = make_pair()
        self.put("alice.toml", b"groups = []")
        self.put("alice.pem", self.alice.pem + new.pem)
        self.assertEqual({self.alice.fingerprint: "alice"}, self.clients())
        self.assertEqual({self.alice.fingerprint: "alice", new.fingerprint: "alice"}, self.clients(SETTLE))

    def test_not_safe(self) -> None:
        """Anybody could give a client more groups."""
        self.look()
        self.put("alice.toml", b'groups = ["ops"]', mode=0o646)
        self.assertIsNone(self.groups())
        self.told("alice.toml: refused, so the client is not authorized: others may write")

    def test_symlink_out(self) -> None:
        """Terms would be read from outside the folder."""
        (self.folder / AUTHORIZED / "alice.toml").symlink_to("/dev/null")
        self.assertIsNone(self.groups())
        self.told("alice.toml: refused")

    def test_symlink_to_nothing(self) -> None:
        """A retired certificate would come back because a link to its terms is broken."""
        (self.folder / AUTHORIZED / "alice.toml").symlink_to("nowhere.toml")
        self.assertIsNone(self.groups())
        self.told("alice.toml: it is a symbolic link to a file that is not there; it authorizes nobody")

    def test_gone_between_listing_and_reading(self) -> None:
        """Terms that were removed while the folder is read would count as damaged."""
        looking = _Look(self.folder, None, self.uid, 0.0, time.time, None)
        folder = os.open(self.folder / AUTHORIZED, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        self.assertEqual(Terms(), cast("Reading[Terms]", looking._fetched_toml(folder, "alice", None, b"listed")).content)


class RevokedTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = make_pair()
        self.put("alice.pem", self.alice.pem)
        self.name = f"{self.alice.fingerprint}.json"

    def out(self, later: float = 0.0) -> bool:
        return isinstance(self.look(later).snapshot.standing(self.alice.fingerprint), Tombstone)

    def test_wins(self) -> None:
        """A certificate that was revoked and put back by hand would be let in."""
        self.assertFalse(self.out())
        self.put(self.name, b'{"name": "alice", "reason": "left"}', REVOKED)
        self.assertTrue(self.out())
        assert self.last is not None
        self.assertEqual(frozenset({self.alice.fingerprint}), self.last.changed)
        self.assertEqual("left", self.last.snapshot.tombstones[self.alice.fingerprint].reason)
        self.quiet()
        self.age()
        kept = self.look().stones[self.name]
        self.assertIs(kept, self.look().stones[self.name])

    def test_name_alone(self) -> None:
        """A tombstone that is damaged, blank, huge, a link or a FIFO would let the revoked client in again."""
        path = self.folder / REVOKED / self.name

        def fifo() -> None:
            os.mkfifo(path, 0o644)

        def link() -> None:
            path.symlink_to("/dev/null")

        def nowhere() -> None:
            path.symlink_to("nowhere")

        def loop() -> None:
            path.symlink_to(self.name)

        def empty() -> None:
            self.put(self.name, b"", REVOKED)

        def huge() -> None:
            self.put(self.name, b" " * (MOST_BYTES + 1), REVOKED)

        def anybody() -> None:
            self.put(self.name, b"{}", REVOKED, mode=0o666)

        for make in (fifo, link, loop, empty, huge, anybody):
            make()
            self.last = None
            self.assertTrue(self.out(), make)
            self.told(f"revoked/{self.name}: ", "it revokes by its name all the same", severity=Severity.WARNING)
            path.unlink()
        nowhere()
        self.last = None
        self.assertTrue(self.out())
        path.unlink()
        path.mkdir()
        self.last = None
        self.assertTrue(self.out())

    def test_other_names(self) -> None:
        """A tombstone in another spelling would not revoke, or a file with a slip in its name go unnoticed."""
        path = self.put(self.name.upper(), b"{}", REVOKED)
        self.assertTrue(self.out())
        self.quiet()
        path.rename(path.with_name(self.name[1:]))
        self.put(".tmp", b"", REVOKED)
        self.look()
        self.told("ignored, only FINGERPRINT.json revokes", severity=Severity.WARNING)

    def test_removal_settles(self) -> None:
        """A copy of the folder that removes a tombstone to write it anew would let the client in for a moment."""
        path = self.put(self.name, b"{}", REVOKED)
        self.assertTrue(self.out())
        path.unlink()
        self.assertTrue(self.out())
        assert self.last is not None
        self.assertEqual(SETTLE, self.last.again_in)
        self.put(self.name, b"{}", REVOKED)
        self.assertTrue(self.out(SETTLE))
        path.unlink()
        self.assertTrue(self.out())
        self.assertTrue(self.out(SETTLE / 2))
        self.assertFalse(self.out(SETTLE))
        assert self.last is not None
        self.assertIsNone(self.last.again_in)

    def test_no_folder_yet(self) -> None:
        """A folder in which nobody was ever revoked would not start."""
        (self.folder / REVOKED).rmdir()
        self.assertFalse(self.out())
        self.assertFalse(self.out())
        self.quiet()
        (self.folder / REVOKED).mkdir(0o755)
        self.put(self.name, b"{}", REVOKED)
        self.assertTrue(self.out())

    def test_folder_gone(self) -> None:
        """Removing revoked/ by mistake would let every revoked client in."""
        self.put(self.name, b"{}", REVOKED)
        self.look()
        shutil.rmtree(self.folder / REVOKED)
        self.assertTrue(self.out(100))
        self.told("/revoked: the folder is missing", "was known before stays")

    def test_unreadable(self) -> None:
        """A server that cannot read who is revoked would start all the same."""
        (self.folder / REVOKED).rmdir()
        (self.folder / REVOKED).write_bytes(b"")
        self.assertIn("/revoked: the folder cannot be read: ", str(self.assertRaises(FolderError, self.look)))


class FolderTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = make_pair()
        self.put("alice.pem", self.alice.pem)

    def fails(self, *parts: str) -> None:
        """The first look fails; a later one keeps what it had, and tells."""
        error = str(self.assertRaises(FolderError, self.look))
        for part in parts:
            self.assertIn(part, error)
        self.assertTrue(error.isprintable())

    def stays(self, *parts: str) -> None:
        self.assertEqual({self.alice.fingerprint: "alice"}, self.clients(100))
        self.told(*parts, "what was known before stays in force")

    def test_missing(self) -> None:
        """A server without its folder would start and refuse everybody; one that loses it would cut everybody off."""
        self.look()
        shutil.rmtree(self.folder / AUTHORIZED)
        self.stays("/authorized: the folder is missing")
        self.last = None
        self.fails("/authorized: the folder is missing; make it, or run mtlsd init")

    def test_all_missing(self) -> None:
        """A wrong --certs would not be named."""
        self.look()
        shutil.rmtree(self.folder)
        self.assertEqual({self.alice.fingerprint: "alice"}, self.clients(100))
        self.last = None
        self.fails(f"{self.folder}: the folder is missing")

    def test_not_a_folder(self) -> None:
        """A file in the place of the folder would be a traceback."""
        self.look()
        shutil.rmtree(self.folder / AUTHORIZED)
        (self.folder / AUTHORIZED).write_bytes(b"")
        self.stays("/authorized: the folder cannot be read: ")
        self.last = None
        self.fails("/authorized: the folder cannot be read: ")

    def test_writable_by_others(self) -> None:
        """Any user of the machine could authorize itself."""
        self.look()
        (self.folder / AUTHORIZED).chmod(0o757)
        self.put("mallory.pem", make_pair().pem)
        self.stays("/authorized: others may write to the folder; chmod o-w")
        self.last = None
        self.fails("/authorized: others may write to the folder; chmod o-w")

    def test_outer_writable_by_others(self) -> None:
        """Any user of the machine could put a folder of its own in the place of authorized/."""
        self.folder.chmod(0o757)
        self.fails(f"{self.folder}: others may write to the folder")
        self.folder.chmod(0o1777)
        self.assertEqual({self.alice.fingerprint: "alice"}, self.clients())

    def test_replaced(self) -> None:
        """A folder that was replaced by mv would be read through the descriptor of the old one."""
        bob = make_pair()
        first = self.look()
        self.folder.rename(self.folder.with_name("old"))
        self.addCleanup(shutil.rmtree, self.folder.with_name("old"))
        for folder in (self.folder, self.folder / AUTHORIZED):
            folder.mkdir(0o755)
        self.put("bob.pem", bob.pem)
        self.assertEqual({self.alice.fingerprint: "alice", bob.fingerprint: "bob"}, self.clients())
        self.assertEqual({bob.fingerprint: "bob"}, self.clients(SETTLE))
        assert self.last is not None
        self.assertNotEqual(first.marks, self.last.marks)
        self.assertEqual(marks(self.folder), self.last.marks)

    def test_strange_path(self) -> None:
        """The name of the folder would reach the terminal raw."""
        self.folder = self.folder / "a\n\x1b[2J"
        self.fails(r"a\n\x1b[2J")


class LeafTests(FolderCase):
    def test_every_kind(self) -> None:
        """A kind of key would not be read from the folder."""
        pairs: dict[str, Pair] = {kind: make_pair(key=kind) for kind in ("p384", "ed25519", "mldsa65", "rsa2048")}
        for kind, pair in pairs.items():
            self.put(f"{kind}.pem", pair.pem)
        self.assertEqual({pair.fingerprint: kind for kind, pair in pairs.items()}, self.clients())


class NarrowTests(FolderCase):
    """A look at the files that have changed finds what a look at all of them finds."""

    def setUp(self) -> None:
        super().setUp()
        self.pairs = [make_pair(str(nth)) for nth in range(4)]
        self.wide: Scan | None = None
        self.wall = lambda: 0.0

    def both(self, *names: str, later: float = 0.0) -> None:
        """Look at *names* after one look, and at everything after another, and compare."""
        self.now += later
        given = frozenset(names) if self.last is not None else None
        self.last = scan(self.folder, self.last, server_uid=self.uid, monotonic=self.now, wall=self.wall, names=given)
        self.wide = scan(self.folder, self.wide, server_uid=self.uid, monotonic=self.now, wall=self.wall)
        self.assertEqual(self.wide.snapshot, self.last.snapshot)
        self.assertEqual(set(self.wide.problems), set(self.last.problems))
        self.assertEqual(self.wide.changed, self.last.changed)
        self.assertEqual(self.wide.again_in, self.last.again_in)
        for found in (self.wide, self.last):
            for fingerprint in {*found.holders, *(pair.fingerprint for pair in self.pairs)}:
                walked = sorted(set(found.holders.get(fingerprint, ())))
                self.assertEqual(walked, list(found.holders_of(fingerprint)), fingerprint)

    def test_others_are_left_alone(self) -> None:
        """With 100,000 clients each change would take a second to bite."""
        for nth, pair in enumerate(self.pairs[:3]):
            self.put(f"c{nth}.pem", pair.pem)
        self.both()
        self.put("c1.pem", self.pairs[3].pem)
        (self.folder / AUTHORIZED / "c2.pem").unlink()
        # Nobody said that c2 has changed, so it has not.
        found = scan(self.folder, self.last, server_uid=self.uid, monotonic=self.now, wall=self.wall, names=frozenset({"c1.pem"}))
        self.assertIn(self.pairs[3].fingerprint, found.snapshot.authorized)
        assert self.last is not None
        self.assertIs(found.clients["c2"], self.last.clients["c2"])

    def test_who_holds_one_that_is_not_in_force(self) -> None:
        """Somebody's certificate could be given to another, where its own client's terms keep it out for the moment."""
        one, other = self.pairs[:2]
        self.put("c0.pem", one.pem)
        self.put("c0.toml", b"wrong")
        self.both()
        self.put("c1.pem", other.pem)
        self.both("c1.pem")
        assert self.last is not None
        self.assertNotIn(one.fingerprint, self.last.snapshot.authorized)
        self.assertEqual(["c0"], self.last.holders_of(one.fingerprint))
        self.put("c0.toml", b"groups = ['ops']")
        self.both("c0.toml")
        self.assertEqual(["c0"], self.last.holders_of(one.fingerprint))
        # In two files at once: both hold it.
        self.put("c1.pem", one.pem)
        self.both("c1.pem")
        self.assertEqual(["c0", "c1"], self.last.holders_of(one.fingerprint))

    def test_the_first_look(self) -> None:
        """An invite would cost a look at every client, half a minute with 100,000."""
        for nth, pair in enumerate(self.pairs):
            self.put(f"c{nth}.pem", pair.pem)
        self.put("c1.toml", b"groups = ['ops']")
        stone = self.put(f"{self.pairs[3].fingerprint}.json", b"{}", REVOKED)
        names = frozenset({"c1.pem", "c1.toml", "c9.pem"})
        found = scan(self.folder, None, server_uid=self.uid, monotonic=self.now, wall=self.wall, names=names)
        self.assertEqual(["c1"], list(found.clients))
        self.assertEqual(("ops",), found.snapshot.authorized[self.pairs[1].fingerprint].groups)
        self.assertEqual([stone.stem], list(found.snapshot.tombstones))
        # A folder that is not safe to use is as bad for who looks at little.
        (self.folder / AUTHORIZED).chmod(0o777)
        with self.assertRaises(FolderError):
            scan(self.folder, None, server_uid=self.uid, monotonic=self.now, names=names)

    def test_nothing_is_copied_for_nothing(self) -> None:
        """Each of the looks that follow a change would copy all clients once more."""
        for nth, pair in enumerate(self.pairs[:3]):
            self.put(f"c{nth}.pem", pair.pem)
        self.both()
        before = self.last
        self.both("c1.pem", "c9.pem")
        after = self.last
        assert before is not None
        assert after is not None
        self.assertIs(before.clients, after.clients)
        self.assertIs(before.snapshot, after.snapshot)
        self.put("c9.pem", self.pairs[3].pem)
        self.both("c9.pem")
        assert self.last is not None
        self.assertIs(before.snapshot.tombstones, self.last.snapshot.tombstones)
        self.assertNotIn("c9", before.clients)
        self.assertEqual(3, len(before.snapshot.authorized))

    def test_what_calls_for_a_whole_look(self) -> None:
        """A name that is no client's, or another folder in the place of the old one, would be missed."""
        self.put("c0.pem", self.pairs[0].pem)
        self.both()
        self.put("not a name.pem", b"")
        self.put("c1.crt", b"")
        self.both("not a name.pem", "c1.crt")
        self.put("c2.pem", self.pairs[1].pem)
        self.both("c2.pem")
        self.put(".hidden", b"")
        self.both(".hidden")
        authorized = self.folder / AUTHORIZED
        authorized.rename(self.folder / "away")
        authorized.mkdir(0o755)
        self.both()
        self.both(later=SETTLE)
        assert self.last is not None
        self.assertEqual({}, dict(self.last.snapshot.authorized))

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(0, 3), st.sampled_from((0.0, 0.1, 0.3))), max_size=25
        )
    )
    def test_same_as_a_whole_look(self, steps: list[tuple[int, int, int, float]]) -> None:
        """After some sequence of changes that nobody thought of, who is in would depend on how one looked."""
        for path in (*(self.folder / AUTHORIZED).iterdir(), *(self.folder / REVOKED).iterdir()):
            path.unlink()
        self.last = self.wide = None
        self.both()
        for what, which, nth, later in steps:
            name, pair = f"c{which}", self.pairs[nth]
            path = self.folder / AUTHORIZED / f"{name}.pem"
            stone = self.folder / REVOKED / f"{pair.fingerprint}.json"
            names = [path.name]
            if what <= 1:
                self.put(path.name, pair.pem)
            elif what == 2:
                self.put(path.name, pair.pem + self.pairs[nth - 1].pem)
            elif what == 3:
                self.put(path.name, pair.pem[:100] if nth else b"")
            elif what == 4:
                path.unlink(missing_ok=True)
            elif what == 5:
                self.put(f"{name}.toml", (b"", b"groups = ['ops']", b"grace = '1h'", b"wrong")[nth])
                names = [f"{name}.toml"]
            elif what == 6:
                stone.touch()
                names = []
            elif what == 7:
                stone.unlink(missing_ok=True)
                names = []
            elif path.exists():
                path.rename(path.with_name(f"c{nth}.pem"))
                names.append(f"c{nth}.pem")
            self.both(*names, later=later)
