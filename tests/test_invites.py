"""The writer of the invites: who may be invited, who may join, and what a failure in the middle leaves."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from mtlsd.enrol.invite import Invite, digest_of, opened_invites, read_invite, standing
from mtlsd.enrol.invites import Arrival, Invited, Invites, Joined, NotInvited
from mtlsd.errors import FolderError, NotFound, Refused, SettingsError
from mtlsd.registry import folder, reader
from mtlsd.registry.atomic import System
from mtlsd.registry.folder import File
from mtlsd.registry.ledger import History
from mtlsd.registry.promise import LATE, PROMISE
from mtlsd.registry.room import looked_at
from mtlsd.registry.scan import Scan, scan
from mtlsd.registry.store import Store
from tests.pki import Pair, new_key
from tests.test_store import NOW, Base, Faulty, Killed, tree


class InvitesBase(Base):
    def setUp(self) -> None:
        super().setUp()
        self.now = NOW
        self.invites = self.writer()

    def writer(
        self, folder: Path | None = None, system: System | None = None, look: Callable[[frozenset[str]], Scan] | None = None
    ) -> Invites:
        return Invites(folder or self.folder, self.time, "operator", system, look)

    def time(self) -> datetime:
        return self.now

    def open_ones(self, folder: Path | None = None) -> list[str]:
        found, problems = standing(folder or self.folder, self.now)
        self.assertEqual(problems, [])
        return [one.name for one in found]

    def files(self, folder: Path | None = None) -> list[str]:
        return sorted(os.listdir((folder or self.folder) / "invites"))

    def newcomer(self, name: str = "bob", **more: object) -> Pair:
        return self.pair(name, key=new_key(), **more)

    def join(self, invited: Invited, pair: Pair, writer: Invites | None = None) -> Joined:
        return (writer or self.invites).join(invited.secret, Arrival(pair.der, "x-1", "[::1]:9443", ("::1", 5)))

    def not_invited(self, said: str, secret: bytes, pair: Pair) -> None:
        """Assert that a join is refused, with *said* for the operator, and that nothing has changed."""
        self.refused(said, lambda: self.invites.join(secret, Arrival(pair.der)), NotInvited)


class InviteTests(InvitesBase):
    """`mtlsd invite` and `mtlsd uninvite`, below their words."""

    def test_invite(self) -> None:
        """Lost: an invite that is good for an hour, whose secret stands nowhere."""
        invited = self.invites.invite("bob", ["ops", "backup", "ops"])
        (found,), _ = standing(self.folder, self.now)
        self.assertEqual(found, invited.invite)
        self.assertEqual(
            (found.name, found.groups, found.expires - found.created), ("bob", ("ops", "backup"), timedelta(hours=1))
        )
        self.assertEqual(len(invited.secret), 16)
        self.assertEqual(found.digest, digest_of(invited.secret))
        kept = b"".join(data or b"" for data in tree(self.folder).values()) + (self.folder / "ledger.jsonl").read_bytes()
        self.assertNotIn(invited.secret.hex().encode(), kept)
        (line,) = self.ledger()
        self.assertEqual((line["event"], line["client"], line["actor"]), ("invited", "bob", "operator"))
        self.assertEqual(line["detail"], f"invite {found.id}, until 2026-11-23 13:00 UTC, groups ops, backup")
        self.assertEqual(self.in_force(), {})

    def test_modes(self) -> None:
        """Lost: others could read who is invited, or the server could not."""
        before = os.umask(0)
        try:
            invited = self.invites.invite("bob")
        finally:
            os.umask(before)
        modes = [stat.S_IMODE((self.folder / "invites" / name).stat().st_mode) for name in (".", invited.invite.file)]
        self.assertEqual(modes, [0o700, 0o600])

    def test_refused(self) -> None:
        """Lost: an invite that could let somebody in under the name of another, or for ever, or into a group that is none."""
        self.store.authorize([self.pair().der], "alice")
        for said, call in (
            ("the name alice is taken", lambda: self.invites.invite("alice")),
            ("no client's name", lambda: self.invites.invite("../alice")),
            ("no client's name", lambda: self.invites.invite("")),
            ("no group's name", lambda: self.invites.invite("bob", ['a"]\n'])),
            ("30 days at most", lambda: self.invites.invite("bob", lifetime=timedelta(days=31))),
            ("30 days at most", lambda: self.invites.invite("bob", lifetime=timedelta())),
        ):
            self.refused(said, call)

    def test_again(self) -> None:
        """Lost: two lines would join as one name, or one that was sent to the wrong person could not be called back."""
        first = self.invites.invite("bob")
        self.refused("bob is invited already, until 2026-11-23 13:00 UTC: --again", lambda: self.invites.invite("bob"))
        second = self.invites.invite("bob", again=True)
        self.assertEqual(self.files(), [second.invite.file])
        self.not_invited("no such invite", first.secret, self.newcomer())
        self.join(second, self.newcomer())

    def test_expired_ones_are_swept(self) -> None:
        """Lost: an invite that nobody used would keep its name from being invited again, and lie about for ever."""
        self.invites.invite("bob")
        self.now += timedelta(hours=1)
        self.assertEqual(self.open_ones(), [])
        again = self.invites.invite("bob")
        self.assertEqual(self.files(), [again.invite.file])

    def test_dead_ones_are_swept(self) -> None:
        """Lost: what a kill left after a join would be listed for as long as it was good."""
        invited = self.invites.invite("bob")
        self.store.authorize([self.newcomer().der], "bob")
        self.assertEqual(self.open_ones(), [])
        self.invites.invite("carol")
        self.assertNotIn(invited.invite.file, self.files())

    def test_terms_that_are_there(self) -> None:
        """Lost: a group that the operator gave would be overwritten, or one that he did not give would come with the name."""
        self.invites.invite("carol")
        path = self.put("bob.toml", b'groups = ["admins"]\n')
        self.refused("bob.toml is there already", lambda: self.invites.invite("bob", ["ops"]))
        invited = self.invites.invite("bob")
        self.assertIn("in force for bob, with its groups: admins", " ".join(invited.notes))
        self.join(invited, self.newcomer())
        self.assertEqual(path.read_bytes(), b'groups = ["admins"]\n')

    def test_uninvite(self) -> None:
        """Lost: a line that was sent to the wrong person could not be called back."""
        invited = self.invites.invite("bob", ["ops"])
        self.assertEqual(self.invites.uninvite("bob").notes, ("bob is not invited any more",))
        self.assertEqual(self.files(), [])
        self.not_invited("no such invite", invited.secret, self.newcomer())
        self.assertEqual([line["event"] for line in self.ledger()], ["invited", "uninvited"])
        self.refused("bob is not invited", lambda: self.invites.uninvite("bob"), NotFound)
        (self.folder / "invites").rmdir()
        self.refused("nobody is invited", lambda: self.invites.uninvite("bob"), NotFound)

    def test_damaged(self) -> None:
        """Lost: one file that cannot be read would keep everybody from being invited, or go unnoticed."""
        good = self.invites.invite("bob")
        path = self.folder / "invites" / f"{'0' * 16}.json"
        path.write_bytes(b"{")
        self.assertIn("damaged", standing(self.folder, self.now)[1][0])
        other = self.invites.invite("carol")
        self.assertIn(f"{path}: damaged", other.problems[0])
        self.join(good, self.newcomer())
        self.assertTrue(path.exists())


class ReadTests(InvitesBase):
    """What is trusted in `invites/`: whoever writes there lets himself in."""

    def test_strict(self) -> None:
        """Lost: half a file, or one that somebody put under another name, would be an invite."""
        invite = self.invites.invite("bob", ["ops"]).invite
        told = json.loads(invite.text())
        self.assertEqual(read_invite(invite.file, invite.text()), invite)
        for change in (
            {"name": "../bob"},
            {"name": 1},
            {"groups": "ops"},
            {"groups": ["o ps"]},
            {"groups": [1]},
            {"sha256": "00"},
            {"sha256": "0" * 64},
            {"expires": "2026-11-23T12:00:00"},
            {"expires": None},
            {"expires": "soon"},
            {"actor": 1},
        ):
            self.assertRaises(SettingsError, read_invite, invite.file, json.dumps({**told, **change}).encode())
        for data in (b"", b"[]", b"null", b"[" * 100_000, invite.text()[:-3]):
            self.assertRaises(SettingsError, read_invite, invite.file, data)

    def test_unsafe(self) -> None:
        """Lost: whoever can write to the folder or a file would make invites for himself."""
        invited = self.invites.invite("bob")
        folder = self.folder / "invites"
        for path, mode, said in (
            (folder, 0o777, "chmod go-w"),
            (folder, 0o770, "chmod go-w"),
            (folder / invited.invite.file, 0o666, "chmod o-w"),
        ):
            before = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode)
            for call in (
                lambda: self.join(invited, self.newcomer()),
                *((lambda: self.invites.invite("x"), lambda: standing(self.folder, self.now)) if path == folder else ()),
            ):
                self.assertIn(said, str(self.assertRaises(FolderError, call)))
            path.chmod(before)
        self.assertEqual(self.in_force(), {})
        self.join(invited, self.newcomer())

    def test_a_link(self) -> None:
        """Lost: a link in the folder's place would lead to invites that somebody else writes."""
        other = self.new_folder()
        invited = self.writer(other).invite("bob")
        os.symlink((other / "invites").resolve(), self.folder / "invites")
        for call in (lambda: self.join(invited, self.newcomer()), lambda: standing(self.folder, self.now)):
            self.assertIn("cannot be used", str(self.assertRaises(FolderError, call)))

    def test_links_and_owners(self) -> None:
        """Lost: an invite that goes away while it is listed would be a traceback; and one of another user's would be believed."""
        self.invites.invite("bob")
        folder = self.folder / "invites"
        (folder / f"{'0' * 16}.json").symlink_to("nothing.json")
        self.assertEqual(self.open_ones(), ["bob"])
        if os.geteuid() == 0:
            os.chown(folder, 54321, -1)
        with self.assertRaises(FolderError) as caught, opened_invites(self.folder, 54320):
            pass
        self.assertIn("neither to root nor to the server's user", str(caught.exception))

    def test_hash_that_only_begins_alike(self) -> None:
        """Lost: 64 bits would be enough to guess, for only the name of the file would be compared."""
        invite = self.invites.invite("bob").invite
        secret = b"x" * 16
        forged = Invite(digest_of(secret)[:16] + invite.digest[16:], *(getattr(invite, name) for name in invite.__slots__[1:]))
        (self.folder / "invites" / forged.file).write_bytes(forged.text())
        self.not_invited("no such invite", secret, self.newcomer())


