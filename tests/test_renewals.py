"""The writer of renewals: what it refuses, what it writes, and what a failure or a kill in the middle leaves."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface import implementer

from mtlsd.errors import CertificateError, FolderError, NotFound, Refused
from mtlsd.expirywatch import ExpiryWatch
from mtlsd.registry.ledger import History
from mtlsd.registry.promise import PROMISE
from mtlsd.registry.records import Authorization
from mtlsd.registry.renewals import GENERATIONS, MOST_RETIRED, NotRenewed, Renewals, Renewed, Retired, Why
from mtlsd.registry.room import ending, in_force, looked_at
from mtlsd.registry.store import Store
from mtlsd.registry.terms import read_terms
from tests.pki import Pair, make_pair, new_key
from tests.test_store import NOW, Base, Faulty, Killed, tree

LONGEST = timedelta(days=400)
HOUR = timedelta(hours=1)


class RenewalBase(Base):
    def setUp(self) -> None:
        super().setUp()
        self.at = NOW
        self.store = Store(self.folder, self.now, "operator")
        self.renewals = Renewals(self.folder, self.now, "mtlsd")
        self.old = self.fresh()
        self.store.authorize([self.old.der], "alice")

    def now(self) -> datetime:
        return self.at

    def fresh(self, name: str = "alice", **more: object) -> Pair:
        return make_pair(name, **{"key": new_key(), "now": self.at, **more})  # type: ignore[arg-type]

    def renew(self, new: Pair, old: Pair | None = None, renewals: Renewals | None = None, name: str = "alice") -> Renewed:
        return (renewals or self.renewals).renew(name, (old or self.old).fingerprint, new.der, LONGEST)

    def live(self, folder: Path | None = None) -> set[str]:
        """Return the fingerprints that would be let in now."""
        snapshot = looked_at(folder or self.folder).snapshot
        return {
            one.certificate.fingerprint
            for one in snapshot.authorized.values()
            if one.certificate.fingerprint not in snapshot.tombstones and one.certificate.not_before <= self.at <= one.ends
        }

    def not_renewed(self, why: Why, new: Pair, old: Pair | None = None, name: str = "alice") -> None:
        before = tree(self.folder)
        error = self.assertRaises(NotRenewed, self.renew, new, old, name=name)
        self.assertEqual(error.why, why)
        self.assertEqual(tree(self.folder), before)

    def toml(self) -> bytes:
        return (self.folder / "authorized" / "alice.toml").read_bytes()


class RenewTests(RenewalBase):
    """One certificate more, under the same name."""

    def test_both_are_in_force(self) -> None:
        """A client that has not heard the answer would be shut out; or the new certificate would not be let in."""
        new = self.fresh()
        renewed = self.renew(new)
        self.assertEqual((renewed.client, renewed.fingerprint, renewed.old), ("alice", new.fingerprint, self.old.fingerprint))
        self.assertEqual(renewed.old_until, self.old.leaf.not_after)
        self.assertEqual(self.live(), {self.old.fingerprint, new.fingerprint})
        standing = looked_at(self.folder).snapshot.standing(new.fingerprint)
        assert isinstance(standing, Authorization)
        self.assertEqual((standing.client, standing.retires), ("alice", self.old.fingerprint))

    def test_name_groups_and_words_stay(self) -> None:
        """A renewal would cost the operator the comments, or the client its groups."""
        text = b'# mine\ngroups = ["ops"]   # why\ngrace = "7d"\n'
        self.put("alice.toml", text)
        renewed = self.renew(self.fresh())
        self.assertTrue(self.toml().startswith(text))
        terms = read_terms(self.toml())
        self.assertEqual((terms.groups, terms.grace), (("ops",), timedelta(days=7)))
        self.assertEqual(renewed.old_until, self.old.leaf.not_after + timedelta(days=7))
        (event,) = [line for line in self.ledger() if line["event"] == "renewed"]
        wanted = {"client": "alice", "fingerprint": renewed.fingerprint, "detail": f"renewed from {self.old.fingerprint}"}
        self.assertEqual({key: event[key] for key in wanted}, wanted)
        self.assertEqual(event["actor"], "mtlsd")

    def test_again(self) -> None:
        """A client that was interrupted before it heard the answer could not ask once more."""
        new = self.fresh()
        first = self.renew(new)
        before = tree(self.folder)
        again = self.renew(new)
        self.assertEqual((again.fingerprint, again.old_until, again.event), (first.fingerprint, first.old_until, None))
        self.assertEqual(tree(self.folder), before)

    def test_two_at_once(self) -> None:
        """A client could heap up certificates; with two machines of one name, both would believe that they had renewed."""
        self.renew(self.fresh())
        self.not_renewed(Why.TOO_MANY, self.fresh())

    def test_who_may_not(self) -> None:
        """A certificate that is revoked, has ended or was never let in would make another one that lives on."""
        stranger = self.fresh()
        self.not_renewed(Why.NOT_AUTHORIZED, self.fresh(), stranger)
        self.not_renewed(Why.NOT_AUTHORIZED, self.fresh(), name="bob")
        bob = self.fresh("bob")
        self.store.authorize([bob.der], "bob")
        self.not_renewed(Why.NOT_AUTHORIZED, self.fresh(), bob)
        # In a name of its own: a tombstone, beside the file that is still there.
        (self.folder / "revoked" / f"{self.old.fingerprint}.json").write_text("{}")
        self.not_renewed(Why.NOT_AUTHORIZED, self.fresh())
        self.at = bob.leaf.not_after + timedelta(seconds=1)
        self.not_renewed(Why.NOT_AUTHORIZED, self.fresh(), bob, "bob")

    def test_retired(self) -> None:
        """A certificate that has been retired would go on making others."""
        self.put("alice.toml", f"[retire]\n{self.old.fingerprint} = 2026-11-23T11:00:00Z\n".encode())
        self.not_renewed(Why.NOT_AUTHORIZED, self.fresh())

    def test_what_may_not(self) -> None:
        """A renewal could let in somebody else's certificate, a revoked one or its key, a weak one, or one for ever."""
        bob, gone = self.fresh("bob"), self.fresh("gone")
        self.store.authorize([bob.der], "bob")
        self.store.authorize([gone.der], "gone")
        self.store.revoke("gone")
        for why, new in (
            (Why.UNFIT, bob),
            (Why.UNFIT, gone),
            (Why.UNFIT, self.fresh(key=gone.key)),
            (Why.UNFIT, self.old),
            (Why.UNFIT, self.fresh(key="rsa1024")),
            (Why.UNFIT, self.fresh(ends=timedelta(seconds=-1))),
            (Why.UNFIT, self.fresh(begins=timedelta(seconds=1))),
            (Why.UNFIT, self.fresh(padding=20_000)),
            (Why.TOO_LONG, self.fresh(ends=LONGEST + timedelta(seconds=1))),
            (Why.SAME_KEY, self.fresh(key=self.old.key)),
        ):
            self.not_renewed(why, new)
        self.assertRaises(CertificateError, self.renewals.renew, "alice", self.old.fingerprint, b"junk", LONGEST)
        self.renew(self.fresh(ends=LONGEST))

    def test_files_that_cannot_be_changed(self) -> None:
        """A renewal would write beside what the operator has written, or over a damaged file."""
        for text, said in ((b"renewed = {}\n", "tables of their own"), (b"grops = []\n", "unknown key")):
            self.put("alice.toml", text)
            self.refused(said, lambda: self.renew(self.fresh()))
        (self.folder / "authorized" / "alice.toml").unlink()
        path = self.put("alice.pem", self.old.pem + b"-----BEGIN CERTIFICATE-----\n")
        self.refused("without its END", lambda: self.renew(self.fresh()))
        path.write_bytes(self.old.pem + b"# " + b"x" * (1 << 20))
        self.refused("", lambda: self.renew(self.fresh()))

    def test_the_same_certificate_twice_in_a_file(self) -> None:
        """A file that was pasted together twice would keep its client from ever renewing."""
        self.put("alice.pem", self.old.pem * 2)
        new = self.fresh()
        self.renew(new)
        self.assertEqual(self.live(), {self.old.fingerprint, new.fingerprint})


