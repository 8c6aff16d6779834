"""Joining, with real handshakes in memory and a folder on the disk: who may ask, what is answered, and what never happens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import lib
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.enrol import openings as openings_module
from mtlsd.enrol.attempts import Attempts
from mtlsd.enrol.exchange import LONGEST, request_with, secret_in
from mtlsd.enrol.invite import files_in as files_in_folder
from mtlsd.enrol.invites import Invited, Invites
from mtlsd.enrol.join import Joins
from mtlsd.enrol.openings import Openings
from mtlsd.policy import LIMITS, Denied, Reason
from mtlsd.protocols import HTTP, JOIN
from mtlsd.settings import Settings
from mtlsd.tls.context import select_with_join
from mtlsd.tls.gate import JOIN_TIMEOUT
from tests.folder_door import FolderDoor, lines_said
from tests.memory_tls import Client
from tests.pki import Pair, make_pair, new_key


class JoinDoor(FolderDoor):
    """A front door at which one can join, with a folder."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        super().__init__(folder, settings)
        self.invites = Invites(folder, self.now, "operator")
        self.folder = folder
        self.joins = self.joining()
        self.door.join = self.joins
        self.select = select_with_join(self.joins.is_open)
        self.creator.context = self.context()

    def joining(self, **policy: Any) -> Joins:
        return Joins(
            self.folder,
            invites=Invites(self.folder, self.now, "mtlsd", self.disk, self.registry.glance),
            openings=Openings(self.folder, self.now),
            attempts=Attempts(self.clock.seconds),
            sink=self.sink,
            in_thread=self.in_thread,
            look=self.registry.look,
            **policy,
        )

    def asking(self, pair: Pair | None, **options: Any) -> Client:
        """Connect somebody who wants to join."""
        return self.connect(pair, **{"alpn": [JOIN], **options})


class JoinBase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.front = JoinDoor(self.folder)
        self.addCleanup(self.front.registry.stop)
        self.bob = make_pair("bob", key=new_key())

    def invite(self, name: str = "bob", groups: Sequence[str] = (), **more: Any) -> Invited:
        return self.front.invites.invite(name, groups, **more)

    def ask(self, invited: Invited, pair: Pair | None = None, **options: Any) -> tuple[Client, dict[str, object]]:
        """Join, and return the answer."""
        client = self.front.asking(pair or self.bob, **options)
        return client, self.answer(client, request_with(invited.secret))

    def answer(self, client: Client, sent: bytes) -> dict[str, object]:
        said = client.request(sent)
        self.assertEqual(said[-1:], b"\n", (said, client.error))
        told: dict[str, object] = json.loads(said)
        return told

    def verdict(self) -> tuple[str, str | None, str | None]:
        """Return the one verdict so far: event, reason, client."""
        verdicts = [event for event in self.front.sink.events if event.event in ("accepted", "rejected")]
        (event,) = verdicts
        self.front.sink.events.clear()
        return str(event.event), event.reason and str(event.reason), event.client

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "authorized").iterdir())


class OfferTests(JoinBase):
    """When the name of a join is spoken at all."""

    def no_protocol(self, **options: Any) -> None:
        client = self.front.asking(self.bob, **options)
        self.assertIn("no application protocol", str(client.error))
        client.lose()
        self.assertEqual(self.verdict(), ("rejected", "no-common-protocol", None))

    def test_nobody_is_invited(self) -> None:
        """A stranger could open connections at which an unknown certificate goes through, on every server there is."""
        self.no_protocol()
        invited = self.invite()
        self.ask(invited)
        self.front.sink.events.clear()
        self.no_protocol()

    def test_expired(self) -> None:
        """The door would stay open after the last invite has expired."""
        self.invite(lifetime=timedelta(seconds=5))
        self.assertTrue(self.front.joins.is_open())
        self.front.clock.advance(5)
        self.no_protocol()

    def test_enrol_is_off(self) -> None:
        """An operator who has not turned it on would have it all the same, once there is an invite."""
        self.invite()
        self.front.select = None
        self.front.creator.context = self.front.context()
        self.no_protocol()

    def test_old_tls(self) -> None:
        """In TLS 1.2 a client's certificate goes over the wire in the clear."""
        self.invite()
        self.no_protocol(version=SSL.TLS1_2_VERSION)

    def test_with_other_names(self) -> None:
        """A client that means something else would end up in the exchange; one that speaks HTTP is served as ever."""
        self.invite()
        self.no_protocol(alpn=[JOIN, b"h2"])
        self.front.store.authorize([self.bob.der], "robert")
        self.front.look()
        for alpn in ([JOIN, HTTP], [HTTP, JOIN], [HTTP], []):
            client = self.front.asking(self.bob, alpn=alpn)
            self.assertEqual(client.request(), b"Hello: robert")
            client.close()
            self.assertEqual(self.verdict(), ("accepted", "authorized", "robert"))

    def test_nobody_to_speak_it(self) -> None:
        """A fault in the wiring would let a stranger's connection stand open."""
        self.invite()
        self.front.door.join = None
        client = self.front.asking(self.bob)
        self.assertEqual(client.request(), b"")
        self.assertTrue(client.is_lost)
        self.assertEqual(self.verdict(), ("rejected", "not-allowed", None))