class JoinTests(InvitesBase):
    """The join itself, below the connection."""

    def test_join(self) -> None:
        """Lost: whoever was invited would not be let in, or without its groups, and the ledger would not say who it was."""
        invited, pair = self.invites.invite("bob", ["ops"]), self.newcomer()
        joined = self.join(invited, pair)
        self.assertEqual(joined.problems, ())
        (found,) = looked_at(self.folder).snapshot.authorized.values()
        self.assertEqual((found.client, found.groups, found.certificate.fingerprint), ("bob", ("ops",), pair.fingerprint))
        self.assertEqual(self.files(), [])
        line = self.ledger()[-1]
        self.assertEqual(line, joined.event.as_dict())
        self.assertEqual(
            (line["event"], line["client"], line["fingerprint"], line["connection"], line["actor"]),
            ("joined", "bob", pair.fingerprint, "x-1", "operator"),
        )

    def test_no_groups(self) -> None:
        """Lost: a file of terms that says nothing would stand in the way of the operator's own."""
        self.join(self.invites.invite("bob"), self.newcomer())
        self.assertEqual(sorted(os.listdir(self.folder / "authorized")), ["bob.pem"])

    def test_once(self) -> None:
        """Lost: whoever finds the line in a chat's history would get in too."""
        invited = self.invites.invite("bob")
        self.join(invited, self.newcomer())
        self.not_invited("no such invite", invited.secret, self.newcomer())

    def test_a_file_that_comes_back(self) -> None:
        """Lost: an invite that is used up would be good again after a backup was put back."""
        invited = self.invites.invite("bob")
        text = (self.folder / "invites" / invited.invite.file).read_bytes()
        self.join(invited, self.newcomer())
        (self.folder / "invites" / invited.invite.file).write_bytes(text)
        self.not_invited("the name bob is taken", invited.secret, self.newcomer())

    def test_expired(self) -> None:
        """Lost: an invite would be good for ever."""
        invited = self.invites.invite("bob", lifetime=timedelta(minutes=5))
        self.now += timedelta(minutes=5)
        self.not_invited("it has expired", invited.secret, self.newcomer(begins=timedelta()))

    def test_wrong(self) -> None:
        """Lost: a guess would get in."""
        invited = self.invites.invite("bob")
        self.not_invited("no such invite", b"\0" * 16, self.newcomer())
        self.not_invited("no such invite", invited.secret[:-1], self.newcomer())
        self.join(invited, self.newcomer())

    def test_nobody_is_invited(self) -> None:
        """Lost: a traceback for each stranger where there is no folder of invites."""
        self.not_invited("no such invite", b"\0" * 16, self.newcomer())

    def test_taken(self) -> None:
        """Lost: whoever holds an invite would get in as somebody who came by another way in the meantime."""
        invited, bob = self.invites.invite("bob", ["ops"]), self.newcomer()
        self.store.authorize([bob.der], "bob")
        self.not_invited("the name bob is taken", invited.secret, self.newcomer())
        self.assertEqual(self.in_force(), {bob.fingerprint: "bob"})

    def test_revoked(self) -> None:
        """Lost: who was shut out would be back, with the certificate or only the key, by somebody else's invite."""
        invited, mallory = self.invites.invite("bob"), self.newcomer("mallory")
        self.store.authorize([mallory.der], "mallory")
        self.store.revoke("mallory")
        self.not_invited("is revoked", invited.secret, mallory)
        self.not_invited("has the key of", invited.secret, self.pair("bob", key=mallory.key))
        self.join(invited, self.newcomer())

    def test_the_name_was_revoked(self) -> None:
        """Lost: who is shut out, or whoever has found the line since, would be back by an invite that had been dead."""
        for how in ("another way", "a kill"):
            with self.subTest(how):
                invited = self.invites.invite("bob", ["ops"])
                file = self.folder / "invites" / invited.invite.file
                text = file.read_bytes()
                if how == "a kill":
                    self.join(invited, self.newcomer())
                    file.write_bytes(text)
                else:
                    self.store.authorize([self.newcomer().der], "bob")
                self.now += timedelta(seconds=1)
                self.writer().revoke("bob")
                self.assertTrue(file.exists())
                self.not_invited("bob was revoked after it was made", invited.secret, self.newcomer())
                stones = looked_at(self.folder).snapshot.tombstones.values()
                self.assertEqual(standing(self.folder, self.now, stones), ([], []))
                # Nor does it stand in the way of the next one, which is good.
                self.now += timedelta(seconds=1)
                second = self.invites.invite("bob")
                self.assertEqual(self.files(), [second.invite.file])
                self.join(second, self.newcomer())
                self.now += timedelta(seconds=1)
                self.writer().revoke("bob")
                self.now += timedelta(seconds=1)

    def test_a_tombstone_that_tells_no_time(self) -> None:
        """Lost: whoever wrote a tombstone by hand would have revoked a client, and left it the way back in."""
        for told in ("null", '"yesterday"', '"2026-11-23T12:00:00"'):
            invited = self.invites.invite("bob")
            stone = self.folder / "revoked" / f"{'ab' * 32}.json"
            stone.write_text(f'{{"name": "bob", "time": {told}}}')
            self.not_invited("bob was revoked", invited.secret, self.newcomer())
            stone.unlink()
            self.invites.uninvite("bob")

    def test_swept_at_the_start(self) -> None:
        """Lost: a line that was used would be good again where a kill left its file, and somebody removes the client's by hand."""
        self.assertEqual(self.invites.sweep(), ())
        invited = self.invites.invite("bob")
        file = self.folder / "invites" / invited.invite.file
        text = file.read_bytes()
        self.join(invited, self.newcomer())
        file.write_bytes(text)
        left = self.invites.invite("carol")
        file.write_bytes(text)
        self.assertEqual(self.writer().sweep(), ())
        self.assertEqual(self.files(), [left.invite.file])

    def test_somebody_elses_certificate(self) -> None:
        """Lost: one certificate would be two clients."""
        invited, alice = self.invites.invite("bob"), self.newcomer("alice")
        self.store.authorize([alice.der], "alice")
        self.not_invited("is in", invited.secret, alice)

    def test_unfit(self) -> None:
        """Lost: a weak key would get in by an invite, where `authorize` refuses it."""
        invited = self.invites.invite("bob")
        self.not_invited("too weak", invited.secret, self.pair("bob", key="rsa1024"))
        self.not_invited("expired", invited.secret, self.newcomer(ends=timedelta(minutes=-1)))

    def test_terms_in_between(self) -> None:
        """Lost: groups that the operator wrote after the invite would be overwritten, or come to whoever was invited for others."""
        invited = self.invites.invite("bob", ["ops"])
        path = self.put("bob.toml", b'groups = ["admins"]\n')
        self.not_invited("bob.toml has come in between", invited.secret, self.newcomer())
        path.write_bytes(b"gruops = []\n")
        self.not_invited("has come in between", invited.secret, self.newcomer())
        path.unlink()
        self.join(invited, self.newcomer())

    def test_broken_terms(self) -> None:
        """Lost: a misspelt [retire] would be passed over by a join."""
        invited = self.invites.invite("bob")
        self.put("bob.toml", b"gruops = []\n")
        self.not_invited("unknown key gruops", invited.secret, self.newcomer())

    def test_a_narrow_look(self) -> None:
        """Lost: with 100,000 clients each join would read all of their files; but what counts has to be seen all the same."""
        before = looked_at(self.folder)
        asked: list[frozenset[str]] = []

        def look(names: frozenset[str]) -> Scan:
            asked.append(names)
            return scan(self.folder, before, server_uid=before.server_uid, monotonic=before_now + 1, names=names)

        before_now = 10.0
        writer = self.writer(look=look)
        mallory, alice = self.newcomer("mallory"), self.newcomer("alice")
        self.store.authorize([mallory.der], "mallory")
        self.store.revoke("mallory")
        invited = writer.invite("bob")
        self.assertEqual(asked, [])
        error = self.assertRaises(NotInvited, self.join, invited, self.pair("bob", key=mallory.key), writer)
        self.assertIn("has the key of", str(error))
        self.join(invited, alice, writer)
        self.assertEqual(asked, [frozenset({"bob.pem", "bob.toml"})] * 2)

    def test_an_invite_reads_nobody_elses_files(self) -> None:
        """Lost: with 100,000 clients the command would take half a minute; or a file that is none of its business would stop it."""
        self.store.authorize([self.newcomer("alice").der], "alice")
        read: list[str] = []
        real = folder.read_file

        def read_file(folder: int, name: str, *, server_uid: int, wall: Callable[[], float]) -> File:
            read.append(name)
            return real(folder, name, server_uid=server_uid, wall=wall)

        self.patch(reader, "read_file", read_file)
        self.put("bob.toml", b"groups = ['ops']")
        self.assertIn("groups: ops", self.invites.invite("bob").notes[0])
        self.assertEqual(read, [])
        self.invites.uninvite("bob")
        self.assertEqual(read, [])
        error = self.assertRaises(Refused, self.invites.invite, "alice")
        self.assertIn("taken", str(error))
        self.assertEqual(read, ["alice.pem"])

    def test_at_once(self) -> None:
        """Lost: of two that hold the same line, both would get in; of many with their own, one would be lost."""
        invited = [self.invites.invite(f"client{number}") for number in range(12)]
        errors: list[BaseException] = []

        def join(one: Invited, pair: Pair) -> None:
            try:
                self.join(one, pair, self.writer())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=join, args=(one, self.newcomer(one.invite.name))) for one in invited * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([type(error) for error in errors], [NotInvited] * 12)
        self.assertEqual(sorted(self.in_force().values()), sorted(one.invite.name for one in invited))
        self.assertEqual(len([line for line in self.ledger() if line["event"] == "joined"]), 12)


