"""Many clients at once, from one server to another, while both are running."""

from __future__ import annotations

import sys

from tests.acceptance.harness import AcceptanceTestCase, command, poll, shell
from tests.acceptance.peers import Cut, TlsClient
from tests.pki import Pair, make_pair, new_key


class MovingHouseTests(AcceptanceTestCase):
    def let_in(self, port: int, pair: Pair) -> str | None:
        """Return whom the server greets, or ``None`` where it refuses."""
        with TlsClient(port, pair) as client:
            try:
                return client.ask().body.decode().removeprefix("Hello: ").strip()
            except Cut:
                return None

    def test_export_and_import(self) -> None:
        """A move to another machine would shut somebody out, or want a restart; and nobody could say who came how."""
        pairs = {name: make_pair("the same", key=new_key()) for name in ("alice", "bob", "carol")}
        self.put_server_pair()
        other = self.folder / "other"
        made = command("init", "--certs", other, cwd=self.folder)
        self.assertEqual(made.returncode, 0, made.stderr)
        there = self.serve("--certs", str(other))
        for name, pair in pairs.items():
            self.authorize(name, pair)
        here = self.serve()
        for name, pair in pairs.items():
            self.assertEqual(self.let_in(here.port, pair), name)
            self.assertIsNone(self.let_in(there.port, pair))
        mtlsd = f"{sys.executable} -c 'from mtlsd.cli import main; main()'"
        for expected in ("3 authorized, 0 there already, 0 refused", "0 authorized, 3 there already, 0 refused"):
            moved = shell(f"{mtlsd} export --certs certs | {mtlsd} import - --certs other", self.folder)
            self.assertEqual((moved.returncode, moved.stderr), (0, ""))
            self.assertEqual(moved.stdout.splitlines()[-1], expected)
        for name, pair in pairs.items():
            poll(f"{name} is let in", lambda pair=pair: self.let_in(there.port, pair))  # type: ignore[misc]
            self.assertEqual(self.let_in(there.port, pair), name)
        history = command("history", "--certs", other, cwd=self.folder)
        rows = [line.split() for line in history.stdout.splitlines()[1:]]
        self.assertEqual([(row[2], row[3], row[-1]) for row in rows], [("authorized", name, "imported") for name in pairs])
        for server in (here, there):
            self.assertEqual(server.stop(), 0)
            self.assert_quiet(server)
