"""The server's own pair is renewed: its clients learn the next certificate before it is shown, and nobody is shut out."""

from __future__ import annotations

import json

from mtlsd.registry.nextpair import FROM, NEXT
from tests.acceptance.harness import command, poll
from tests.acceptance.peers import TlsClient, make_context
from tests.acceptance.test_renew import RenewTestCase


class NextPairTests(RenewTestCase):
    def trusted(self, name: str = "bob") -> list[str]:
        told = json.loads(self.mtlsd("trust", "--dir", name, "--json"))
        return [one["fingerprint"] for one in told["certificates"]]

    def prepare(self, *more: str) -> str:
        """Prepare the next pair, and return its fingerprint once the server tells of it."""
        said = len(self.server.log.lines)
        out = self.mtlsd("init", "--renew", *more)
        self.assertRegex(
            out,
            r"made certs/next\nthe server's next certificate: [0-9a-f]{64}\ngood for localhost, .*\nused from .* on; until then ",
        )
        fingerprint = out.split()[6]
        self.server.log.wait_for(f"the server's next certificate is {fingerprint}, from ", after=said)
        return fingerprint

    def the_moment_comes(self, fingerprint: str) -> None:
        said = len(self.server.log.lines)
        self.write(self.certs / NEXT / FROM, b"2026-01-01T00:00:00Z\n")
        self.server.log.wait_for(f"the server's certificate is now {fingerprint}", after=said)

    def test_a_renewal_is_refused(self) -> None:
        """A client whose renewal the server refuses would lose its server as well, on the day of the change."""
        self.mtlsd("init")
        self.server = self.serve("--renew", "off")
        self.client()
        (first,) = self.trusted()
        second = self.prepare()
        found = self.renew("bob", "--if-expiring", "30d", "--then", "exit 3")
        self.assertEqual(found.returncode, 1)
        self.assertIn(f"the server shows {second[:16]}", found.stdout)
        self.assertIn("exit 3: status 3; the server's next certificate is known", found.stderr)
        self.assertIn("it does not let clients renew", found.stderr)
        self.assertEqual(self.trusted(), [first, second])
        self.not_renewed("it does not let clients renew", "bob", "--then", "echo told >> told")
        self.not_renewed("it does not let clients renew", "bob", "--then", "echo told >> told")
        self.assertEqual((self.folder / "told").read_text(), "told\n")

    def test_over_the_change(self) -> None:
        """A new certificate of the server's would shut every client out that has joined; or let one in that trusts anybody."""
        self.mtlsd("init")
        self.start()
        bob, _ = self.client("bob"), self.client("carol")
        (first,) = self.trusted()
        second = self.prepare()
        self.assertIn(f"the next one: {second}, used from ", self.mtlsd("init"))
        # One learns it by asking, one with its next renewal; carol does neither.
        self.assertIn(f"the server shows {second[:16]}", self.mtlsd("trust", "--dir", "bob", "--refresh"))
        self.client("dave", days=20)
        self.assertIn(f"the server shows {second[:16]}", self.renewed("dave", "--if-expiring", "1d"))
        for name in ("bob", "dave"):
            self.assertEqual(self.trusted(name), [first, second])
            self.assertEqual(self.hello(name), f"Hello: {name}\n")
        context = make_context(None)
        context.use_certificate_file(str(bob.certificate))
        context.use_privatekey_file(str(bob.key))
        with TlsClient(self.server.port, None, context=context) as live:
            self.assertEqual(live.ask().body, b"Hello: bob\n")
            self.the_moment_comes(second)
            # A connection that was there before goes on.
            self.assertEqual(live.ask().body, b"Hello: bob\n")
        for name in ("bob", "dave"):
            self.assertEqual(self.hello(name), f"Hello: {name}\n")
        # Who has not asked is stopped by its own side: it asks nothing of a server that it does not know.
        self.not_renewed(f"not {first[:16]}", "carol")
        self.assertEqual(self.curl("--config", self.folder / "carol" / "curl", self.server.url()).returncode, 60)
        # The old key is worth nothing any more.
        self.assertIn(f"forgotten: {first[:16]}", self.mtlsd("trust", "--dir", "bob", "--refresh"))
        self.assertEqual(self.trusted(), [second])
        # The pair gets the usual names; nobody notices, and neither does the next start.
        self.assertIn("made certs/serverKey.pem\nmade certs/serverCrt.pem\n", self.mtlsd("init"))
        poll("it is read", lambda: self.server.log.wait_for(f"certificate is now {second}"))
        self.assertFalse((self.certs / NEXT).exists())
        self.assertEqual(self.hello(), "Hello: bob\n")
        self.server.stop()
        self.assert_quiet(self.server)
        self.start("--port", str(self.server.port))
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_a_start_after_the_moment(self) -> None:
        """A server that was down on that day would come up with the certificate that its clients have forgotten."""
        self.mtlsd("init")
        self.start()
        self.client("bob")
        second = self.prepare("--in", "8d")
        self.mtlsd("trust", "--dir", "bob", "--refresh")
        self.server.stop()
        self.write(self.certs / NEXT / FROM, b"2026-01-01T00:00:00Z\n")
        self.start("--port", str(self.server.port), "--enrol", "on")
        self.assertEqual(self.hello(), "Hello: bob\n")
        # What is told to newcomers is the one in force, wherever it lies.
        found = command("invite", "erin", "--at", f"localhost:{self.server.port}", cwd=self.folder)
        self.assertIn("joined", self.mtlsd("join", found.stdout.split()[2], "--dir", "erin"))
        self.assertEqual(self.trusted("erin"), [second])