class WholeOrNotAtAllTests(InvitesBase):
    """A full disk or a kill at each single system call."""

    def prepared(self) -> tuple[Path, Invited]:
        folder = self.new_folder()
        return folder, self.writer(folder).invite("bob", ["ops"])

    def steps(self) -> int:
        folder, invited = self.prepared()
        probe = Faulty(-1)
        self.join(invited, self.newcomer(), self.writer(folder, probe))
        self.assertGreater(probe.count, 15)
        return probe.count

    def test_join_fails(self) -> None:
        """Lost: after a full disk, half a client, or an invite that is used up without anybody having got in."""
        pair = self.newcomer()
        for at in range(self.steps()):
            folder, invited = self.prepared()
            before = tree(folder)
            with self.subTest(at=at):
                faulty = Faulty(at)
                try:
                    joined = self.join(invited, pair, self.writer(folder, faulty))
                except FolderError:
                    self.assertEqual(tree(folder), before)
                    self.join(invited, pair, self.writer(folder))
                else:
                    # After the commit it stands, and what went wrong is told (or was only litter).
                    self.assertEqual(self.in_force(folder), {pair.fingerprint: "bob"})
                    self.assertTrue(faulty.struck)
                    self.assertEqual(joined.invite, invited.invite)
                self.assertEqual(self.in_force(folder), {pair.fingerprint: "bob"})

    def test_join_is_killed(self) -> None:
        """Lost: after kill -9 the line would work twice, or never again, or the folder would want a repair."""
        pair, other = self.newcomer(), self.newcomer("other")
        outcomes = set()
        late = set()
        for at in range(self.steps()):
            folder, invited = self.prepared()
            with self.subTest(at=at):
                with contextlib.suppress(Killed):
                    self.join(invited, pair, self.writer(folder, Faulty(at, fatal=True)))
                committed = bool(self.in_force(folder))
                outcomes.add(committed)
                self.assertEqual(looked_at(folder).problems, ())
                if committed:
                    # Whoever comes with the same line now, comes too late.
                    self.assertEqual(self.open_ones(folder), [])
                    self.assertRaises(NotInvited, self.join, invited, other, self.writer(folder))
                else:
                    self.join(invited, pair, self.writer(folder))
                (found,) = looked_at(folder).snapshot.authorized.values()
                self.assertEqual((found.client, found.groups, found.certificate.fingerprint), ("bob", ("ops",), pair.fingerprint))
                self.writer(folder).invite("carol")
                left = [name for name in tree(folder) if ".mtlsd-" in name or PROMISE in name]
                self.assertEqual((left, len(self.files(folder))), ([], 1))
                (joined,) = (entry for entry in History(folder) if entry.event == "joined")
                self.assertEqual((joined.text("client"), joined.text("fingerprint")), ("bob", pair.fingerprint))
                self.assertEqual(joined.told["peer"], {"address": "::1", "port": 5})
                late.add(LATE in (joined.text("detail") or ""))
        self.assertEqual(late, {True, False})
        self.assertEqual(outcomes, {True, False})

    def test_what_never_came_true(self) -> None:
        """Lost: the ledger would tell of a join that never was, or of one that it has already; or a torn line would stop every change."""
        folder, invited = self.prepared()
        self.join(invited, self.newcomer(), self.writer(folder))
        (joined,) = (line for line in (folder / "ledger.jsonl").read_text().splitlines(True) if '"joined"' in line)
        told = json.loads(joined)
        for line in (
            joined,
            joined[:-1],
            joined[:40],
            "",
            "[]\n",
            json.dumps({**told, "client": "../authorized/bob"}) + "\n",
            json.dumps({**told, "client": "carol"}) + "\n",
            json.dumps({**told, "fingerprint": "0" * 64}) + "\n",
        ):
            (folder / PROMISE).write_text(line)
            self.writer(folder).catch_up()
            self.assertFalse((folder / PROMISE).exists())
            self.assertEqual([entry.event for entry in History(folder)], ["invited", "joined"])

    def test_a_ledger_that_cannot_be_written(self) -> None:
        """Lost: who came in while the disk had no room for a line; or the same line twice, once others have written theirs."""
        folder, invited = self.prepared()
        ledger, aside = folder / "ledger.jsonl", folder / "aside"
        ledger.rename(aside)
        ledger.mkdir()
        joined = self.join(invited, self.newcomer(), self.writer(folder))
        self.assertIn("is not recorded", joined.problems[0])
        ledger.rmdir()
        aside.rename(ledger)
        line = (folder / PROMISE).read_text()
        self.writer(folder).invite("carol")
        self.assertFalse((folder / PROMISE).exists())
        found = [(entry.event, (entry.text("detail") or "").endswith(LATE)) for entry in History(folder)]
        self.assertEqual(found, [("invited", False), ("joined", True), ("invited", False)])
        # A kill just behind the ledger's line, and whoever has dismissed somebody since.
        ledger.write_text(line + ledger.read_text())
        (folder / PROMISE).write_text(line)
        self.writer(folder).catch_up()
        self.assertEqual([entry.event for entry in History(folder)], ["joined", "invited", "joined", "invited"])

    def test_terms_of_a_join_that_was_killed(self) -> None:
        """Lost: whoever comes next under that name would get the groups of somebody who never came."""
        probe = Faulty(-1)
        folder, invited = self.prepared()
        self.join(invited, self.newcomer(), self.writer(folder, probe))
        struck = 0
        for at in range(probe.count):
            for end in ("expire", "uninvite", "again"):
                folder, invited = self.prepared()
                with contextlib.suppress(Killed):
                    self.join(invited, self.newcomer(), self.writer(folder, Faulty(at, fatal=True)))
                if not (folder / "authorized" / "bob.toml").exists() or self.in_force(folder):
                    continue
                struck += 1
                if end == "uninvite":
                    self.writer(folder).uninvite("bob")
                elif end == "again":
                    self.writer(folder).invite("bob", ["backup"], again=True)
                else:
                    self.now += timedelta(hours=2)
                    self.writer(folder).invite("carol")
                    self.now = NOW
                self.assertEqual(os.listdir(folder / "authorized"), [], end)
        self.assertGreater(struck, 2)

    def test_invite(self) -> None:
        """Lost: after a full disk or a kill, a line would have been printed that nobody can use, or half an invite would lie there."""
        for again in (False, True):
            probe = Faulty(-1)
            folder, _ = self.prepared()
            self.writer(folder, probe).invite("bob" if again else "carol", again=again)
            for fatal in (False, True):
                for at in range(probe.count):
                    folder, _ = self.prepared()
                    with self.subTest(at=at, fatal=fatal, again=again):
                        with contextlib.suppress(Killed, FolderError):
                            self.writer(folder, Faulty(at, fatal)).invite("bob" if again else "carol", again=again)
                        self.writer(folder).invite("dave")
                        self.assertTrue({"dave"} <= set(self.open_ones(folder)) <= {"bob", "carol", "dave"})
                        self.assertEqual([name for name in self.files(folder) if not name.endswith(".json")], [])

    def test_first_invite(self) -> None:
        """Lost: a failure while the folder is made would keep everybody from being invited."""
        probe = Faulty(-1)
        self.writer(self.new_folder(), probe).invite("bob")
        for fatal in (False, True):
            for at in range(probe.count):
                folder = self.new_folder()
                with contextlib.suppress(Killed, FolderError):
                    self.writer(folder, Faulty(at, fatal)).invite("bob")
                self.writer(folder).invite("bob", again=True)
                self.assertEqual(self.open_ones(folder), ["bob"])

    def test_the_file_cannot_be_removed(self) -> None:
        """Lost: a join that stands would be told to its client as one that failed."""

        class Stuck(System):
            def unlink(self, name: str, folder: int) -> None:
                if name.endswith(".json"):
                    raise OSError(30, "Read-only file system")
                super().unlink(name, folder)

        invited, pair = self.invites.invite("bob"), self.newcomer()
        joined = self.join(invited, pair, self.writer(system=Stuck()))
        self.assertIn("cannot be removed: Read-only file system; it is dead all the same", joined.problems[0])
        self.assertEqual(self.in_force(), {pair.fingerprint: "bob"})
        self.not_invited("taken", invited.secret, self.newcomer())
        uninvite = self.writer(system=Stuck())
        self.invites.invite("carol")
        self.assertRaises(NotFound, uninvite.uninvite, "bob")

    def test_the_store_refuses_as_before(self) -> None:
        """Lost: `authorize` under a name that is invited would fail; the invite is dead then."""
        self.invites.invite("bob")
        Store(self.folder, self.time, "operator").authorize([self.newcomer().der], "bob")
        self.assertEqual(self.open_ones(), [])
        self.assertRaises(Refused, self.invites.invite, "bob")