class ExchangeTests(JoinBase):
    """One line each way."""

    def test_join(self) -> None:
        """Whoever was invited would not get in, or not at once, or under another name."""
        client, told = self.ask(self.invite(groups=["ops"]))
        self.assertEqual(told, {"client": "bob", "groups": ["ops"], "fingerprint": self.bob.fingerprint})
        client.lose()
        kinds = [str(event.event) for event in self.front.sink.events]
        self.assertEqual(kinds, ["joined", "accepted"])
        self.assertEqual({event.connection for event in self.front.sink.events}, {"test-1"})
        self.assertEqual(self.verdict(), ("accepted", "authorized", "bob"))
        self.assertEqual(self.front.connect(self.bob).request(), b"Hello: bob")
        self.assertEqual(len(self.front.served.served), 1)

    def test_in_pieces(self) -> None:
        """A line that comes in two packets would be half a line."""
        line = request_with(self.invite().secret)
        client = self.front.asking(self.bob)
        self.assertEqual(client.request(line[:5]), b"")
        self.assertEqual(self.answer(client, line[5:])["client"], "bob")

    def test_one_answer(self) -> None:
        """A stranger could tell a line that was used, or has expired, from one that he made up."""
        used, expired = self.invite("used"), self.invite("late", lifetime=timedelta(seconds=1))
        self.ask(used, make_pair("used", key=new_key()))
        open_one = self.invite("carol")
        self.front.clock.advance(2)
        taken = self.invite("taken")
        self.front.store.authorize([make_pair("taken", key=new_key()).der], "taken")
        for secret in (used.secret, expired.secret, b"\0" * 16, taken.secret):
            self.front.sink.events.clear()
            client = self.front.asking(self.bob)
            self.assertEqual(client.request(request_with(secret)), b'{"error": "refused"}\n')
            client.lose()
            self.assertIn("join: ", self.front.last().detail or "")
            self.assertEqual(self.verdict(), ("rejected", "not-allowed", None))
        # And none of it has used up anything.
        self.assertEqual(self.ask(open_one)[1]["client"], "carol")

    def test_not_a_join(self) -> None:
        """A request in the place of a join would be answered, or a byte too many taken for one of the next layer."""
        invited = self.invite()
        good = request_with(invited.secret)
        for sent in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\n",
            b"null\n",
            b"[]\n",
            b"{}\n",
            b'{"secret": 1}\n',
            b'{"secret": ""}\n',
            b'{"secret": "aaaa"}\n',
            b'{"secret": "!"}\n',
            good[:-2] + b', "name": "root"}\n',
            good + b"x",
            good + good,
            b"\xff" * 20 + b"\n",
            b"[" * 500 + b"\n",
            b" " * LONGEST,
            good[:-1] + b" " * LONGEST + b"\n",
        ):
            self.front.joins.attempts = Attempts(self.front.clock.seconds)
            client = self.front.asking(self.bob)
            self.assertEqual(client.request(sent), b'{"error": "refused"}\n', sent)
            client.lose()
            self.assertEqual(self.verdict(), ("rejected", "not-allowed", None))
        self.assertEqual(self.front.served.served, [])
        self.assertEqual(self.names(), [])
        self.ask(invited)

    def test_an_http_connection_that_tries_to_join(self) -> None:
        """An authorized client could make others out of an invite that it has found, under its own identity."""
        invited = self.invite()
        self.front.store.authorize([make_pair("alice").der], "alice")
        self.front.look()
        client = self.front.connect(make_pair("alice"), alpn=[HTTP])
        self.assertNotIn(b"client", client.request(request_with(invited.secret)))
        self.assertEqual(self.names(), ["alice.pem"])

    def test_a_request_after_the_join(self) -> None:
        """A connection that has joined could be used as one of an authorized client's: nothing on it is ever allowed."""
        client, _ = self.ask(self.invite())
        self.assertIsNone(client.gate.authorize())
        self.assertEqual(client.gate.handshake.decide(), Denied(Reason.NOT_ALLOWED))
        self.assertIsNone(client.gate.fingerprint)
        self.assertEqual(client.request(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), b"")
        self.assertEqual(self.front.served.served, [])
        self.assertEqual(len(self.front.door.live), 0)

    def test_silent(self) -> None:
        """A stranger could hold a connection for as long as he likes, with a byte now and then."""
        self.invite()
        client = self.front.asking(self.bob)
        self.front.advance(JOIN_TIMEOUT - 1)
        self.assertEqual(client.request(b"{"), b"")
        self.front.advance(1)
        client.pump()
        self.assertTrue(client.is_lost)
        self.assertEqual(self.verdict(), ("rejected", "timeout", None))

    def test_goes_away(self) -> None:
        """A client that finds somebody else's certificate stops there: that is no fault, and one verdict."""
        self.invite()
        client = self.front.asking(self.bob)
        client.close()
        self.assertEqual(self.verdict(), ("rejected", "closed", None))

    def test_gone_while_it_is_decided(self) -> None:
        """A join whose client lost its network would be lost too, or have a verdict that says the opposite."""
        invited = self.invite()
        self.front.held = []
        client = self.front.asking(self.bob)
        self.assertEqual(client.request(request_with(invited.secret)), b"")
        self.front.advance(JOIN_TIMEOUT + 1)
        self.assertFalse(client.is_lost)
        client.lose()
        self.assertEqual(self.front.sink.events, [])
        self.front.work()
        self.assertEqual(self.verdict(), ("accepted", "authorized", "bob"))
        self.assertEqual(self.names(), ["bob.pem"])
        # It comes back with its pair, and finds that it is in.
        self.assertEqual(self.front.connect(self.bob).request(), b"Hello: bob")

    def test_more_while_it_is_decided(self) -> None:
        """What a client sends after its line would be taken for another, and a second join be tried."""
        invited, other = self.invite(), self.invite("carol")
        self.front.held = []
        client = self.front.asking(self.bob)
        self.assertEqual(client.request(request_with(invited.secret)), b"")
        self.assertEqual(client.request(request_with(other.secret)), b"")
        self.assertEqual(len(self.front.held), 1)
        self.front.work()
        client.pump()
        self.assertEqual(json.loads(client.received)["client"], "bob")
        self.assertEqual(self.names(), ["bob.pem"])

    def test_shut_down_while_it_is_decided(self) -> None:
        """The service would wait for the disk, or end without a verdict."""
        invited = self.invite()
        self.front.held = []
        client = self.front.asking(self.bob)
        client.request(request_with(invited.secret))
        self.successResultOf(self.drained(client))
        self.front.work()
        self.assertEqual(self.verdict(), ("rejected", "closed", None))

    def drained(self, client: Client) -> Deferred[None]:
        done = self.front.door.drain(30)
        client.settle()
        return done

    def test_full_disk(self) -> None:
        """The client would be told that its invite is no good, and the operator nothing."""
        invited = self.invite()
        self.front.disk.full = True
        client = self.front.asking(self.bob)
        self.assertEqual(client.request(request_with(invited.secret)), b'{"error": "failed"}\n')
        client.lose()
        self.assertEqual(self.verdict(), ("rejected", "internal-error", None))
        self.front.disk.full = False
        self.assertEqual(self.ask(invited)[1]["client"], "bob")

    def test_fault_of_ours(self) -> None:
        """A mistake in the code would leave a connection without an answer and without a verdict."""
        invited = self.invite()

        def broken(*arguments: object) -> None:
            raise RuntimeError("?")

        self.patch(Invites, "join", broken)
        client = self.front.asking(self.bob)
        self.assertEqual(client.request(request_with(invited.secret)), b'{"error": "failed"}\n')
        self.assertEqual(self.verdict(), ("rejected", "internal-error", None))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_the_ledger_cannot_be_written(self) -> None:
        """A join that stands would be told as one that failed."""
        invited = self.invite()
        (self.folder / "ledger.jsonl").unlink()
        (self.folder / "ledger.jsonl").mkdir()
        self.assertEqual(self.ask(invited)[1]["client"], "bob")

    def test_secret_in(self) -> None:
        """A secret in capitals, or with its padding, would be another one."""
        secret = bytes(range(16))
        line = request_with(secret)
        self.assertEqual(secret_in(line[:-1]), secret)
        self.assertEqual(secret_in(line[:-1].upper().replace(b"SECRET", b"secret")), secret)
        self.assertLess(len(line), LONGEST)

    def test_at_once(self) -> None:
        """Of many that come at once, one would be lost or doubled."""
        invited = [self.invite(f"client{number}") for number in range(10)]
        pairs = [make_pair(one.invite.name, key=new_key()) for one in invited]
        clients = [self.front.asking(pair) for pair in pairs]
        self.front.held = []
        for client, one in zip(clients, invited, strict=True):
            client.request(request_with(one.secret))
        # One after the other: the next begins when the one before has ended.
        self.assertEqual(len(self.front.held), 1)
        self.front.work()
        for client, one in zip(clients, invited, strict=True):
            client.pump()
            self.assertEqual(json.loads(client.received)["client"], one.invite.name)
        self.assertEqual(len(self.names()), 10)


