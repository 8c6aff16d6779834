"""The folder changes under the running server: replaced as a whole, or written anew by careless hands."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

from tests.acceptance.harness import DEADLINE, AcceptanceTestCase, end, poll
from tests.acceptance.peers import TlsClient, let_in
from tests.pki import Pair, make_pair, new_key


class ReplacedFolderTests(AcceptanceTestCase):
    """A whole folder takes the place of the old one."""

    def is_out(self, port: int, pair: Pair) -> bool:
        return not let_in(port, pair)

    def test_mv(self) -> None:
        """Who deploys the folder by mv would find that revocations are never seen again."""
        alice, bob, carol = (make_pair(name, key=new_key()) for name in ("alice", "bob", "carol"))
        self.authorize("alice", alice)
        server = self.serve()
        with TlsClient(server.port, alice) as live:
            self.assertEqual(live.ask().status, 200)
            for nth, (inside, outside) in enumerate(((bob, alice), (alice, bob))):
                fresh = self.folder / f"fresh{nth}"
                fresh.mkdir()
                (fresh / "client.pem").write_bytes(inside.pem)
                (self.certs / "authorized").rename(self.folder / f"old{nth}")
                fresh.rename(self.certs / "authorized")
                poll("the new client is let in", partial(let_in, server.port, inside))
                poll("the old client is out", partial(self.is_out, server.port, outside))
            live.wait_until_cut()
        # The watch is on the new folder: a file there is seen.
        self.authorize("carol", carol)
        poll("carol is let in", lambda: let_in(server.port, carol))
        self.assertEqual(server.stop(), 0)
        # Connections that asked in between may have been cut as well; this one was, and once.
        was_live = server.verdict_on(live.own_port)["connection"]
        self.assertEqual([event["client"] for event in server.events("revoked") if event["connection"] == was_live], ["alice"])
        self.assert_quiet(server)


#: Writes files in place, each line of its input one: the path, and what is written there, piece by piece.
WRITER = """
import json, os, sys
for line in sys.stdin:
    path, *pieces = json.loads(line)
    data = [piece.encode("latin-1") for piece in pieces]
    file = os.open(path, os.O_WRONLY | os.O_TRUNC)
    for piece in data:
        os.write(file, piece)
    os.close(file)
    print("written", flush=True)
"""


class RewriteTests(AcceptanceTestCase):
    """Files are written again and again, some of it badly, while clients are at work."""

    REWRITES = 50
    CLIENTS = 10

    def test_rewrites_under_load(self) -> None:
        """A copy of the folder that is interrupted would cut off the clients who have done nothing."""
        alice, bob = (make_pair(name, key=new_key()) for name in ("alice", "bob"))
        pairs = {"alice": alice, "bob": bob}
        for name, pair in pairs.items():
            self.authorize(name, pair)
        server = self.serve()
        over = threading.Event()
        answers = [0] * self.CLIENTS
        mistakes: list[str] = []

        def work(nth: int, pair: Pair, name: str) -> None:
            try:
                with TlsClient(server.port, pair) as client:
                    while not over.is_set():
                        if client.ask().body != f"Hello: {name}\n".encode():
                            raise AssertionError("another answer")
                        answers[nth] += 1
            except BaseException as error:
                mistakes.append(f"{name}: {error!r}")

        both = list(pairs.items())
        workers = [threading.Thread(target=work, args=(nth, *reversed(both[nth % 2]))) for nth in range(self.CLIENTS)]
        for worker in workers:
            worker.start()
        try:
            server.wait_for_events(self.CLIENTS, "accepted")
            self.rewrite(pairs)
            poll("each has asked often, or has failed", lambda: mistakes or min(answers) > self.REWRITES)
        finally:
            over.set()
            for worker in workers:
                worker.join(DEADLINE)
        self.assertEqual(mistakes, [])
        # Whole again, and it is the registry of before.
        for name, pair in pairs.items():
            with TlsClient(server.port, pair) as client:
                self.assertEqual(client.ask().body, f"Hello: {name}\n".encode())
        self.assert_verdicts(server, *["authorized"] * (self.CLIENTS + 2))
        self.assertEqual(server.events("revoked"), [])

    def rewrite(self, pairs: dict[str, Pair]) -> None:
        """Write each file in place, without a rename; every second time what is left there is damaged for a while."""
        dice = random.Random(2)
        pause = threading.Event()
        # In a process of its own: a file that stays empty for SETTLE seconds is a revocation, and so long the threads here may
        # keep another one waiting between the two system calls.
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(end, writer)
        into, out_of = writer.stdin, writer.stdout
        assert into is not None
        assert out_of is not None

        def write(path: Path, *pieces: bytes) -> None:
            into.write(json.dumps([str(path), *(piece.decode("latin-1") for piece in pieces)]) + "\n")
            into.flush()
            self.assertEqual(out_of.readline(), "written\n")

        for nth in range(self.REWRITES):
            for name, pair in pairs.items():
                whole, path = pair.pem, self.certs / "authorized" / f"{name}.pem"
                if nth % 2:
                    at = dice.randrange(30, len(whole) - 30)
                    write(path, dice.choice((whole[:at], whole[:at] + b"\x00\xff!" + whole[at + 3 :])))
                else:
                    write(path, whole[:100], whole[100:])
            # Long enough to be seen, and different each time.
            pause.wait(dice.choice((0.0, 0.02, 0.05, 0.3 if nth % 8 == 1 else 0.1)))
        for name, pair in pairs.items():
            write(self.certs / "authorized" / f"{name}.pem", pair.pem)
