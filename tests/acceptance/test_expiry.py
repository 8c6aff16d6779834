"""Expiry in sight: the log, the command and a client's grace, in front of a real server."""

from __future__ import annotations

from datetime import timedelta

from tests.acceptance.harness import AcceptanceTestCase, Server, command
from tests.acceptance.peers import TlsClient

DAY = timedelta(days=1)


class ExpiryTests(AcceptanceTestCase):
    """alice has a year left, bob three days, carol ended yesterday, and dave too, but has a grace of a week."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice", begins=-10 * DAY, ends=365 * DAY)
        self.bob = self.new_client("bob", begins=-10 * DAY, ends=3 * DAY)
        self.carol = self.new_client("carol", begins=-10 * DAY, ends=-DAY)
        self.write(self.certs / "authorized" / "dave.toml", b'grace = "7d"\n')
        self.dave = self.new_client("dave", begins=-10 * DAY, ends=-DAY)

    def warnings(self, server: Server, words: str) -> list[str]:
        return [line.split("] ", 1)[1] for line in server.log.lines if words in line]

    def test_in_the_log(self) -> None:
        """A renewal that was forgotten would be an outage that nobody saw coming."""
        server = self.serve()
        # The last to end is the last to be told of.
        server.log.wait_for("dave: certificate")
        bob, dave = (f"{pair.fingerprint[:16]} end" for pair in (self.bob, self.dave))
        ended, until = (f"{self.dave.leaf.not_after + grace:%Y-%m-%d}" for grace in (timedelta(), 7 * DAY))
        self.assertEqual(
            [line.split(";")[0] for line in self.warnings(server, ": certificate ")],
            [
                f"bob: certificate {bob}s on {self.bob.leaf.not_after:%Y-%m-%d} (3 days left)",
                f"dave: certificate {dave}ed on {ended} and is let in on grace until {until} (6 days left)",
            ],
        )
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_switched_off(self) -> None:
        """Who looks after it otherwise would have a line a day all the same."""
        server = self.serve("--expiry-warning", "0", "--idle-timeout", "0.1")
        with TlsClient(server.port, self.alice) as client:
            self.assertEqual(client.ask().status, 200)
            # The beat that cuts it is the one that would have warned.
            client.wait_until_cut()
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.warnings(server, ": certificate "), [])

    def test_grace(self) -> None:
        """A grace that does not let in, or lets in without a word; and without one, an end that is none."""
        server = self.serve()
        for _ in range(3):
            self.assertIn("Hello: dave", self.curl_as("dave", server).stdout)
        self.assertNotIn("Hello", self.curl_as("carol", server).stdout)
        self.assertIn("Hello: alice", self.curl_as("alice", server).stdout)
        self.assert_verdicts(server, *["authorized"] * 4, "expired")
        told = self.warnings(server, "on grace alone")
        self.assertEqual(len(told), 1)
        self.assertTrue(told[0].startswith(f"dave is let in on grace alone: certificate {self.dave.fingerprint[:16]} "), told)

    def test_the_command(self) -> None:
        """Cron would mail nothing, or the wrong names."""
        done = command("clients", "--expiring", "30d", cwd=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], ["NAME", "carol", "bob", "dave"])
        for words in ("EXPIRED", "(3 days left)", "(on grace, 6 days left)"):
            self.assertIn(words, done.stdout)