class RetireTests(RenewalBase):
    """The overlap ends."""

    def setUp(self) -> None:
        super().setUp()
        self.put("alice.toml", b'groups = ["ops"]\n')
        self.new = self.fresh()
        self.renew(self.new)

    def retire(self, new: Pair | None = None, renewals: Renewals | None = None) -> Retired | None:
        return (renewals or self.renewals).retire("alice", (new or self.new).fingerprint, HOUR)

    def test_ends(self) -> None:
        """The old certificate would be good until its end, or go before whatever uses it has been restarted."""
        retired = self.retire()
        assert retired is not None
        self.assertEqual(retired.event.fingerprint, self.old.fingerprint)
        self.assertEqual(retired.event.detail, f"renewed as {self.new.fingerprint}, ends at 2026-11-23T13:00:00.000Z")
        self.assertEqual([line["event"] for line in self.ledger()], ["authorized", "renewed", "retired"])
        self.assertEqual(read_terms(self.toml()).retire, {self.old.fingerprint: NOW + HOUR})
        self.assertEqual(self.live(), {self.old.fingerprint, self.new.fingerprint})
        self.at += HOUR + timedelta(seconds=1)
        self.assertEqual(self.live(), {self.new.fingerprint})

    def test_no_warning(self) -> None:
        """The operator would be warned of each certificate that was renewed, for as long as it stands in the file; or not
        be warned of one whose client has never got to its new one.
        """
        by = self.old.leaf.not_after + HOUR
        soon = lambda: [one.certificate.fingerprint for one in ending(in_force(looked_at(self.folder).snapshot), by)]  # noqa: E731
        self.assertIn(self.old.fingerprint, soon())
        self.retire()
        self.assertEqual(soon(), [self.new.fingerprint])
        lines: list[LogEvent] = []
        snapshot = looked_at(self.folder).snapshot

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            lines.append(event)

        log = Logger(observer=observe)
        ExpiryWatch(lambda: snapshot, self.now, lambda: 0.0, timedelta(days=60), log).beat()
        self.assertEqual([line["short"] for line in lines], [self.new.fingerprint[:16]])

    def test_once(self) -> None:
        """Each use of the new certificate would put the end off."""
        self.retire()
        before = tree(self.folder)
        self.at += HOUR / 2
        self.assertIsNone(self.retire())
        self.assertEqual(tree(self.folder), before)
        standing = looked_at(self.folder).snapshot.standing(self.new.fingerprint)
        assert isinstance(standing, Authorization)
        self.assertIsNone(standing.retires)

    def test_nothing_to_retire(self) -> None:
        """A certificate that renewed nothing would end somebody else's."""
        self.assertIsNone(self.retire(self.old))
        self.assertIsNone(self.retire(self.fresh()))
        self.store.revoke_fingerprint(self.old.fingerprint, only=True)
        self.assertIsNone(self.retire())

    def test_an_end_that_the_operator_has_set(self) -> None:
        """The operator's own [retire] would be overwritten."""
        text = self.toml() + f"[retire]\n{self.old.fingerprint} = 2026-11-23T12:00:01Z\n".encode()
        self.put("alice.toml", text)
        self.assertIsNone(self.retire())
        self.assertEqual(self.toml(), text)

    def test_renewing_on_and_on(self) -> None:
        """A year of renewals would fill the files, or what was taken out of them would come back to life."""
        for turn in range(MOST_RETIRED + 4):
            self.retire()
            self.at += 2 * HOUR
            self.assertEqual(self.live(), {self.new.fingerprint}, turn)
            self.old, self.new = self.new, self.fresh()
            self.renew(self.new)
            self.assertEqual(self.live(), {self.old.fingerprint, self.new.fingerprint}, turn)
        held = (self.folder / "authorized" / "alice.pem").read_bytes().count(b"BEGIN")
        self.assertEqual(held, MOST_RETIRED + 2)
        terms = read_terms(self.toml())
        self.assertLessEqual(len(terms.retire), MOST_RETIRED + 1)
        self.assertEqual((len(terms.renewed), terms.groups), (MOST_RETIRED + 5, ("ops",)))
        self.assertLess(len(terms.renewed), GENERATIONS)

    def test_their_own_end(self) -> None:
        """What has ended by itself would stand in the file for ever."""
        self.retire()
        self.at = self.old.leaf.not_after - HOUR
        last = self.fresh(ends=timedelta(days=200))
        self.store.authorize([last.der], "alice", add=True)
        self.at += 3 * HOUR
        self.renew(self.fresh(), last)
        text = (self.folder / "authorized" / "alice.pem").read_bytes()
        self.assertNotIn(self.old.pem, text)
        # Not renewed by anything: it is the operator's to take out.
        self.assertIn(self.new.pem, text)


