"""`mtlsd invite` and `mtlsd join` against a running server, and whoever tries to get in by them without being meant."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import threading
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mtlsd.cli.shared import now
from mtlsd.enrol.exchange import request_with
from mtlsd.enrol.invitation import Invitation, read_invitation
from mtlsd.enrol.invites import Invites
from mtlsd.protocols import HTTP, JOIN
from mtlsd.registry.nextpair import SERVER_CERTIFICATE, certificate_at
from tests.acceptance.backends import ScriptedServer
from tests.acceptance.clients import ClientsTestCase
from tests.acceptance.harness import (
    DEADLINE,
    MTLSD,
    Server,
    command,
    environment,
    poll,
    reserve_port,
    run,
)
from tests.acceptance.in_between import relay, server_context, server_side
from tests.acceptance.peers import Cut, TlsClient
from tests.pki import Pair, make_pair, new_key


class Impostor:
    """A man in the middle with a certificate of his own: speaks the join, and keeps what he hears."""

    def __init__(self, pair: Pair) -> None:
        self.heard = b""
        self.shown: list[str] = []
        self.done = threading.Event()
        self._context = server_context(pair.pem, pair.key_pem)

    def serve(self, connection: socket.socket, number: int) -> None:
        tls = server_side(self._context, connection)
        try:
            tls.do_handshake()
            self.shown.append(tls.get_alpn_proto_negotiated().decode())
            while True:
                self.heard += tls.recv(4096)
        finally:
            self.done.set()


class JoinTestCase(ClientsTestCase):
    def start(self, *options: str) -> Server:
        self.server = self.serve("--enrol", "on", *options)
        return self.server

    def invite(self, name: str = "bob", *options: str, port: int | None = None) -> str:
        """Invite somebody, and return the line; with *options*, by the command."""
        port = port or self.server.port
        if options:
            made = command("invite", name, "--at", f"localhost:{port}", "--certs", self.certs, *options, cwd=self.folder)
            self.assertEqual(made.returncode, 0, made.stderr)
            self.assertTrue(made.stdout.startswith("mtlsd join mtlsd://"), made.stdout)
            return made.stdout.strip().removeprefix("mtlsd join ")
        secret = Invites(self.certs, now, "operator").invite(name).secret
        return Invitation("localhost", port, name, certificate_at(self.certs / SERVER_CERTIFICATE)[0].fingerprint, secret).line()

    def invitation(self, name: str = "bob", *options: str) -> Invitation:
        return read_invitation(self.invite(name, *options))

    def join(self, line: str, name: str = "bob") -> subprocess.CompletedProcess[str]:
        return command("join", line, "--dir", name, cwd=self.folder)

    def joined(self, line: str, name: str = "bob") -> str:
        return self.mtlsd("join", line, "--dir", name)

    def not_joined(self, said: str, line: str, name: str = "mallory") -> None:
        """Assert that a join is refused, in one line, and leaves nothing behind."""
        self.not_done(said, "join", line, "--dir", name)
        self.assertFalse((self.folder / name).exists())

    def asking(self, pair: Pair | None, **options: Any) -> TlsClient:
        client = TlsClient(self.server.port, pair, **{"alpn": [JOIN], **options})
        self.addCleanup(client.close)
        return client

    def answer(self, client: TlsClient, sent: bytes) -> dict[str, Any]:
        client.send(sent)
        told: dict[str, Any] = json.loads(client.receive())
        return told

    def authorized(self) -> list[str]:
        return sorted(path.stem for path in (self.certs / "authorized").glob("*.pem"))

    def reason(self, client: TlsClient) -> str:
        reason: str = self.server.verdict_on(client.own_port)["reason"]
        return reason


class SceneTests(JoinTestCase):
    """What a person does with it."""

    def test_one_line_on_each_side(self) -> None:
        """The scene of the README: from nothing to the first greeting, without a file that is copied or a restart."""
        self.start()
        line = self.invite("bob", "--group", "ops")
        home = self.folder / "home"
        said = subprocess.run(
            [*MTLSD, "join", line],
            cwd=self.folder,
            env=environment(HOME=str(home), XDG_CONFIG_HOME=""),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((said.returncode, said.stderr), (0, ""))
        self.assertIn(f"joined localhost:{self.server.port} as bob, in ops\n", said.stdout)
        self.assertIn("the key stays in ~/.config/mtlsd/localhost/key.pem\n", said.stdout)
        self.assertIn(f"curl --config ~/.config/mtlsd/localhost/curl {self.server.url()}\n", said.stdout)
        (shown,) = re.findall(r"    (curl --config .*)\n", said.stdout)
        at_home = f"HOME={shlex.quote(str(home))}; {shown} -sS"
        self.assertEqual(run(["sh", "-c", at_home], cwd=self.folder).stdout, "Hello: bob\n")
        # What it prints for httpx, as it is.
        *before, ask = said.stdout.partition("with httpx:\n")[2].strip().splitlines()
        names: dict[str, Any] = {"ssl": ssl, "httpx": httpx}
        exec("\n".join(line.strip() for line in before), names)
        self.assertEqual(eval(ask.strip(), names).text, "Hello: bob\n")
        (joined,) = self.server.events("joined")
        self.assertEqual(self.ledger("joined"), [joined])
        self.assertEqual((joined["client"], joined["connection"]), ("bob", self.server.events("accepted")[0]["connection"]))
        self.assertEqual(os.listdir(self.certs / "invites"), [])
        # The join, who one is, the next certificate of the server, curl and httpx.
        self.assert_verdicts(self.server, *["authorized"] * 5)

    def test_the_operators_policy(self) -> None:
        """The settings would be read, and nothing would come of them; or the log would not say why nobody gets in."""
        for number, (option, value, why) in enumerate(
            (
                ("--enrol-keys", "ed25519,rsa", "has a key (EC P-256) that enrol_keys does not allow"),
                ("--renew-longest", "90d", "ends later than renew_longest allows"),
            )
        ):
            self.start(option, value)
            self.not_joined("or this certificate may not come in: the server's log says which", self.invite(f"bob{number}"))
            self.assertIn(why, self.server.events("rejected")[-1]["detail"])
            self.server.stop()

    def test_by_a_pipe(self) -> None:
        """`ssh server mtlsd invite bob | mtlsd join -` would not do."""
        self.start()
        made = command("invite", "bob", "--at", f"localhost:{self.server.port}", "--certs", self.certs, cwd=self.folder)
        found = run([*MTLSD, "join", "-", "--dir", "bob"], cwd=self.folder, stdin=made.stdout)
        self.assertEqual((found.returncode, found.stderr), (0, ""))
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_broken_up(self) -> None:
        """A line that a chat or a terminal broke would be no line."""
        self.start()
        line = self.invite()
        pieces = [line[start : start + 50] for start in range(0, len(line), 50)]
        found = command("join", *pieces, "--dir", "bob", cwd=self.folder)
        self.assertEqual(found.returncode, 0, found.stderr)

    def test_given_again(self) -> None:
        """Somebody who is not sure whether it worked would be told that it did not."""
        self.start()
        line = self.invite()
        self.joined(line)
        before = {path.name: path.read_bytes() for path in (self.folder / "bob").iterdir()}
        self.assertIn("you had joined", self.joined(line))
        self.assertEqual({path.name: path.read_bytes() for path in (self.folder / "bob").iterdir()}, before)
        (self.folder / "bob" / "curl").unlink()
        (self.folder / "bob" / "server.pem").unlink()
        self.joined(line)
        self.assertEqual({path.name: path.read_bytes() for path in (self.folder / "bob").iterdir()}, before)

    def test_another_folder(self) -> None:
        """The pair of one client would be overwritten by that of another, or used under another name."""
        self.start()
        self.joined(self.invite())
        found = self.join(self.invite("carol"), "bob")
        self.assertEqual(found.returncode, 1)
        self.assertIn("holds another pair (CN=bob) already: give another folder with --dir", found.stderr)
        self.joined(self.invite("dave"), "dave")

    def test_for_a_browser(self) -> None:
        """A browser takes a pair as one file, with a password."""
        self.start()
        (self.folder / "password").write_text("open sesame\n")
        line = self.invite()
        options = ("--dir", "bob", "--p12", "bob.p12", "--p12-password-file", "password")
        found = command("join", line, *options, cwd=self.folder)
        self.assertEqual(found.returncode, 0, found.stderr)
        shown = self.openssl("pkcs12", "-in", "bob.p12", "-passin", "pass:open sesame", "-nodes")
        self.assertEqual((shown.stdout.count("PRIVATE KEY"), shown.stdout.count("BEGIN CERT")), (2, 1), shown.stderr)
        found = command("join", self.invite("carol"), "--dir", "carol", *options[2:], cwd=self.folder)
        self.assertIn("bob.p12: it is there already", found.stderr)
        self.assertFalse((self.folder / "carol").exists())

    def test_behind_routes(self) -> None:
        """Where an application has /whoami, or nothing is at /hello, a join would be said to have failed."""
        (self.folder / "app").mkdir()
        config = self.folder / "mtlsd.toml"
        config.write_text('[server]\nenrol = true\n[[route]]\npath = "/"\nallow = ["*"]\nstatic = "app"\n')
        self.server = self.serve("--config", config)
        said = self.joined(self.invite())
        self.assertIn(f"{self.server.url('/.mtlsd/hello')}\n", said)
        self.assertEqual(
            self.curl("--config", self.folder / "bob" / "curl", self.server.url("/.mtlsd/hello")).stdout, "Hello: bob\n"
        )

    def test_mistakes(self) -> None:
        """One line for each, before anything is made."""
        for said, line in (
            ("that is no invitation", "bob"),
            ("mangled on its way", "mtlsd://localhost:1/bob/abc"),
            ("cannot be reached: Connection refused", Invitation("localhost", 1, "bob", "0" * 64, b"x" * 16).line()),
        ):
            self.not_joined(said, line)

    def test_enrol_is_off(self) -> None:
        """Whoever has not turned it on would let people in who hold a line."""
        self.server = self.serve()
        self.not_joined("nobody can join there now", self.invite())
        self.assertEqual(self.assert_verdicts(self.server, "no-common-protocol")[0]["client"], None)


class AttackTests(JoinTestCase):
    """Whoever tries to get in by an invite without being meant."""

    def test_used(self) -> None:
        """A line that somebody finds in a chat's history would work."""
        self.start()
        line = self.invite()
        self.joined(line)
        self.not_joined("nobody can join there now", line)
        self.invite("carol")
        self.not_joined("the invite is not good: it was used, has expired or was taken back", line)
        self.assertEqual(self.authorized(), ["bob"])

    def test_replay(self) -> None:
        """What was said on one connection would be good on another."""
        self.start()
        invitation = self.invitation()
        self.invite("carol")
        said = request_with(invitation.secret)
        bob, mallory = make_pair("bob", key=new_key()), make_pair("mallory", key=new_key())
        self.assertEqual(self.answer(self.asking(bob), said)["client"], "bob")
        again = self.asking(mallory)
        self.assertEqual(self.answer(again, said), {"error": "refused"})
        self.assertEqual(self.reason(again), "not-allowed")
        self.assertEqual(self.authorized(), ["bob"])

    def test_expired(self) -> None:
        """A line would be good for ever."""
        self.start()
        line = self.invite("bob", "--for", "1s")
        self.invite("carol")

        def gone() -> bool:
            listed = command("invites", "--json", "--certs", self.certs, cwd=self.folder)
            return [one["name"] for one in json.loads(listed.stdout)] == ["carol"]

        poll("the invite expires", gone)
        self.not_joined("the invite is not good", line)

    def test_taken_back(self) -> None:
        """A line that went to the wrong person could not be called back."""
        self.start()
        line = self.invite()
        command("uninvite", "bob", "--certs", self.certs, cwd=self.folder)
        self.not_joined("nobody can join there now", line)

    def test_a_man_in_the_middle(self) -> None:
        """Whoever can answer for the server's name would be given the secret, and join instead."""
        self.start()
        impostor = Impostor(make_pair("localhost", key=new_key(), hosts=["localhost"]))
        listener = ScriptedServer(impostor.serve)
        self.addCleanup(listener.stop)
        line = self.invite(port=listener.port)
        self.not_joined("nothing was sent; either somebody stands in between", line)
        self.assertTrue(impostor.done.wait(DEADLINE))
        self.assertEqual((impostor.shown, impostor.heard), (["mtlsd-join/1"], b""))

    def test_a_join_that_is_passed_on(self) -> None:
        """Whoever passes the bytes on would see the secret, or put a certificate of his own in the place of the client's."""
        self.start()
        heard = bytearray()
        listener = ScriptedServer(lambda connection, _: relay(connection, self.server.port, heard))
        self.addCleanup(listener.stop)
        line = self.invite(port=listener.port)
        self.joined(line)
        self.assertEqual(self.ledger("joined")[0]["subject"], "CN=bob")
        said = bytes(heard)
        secret = request_with(read_invitation(line).secret)
        self.assertGreater(len(said), 1000)
        self.assertNotIn(secret[12:-3], said)
        self.assertNotIn(b"CN=bob", said)

    def test_somebody_elses_certificate(self) -> None:
        """A certificate is public: whoever has seen one would have it authorized under a name of his choice, or use its name."""
        self.start()
        line = self.invitation()
        victim = make_pair("victim", key=new_key())
        client = self.asking(Pair(victim.certificate, key_that_looks_like(victim)))
        with self.assertRaises(Cut):
            self.answer(client, request_with(line.secret))
        self.assertEqual(self.reason(client), "bad-handshake")
        self.assertEqual(self.authorized(), [])

    def test_an_authorized_client(self) -> None:
        """A client could take a second name for itself."""
        alice = self.new_client("alice")
        self.start()
        invitation = self.invitation()
        client = self.asking(alice)
        with self.assertRaises(Cut):
            self.answer(client, request_with(invitation.secret))
        self.assertEqual(self.reason(client), "not-allowed")

    def test_who_was_revoked(self) -> None:
        """Whoever was shut out would come back by somebody's invite."""
        mallory = self.new_client("mallory", key=new_key())
        self.start()
        command("revoke", "mallory", "--certs", self.certs, cwd=self.folder)
        self.server.log.wait_for("listening")
        invitation = self.invitation()
        for pair in (mallory, make_pair("bob", key=mallory.key)):

            def revoked(pair: Pair = pair) -> bool:
                client = self.asking(pair)
                with self.assertRaises(Cut):
                    self.answer(client, request_with(invitation.secret))
                return self.reason(client) == "revoked"

            poll("the revocation is in force", revoked)
        self.assertEqual(self.authorized(), [])

    def test_a_ticket(self) -> None:
        """A ticket resumes without the verify callback: whoever holds one would join without a proof."""
        alice = self.new_client("alice")
        self.start()
        invitation = self.invitation()
        with TlsClient(self.server.port, alice, alpn=[HTTP]) as first:
            self.assertEqual(first.ask().status, 200)
            session, context = first.session(), first.context
        with TlsClient(self.server.port, alice, alpn=[HTTP], session=session, context=context) as again:
            self.assertEqual(again.ask().status, 200)
            self.assertTrue(again.resumed)
            session = again.session()
        client = self.asking(alice, session=session, context=context)
        with self.assertRaises(Cut):
            self.answer(client, request_with(invitation.secret))
        verdict = self.server.verdict_on(client.own_port)
        self.assertEqual((verdict["reason"], verdict["tls"]["resumed"]), ("not-allowed", True))

    def test_a_name_that_exists(self) -> None:
        """Whoever holds an invite would get in as somebody who came by another way in the meantime."""
        self.start()
        line = self.invite()
        self.invite("carol")
        bob = make_pair("bob", key=new_key())
        self.authorize("bob", bob)
        self.not_joined("the invite is not good", line)
        self.assertEqual((self.certs / "authorized" / "bob.pem").read_bytes(), bob.pem)
        refused = command("invite", "bob", "--certs", self.certs, cwd=self.folder)
        self.assertIn("the name bob is taken", refused.stderr)

    def test_a_name_with_a_path(self) -> None:
        """A line that was tampered with would write outside of a folder, on either side."""
        self.start()
        line = self.invite()
        for name in ("../bob", "..%2fbob", "root"):
            self.not_joined("mangled on its way", line.replace("/bob/", f"/{name}/"))
        # One who makes the checksum right: the server takes the name from its own file.
        invitation = read_invitation(line)
        forged = Invitation(invitation.host, invitation.port, "root", invitation.fingerprint, invitation.secret)
        found = self.join(forged.line(), "root")
        self.assertEqual(found.returncode, 1)
        self.assertIn("it knows this certificate as bob, not as root", found.stderr)
        self.assertEqual(self.authorized(), ["bob"])
        # And one who writes an invite's file by hand, with the rights of the server's user.
        (self.certs / "invites" / f"{'0' * 16}.json").write_text(
            json.dumps({"sha256": "0" * 64, "name": "../../x", "groups": [], "created": "", "expires": "", "actor": ""})
        )
        self.assertIn("damaged", command("invites", "--certs", self.certs, cwd=self.folder).stderr)

    def test_guessing(self) -> None:
        """A stranger could guess for as long as he likes, or use the invite up."""
        self.start()
        line = self.invite()
        pair = make_pair("mallory", key=new_key())
        answers = []
        for number in range(12):
            client = self.asking(pair)
            with contextlib.suppress(Cut):
                client.send(request_with(number.to_bytes(16, "big")))
            answers.append(json.loads(client.receive())["error"])
            # As `mtlsd join` does: whoever does not hang up holds a stop for some seconds.
            client.close()
        self.assertEqual(answers, ["refused"] * 10 + ["later"] * 2)
        self.not_joined("too many failed joins came from this address: try again in a minute", line)
        self.assertEqual(len(list((self.certs / "invites").iterdir())), 1)
        self.assert_verdicts(self.server, *["not-allowed"] * 10, *["over-limit"] * 3)

    def test_http_where_one_joins(self) -> None:
        """An unknown certificate would get as far as the HTTP parser, or further."""
        self.start()
        self.invite()
        client = self.asking(make_pair("mallory", key=new_key()))
        told = self.answer(client, b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(told, {"error": "refused"})
        self.assertEqual(self.reason(client), "not-allowed")

    def test_joining_where_one_speaks_http(self) -> None:
        """A stranger would get in where nobody looks for a join; and a client would have a way around its own name."""
        alice = self.new_client("alice")
        self.start()
        invitation = self.invitation()
        for pair, alpn in ((make_pair("mallory", key=new_key()), [HTTP]), (make_pair("mallory", key=new_key()), [HTTP, JOIN])):
            client = self.asking(pair, alpn=alpn)
            with self.assertRaises(Cut):
                self.answer(client, request_with(invitation.secret))
            self.assertEqual(self.reason(client), "unknown-certificate")
        client = self.asking(alice, alpn=[HTTP])
        client.send(request_with(invitation.secret) + b"\r\n")
        self.assertTrue(client.receive().startswith(b"HTTP/1.1 400 "))
        self.assertEqual(self.authorized(), ["alice"])

    def test_slowly(self) -> None:
        """Strangers would hold connections for as long as they like; others are served meanwhile."""
        self.new_client("alice")
        self.start()
        self.invite()
        client = self.asking(make_pair("mallory", key=new_key())).handshake()
        client.send(b"{")
        self.assertEqual(self.curl_as("alice", self.server).returncode, 0)
        self.assertEqual(self.server.events("rejected"), [])
        client.wait_until_cut()
        self.assertEqual(self.reason(client), "timeout")

    def test_the_secret_is_in_no_log(self) -> None:
        """Whoever reads the logs could join."""
        self.start("--access-log", "-")
        line = self.invite()
        invitation = read_invitation(line)
        other = Invitation(invitation.host, invitation.port, "bob", invitation.fingerprint, b"z" * 16).line()
        self.not_joined("the invite is not good", other)
        self.joined(line)
        self.assertEqual(self.server.stop(), 0)
        said = "\n".join([*self.server.log.lines, self.audit.read_text(), (self.certs / "ledger.jsonl").read_text()])
        for one in (line, other):
            secret = read_invitation(one).secret
            for form in (one.rsplit("/", 1)[1][:60], secret.hex(), request_with(secret).decode()[12:-3], repr(secret)):
                self.assertNotIn(form, said)


class InterruptedTests(JoinTestCase):
    """kill -9 on either side, while the server waits for the folder's lock: the secret has been sent, nothing is decided."""

    def setUp(self) -> None:
        super().setUp()
        self.start("--port", str(reserve_port(self)))
        self.line = self.invite()
        self.lock = self.hold_lock()

    def waiting_client(self) -> subprocess.Popen[str]:
        process = self.begin("join", self.line, "--dir", "bob")
        # The server wants the lock, so it has the secret.
        self.lock.wait_until_wanted()
        return process

    def test_the_client_is_killed(self) -> None:
        """A client that lost its network would have used up its invite for nothing."""
        client = self.waiting_client()
        client.kill()
        client.wait(DEADLINE)
        self.assertEqual(sorted(path.name for path in (self.folder / "bob").iterdir()), ["cert.pem", "key.pem", "server.pem"])
        self.lock.release()
        poll("the join takes place", lambda: self.authorized() == ["bob"])
        verdict = self.server.wait_for_events(1, "accepted", "rejected")[0]
        self.assertEqual((verdict["event"], verdict["client"]), ("accepted", "bob"))
        poll("it is in force", lambda: "you had joined" in self.join(self.line).stdout)
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_given_again_while_it_is_under_way(self) -> None:
        """Whoever is told that the invite was used, and it was by this very client, would ask for another, under another name."""
        first = self.waiting_client()
        first.kill()
        first.wait(DEADLINE)
        second = self.begin("join", self.line, "--dir", "bob")
        # It has asked whether it is in, and is not.
        self.server.wait_for_events(1, "rejected")
        self.lock.release()
        self.assertIn("you had joined", "".join(second.communicate(timeout=DEADLINE)))
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_the_server_is_killed(self) -> None:
        """After a restart the line would be used up, or the client's pair in the way."""
        client = self.waiting_client()
        self.server.process.kill()
        self.server.process.wait(DEADLINE)
        _, said = client.communicate(timeout=DEADLINE)
        self.assertEqual(client.returncode, 1)
        self.assertIn("the connection broke before the answer came: run the same command again", said)
        self.lock.release()
        self.assertEqual(self.authorized(), [])
        port = self.server.port
        key = (self.folder / "bob" / "key.pem").read_bytes()
        self.start("--port", str(port))
        self.joined(self.line)
        self.assertEqual((self.folder / "bob" / "key.pem").read_bytes(), key)
        self.assertEqual(self.hello(), "Hello: bob\n")

    def test_the_service_is_stopped(self) -> None:
        """A stop would hang on somebody's lock, or leave a connection without a verdict."""
        client = self.waiting_client()
        self.assertEqual(self.server.stop(), 0)
        client.communicate(timeout=DEADLINE)
        self.assertEqual([event["reason"] for event in self.server.events("accepted", "rejected")], ["closed"])
        self.lock.release()


class ManyTests(JoinTestCase):
    """Many at once."""

    def test_fifty_at_once(self) -> None:
        """One of a whole team would be lost, or be two."""
        self.start()
        names = [f"client{number}" for number in range(50)]

        writer = Invites(self.certs, now, "operator")
        pair = read_invitation(self.invite("probe"))
        lines = [
            Invitation("localhost", self.server.port, name, pair.fingerprint, writer.invite(name, ["team"]).secret).line()
            for name in names
        ]
        clients = [self.begin("join", line, "--dir", name) for name, line in zip(names, lines, strict=True)]
        for client, name in zip(clients, names, strict=True):
            said, wrong = client.communicate(timeout=120)
            self.assertEqual((client.returncode, wrong), (0, ""), name)
            self.assertIn(f"as {name}, in team\n", said)
        self.assertEqual(self.authorized(), sorted(names))
        self.assertEqual(sorted(event["client"] for event in self.ledger("joined")), sorted(names))
        self.assertEqual({self.hello(name) for name in names[::10]}, {f"Hello: {name}\n" for name in names[::10]})
        self.server.signal(signal.SIGHUP)
        self.assert_quiet(self.server)


def key_that_looks_like(victim: Pair) -> Any:
    """Return a key that says it is *victim*'s, with another secret: OpenSSL believes the public half that stands beside it."""
    assert isinstance(victim.key, ec.EllipticCurvePrivateKey)
    other = ec.generate_private_key(ec.SECP256R1())

    def point(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    der = other.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    forged = der.replace(point(other), point(victim.key))
    assert forged != der

    class Forged:
        def private_bytes(self, *arguments: object) -> bytes:
            return ssl.DER_cert_to_PEM_cert(forged).replace("CERTIFICATE", "EC PRIVATE KEY").encode()

    return Forged()
