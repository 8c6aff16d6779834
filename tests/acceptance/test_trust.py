"""`mtlsd trust`, and what renews beside it, against a server that tells its certificates; and programs that trust two."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from datetime import timedelta
from typing import Any

import httpx

from mtlsd.cli.shared import now
from mtlsd.clientfolder import ClientFolder
from mtlsd.clientpairs import ClientPairs
from mtlsd.enrol import trust
from mtlsd.identity import fingerprint_of
from mtlsd.keys import NewPair, new_client_pair, new_server_pair
from tests.acceptance.backends import ScriptedServer
from tests.acceptance.clients import joined_folder
from tests.acceptance.harness import AcceptanceTestCase, command, reserve_port
from tests.acceptance.in_between import server_context, server_side
from tests.acceptance.test_renew import RenewTestCase
from tests.test_trust import entry, told


class Teller:
    """The end of a server that answers one request on each connection: with the pair that it shows, and a text."""

    def __init__(self, pair: NewPair) -> None:
        self.show(pair)
        self.answer, self.status = told(entry(pair)), 200
        self.asked: list[bytes] = []

    def show(self, pair: NewPair) -> None:
        self._context = server_context(pair.certificate_pem, pair.key_pem)

    def serve(self, connection: socket.socket, number: int) -> None:
        tls = server_side(self._context, connection)
        tls.do_handshake()
        head = b""
        while b"\r\n\r\n" not in head:
            head += tls.recv(4096)
        self.asked.append(head.split(b" HTTP")[0])
        tls.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (self.status, len(self.answer)) + self.answer)
        tls.shutdown()


class TellingTests(AcceptanceTestCase):
    """A server that tells, as docs/protocol.md has it."""

    def setUp(self) -> None:
        super().setUp()
        self.now, self.next = self.server_pair(), self.server_pair(700)
        self.switch = now().replace(microsecond=0) + timedelta(days=20)
        self.teller = Teller(self.now)
        listener = ScriptedServer(self.teller.serve)
        self.addCleanup(listener.stop)
        self.mine = joined_folder(self.folder / "bob", new_client_pair("bob", now(), 365), self.now.der, listener.port)
        self.announced = told(entry(self.now), entry(self.next, self.switch))

    def server_pair(self, days: int = 365) -> NewPair:
        return new_server_pair(["localhost"], now(), days)

    def pem(self, *pairs: NewPair) -> bytes:
        return b"".join(pair.certificate_pem for pair in pairs)

    def run_it(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        verb, *more = arguments
        found = command(verb, "--dir", "bob", *more, cwd=self.folder)
        self.assertEqual(found.returncode, status, found.stderr)
        return found.stdout, found.stderr

    def test_from_one_to_the_next(self) -> None:
        """On the day of the switch, each client would have to be given a file, or join anew."""
        old, new = (fingerprint_of(pair.der)[:16] for pair in (self.now, self.next))
        out, errors = self.run_it("trust", "--refresh")
        self.assertEqual((out.splitlines()[0], errors), ("nothing has changed", ""))
        before = self.mine.server.stat().st_ino
        self.teller.answer = self.announced
        out, errors = self.run_it("trust", "--refresh")
        self.assertEqual((out.splitlines()[0], errors), (f"learned: from {self.switch:%Y-%m-%d} on the server shows {new}", ""))
        self.assertEqual([line.split()[0] for line in out.splitlines()[1:]], ["FINGERPRINT", old, new])
        self.assertEqual(self.mine.server.read_bytes(), self.pem(self.now, self.next))
        written = self.mine.server.stat()
        self.assertNotEqual(written.st_ino, before)
        self.assertEqual(self.run_it("trust", "--refresh")[0].splitlines()[0], "nothing has changed")
        after = self.mine.server.stat()
        self.assertEqual((after.st_ino, after.st_mtime_ns), (written.st_ino, written.st_mtime_ns))
        # The day has come.
        self.teller.show(self.next)
        self.teller.answer = told(entry(self.next))
        found = json.loads(self.run_it("trust", "--refresh", "--json")[0])
        self.assertEqual([one["fingerprint"][:16] for one in found["certificates"]], [new])
        self.assertEqual((found["learned"], [one[:16] for one in found["forgotten"]]), ([], [old]))
        self.assertEqual(self.mine.server.read_bytes(), self.pem(self.next))
        self.assertEqual(set(self.teller.asked), {b"GET /.mtlsd/server"})
        # Whoever has the old key is nobody now.
        self.teller.show(self.now)
        self.assertIn("nothing was sent", self.run_it("trust", "--refresh", status=1)[1])
        self.assertEqual(len(self.teller.asked), 4)

    def test_renew_asks_too(self) -> None:
        """A client that looks after itself would be shut out by its server's renewal, for nobody gives `mtlsd trust` there."""
        self.teller.answer = self.announced
        out, errors = self.run_it("renew", "--if-expiring", "30d")
        new = fingerprint_of(self.next.der)[:16]
        self.assertEqual((out, errors), (f"learned: from {self.switch:%Y-%m-%d} on the server shows {new}\n", ""))
        self.assertEqual(self.run_it("renew", "--if-expiring", "30d"), ("", ""))
        self.assertEqual(self.mine.server.read_bytes(), self.pem(self.now, self.next))

    def test_then(self) -> None:
        """A program that has read server.pem at its start would go on with that, and not know its server after the switch."""
        self.teller.answer = self.announced
        self.run_it("trust", "--refresh")
        then = ("renew", "--if-expiring", "30d", "--then")
        errors = self.run_it(*then, "test -e ready", status=1)[1]
        self.assertIn("status 1; the server's next certificate is known; the same command again", errors)
        self.assertEqual(self.run_it(*then, "echo told >> told"), ("", ""))
        self.assertEqual(self.run_it(*then, "echo told >> told"), ("", ""))
        # What is trusted no more is no reason to restart anything.
        self.teller.answer = told(entry(self.now))
        self.assertIn("forgotten: ", self.run_it(*then, "echo told >> told")[0])
        self.assertEqual((self.folder / "told").read_text(), "told\n")

    def test_wrong(self) -> None:
        """A wrong answer, or somebody else who answers, would change what is trusted; or a timer fail each night."""
        for status, answer, said in (
            (200, b"hello", "in no form that is known here"),
            (200, told(entry(self.next)), "has shown just now is not among them"),
            (
                200,
                told(entry(self.now), entry(new_server_pair(["other.example"], now(), 99), self.switch)),
                "does not name localhost",
            ),
            (200, self.announced + b" " * (1 << 21), "more than 65536 bytes"),
            (500, self.announced, "it answers 500"),
        ):
            self.teller.answer, self.teller.status = answer, status
            for arguments, exit_status in ((("trust", "--refresh"), 1), (("renew", "--if-expiring", "30d"), 0)):
                out, errors = self.run_it(*arguments, status=exit_status)
                self.assertEqual((out, errors.count("\n")), ("", 1), errors)
                self.assertIn(said, errors)
                self.assertEqual(self.mine.server.read_bytes(), self.pem(self.now))
        self.teller.status, self.teller.answer = 404, b"no such page\n"
        self.assertIn("(an older mtlsd)", self.run_it("trust", "--refresh", status=1)[1])
        self.assertEqual(self.run_it("renew", "--if-expiring", "30d"), ("", ""))

    def test_somebody_else(self) -> None:
        """A man in the middle could announce a certificate of his own; he is told nothing, not even what is asked."""
        self.teller.show(self.next)
        self.teller.answer = told(entry(self.next))
        self.assertIn("nothing was sent", self.run_it("trust", "--refresh", status=1)[1])
        self.assertIn("nothing was sent", self.run_it("renew", "--if-expiring", "30d")[1])
        self.assertEqual((self.teller.asked, self.mine.server.read_bytes()), ([], self.pem(self.now)))

    def test_no_server(self) -> None:
        """The daily timer would fail because the server is down for a night."""
        self.mine.server.parent.joinpath("endpoint").write_text(f"localhost:{reserve_port(self)}\n")
        self.assertIn("cannot be reached", self.run_it("trust", "--refresh", status=1)[1])
        out, errors = self.run_it("renew", "--if-expiring", "30d")
        self.assertEqual((out, errors.count("\n")), ("", 1))
        self.assertIn("cannot be reached", errors)

    def test_by_another_name(self) -> None:
        """Through a tunnel, a client could not learn: the certificate names the server, and not the tunnel's end."""
        port = self.mine.endpoint()
        assert port is not None
        self.teller.answer = self.announced
        self.assertIn("learned: ", self.run_it("trust", "--refresh", "--at", f"127.0.0.1:{port[1]}")[0])

    def test_many_at_once(self) -> None:
        """A timer and a person at the same time would leave a mixture of what they have heard."""
        self.teller.answer = self.announced
        failures: list[str] = []

        def work() -> None:
            folder = ClientFolder(self.mine.path)
            try:
                trust.refresh(folder, ClientPairs(folder), now())
            except Exception as error:
                failures.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLess(len(failures), 8)
        self.assertEqual([one for one in failures if "is at work here" not in one], [])
        self.assertEqual(self.mine.server.read_bytes(), self.pem(self.now, self.next))