class CertificateTests(JoinBase):
    """With which certificate one may ask."""

    def refused(self, pair: Pair | None, reason: str, **options: Any) -> Client:
        client = self.front.asking(pair, **options)
        self.assertEqual(client.request(request_with(self.invited.secret)), b"")
        client.lose()
        self.assertEqual(self.verdict()[:2], ("rejected", reason))
        return client

    def setUp(self) -> None:
        super().setUp()
        self.invited = self.invite()

    def test_none(self) -> None:
        """Somebody without a key would be authorized."""
        self.refused(None, "no-certificate")

    def test_unfit(self) -> None:
        """What the door refuses to everybody would get through by an invite."""
        for reason, pair in (
            ("weak-key", make_pair("bob", key="rsa1024")),
            ("expired", make_pair("bob", begins=timedelta(days=-2), ends=timedelta(days=-1))),
            ("not-yet-valid", make_pair("bob", begins=timedelta(days=1))),
            ("too-large", make_pair("bob", padding=17_000)),
        ):
            # Else the client's own OpenSSL would not show such a key.
            self.refused(pair, reason, ciphers=b"ALL:@SECLEVEL=0")

    def test_what_the_operator_does_not_want(self) -> None:
        """A policy of short lives and of certain keys would hold for whoever renews, and not for whoever comes first."""
        self.front.joins = self.front.door.join = self.front.joining(longest=timedelta(days=90), limits=LIMITS.only(("p256",)))
        for pair, why in (
            (make_pair("bob", key="ed25519"), "has a key (Ed25519) that enrol_keys does not allow"),
            (make_pair("bob", key="rsa2048"), "has a key (RSA-2048) that enrol_keys does not allow"),
            (make_pair("bob", key=new_key(), ends=timedelta(days=91)), "ends later than renew_longest allows"),
        ):
            _, told = self.ask(self.invited, pair)
            self.assertEqual(told, {"error": "refused"})
            (event,) = (event for event in self.front.sink.events if event.event == "rejected")
            self.front.sink.events.clear()
            self.assertIn(f"certificate {pair.fingerprint[:16]} {why}", event.detail or "")
        self.assertEqual(self.names(), [])
        _, told = self.ask(self.invited, make_pair("bob", key=new_key(), ends=timedelta(days=89)))
        self.assertEqual(told["client"], "bob")

    def test_an_authorized_client(self) -> None:
        """A client could take a second name, and keep it when the first is revoked."""
        alice = make_pair("alice")
        self.front.store.authorize([alice.der], "alice")
        self.front.look()
        self.refused(alice, "not-allowed")

    def test_authorized_in_the_meantime(self) -> None:
        """Two names for one certificate, where the operator was quicker."""
        client = self.front.asking(self.bob)
        self.front.store.authorize([self.bob.der], "robert")
        self.front.look()
        self.assertEqual(client.request(request_with(self.invited.secret)), b'{"error": "refused"}\n')
        self.assertEqual(self.names(), ["robert.pem"])

    def test_revoked(self) -> None:
        """Whoever was shut out would come back in with somebody's invite: with the certificate, or with only its key."""
        mallory = make_pair("mallory", key=new_key())
        self.front.store.authorize([mallory.der], "mallory")
        self.front.store.revoke("mallory")
        self.front.look()
        self.refused(mallory, "revoked")
        self.refused(make_pair("bob", key=mallory.key), "revoked")

    def test_revoked_in_the_meantime(self) -> None:
        """The same, where the tombstone was set after the handshake."""
        client = self.front.asking(self.bob)
        self.front.store.authorize([self.bob.der], "robert")
        self.front.store.revoke("robert")
        self.assertEqual(client.request(request_with(self.invited.secret)), b'{"error": "refused"}\n')
        self.assertEqual(self.names(), [])

    def test_the_key_of_a_tombstone_that_says_nothing(self) -> None:
        """A tombstone made by hand has no key in it: it must not stand in the way of everybody."""
        (self.folder / "revoked" / f"{'0' * 64}.json").touch()
        self.front.look()
        self.assertEqual(self.front.registry.snapshot().buried_keys, {})
        self.assertEqual(self.ask(self.invited)[1]["client"], "bob")

    def test_with_a_chain(self) -> None:
        """A client that sends its issuer along, as many do, could not join; the leaf alone counts."""
        issuer = make_pair("issuer", key=new_key())
        leaf = make_pair("bob", key=new_key(), issuer=issuer, ca=False)
        self.assertEqual(self.ask(self.invited, leaf, chain=[issuer])[1]["fingerprint"], leaf.fingerprint)

    def test_too_long_a_chain(self) -> None:
        """A joining stranger could have us check signatures all day."""
        chain: list[Pair] = []
        issuer = None
        for number in range(6):
            issuer = make_pair(f"ca{number}", key=new_key(), issuer=issuer)
            chain.insert(0, issuer)
        self.refused(make_pair("bob", key=new_key(), issuer=issuer), "too-large", chain=chain)