class RevokeTests(RenewalBase):
    """Revoking what has been renewed."""

    def setUp(self) -> None:
        super().setUp()
        self.second, self.third = self.fresh(), self.fresh()
        self.renew(self.second)
        self.renewals.retire("alice", self.second.fingerprint, HOUR)
        self.at += 2 * HOUR
        self.renew(self.third, self.second)
        self.prints = [pair.fingerprint for pair in (self.old, self.second, self.third)]

    def test_all_that_came_of_it(self) -> None:
        """A thief who has renewed what he stole would stay in."""
        change = self.store.revoke_fingerprint(self.old.fingerprint)
        self.assertEqual(change.fingerprints[0], self.old.fingerprint)
        self.assertEqual(set(change.fingerprints), set(self.prints))
        self.assertEqual(self.live(), set())
        self.assertEqual([self.stone(one).exists() for one in self.prints], [True] * 3)
        self.assertFalse((self.folder / "authorized" / "alice.pem").exists())
        self.assertEqual(len([note for note in change.notes if "it was renewed from it" in note]), 2)

    def test_one_in_the_middle(self) -> None:
        """The one before it would go as well: what it was renewed from is not its fault."""
        self.store.revoke_fingerprint(self.second.fingerprint[:16])
        self.assertEqual([self.stone(one).exists() for one in self.prints], [False, True, True])
        self.assertIn(self.old.pem, (self.folder / "authorized" / "alice.pem").read_bytes())

    def test_only(self) -> None:
        """An operator who knows that the new one is good could not keep it; or, later, not shut it out either."""
        self.store.revoke_fingerprint(self.second.fingerprint, only=True)
        self.assertEqual(self.live(), {self.third.fingerprint})
        self.store.revoke_fingerprint(self.second.fingerprint)
        self.assertEqual(self.live(), set())
        change = self.store.revoke_fingerprint(self.second.fingerprint)
        self.assertIn("is revoked already", change.notes[0])

    def test_one_that_is_gone_from_the_file(self) -> None:
        """What was renewed from a certificate that has long ended would stay in."""
        path = self.folder / "authorized" / "alice.pem"
        path.write_bytes(path.read_bytes().replace(self.old.pem, b""))
        self.store.revoke_fingerprint(self.old.fingerprint[:12])
        self.assertEqual(self.live(), set())
        self.assertRaises(NotFound, self.store.revoke_fingerprint, "ab" * 8)

    def test_terms_that_cannot_be_read(self) -> None:
        """The command would say that all is done, and what was renewed would be in."""
        self.put("alice.toml", b"x")
        change = self.store.revoke_fingerprint(self.old.fingerprint)
        self.assertIn("its terms cannot be read", change.problems[0])
        self.assertEqual(self.store.revoke_fingerprint(self.third.fingerprint, only=True).problems, ())


