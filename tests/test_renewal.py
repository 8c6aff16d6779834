"""Renewing, with real handshakes in memory and a folder on the disk: who may ask, what is answered, and when the overlap ends."""

from __future__ import annotations

import base64
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.enrol.renewal import MOST, PAUSE, PERIOD, Successions
from mtlsd.policy import LIMITS
from mtlsd.proof import LABEL, LARGEST, PATH, SIZE, proves, signed, statement
from mtlsd.protocols import HTTP
from mtlsd.registry.ledger import History
from mtlsd.registry.promise import PROMISE
from mtlsd.registry.renewals import NotRenewed, Origin, Renewals, Why
from mtlsd.web.renewal import ANSWERS, Renew
from mtlsd.web.site import Site, make_root
from tests.folder_door import FolderDoor, lines_said
from tests.memory_tls import Client
from tests.pki import Pair, make_pair, new_key
from tests.site_in_memory import Answer, ask

KINDS = ("p256", "p384", "p521", "ed25519", "ed448", "mldsa65", "rsa2048")


class ProofTests(SynchronousTestCase):
    """The signature of the key that is to come."""

    def test_each_kind_of_key(self) -> None:
        """A client with a kind of key that is let in could not renew."""
        for kind in KINDS:
            pair = make_pair(key=kind)
            text = statement(b"x" * SIZE, pair.der)
            signature = signed(pair.key_pem, text)
            self.assertTrue(proves(pair.der, text, signature), kind)
            self.assertFalse(proves(pair.der, text + b"x", signature), kind)
            self.assertFalse(proves(pair.der, text, signature[:-1] + bytes([signature[-1] ^ 1])), kind)
            self.assertFalse(proves(make_pair(key=new_key()).der, text, signature), kind)

    def test_what_is_signed(self) -> None:
        """A client of somebody else's, made after docs/protocol.md, would not be understood."""
        pair = make_pair()
        self.assertEqual(statement(b"e" * 32, pair.der), b"mtlsd-renew/1\0" + b"e" * 32 + bytes.fromhex(pair.fingerprint))

    def test_other_keys(self) -> None:
        """A key of another kind would be taken, or be a traceback."""
        for kind in ("k256", "dsa"):
            self.assertFalse(proves(make_pair(key=kind).der, b"x", b"x"))
        self.assertFalse(proves(b"junk", b"x", b"x"))