class ResumptionTests(JoinBase):
    """A session is of the connection on which it was made, not of the purpose of the next."""

    def session_of(self, client: Client) -> SSL.Session:
        session = client.tls.get_session()
        assert session is not None
        return session

    def test_a_ticket_of_an_authorized_client(self) -> None:
        """A ticket resumes without the callback: whoever holds one could join with a key that was proven for something else."""
        invited = self.invite()
        self.front.store.authorize([self.bob.der], "robert")
        self.front.look()
        first = self.front.connect(self.bob, alpn=[HTTP])
        self.assertEqual(first.request(), b"Hello: robert")
        session = self.session_of(first)
        first.close()
        # It is one that resumes.
        again = self.front.connect(self.bob, alpn=[HTTP], session=session, context=first.context)
        again.request()
        self.assertTrue(lib.SSL_session_reused(again.tls._ssl))
        session = self.session_of(again)
        again.close()
        self.front.sink.events.clear()
        client = self.front.asking(self.bob, session=session, context=first.context)
        self.assertEqual(client.request(request_with(invited.secret)), b"")
        tls = self.front.last().tls
        assert tls is not None
        self.assertTrue(tls.resumed)
        self.assertEqual(self.verdict(), ("rejected", "not-allowed", None))
        self.assertEqual(self.names(), ["robert.pem"])

    def test_a_ticket_of_somebody_who_is_out(self) -> None:
        """The same, for one who was authorized when the ticket was made, and whose file is gone."""
        invited = self.invite()
        path = self.folder / "authorized" / "robert.pem"
        path.write_bytes(self.bob.pem)
        self.front.look()
        first = self.front.connect(self.bob, alpn=[HTTP])
        first.request()
        session = self.session_of(first)
        first.close()
        path.unlink()
        self.front.look()
        self.front.look()
        self.front.sink.events.clear()
        client = self.front.asking(self.bob, session=session, context=first.context)
        self.assertEqual(client.request(request_with(invited.secret)), b"")
        self.assertEqual(self.verdict(), ("rejected", "not-allowed", None))

    def test_a_session_of_a_join(self) -> None:
        """Whoever was refused, or has joined, could come back without proving its key: on another join, or under HTTP."""
        invited = self.invite()
        for joined in (False, True):
            first = self.front.asking(self.bob)
            first.request(request_with(invited.secret if joined else b"\0" * 16))
            session = self.session_of(first)
            first.close()
            self.invite(f"carol{joined}")
            for alpn, reason in (([JOIN], "not-allowed"), ([HTTP], "authorized" if joined else "unknown-certificate")):
                self.front.sink.events.clear()
                client = self.front.connect(self.bob, alpn=alpn, session=session, context=first.context)
                client.request(request_with(b"\0" * 16))
                self.assertFalse(lib.SSL_session_reused(client.tls._ssl), (joined, alpn))
                client.lose()
                self.assertEqual(self.verdict()[1], reason)
        self.assertEqual(self.names(), ["bob.pem"])


