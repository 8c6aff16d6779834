"""The recipe of the README: openssl, cp and curl, as a person types them."""

from __future__ import annotations

import shutil
import subprocess
import time

from tests.acceptance.harness import PROMISE, AcceptanceTestCase, Server, command, poll, shell
from tests.acceptance.peers import Cut, TlsClient, let_in
from tests.pki import make_pair, new_key

MAKE_ALICE = "openssl req -nodes -x509 -newkey rsa:4096 -keyout clientKey.pem -out clientCrt.pem -days 365 -subj /CN=alice"
MAKE_BAD = "openssl req -nodes -x509 -newkey rsa:4096 -keyout badKey.pem -out badCrt.pem -days 365 -subj /CN=bad"
MAKE_SERVER = (
    "openssl req -nodes -x509 -newkey rsa:4096 -keyout certs/serverKey.pem -out certs/serverCrt.pem -days 365 -subj /CN=localhost"
)
AUTHORIZE = "cp clientCrt.pem certs/authorized/alice.pem"
ALICE = "curl -ik --cert clientCrt.pem --key clientKey.pem https://localhost:9443/hello"
BAD = "curl -ik --cert badCrt.pem    --key badKey.pem    https://localhost:9443/hello"
MUTUAL = "curl -i --cacert certs/serverCrt.pem --cert clientCrt.pem --key clientKey.pem https://localhost:9443/hello"


class RecipeTests(AcceptanceTestCase):
    """The commands work as they are written; only the port is another one."""

    def type(self, line: str, server: Server | None = None) -> subprocess.CompletedProcess[str]:
        return shell(line if server is None else line.replace(":9443", f":{server.port}"), self.folder)

    def make(self, line: str) -> None:
        done = self.type(line)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_classic_recipe(self) -> None:
        """Whoever follows the README would end with an error instead of a greeting."""
        done = command("init", "--certs", "certs", cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        server = self.serve("--interface", "::")
        self.make(MAKE_ALICE)
        self.make(MAKE_BAD)
        self.make(AUTHORIZE)
        answer = poll("alice is let in", lambda: self.greeting(server))
        before = len(server.events("accepted", "rejected"))

        self.assertTrue(answer.startswith("HTTP/1.1 200 "), answer)
        self.assertIn("\nHello: alice\n", answer.replace("\r", ""))

        refused = self.type(BAD, server)
        self.assertIn(refused.returncode, (35, 56), refused.stderr)
        self.assertNotIn("HTTP/", refused.stdout)
        self.assertIn("alert", refused.stderr)

        mutual = self.type(MUTUAL, server)
        self.assertEqual(mutual.returncode, 0, mutual.stderr)
        self.assertIn("Hello: alice", mutual.stdout)

        server.wait_for_events(before + 2, "accepted", "rejected")
        self.assertEqual(server.stop(), 0)
        last = server.events("accepted", "rejected")[before:]
        self.assertEqual(
            [(event["event"], event["reason"]) for event in last],
            [
                ("rejected", "unknown-certificate"),
                ("accepted", "authorized"),
            ],
        )
        self.assertEqual(last[0]["remedy"], f"mtlsd approve {last[0]['fingerprint']} --name NAME")
        self.assertEqual(last[1]["client"], "alice")
        self.assert_quiet(server)

    def greeting(self, server: Server) -> str:
        done = self.type(ALICE, server)
        return done.stdout if done.returncode == 0 else ""

    def test_server_pair_of_the_recipe(self) -> None:
        """Who makes the server's pair with openssl, as the classic recipe has it, could not start the server."""
        self.make(MAKE_SERVER)
        alice = self.new_client("alice")
        server = self.serve()
        self.assertIn("Hello: alice", self.curl_as("alice", server).stdout)
        with TlsClient(server.port, alice) as client:
            self.assertEqual(client.ask().body, b"Hello: alice\n")
        self.assert_verdicts(server, "authorized", "authorized")


class KeyKindTests(AcceptanceTestCase):
    """Which kinds of keys work, on both sides."""

    def both_sides(self, kind: str, algorithm: str, *options: str) -> None:
        for name, folder, subject in (("server", self.certs, "localhost"), ("client", self.folder, "alice")):
            done = self.openssl(
                *("req", "-nodes", "-x509", "-newkey", algorithm, *options, "-days", "30", "-subj", f"/CN={subject}"),
                *("-keyout", folder / f"{name}Key.pem", "-out", folder / f"{name}Crt.pem"),
                *(("-addext", "subjectAltName=DNS:localhost") if name == "server" else ()),
            )
            self.assertEqual(done.returncode, 0, done.stderr)
        shutil.copy(self.folder / "clientCrt.pem", self.certs / "authorized" / "alice.pem")
        server = self.serve()
        answer = self.curl_as("client", server, "--cacert", "certs/serverCrt.pem", server.url("/whoami"))
        self.assertIn('"client": "alice"', answer.stdout, answer.stderr)
        listed = command("clients", "--certs", "certs", cwd=self.folder)
        self.assertIn(kind, listed.stdout, listed.stderr)
        self.assert_verdicts(server, "authorized")

    def test_p256(self) -> None:
        """The commonest elliptic curve would be refused."""
        self.both_sides("P-256", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")

    def test_p384(self) -> None:
        """The curve that some rules ask for would be refused."""
        self.both_sides("P-384", "ec", "-pkeyopt", "ec_paramgen_curve:P-384")

    def test_ed25519(self) -> None:
        """Who has Ed25519 keys, as ssh users do, would be refused."""
        self.both_sides("Ed25519", "ed25519")

    def test_ml_dsa(self) -> None:
        """Who has to be safe from quantum computers today would be refused."""
        self.put_server_pair(make_pair("localhost", key=new_key("mldsa65"), hosts=["localhost"]))
        alice = self.new_client("alice", key=new_key("mldsa65"))
        mallory = make_pair("alice", key=new_key("mldsa65"))
        server = self.serve()
        with TlsClient(server.port, alice) as client:
            self.assertEqual(client.ask().body, b"Hello: alice\n")
        with TlsClient(server.port, mallory) as client:
            self.assertRaises(Cut, client.ask)
        accepted = self.assert_verdicts(server, "authorized", "unknown-certificate")[0]
        self.assertEqual(accepted["tls"]["version"], "TLSv1.3")
        self.assertEqual(accepted["tls"]["group"], "X25519MLKEM768")


class DelayTests(AcceptanceTestCase):
    """A change of the folder is in force within a second, without a restart."""

    def test_copied_in_and_removed(self) -> None:
        """A new client would wait, and one that was removed would still be let in."""
        alice = make_pair("alice")
        crt, _ = alice.write(self.folder, "alice")
        server = self.serve()

        self.assertFalse(let_in(server.port, alice))
        began = time.monotonic()
        shutil.copy(crt, self.certs / "authorized" / "alice.pem")
        poll("alice is let in", lambda: let_in(server.port, alice))
        self.assertLess(time.monotonic() - began, PROMISE)

        began = time.monotonic()
        (self.certs / "authorized" / "alice.pem").unlink()
        poll("alice is refused", lambda: not let_in(server.port, alice))
        self.assertLess(time.monotonic() - began, PROMISE)
        self.assertEqual(server.stop(), 0)
        self.assertEqual({event["reason"] for event in server.events("rejected")}, {"unknown-certificate"})
        self.assertEqual({event["client"] for event in server.events("accepted")}, {"alice"})
        self.assert_quiet(server)
