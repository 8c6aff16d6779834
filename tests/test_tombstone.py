"""FINGERPRINT.json: a revocation, by its name."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import SettingsError
from mtlsd.registry.records import Tombstone
from mtlsd.registry.tombstone import fingerprint_in, read_tombstone

PRINT = "ab" * 32


class TombstoneTests(SynchronousTestCase):
    def test_names(self) -> None:
        """A tombstone set by hand, in another spelling of the fingerprint, would not revoke."""
        for name in (f"{PRINT}.json", f"{PRINT.upper()}.JSON", PRINT, ":".join(["AB"] * 32) + ".json"):
            self.assertEqual(PRINT, fingerprint_in(name))
        for name in ("abcd.json", f"{PRINT}.json.tmp", f"{PRINT}0.json", "README"):
            self.assertIsNone(fingerprint_in(name))

    def test_details(self) -> None:
        """The reason and the name of a revoked client would be lost to whoever asks later."""
        told = {"time": "2026-11-23T10:00:00.000Z", "name": "alice", "key_sha256": "CD" * 32, "reason": "left"}
        self.assertEqual(
            Tombstone(PRINT, "alice", "2026-11-23T10:00:00.000Z", "left", "cd" * 32),
            read_tombstone(PRINT, json.dumps(told).encode()),
        )

    def test_strange_details(self) -> None:
        """What somebody wrote into a tombstone would reach a terminal raw, or break the scan."""
        told = {"time": 7, "name": "../x", "key_sha256": "no", "reason": "\x1b[2J" + "x" * 1000}
        found = read_tombstone(PRINT, json.dumps(told).encode())
        self.assertEqual((None, None, None), (found.client, found.time, found.key_sha256))
        self.assertTrue(found.reason and found.reason.isprintable() and len(found.reason) == 200)
        self.assertEqual(Tombstone(PRINT), read_tombstone(PRINT, b"{}"))

    def test_damaged(self) -> None:
        """A damaged tombstone would not be reported."""
        for data in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
            self.assertRaises(SettingsError, read_tombstone, PRINT, data)