class LimitTests(JoinBase):
    """Guessing, and strangers who only want to be there."""

    def guess(self, address: str = "192.0.2.1") -> dict[str, object]:
        client = self.front.asking(self.bob, address=address)
        client.pump()
        told: dict[str, object] = (
            json.loads(client.received) if client.received else self.answer(client, request_with(b"\0" * 16))
        )
        client.lose()
        return told

    def test_guessing(self) -> None:
        """A stranger could guess as fast as the line allows; and one could shut out everybody else by guessing."""
        invited = self.invite()
        for _ in range(10):
            self.assertEqual(self.guess(), {"error": "refused"})
        self.front.sink.events.clear()
        self.assertEqual(self.guess(), {"error": "later"})
        self.assertEqual(self.verdict(), ("rejected", "over-limit", None))
        self.assertEqual(self.guess("192.0.2.2"), {"error": "refused"})
        self.front.clock.advance(60)
        self.assertEqual(self.guess(), {"error": "refused"})
        self.assertEqual(self.ask(invited, address="192.0.2.1")[1]["client"], "bob")

    def test_guessing_at_once(self) -> None:
        """The limit would be that of the connections that somebody can open before the first of them fails: some thousands."""
        self.invite()
        clients = [self.front.asking(self.bob, address="192.0.2.1") for _ in range(12)]
        told = [self.answer(client, request_with(b"\0" * 16))["error"] for client in clients]
        self.assertEqual(told, ["refused"] * 10 + ["later"] * 2)
        self.assertEqual([event.reason for event in self.front.sink.events][-2:], [Reason.OVER_LIMIT] * 2)

    def test_joins_are_no_failures(self) -> None:
        """Behind one address, the eleventh of a whole team could not join."""
        for number in range(12):
            one = self.invite(f"client{number}")
            told = self.ask(one, make_pair("c", key=new_key()))[1]
            self.assertEqual(told["client"], f"client{number}")

    def test_they_are_unfinished_handshakes(self) -> None:
        """While somebody is invited, strangers could hold connections past every budget."""
        self.front = JoinDoor(Path(self.mktemp()), Settings(max_handshakes=2))
        self.addCleanup(self.front.registry.stop)
        self.invite()
        first, second = self.front.asking(self.bob), self.front.asking(self.bob)
        third = self.front.asking(self.bob)
        self.assertEqual([client.is_lost for client in (first, second, third)], [True, False, False])
        self.assertEqual(self.verdict(), ("rejected", "over-limit", None))

    def test_an_ipv6_subscriber(self) -> None:
        """Somebody with a /64 has more addresses than anybody can count."""
        attempts = Attempts(self.front.clock.seconds, most=2)
        attempts.failed("2001:db8::1")
        attempts.failed("2001:db8::2")
        self.assertTrue(attempts.exhausted("2001:db8::3"))
        self.assertFalse(attempts.exhausted("2001:db8:0:1::1"))

    def test_memory(self) -> None:
        """Somebody with many addresses could fill the memory, or others would pay for it."""
        attempts = Attempts(self.front.clock.seconds, most=1, addresses=5)
        for number in range(20):
            attempts.failed(f"192.0.2.{number}")
        self.assertEqual(len(attempts), 5)
        self.assertTrue(attempts.exhausted("192.0.2.19"))
        self.assertFalse(attempts.exhausted("192.0.2.1"))
        self.front.clock.advance(60)
        attempts.failed("192.0.2.19")
        self.assertEqual(len(attempts), 1)