class InterruptedTests(RenewalBase):
    """A failure, or a kill, at each system call of a renewal, of a retirement, and of the revocation of both."""

    def setUp(self) -> None:
        super().setUp()
        self.put("alice.toml", b'# mine\ngroups = ["ops"]\n')
        self.new = self.fresh()

    def scenarios(self) -> dict[str, tuple[Callable[[Path], None], Callable[[Renewals], object]]]:
        def renewed(folder: Path) -> None:
            Renewals(folder, self.now, "mtlsd").renew("alice", self.old.fingerprint, self.new.der, LONGEST)

        return {
            "renew": (lambda _: None, lambda renewals: self.renew(self.new, renewals=renewals)),
            "retire": (renewed, lambda renewals: renewals.retire("alice", self.new.fingerprint, HOUR)),
            "revoke both": (renewed, lambda renewals: renewals.revoke_fingerprint(self.old.fingerprint)),
        }

    def each(self, fatal: bool) -> list[tuple[str, Callable[[Renewals], object], Path, Path, Faulty]]:
        found = []
        for name, (prepare, change) in self.scenarios().items():
            start = self.copy(self.folder)
            prepare(start)
            probe = Faulty(-1)
            change(Renewals(self.copy(start), self.now, "mtlsd", probe))
            self.assertGreater(probe.count, 5)
            found += [(name, change, start, self.copy(start), Faulty(at, fatal)) for at in range(probe.count)]
        return found

    def copy(self, folder: Path) -> Path:
        copy = Path(self.mktemp())
        shutil.copytree(folder, copy)
        return copy

    def whole(self, folder: Path) -> None:
        terms = read_terms((folder / "authorized" / "alice.toml").read_bytes())
        self.assertEqual(terms.groups, ("ops",))

    def test_failure(self) -> None:
        """After a full disk, a client would be half renewed, or its old certificate gone."""
        for name, change, before, folder, system in self.each(fatal=False):
            with self.subTest(scenario=name, at=system.at):
                try:
                    change(Renewals(folder, self.now, "mtlsd", system))
                except FolderError as error:
                    self.assertIn("No space left on device", str(error))
                    self.assertEqual(tree(folder), tree(before))
                else:
                    self.assertNotEqual(tree(folder), tree(before))
                self.assertTrue(system.struck)

    def test_kill(self) -> None:
        """After a kill -9 of the server a client would get in with neither of its certificates, or a revoked one with its heir."""
        for name, change, before, folder, system in self.each(fatal=True):
            with self.subTest(scenario=name, at=system.at):
                with contextlib.suppress(Killed):
                    change(Renewals(folder, self.now, "mtlsd", system))
                was, middle = self.live(before), self.live(folder)
                if name == "revoke both":
                    self.assertLessEqual(middle, was)
                else:
                    self.assertLessEqual(was, middle)
                    self.assertLessEqual(middle, {self.old.fingerprint, self.new.fingerprint})
                    self.whole(folder)
                # The same once more finishes it.
                change(Renewals(folder, self.now, "mtlsd"))
                wanted = set() if name == "revoke both" else {self.old.fingerprint, self.new.fingerprint}
                self.assertEqual(self.live(folder), wanted)
                self.assertEqual([path for part in ("authorized", "revoked") for path in (folder / part).glob(".*")], [])
                if name == "renew":
                    (renewed,) = (entry for entry in History(folder) if entry.event == "renewed")
                    self.assertEqual(renewed.text("fingerprint"), self.new.fingerprint)
                    self.assertFalse((folder / PROMISE).exists())

    def test_a_kill_and_another_certificate(self) -> None:
        """What a kill has left of a renewal would stand in the way of the next, or stay for ever."""
        for name, change, _, folder, system in self.each(fatal=True):
            if name != "renew":
                continue
            with self.subTest(at=system.at):
                with contextlib.suppress(Killed):
                    change(Renewals(folder, self.now, "mtlsd", system))
                other = self.fresh()
                again = Renewals(folder, self.now, "mtlsd")
                if self.new.fingerprint in self.live(folder):
                    self.assertRaises(Refused, self.renew, other, renewals=again)
                    continue
                self.renew(other, renewals=again)
                self.assertEqual(self.live(folder), {self.old.fingerprint, other.fingerprint})
                terms = read_terms((folder / "authorized" / "alice.toml").read_bytes())
                self.assertEqual(dict(terms.renewed), {other.fingerprint: self.old.fingerprint})
