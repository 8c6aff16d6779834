"""Many certificates, taken in as one change."""

from __future__ import annotations

import os
from datetime import timedelta

from mtlsd.errors import FolderError
from mtlsd.registry.admission import Admission, Outcome
from mtlsd.registry.atomic import System
from mtlsd.registry.bundle import Offer
from mtlsd.registry.room import in_force, looked_at
from mtlsd.registry.store import Store
from tests.pki import new_key
from tests.test_store import NOW, Base, offer, tree


class AdmitTests(Base):
    """`mtlsd import`, below its words."""

    def admit(self, *offers: Offer, **more: bool) -> list[tuple[str, str]]:
        """Take in, after a dry run that says the same and changes nothing; return outcome and name of each."""
        before = tree(self.folder)
        said = self.answers(self.store.admit(offers, dry_run=True, **more))
        self.assertEqual(tree(self.folder), before)
        self.admission = self.store.admit(offers, **more)
        self.assertEqual(self.answers(self.admission), said)
        return [(outcome, client) for outcome, client, _ in said]

    def answers(self, admission: Admission) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(str(answer.outcome), answer.client, answer.notes) for answer in admission.answers]

    def notes(self) -> list[str]:
        return ["; ".join(answer.notes) for answer in self.admission.answers]

    def test_all(self) -> None:
        """Whoever was in the bundle would stay outside, or come in under another name."""
        one, two, bob = self.pair(), self.pair(), self.pair("bob")
        self.assertEqual(
            self.admit(offer(one, "alice"), offer(two, "alice"), offer(bob, "bob")),
            [("authorized", "alice"), ("authorized", "alice"), ("authorized", "bob")],
        )
        self.assertEqual(self.in_force(), {one.fingerprint: "alice", two.fingerprint: "alice", bob.fingerprint: "bob"})
        self.assertEqual((self.folder / "authorized" / "alice.pem").read_bytes(), one.pem + two.pem)
        self.assertEqual(self.admission.count(Outcome.AUTHORIZED), 3)

    def test_ledger(self) -> None:
        """Nobody could say afterwards how all these came in."""
        self.admit(offer(self.pair(), "alice"), offer(self.pair("bob"), "bob"), offer(self.pair(key="rsa1024"), "weak"))
        told = [(line["event"], line["client"], line["detail"], line["actor"]) for line in self.ledger()]
        self.assertEqual(told, [("authorized", name, "imported", "operator") for name in ("alice", "bob")])

    def test_twice(self) -> None:
        """An import that is given again would fail, or write everything anew."""
        offers = [offer(self.pair(), "alice"), offer(self.pair("bob"), "bob"), offer(self.pair("b"), "bob", given=False)]
        self.admit(*offers)
        before, ledger = tree(self.folder), self.ledger()
        self.assertEqual(self.admit(*offers), [("there", "alice"), ("there", "bob"), ("there", "bob-2")])
        self.assertEqual((tree(self.folder), self.ledger()), (before, ledger))

    def test_there_under_another_name(self) -> None:
        """One certificate would be two clients, of which the server lets in neither."""
        pair = self.pair()
        self.store.authorize([pair.der], "alice")
        self.assertEqual(self.admit(offer(pair, "bob")), [("there", "alice")])
        self.assertEqual(self.in_force(), {pair.fingerprint: "alice"})

    def test_twice_in_the_bundle(self) -> None:
        """The same certificate twice would stand in two files, or twice in one."""
        pair = self.pair()
        self.assertEqual(
            self.admit(offer(pair, "alice"), offer(pair, "alice"), offer(pair, "x", given=False), offer(pair, "bob")),
            [("authorized", "alice"), ("there", "alice"), ("there", "alice"), ("refused", "bob")],
        )
        self.assertEqual((self.folder / "authorized" / "alice.pem").read_bytes(), pair.pem)

    def test_what_is_refused_is_named(self) -> None:
        """One bad certificate would keep everybody out, or come in with them."""
        day = timedelta(days=1)
        gone, key = self.pair("gone", key=new_key()), new_key()
        old, again = self.pair("old", key=key), self.pair("again", key=key)
        for pair, name in ((gone, "gone"), (old, "old")):
            self.store.authorize([pair.der], name)
            self.store.revoke(name)
        good = self.pair()
        junk = Offer(b"0\0", None, "junk", False, "clients.pem", "not a certificate")
        refused = [
            (offer(self.pair(begins=-2 * day, ends=-day), "expired"), "it has expired"),
            (offer(self.pair(key="rsa1024"), "weak"), "too weak"),
            (offer(self.pair(padding=20_000), "large"), "too large"),
            (offer(gone, "gone"), "is revoked (as gone)"),
            (offer(again, "again"), "has the key of"),
            (offer(self.pair(), "../x"), "is no client's name"),
            (offer(self.pair(), "\x1b[31m"), "is no client's name"),
            (offer(self.pair(), ""), "is no client's name"),
            (junk, "not a certificate"),
        ]
        answers = self.admit(*(one for one, _ in refused), offer(good, "alice"))
        self.assertEqual([outcome for outcome, _ in answers], ["refused"] * 9 + ["authorized"])
        for (_, said), note in zip(refused, self.notes(), strict=False):
            self.assertIn(said, note)
            self.assertTrue(note.isprintable())
        self.assertEqual(self.in_force(), {good.fingerprint: "alice"})

    def test_nothing_to_do(self) -> None:
        """A bundle of which nothing may come in would leave a trace of a change."""
        self.admit(offer(self.pair(key="rsa1024"), "weak"))
        self.assertFalse((self.folder / "ledger.jsonl").exists())
        self.assertEqual(self.admit(), [])

    def test_taken(self) -> None:
        """A stranger's certificate would be let in as somebody who is there; or nobody's second one could be."""
        old, new = self.pair(), self.pair()
        self.store.authorize([old.der], "alice")
        self.assertEqual(self.admit(offer(new, "alice"), offer(new, "alice")), [("refused", "alice")] * 2)
        self.assertIn("the name alice is taken", self.notes()[0])
        self.assertEqual(
            self.admit(offer(new, "alice"), offer(old, "alice"), add=True), [("authorized", "alice"), ("there", "alice")]
        )
        self.assertEqual(self.in_force(), {old.fingerprint: "alice", new.fingerprint: "alice"})

    def test_made_names(self) -> None:
        """Of two people with one common name, the second would be refused, or be the first."""
        self.store.authorize([self.pair().der], "bob")
        made = [offer(self.pair(), name, given=False) for name in ("alice", "alice", "bob", "alice", "carol", "erin")]
        answers = self.admit(*made, offer(self.pair(), "carol"), offer(self.pair(), "alice-3"))
        names = ["alice", "alice-2", "bob-2", "alice-4", "carol-2", "erin", "carol", "alice-3"]
        self.assertEqual(answers, [("authorized", name) for name in names])
        self.assertEqual(self.notes()[:4], ["", "the name alice is taken", "the name bob is taken", "the name alice is taken"])

    def test_made_names_and_terms(self) -> None:
        """Who calls himself like somebody that the operator expects would get that one's groups."""
        self.put("alice.toml", b'groups = ["ops"]')
        self.assertEqual(self.admit(offer(self.pair(), "alice", given=False)), [("authorized", "alice-2")])
        (one,) = in_force(looked_at(self.folder).snapshot)
        self.assertEqual(one.groups, ())
        # The operator's own word is another thing.
        self.assertEqual(self.admit(offer(self.pair(), "alice")), [("authorized", "alice")])
        self.assertIn("with its groups: ops", self.notes()[0])

    def test_a_refused_one_takes_no_name(self) -> None:
        """A name would depend on who was refused before."""
        weak, good = self.pair(key="rsa1024"), self.pair()
        answers = self.admit(offer(weak, "alice", given=False), offer(good, "alice", given=False))
        self.assertEqual(answers, [("refused", "alice"), ("authorized", "alice")])

    def test_not_yet_valid(self) -> None:
        """Next month's certificates could not be prepared, or would come without the word that they are not good before."""
        self.assertEqual(self.admit(offer(self.pair(begins=timedelta(days=7)), "alice")), [("authorized", "alice")])
        self.assertIn("not valid before 2026-11-30", self.notes()[0])

    def test_broken_terms(self) -> None:
        """A certificate that the server passes over because of the file beside it would be reported as let in."""
        self.put("alice.toml", b"groups = [")
        self.assertEqual(self.admit(offer(self.pair(), "alice")), [("refused", "alice")])

    def test_too_long(self) -> None:
        """A file would grow so long that the server refuses it, and all clients in it."""
        offers = [offer(self.pair(padding=15_000), "alice") for _ in range(60)]
        self.assertEqual(set(self.admit(*offers)), {("refused", "alice")})
        self.assertIn("1 MiB", self.notes()[0])

    def test_no_disk(self) -> None:
        """After a full disk, some would be in and some not, and nobody could say who."""

        class Full(System):
            def rename(self, old: str, new: str, folder: int) -> None:
                if new == "bob.pem":
                    raise OSError(28, "No space left on device")
                super().rename(old, new, folder)

        store = Store(self.folder, lambda: NOW, "operator", Full())
        offers = [offer(self.pair(), name) for name in ("alice", "bob", "carol")]
        self.refused("authorized: cannot be written: No space left", lambda: store.admit(offers), FolderError)

    def test_ledger_unwritable(self) -> None:
        """A change that no ledger tells of would look like any other."""
        (self.folder / "ledger.jsonl").mkdir()
        admission = self.store.admit([offer(self.pair(), "alice")])
        self.assertIn("the change stands, but it is not recorded", admission.problems[0])

    def test_a_dry_run_needs_no_right_to_write(self) -> None:
        """Who may only look could not look; and a dry run that waits for a lock, or makes one, is none."""

        class ReadOnly(System):
            def open(self, name: str, flags: int, mode: int, folder: int) -> int:
                raise OSError(30, "Read-only file system")

        store = Store(self.folder, lambda: NOW, "operator", ReadOnly())
        self.put(".mtlsd-0123", b"half")
        self.assertEqual(store.admit([offer(self.pair(), "alice")], dry_run=True).count(Outcome.AUTHORIZED), 1)
        self.assertFalse((self.folder / ".lock").exists())
        self.assertEqual(os.listdir(self.folder / "authorized"), [".mtlsd-0123"])

    def test_one_look(self) -> None:
        """10,000 clients would take minutes: a lock, a scan and a wait for the folder's disk for each."""
        counts = {"lock": 0, "sync": 0}
        folder = os.stat(self.folder / "authorized").st_ino

        class Counting(System):
            def open(self, name: str, flags: int, mode: int, folder: int) -> int:
                counts["lock"] += name == ".lock"
                return super().open(name, flags, mode, folder)

            def fsync(self, descriptor: int) -> None:
                counts["sync"] += os.fstat(descriptor).st_ino == folder
                super().fsync(descriptor)

        offers = [offer(self.pair(), f"client{nth}") for nth in range(50)]
        Store(self.folder, lambda: NOW, "operator", Counting()).admit(offers)
        self.assertEqual((len(self.in_force()), counts), (50, {"lock": 1, "sync": 1}))