class OpeningsTests(JoinBase):
    """What the server knows of invites without a restart."""

    def open(self) -> bool:
        return self.front.joins.is_open()

    def test_follows_the_folder(self) -> None:
        """An invite would be good only after a while, or after a restart; one that was taken back would stay good."""
        self.assertFalse(self.open())
        self.invite("bob")
        self.assertTrue(self.open())
        self.invite("carol", lifetime=timedelta(minutes=5))
        self.front.invites.uninvite("bob")
        self.assertTrue(self.open())
        self.front.clock.advance(300)
        self.assertFalse(self.open())
        self.invite("dave")
        self.assertTrue(self.open())
        self.front.store.authorize([self.bob.der], "dave")
        self.assertFalse(self.open())

    def test_damaged(self) -> None:
        """One file that nobody can read would hide the others, or write a line for each stranger."""
        (self.folder / "invites").mkdir(mode=0o700)
        (self.folder / "invites" / "0.json").write_text("?")
        self.assertFalse(self.open())
        self.invite("bob")
        self.assertTrue(self.open())

    def test_a_file_that_is_put_right(self) -> None:
        """An invite of the wrong owner or mode would be good only when another one is made, or after a restart."""
        openings = Openings(self.folder, self.front.now, wall=lambda: time.time() + 60)
        path = self.folder / "invites" / self.invite("bob").invite.file
        path.chmod(0o666)
        self.assertFalse(openings.any())
        self.assertFalse(openings.any())
        path.chmod(0o600)
        self.assertTrue(openings.any())

    def test_unsafe(self) -> None:
        """Whoever may write to the folder could open the door."""
        self.invite("bob")
        (self.folder / "invites").chmod(0o777)
        self.assertFalse(self.open())
        (self.folder / "invites").chmod(0o700)
        self.assertTrue(self.open())

    def test_a_look_that_need_not_be(self) -> None:
        """With many invites each stranger would cost a look at all of them."""
        invite = self.invite("bob").invite
        self.assertTrue(self.open())
        (self.folder / "invites" / "x").touch()
        self.assertTrue(self.open())
        (self.folder / "invites" / invite.file).unlink()
        self.assertFalse(self.open())

    def test_a_folder_that_has_not_changed(self) -> None:
        """Each stranger would cost a look at thousands of dead invites; or one that is good again would not be seen."""
        self.invite("bob", lifetime=timedelta(seconds=1))
        carol = self.folder / "authorized" / "carol.pem"
        self.invite("carol")
        carol.touch()
        self.front.clock.advance(1)
        # Its time stamps are old enough to tell a change by.
        openings = Openings(self.folder, self.front.now, wall=lambda: time.time() + 60)
        looked: list[int] = []

        def files_in(invites: int) -> list[str]:
            looked.append(invites)
            return real(invites)

        real = files_in_folder
        self.patch(openings_module, "files_in", files_in)
        for _ in range(3):
            self.assertFalse(openings.any())
        self.assertEqual(len(looked), 1)
        # Its name is free again, which is to be seen elsewhere.
        carol.unlink()
        self.assertTrue(openings.any())
        self.assertEqual(len(looked), 1)
        carol.touch()
        self.assertFalse(openings.any())
        self.invite("dave")
        self.assertTrue(openings.any())
        self.assertEqual(len(looked), 2)

    def test_a_folder_that_cannot_be_looked_at(self) -> None:
        """It would be a traceback for each stranger, or an open door."""
        said = lines_said(self)
        flat = self.folder / "flat"
        flat.touch()
        self.assertFalse(Openings(flat, self.front.now).any())
        self.assertEqual(said, [])
        self.assertFalse(Openings(self.folder / "nowhere", self.front.now).any())

    def test_a_link_to_nothing(self) -> None:
        """One that goes away while it is looked at would hide the others."""
        (self.folder / "invites").mkdir(mode=0o700)
        (self.folder / "invites" / "0.json").symlink_to("nothing.json")
        self.assertFalse(self.open())
        self.invite("bob")
        self.assertTrue(self.open())

    def test_no_permission(self) -> None:
        """A server that may not write would only say so when somebody stands at the door with an invite."""
        said = lines_said(self)
        self.front.joins.start()
        self.assertEqual(said, [])
        refused = self.folder / "authorized"

        def access(path: Path, mode: int, *, effective_ids: bool) -> bool:
            return path != refused

        self.patch(os, "access", access)
        self.front.joins.start()
        (line,) = said
        self.assertIn(f"{refused}: enrol is on, but the server's user may not write here, so nobody can join", line)