class ProgramsTests(RenewTestCase):
    """Programs that read server.pem, with the real server on both sides of the switch."""

    def test_both_are_trusted(self) -> None:
        """curl, or Python, would refuse the server before the switch or after it."""
        pairs = [new_server_pair(["localhost"], now(), days) for days in (100, 200)]
        stranger = new_server_pair(["localhost"], now(), 300)
        folder = None
        for pair in (*pairs, stranger):
            self.write(self.certs / "serverKey.pem", pair.key_pem, 0o600)
            self.write(self.certs / "serverCrt.pem", pair.certificate_pem)
            server = self.start()
            if folder is None:
                folder = self.client()
                folder.replace_server([one.der for one in pairs])
            context = ssl.create_default_context(cafile=str(folder.server))
            context.load_cert_chain(folder.certificate, folder.key)
            if pair is stranger:
                self.assertIn("certificate", self.curl("--config", folder.curl, server.url()).stderr)
                self.assertRaises(httpx.ConnectError, httpx.get, server.url(), verify=context)
                continue
            self.assertEqual(self.hello(), "Hello: bob\n")
            self.assertEqual(httpx.get(server.url(), verify=context).text, "Hello: bob\n")
            found = command("trust", "--dir", "bob", "--json", cwd=self.folder)
            listed: dict[str, Any] = json.loads(found.stdout)
            self.assertEqual([one["fingerprint"] for one in listed["certificates"]], [fingerprint_of(one.der) for one in pairs])
            server.stop()