class RenewDoor(FolderDoor):
    """A front door with a folder and mtlsd's own site, at which one can renew."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.let_renew()

    def let_renew(self, **policy: Any) -> None:
        self.successions = Successions(
            self.folder,
            renewals=Renewals(self.folder, self.now, "mtlsd", self.disk, self.registry.glance),
            registry=self.registry,
            sink=self.sink,
            in_thread=self.in_thread,
            look=self.registry.look,
            now=self.now,
            seconds=self.clock.seconds,
            longest=timedelta(days=400),
            grace=timedelta(hours=1),
            **policy,
        )
        self.door.used = self.successions.used
        self.door.site = Site(
            make_root(self.now, {b"renew": Renew(self.successions)}),
            settings=self.settings,
            deadlines=self.deadlines,
            access_log=None,
            reactor=cast(IReactorTime, self.clock),
        )


class RenewalBase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.front = RenewDoor(self.folder)
        self.addCleanup(self.front.registry.stop)
        self.old, self.new = self.pair(), self.pair()
        self.front.store.authorize([self.old.der], "alice")
        self.front.look()
        self.logged = lines_said(self)

    def pair(self, name: str = "alice", **more: Any) -> Pair:
        return make_pair(name, **{"key": new_key(), **more})

    def connect(self, pair: Pair | None = None, **options: Any) -> Client:
        return self.front.connect(pair or self.old, **{"alpn": [HTTP], **options})

    def body(self, client: Client, new: Pair | None = None, signer: Pair | None = None) -> bytes:
        new = new or self.new
        exporter = client.tls.export_keying_material(LABEL.encode(), SIZE)
        signature = signed((signer or new).key_pem, statement(exporter, new.der))
        told = {"certificate": new.pem.decode(), "signature": base64.b64encode(signature).decode()}
        return json.dumps(told).encode()

    def ask(self, client: Client, body: bytes, *headers: str, method: str = "POST", path: str = PATH) -> Answer | None:
        """Send a request, and return its answer; ``None`` where there is none (yet)."""
        data = ask(path, method, *(headers or ("Content-Type: application/json",)), body=body)
        said = b""
        for at in range(0, len(data), 8192):
            said += client.request(data[at : at + 8192])
        return self.answered(client, said)

    def answered(self, client: Client, said: bytes = b"") -> Answer | None:
        if not said:
            self.front.look()
            client.pump()
            said = client.received
        return Answer(said) if said else None

    def renew(self, new: Pair | None = None, pair: Pair | None = None, **more: Any) -> tuple[int, dict[str, Any]]:
        """Ask for a certificate on a connection of its own, and return status and what was told."""
        client = self.connect(pair)
        answer = self.ask(client, self.body(client, new, **more))
        assert answer is not None, client.error
        client.close()
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertTrue(answer.body.endswith(b"\n"))
        return answer.status, json.loads(answer.body)

    def refused(self, why: Why, *arguments: Any, **more: Any) -> None:
        """Assert that a renewal is refused for this reason, and changes nothing."""
        before = self.files()
        status, text = ANSWERS[why]
        self.assertEqual(self.renew(*arguments, **more), (status, {"error": text}))
        self.assertEqual(self.files(), before)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "authorized").iterdir()}

    def hello(self, pair: Pair) -> bytes:
        """Return what a client with *pair* is told on a new connection; nothing where it is not let in."""
        client = self.connect(pair)
        said = client.request(ask("/hello"))
        client.lose()
        return said.rpartition(b"\r\n\r\n")[2]

    def kinds(self) -> list[str]:
        return [str(event.event) for event in self.front.sink.events if event.event in ("renewed", "retired")]


class AskingTests(RenewalBase):
    """One request, one answer."""

    def test_renew(self) -> None:
        """A client's certificate would end, and somebody would have to carry the next one to the server."""
        status, told = self.renew()
        self.assertEqual(status, 200)
        self.assertEqual(told.pop("old_until")[-5:], ".000Z")
        self.assertEqual(told, {"client": "alice", "fingerprint": self.new.fingerprint, "old": self.old.fingerprint})
        event = next(event for event in self.front.sink.events if event.event == "renewed")
        self.assertEqual((event.client, event.fingerprint), ("alice", self.new.fingerprint))
        self.assertEqual((event.connection, event.peer), ("test-1", ("127.0.0.1", 50514)))
        for pair in (self.new, self.old):
            self.assertEqual(self.hello(pair), b"Hello: alice\n")

    def test_again(self) -> None:
        """A client whose connection broke before the answer could not find out what has become of it."""
        first = self.renew()
        self.assertEqual(self.renew(), first)
        self.assertEqual(self.kinds(), ["renewed"])

    def test_without_its_key(self) -> None:
        """Somebody's public certificate could be let in under a client's name, or a signature be used again elsewhere."""
        self.refused(Why.NOT_PROVEN, signer=self.old)
        one, other = self.connect(), self.connect()
        answer = self.ask(other, self.body(one))
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["error"]), (403, ANSWERS[Why.NOT_PROVEN][1]))

    def test_somebody_elses_certificate(self) -> None:
        """A client could become another, or let somebody back in who was shut out."""
        bob, gone = self.pair("bob"), self.pair("gone")
        self.front.store.authorize([bob.der], "bob")
        self.front.store.authorize([gone.der], "gone")
        self.front.store.revoke("gone")
        self.front.look()
        self.refused(Why.UNFIT, bob)
        self.refused(Why.UNFIT, gone)
        self.refused(Why.UNFIT, self.pair(key=gone.key))
        self.refused(Why.UNFIT, self.old)
        self.refused(Why.SAME_KEY, self.pair(key=self.old.key))
        self.refused(Why.TOO_LONG, self.pair(ends=timedelta(days=401)))

    def test_unfit(self) -> None:
        """A key that is not used would be checked all the same, which can cost more than a hundred handshakes."""
        for kind in ("rsa1024", "k256"):
            self.refused(Why.UNFIT, self.pair(key=kind), signer=self.old)
        self.refused(Why.UNFIT, self.pair(padding=17_000))
        client = self.connect()
        done = self.front.successions.renew(client.gate.authorize(), b"junk", b"", b"", Origin())  # type: ignore[arg-type]
        self.assertEqual(self.failureResultOf(done, NotRenewed).value.why, Why.UNFIT)

    def test_keys_that_the_operator_does_not_want(self) -> None:
        """A client could leave the kind of key behind that the operator insists on, at its next renewal."""
        self.front.let_renew(limits=LIMITS.only(("p256", "ed25519")))
        other = self.pair(key="p384")
        self.refused(Why.KIND, other)
        self.assertIn(
            f"certificate {other.fingerprint[:16]} has a key (EC P-384) that enrol_keys does not allow", self.logged[-1]
        )
        self.assertEqual(self.renew(self.pair(key="ed25519"))[0], 200)

    def test_two_at_once(self) -> None:
        """Both would win, and a client could heap up certificates; or the one that lost would have no pair that works."""
        one, other, third = self.connect(), self.connect(), self.pair()
        bodies = self.body(one), self.body(other, third)
        self.front.held = []
        self.assertIsNone(self.ask(one, bodies[0]))
        self.assertIsNone(self.ask(other, bodies[1]))
        self.front.work()
        first, second = self.answered(one), self.answered(other)
        assert first is not None
        assert second is not None
        self.assertEqual((first.status, second.status), (200, 409))
        self.assertEqual(json.loads(second.body), {"error": ANSWERS[Why.TOO_MANY][1]})
        self.assertEqual(self.hello(third), b"")
        self.assertEqual(self.hello(self.old), b"Hello: alice\n")

    def test_too_often(self) -> None:
        """A client could keep the disk busy; or another would pay for it."""
        bob = self.pair("bob")
        self.front.store.authorize([bob.der], "bob")
        self.front.look()
        for _ in range(MOST):
            self.refused(Why.NOT_PROVEN, signer=self.old)
        self.refused(Why.TOO_OFTEN)
        self.assertEqual(self.renew(self.pair("bob"), bob)[0], 200)
        self.front.clock.advance(PERIOD)
        self.assertEqual(self.renew()[0], 200)

    def test_revoked_meanwhile(self) -> None:
        """A renewal that was asked for a moment before the revocation would outlive it."""
        client = self.connect()
        self.front.held = []
        self.assertIsNone(self.ask(client, self.body(client)))
        self.front.store.revoke("alice")
        self.front.work()
        answer = self.answered(client)
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["error"]), (403, ANSWERS[Why.NOT_AUTHORIZED][1]))
        self.assertTrue(client.is_lost)
        self.assertEqual((self.hello(self.old), self.hello(self.new)), (b"", b""))
        self.assertEqual(self.files(), {})

    def test_revoked_before(self) -> None:
        """Somebody who was shut out would make himself a new certificate on a connection that is still open."""
        client = self.connect()
        body = self.body(client)
        self.front.store.revoke("alice")
        self.front.look()
        self.assertIsNone(self.ask(client, body))
        self.assertEqual(self.hello(self.new), b"")

    def test_client_that_goes_away(self) -> None:
        """A renewal would be a traceback, or not be there for the client that comes back."""
        client = self.connect()
        self.front.held = []
        self.assertIsNone(self.ask(client, self.body(client)))
        client.lose()
        self.front.work()
        self.front.look()
        self.assertEqual(self.hello(self.new), b"Hello: alice\n")

    def test_full_disk(self) -> None:
        """The client would be told that its certificate is no good, and the operator nothing."""
        self.front.disk.full = True
        before = self.files()
        self.assertEqual(self.renew()[0], 500)
        self.assertEqual(self.files(), before)
        self.assertIn("No space left on device", self.logged[-1])
        self.front.disk.full = False
        self.assertEqual(self.renew()[0], 200)

    def test_fault(self) -> None:
        """A fault of ours would leave the client without an answer."""

        def fault(*arguments: Any) -> None:
            raise RuntimeError("a fault")

        self.front.successions._in_thread = cast(Any, lambda _: maybeDeferred(fault))
        self.assertEqual(self.renew()[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class StartTests(RenewalBase):
    """What is done and said at the start."""

    def test_what_a_kill_has_kept_from_the_ledger(self) -> None:
        """Who was let in, and by which way, would stand nowhere until somebody changes something."""
        self.renew()
        ledger = self.folder / "ledger.jsonl"
        *before, line = ledger.read_text().splitlines(True)
        ledger.write_text("".join(before))
        (self.folder / PROMISE).write_text(line)
        self.front.successions.start()
        *_, last = History(self.folder)
        self.assertEqual((last.event, last.text("fingerprint")), ("renewed", self.new.fingerprint))
        self.assertEqual(last.text("detail"), f"renewed from {self.old.fingerprint}; written late")
        self.assertEqual(self.logged, [])

    def test_not_writable(self) -> None:
        """An operator would learn of it from the first client whose certificate has ended."""
        denied = self.folder / "authorized"
        real = os.access

        def access(path: Path, mode: int, **more: Any) -> bool:
            return path != denied and real(path, mode, **more)

        self.front.successions.start()
        self.assertEqual(self.logged, [])
        self.patch(os, "access", access)
        self.front.successions.start()
        self.assertEqual(len(self.logged), 1)
        self.assertIn(f"{denied}: renew is on, but", self.logged[0])


class WhereTests(RenewalBase):
    """On which connections, and in which form."""

    def says(self, client: Client, status: int, text: str, body: bytes | None = None, *headers: str) -> None:
        answer = self.ask(client, self.body(client) if body is None else body, *headers)
        assert answer is not None, client.error
        self.assertEqual((answer.status, json.loads(answer.body)["error"]), (status, text))
        self.assertEqual(list(self.files()), ["alice.pem"])

    def test_old_tls(self) -> None:
        """In TLS 1.2 the exporter binds to less, and a certificate goes over the wire in the clear."""
        self.says(self.connect(version=SSL.TLS1_2_VERSION), 403, "a renewal is asked for over TLS 1.3")

    def test_resumed(self) -> None:
        """Whoever has found a client's ticket could have a certificate of his own let in."""
        first = self.connect()
        first.request(ask("/hello"))
        session = first.tls.get_session()
        assert session is not None
        first.close()
        again = self.connect(context=first.context, session=session)
        self.assertIn(b"Hello", again.request(ask("/hello")))
        self.assertTrue(again.gate.handshake.tls is not None and again.gate.handshake.tls.resumed)
        self.says(again, 403, "not on a resumed connection: make a new one")

    def test_large_body(self) -> None:
        """Any client could fill the server's disk with what is refused in the end."""
        for headers in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
            client = self.connect()
            said = client.request(ask(PATH, "POST", "Content-Type: application/json", headers))
            if not said:
                for _ in range(LARGEST // 8192 + 1):
                    said += client.request(b"2000\r\n" + b" " * 8192 + b"\r\n")
            answer = Answer(said)
            self.assertEqual(
                (answer.status, answer.body, answer.headers["connection"]), (413, b"request body too large\n", "close")
            )

    def test_largest_body(self) -> None:
        """A client with a long chain around its certificate could not renew, where the limit is of its bytes."""
        client = self.connect()
        answer = self.ask(client, self.body(client).ljust(LARGEST))
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_form(self) -> None:
        """What is no renewal would be taken for one, or a page in a browser could ask for one."""
        client = self.connect()
        good = json.loads(self.body(client))
        wanted = "application/json is wanted"
        self.says(client, 415, wanted, None, "Content-Type: text/plain")
        self.says(client, 415, wanted, None, "Accept: */*")
        what = 'a certificate and its key\'s signature are wanted: {"certificate": PEM, "signature": base64}'
        for told in (
            b"",
            b"[",
            b"[" * 20_000,
            b"[]",
            b"{}",
            b"\xff",
            json.dumps({**good, "client": "root"}).encode(),
            json.dumps({**good, "certificate": 1}).encode(),
            json.dumps({**good, "certificate": "é"}).encode(),
            json.dumps({**good, "certificate": ""}).encode(),
            json.dumps({**good, "certificate": good["certificate"] * 2}).encode(),
            json.dumps({**good, "signature": None}).encode(),
            json.dumps({**good, "signature": "*"}).encode(),
        ):
            self.says(client, 400, what, told)
        for method in ("GET", "HEAD"):
            answer = self.ask(client, b"", method=method)
            assert answer is not None
            self.assertEqual((answer.status, answer.headers["allow"]), (405, "POST"))
        # On the same connection, with its parameter: this is one.
        answer = self.ask(client, json.dumps(good).encode(), "Content-Type: Application/JSON; charset=utf-8")
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_paths(self) -> None:
        """It would be where a route of the operator's is, or pages would be at two places."""
        client = self.connect()
        for path in ("/renew", "/.mtlsd", "/.mtlsd/", "/.mtlsd/hello", "/.mtlsd/renew/x", "/.mtlsd/.mtlsd/renew", "/x/renew"):
            answer = self.ask(client, self.body(client), path=path)
            assert answer is not None
            self.assertEqual(answer.status, 404, path)
        self.assertEqual(list(self.files()), ["alice.pem"])


class OverlapTests(RenewalBase):
    """From the first use of the new certificate to the end of the old one."""

    def setUp(self) -> None:
        super().setUp()
        self.renew()

    def test_nobody_has_used_it(self) -> None:
        """A client that never got to its new certificate would be shut out an hour later."""
        self.front.advance(4000)
        self.front.look()
        self.assertEqual(self.hello(self.old), b"Hello: alice\n")
        self.assertEqual(self.kinds(), ["renewed"])

    def test_first_use(self) -> None:
        """A stolen old certificate would be good until its end; or whatever still uses it would be cut at once."""
        live = self.connect(self.old)
        self.assertIn(b"Hello", live.request(ask("/hello")))
        self.assertEqual(self.hello(self.new), b"Hello: alice\n")
        self.front.look()
        self.assertEqual(self.kinds(), ["renewed", "retired"])
        self.hello(self.new)
        self.front.look()
        self.assertEqual(self.kinds(), ["renewed", "retired"])
        self.assertIn(b"Hello", live.request(ask("/hello")))
        self.assertEqual(self.hello(self.old), b"Hello: alice\n")
        self.front.advance(3620)
        live.pump()
        self.assertTrue(live.is_lost)
        self.assertEqual(self.hello(self.old), b"")
        self.assertEqual(self.front.last().reason, "expired")
        self.assertEqual(self.hello(self.new), b"Hello: alice\n")

    def test_the_next_one(self) -> None:
        """After the first renewal there would be no other."""
        self.hello(self.new)
        self.front.look()
        third = self.pair()
        self.assertEqual(self.renew(third, self.new)[0], 409)
        self.front.advance(3620)
        self.assertEqual(self.renew(third, self.new)[0], 200)
        self.assertEqual(self.hello(third), b"Hello: alice\n")

    def test_cannot_be_written(self) -> None:
        """The old certificate would stay good for ever after one full disk, or each connection would have a line in the log."""
        self.front.disk.full = True
        for _ in range(3):
            self.assertEqual(self.hello(self.new), b"Hello: alice\n")
        lines = [line for line in self.logged if "could not be set" in line]
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("No space left on device", lines[0])
        self.front.disk.full = False
        self.front.clock.advance(PAUSE)
        self.hello(self.new)
        self.front.look()
        self.assertEqual(self.kinds(), ["renewed", "retired"])

    def test_the_ledger_cannot_be_written(self) -> None:
        """An end that is set would be told as one that is not; or nobody would hear that it is recorded nowhere."""
        ledger = self.folder / "ledger.jsonl"
        ledger.unlink()
        ledger.mkdir()
        self.hello(self.new)
        self.front.look()
        self.assertEqual(self.kinds(), ["renewed", "retired"])
        self.assertIn("ledger.jsonl: cannot be written", self.logged[-1])

    def test_somebody_was_quicker(self) -> None:
        """An end that stands already would be set once more, an hour later each time; or told twice."""
        self.front.held = []
        self.hello(self.new)
        Renewals(self.folder, self.front.now, "operator").retire("alice", self.new.fingerprint, timedelta(hours=1))
        before = self.files()
        self.front.work()
        self.front.look()
        self.assertEqual(self.kinds(), ["renewed"])
        self.assertEqual(self.files(), before)

    def test_while_it_is_written(self) -> None:
        """A thousand connections at once would be a thousand writers."""
        self.front.held = []
        for _ in range(3):
            self.hello(self.new)
        self.assertEqual(len(self.front.held), 1)
        self.front.work()
        self.front.look()
        self.assertEqual(self.kinds(), ["renewed", "retired"])

    def test_fault(self) -> None:
        """A fault of ours would be silent."""
        self.front.successions._in_thread = cast(Any, lambda _: maybeDeferred(lambda: 1 // 0))
        self.assertEqual(self.hello(self.new), b"Hello: alice\n")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_that_ends_by_itself(self) -> None:
        """A certificate that ends within the hour would be given a longer life, or the files a line for nothing."""
        bob, newer = self.pair("bob", ends=timedelta(minutes=30)), self.pair("bob")
        self.front.store.authorize([bob.der], "bob")
        self.front.look()
        self.assertEqual(self.renew(newer, bob)[0], 200)
        before = self.files()
        self.assertEqual(self.hello(newer), b"Hello: bob\n")
        self.assertEqual(self.files(), before)
