"""The values of a registry."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from tests.pki import make_pair


class SnapshotTests(SynchronousTestCase):
    def setUp(self) -> None:
        leaf = make_pair().leaf
        self.alice = Authorization("alice", leaf, leaf.not_after)
        self.print = leaf.fingerprint
        self.let_in = Snapshot({self.print: self.alice})
        self.out = Snapshot({self.print: self.alice}, {self.print: Tombstone(self.print)})

    def test_standing(self) -> None:
        """A revoked certificate would be let in by an authorization that is still there, or an unknown one by nothing."""
        self.assertIsNone(Snapshot().standing(self.print))
        self.assertEqual(self.alice, self.let_in.standing(self.print))
        self.assertEqual(Tombstone(self.print), self.out.standing(self.print))
        self.assertIsNone(self.out.standing("00" * 32))

    def test_differs(self) -> None:
        """The live connections of a client whose standing has changed would not be looked at again."""
        everything = frozenset({self.print})
        groups = Snapshot({self.print: replace(self.alice, groups=("ops",))})
        for one, two in ((Snapshot(), self.let_in), (self.let_in, self.out), (Snapshot(), self.out), (self.let_in, groups)):
            self.assertEqual(everything, one.differs(two))
            self.assertEqual(everything, two.differs(one))

    def test_buried_keys(self) -> None:
        """Whoever was shut out would join again with a new certificate of the same key."""
        stones = {"a": Tombstone("a", key_sha256="11"), "b": Tombstone("b"), "c": Tombstone("c", key_sha256="22")}
        self.assertEqual(Snapshot({}, stones).buried_keys, {"11": stones["a"], "22": stones["c"]})
        self.assertEqual(Snapshot().buried_keys, {})

    def test_same(self) -> None:
        """Every scan would count as a change of all clients."""
        again = Snapshot({self.print: replace(self.alice)}, {self.print: Tombstone(self.print)})
        self.assertEqual(frozenset(), self.out.differs(again))
        self.assertEqual(frozenset(), Snapshot().differs(Snapshot()))
