"""What every registry promises, on each of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.internet import defer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mtlsd.registry.clients import SETTLE
from mtlsd.registry.directory import DirectoryRegistry
from mtlsd.registry.interfaces import IRegistry
from mtlsd.registry.memory import MemoryRegistry
from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from tests.pki import Pair, make_pair


class Contract:
    """Holds the contract, so that trial does not run it on no registry at all."""

    class Case(SynchronousTestCase):
        """The contract; each implementation makes a registry and changes it by its own means."""

        registry: IRegistry

        def authorize(self, name: str, *pairs: Pair) -> None:
            raise NotImplementedError

        def forget(self, name: str) -> None:
            raise NotImplementedError

        def bury(self, pair: Pair) -> None:
            raise NotImplementedError

        def test_interface(self) -> None:
            """The server could not ask this registry."""
            self.assertTrue(verifyObject(IRegistry, self.registry))

        def test_nobody(self) -> None:
            """An empty registry would know somebody."""
            self.assertIsNone(self.registry.standing("00" * 32))
            self.assertEqual({}, dict(self.registry.snapshot().authorized))

        def test_authorized(self) -> None:
            """An authorized client would be refused, or another be taken for it."""
            alice, other = make_pair(), make_pair()
            self.authorize("alice", alice)
            standing = self.registry.standing(alice.fingerprint)
            assert isinstance(standing, Authorization)
            self.assertEqual(("alice", alice.leaf), (standing.client, standing.certificate))
            self.assertIsNone(self.registry.standing(other.fingerprint))

        def test_forgotten(self) -> None:
            """A client that is no longer authorized would still be let in."""
            alice = make_pair()
            self.authorize("alice", alice)
            self.forget("alice")
            self.assertIsNone(self.registry.standing(alice.fingerprint))

        def test_tombstone_wins(self) -> None:
            """A revoked client would get in by being authorized again."""
            alice = make_pair()
            self.bury(alice)
            self.authorize("alice", alice)
            standing = self.registry.standing(alice.fingerprint)
            assert isinstance(standing, Tombstone)
            self.assertEqual(alice.fingerprint, standing.fingerprint)

        def test_snapshot_stands_still(self) -> None:
            """Whoever works through a snapshot would see half of a change."""
            alice, bob = make_pair(), make_pair()
            self.authorize("alice", alice)
            before = self.registry.snapshot()
            self.authorize("bob", bob)
            self.assertEqual([alice.fingerprint], list(before.authorized))
            self.assertEqual({alice.fingerprint, bob.fingerprint}, set(self.registry.snapshot().authorized))

        def test_listeners(self) -> None:
            """Live connections would not be looked at again after a change, or be looked at before it is in force."""
            alice, bob = make_pair(), make_pair()
            heard: list[tuple[frozenset[str], object]] = []
            self.authorize("bob", bob)
            self.registry.listen(lambda changed: heard.append((changed, self.registry.standing(alice.fingerprint))))
            self.authorize("alice", alice)
            self.bury(alice)
            self.assertEqual([frozenset({alice.fingerprint})] * 2, [changed for changed, _ in heard])
            self.assertIsInstance(heard[0][1], Authorization)
            self.assertIsInstance(heard[1][1], Tombstone)

        def test_no_change(self) -> None:
            """Every look at the same state would make the server look at all its connections."""
            alice = make_pair()
            self.authorize("alice", alice)
            heard: list[frozenset[str]] = []
            self.registry.listen(heard.append)
            self.authorize("alice", alice)
            self.assertEqual([], heard)

        def test_failing_listener(self) -> None:
            """One listener that fails would keep the others from hearing of a revocation."""
            heard: list[frozenset[str]] = []

            def failing(changed: frozenset[str]) -> None:
                raise ZeroDivisionError

            self.registry.listen(failing)
            self.registry.listen(heard.append)
            alice = make_pair()
            self.authorize("alice", alice)
            self.assertEqual([frozenset({alice.fingerprint})], heard)
            self.assertIsInstance(self.registry.standing(alice.fingerprint), Authorization)
            self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class MemoryRegistryTests(Contract.Case):
    def setUp(self) -> None:
        self.registry = self.memory = MemoryRegistry()

    def change(self, authorized: dict[str, Authorization], tombstones: dict[str, Tombstone]) -> None:
        self.memory.publish(Snapshot(authorized, tombstones))

    def authorize(self, name: str, *pairs: Pair) -> None:
        now = self.memory.snapshot()
        new = {pair.fingerprint: Authorization(name, pair.leaf, pair.leaf.not_after) for pair in pairs}
        self.change({**now.authorized, **new}, {**now.tombstones})

    def forget(self, name: str) -> None:
        now = self.memory.snapshot()
        self.change({key: known for key, known in now.authorized.items() if known.client != name}, {**now.tombstones})

    def bury(self, pair: Pair) -> None:
        now = self.memory.snapshot()
        self.change({**now.authorized}, {**now.tombstones, pair.fingerprint: Tombstone(pair.fingerprint)})


class DirectoryRegistryTests(Contract.Case):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        for folder in (self.folder, self.folder / "authorized", self.folder / "revoked"):
            folder.mkdir()
            folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder)
        self.clock = Clock()
        self.registry = self.directory = DirectoryRegistry(
            self.folder, reactor=self.clock, seconds=self.clock.seconds, in_thread=defer.execute
        )
        self.directory.load()
        self.directory.start()
        self.addCleanup(self.directory.stop)

    def change(self, path: Path, data: bytes | None) -> None:
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
            path.chmod(0o644)
        looked = self.directory.look()
        self.clock.advance(SETTLE)
        self.successResultOf(looked)

    def authorize(self, name: str, *pairs: Pair) -> None:
        self.change(self.folder / "authorized" / f"{name}.pem", b"".join(pair.pem for pair in pairs))

    def forget(self, name: str) -> None:
        self.change(self.folder / "authorized" / f"{name}.pem", None)

    def bury(self, pair: Pair) -> None:
        self.change(self.folder / "revoked" / f"{pair.fingerprint}.json", b"{}")
