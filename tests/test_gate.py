"""One verdict per connection, revocation that bites, and the limits: in memory, with a Clock."""

from __future__ import annotations

from datetime import timedelta

from OpenSSL import SSL
from twisted.internet.address import IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.registry.records import Authorization, Snapshot
from mtlsd.settings import Settings
from mtlsd.tls.gate import plain_address
from tests.memory_tls import Client, FrontDoor, Served
from tests.pki import make_pair


class VerdictTests(SynchronousTestCase):
    """Every connection ends in exactly one verdict, whatever its peer did."""

    def setUp(self) -> None:
        self.front = FrontDoor()
        self.alice = make_pair("alice")
        self.front.authorize(alice=self.alice)

    def verdict_on(self, *sent: bytes) -> tuple[str, str | None]:
        peer = self.front.raw()
        for data in sent:
            peer.send(data)
        peer.lose()
        self.assertEqual(len(self.front.sink.events), 1)
        return self.front.verdicts().pop()

    def test_silent(self) -> None:
        """A port scan would leave no trace."""
        self.assertEqual(self.verdict_on(), ("rejected", "closed"))

    def test_plain_http(self) -> None:
        """Somebody who forgot the s of https would be a riddle in the log."""
        for method in (b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n"):
            self.assertEqual(self.verdict_on(method), ("rejected", "plain-http"))
            self.front.sink.events.clear()

    def test_garbage(self) -> None:
        """Bytes that are no TLS would leave no trace, or more than one."""
        self.assertEqual(self.verdict_on(b"\x00" * 100, b"\xff" * 100), ("rejected", "bad-handshake"))

    def test_half_a_hello(self) -> None:
        """A peer that goes away in the middle would be taken for an attack."""
        client = Client(self.front, self.alice)
        self.assertRaises(SSL.WantReadError, client.tls.do_handshake)
        client.send(client.tls.bio_read(1 << 16)[:50])
        client.lose()
        self.assertEqual(self.front.verdicts(), [("rejected", "closed")])

    def test_client_refuses_the_server(self) -> None:
        """An operator could not see that it is the client who turned away, the commonest mistake of all."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_verify(SSL.VERIFY_PEER, _refuse)
        client = self.front.connect(None, context=context)
        client.lose()
        event = self.front.last()
        self.assertEqual((len(self.front.sink.events), event.reason), (1, "bad-handshake"))
        self.assertIn("alert", event.detail or "")

    def test_event_fields(self) -> None:
        """The audit log would not say who, from where, to where and by what."""
        self.front.connect(self.alice)
        event = self.front.last()
        self.assertEqual(event.connection, "test-1")
        self.assertEqual(event.listener, "127.0.0.1:9443")
        self.assertEqual(event.peer, ("127.0.0.1", 50514))
        self.assertEqual(event.subject, "CN=alice")
        self.assertEqual(event.not_after, self.alice.leaf.not_after)
        self.assertIsNone(event.remedy)

    def test_remedy(self) -> None:
        """The operator who is asked at night would have to look the command up."""
        self.front.connect(make_pair("bad")).lose()
        self.assertEqual(self.front.last().remedy, "mtlsd authorize CERT.pem --name NAME")

    def test_knock(self) -> None:
        """A client that is refused could not be approved; or the operator would be told to approve what is not kept."""
        bad = make_pair("bad")
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.front = FrontDoor()
            self.front.connect(bad, version=version).lose()
            ((verdict, der),) = self.front.knocks
            self.assertEqual((der, verdict.fingerprint, verdict.peer), (bad.der, bad.fingerprint, ("127.0.0.1", 50514)))
            self.assertEqual(self.front.last().remedy, "mtlsd authorize CERT.pem --name NAME")
            self.front.keeps = True
            self.front.connect(bad, version=version).lose()
            self.assertEqual(self.front.last().remedy, f"mtlsd approve {bad.fingerprint} --name NAME")
            self.assertEqual(self.front.verdicts(), [("rejected", "unknown-certificate")] * 2)

    def test_no_knock(self) -> None:
        """What nobody should approve would be offered to the operator, or a known client's troubles."""
        gone, old, weak = make_pair("gone"), make_pair("old", ends=timedelta(seconds=-1)), make_pair("weak", key="k256")
        self.front.authorize(alice=self.alice, gone=gone, old=old)
        self.front.revoke(gone)
        for pair in (gone, old, weak, make_pair("large", padding=17_000), self.alice, None):
            self.front.connect(pair).lose()
        self.assertEqual(self.front.knocks, [])

    def test_knock_that_fails(self) -> None:
        """A fault in the keeping would swallow the verdict, or hold the connection."""

        def fail() -> bool:
            raise ZeroDivisionError

        self.front.keep = fail  # type: ignore[method-assign]
        client = self.front.connect(make_pair("bad"))
        client.lose()
        self.assertEqual(self.front.verdicts(), [("rejected", "unknown-certificate")])
        self.assertEqual(self.front.last().remedy, "mtlsd authorize CERT.pem --name NAME")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_knock_of_what_was_taken_out(self) -> None:
        """A client whose file was removed comes back with a ticket; it knocks like anybody else."""
        client = self.front.connect(self.alice)
        self.assertEqual(client.request(), b"Hello: alice")
        session = client.tls.get_session()
        client.close()
        self.front.authorize()
        assert session is not None
        client = self.front.connect(self.alice, session=session, context=client.context)
        client.request()
        client.lose()
        self.assertEqual([der for _, der in self.front.knocks], [self.alice.der])

    def test_accepted_once(self) -> None:
        """A connection of many requests would be many events."""
        client = self.front.connect(self.alice)
        for _ in range(3):
            self.assertEqual(client.request(), b"Hello: alice")
        client.close()
        self.assertEqual(self.front.verdicts(), [("accepted", "authorized")])
        self.assertTrue(self.front.served.served[0].lost)

    def test_addresses(self) -> None:
        """One client would be two in the log, by IPv4 and by IPv4 over IPv6."""
        self.assertEqual(plain_address(IPv6Address("TCP", "::ffff:127.0.0.1", 5)), ("127.0.0.1", 5))
        self.assertEqual(plain_address(IPv6Address("TCP", "::1", 5)), ("::1", 5))
        self.assertEqual(plain_address(IPv6Address("TCP", "fe80::ffff:1", 5)), ("fe80::ffff:1", 5))

    def test_nothing_behind_the_gate_for_this_client(self) -> None:
        """A factory that will not serve would leave a connection that nobody owns."""

        def nobody(addr: IAddress | None) -> Served | None:
            return None

        self.patch(self.front.served, "buildProtocol", nobody)
        client = self.front.connect(self.alice)
        self.assertEqual(client.request(), b"")
        self.assertTrue(client.is_lost)
        self.assertEqual(len(self.front.door.live), 0)


class TransportTests(SynchronousTestCase):
    """What stands behind the gate has a whole transport."""

    def test_calls_reach_the_transport(self) -> None:
        """A protocol could not stream, pause, close or learn its addresses."""
        front = FrontDoor()
        alice = make_pair("alice")
        front.authorize(alice=alice)
        client = front.connect(alice)
        gate, wire = client.gate, client.wire
        gate.writeSequence([b"one", b"two"])
        client.pump()
        self.assertEqual(client.received, b"onetwo")
        self.assertEqual(gate.getHost(), wire.getHost())
        self.assertEqual(gate.getPeer(), wire.getPeer())
        certificate = gate.getPeerCertificate()
        assert certificate is not None
        self.assertEqual(certificate.get_subject().CN, "alice")
        gate.pauseProducing()
        self.assertNotIn(wire, front.turns.readers)
        gate.resumeProducing()
        self.assertIn(wire, front.turns.readers)

        class Producer:
            stopped = False

            def pauseProducing(self) -> None:
                """Nothing to do."""

            def resumeProducing(self) -> None:
                """Nothing to do."""

            def stopProducing(self) -> None:
                self.stopped = True

        gate.registerProducer(Producer(), True)
        self.assertIsNotNone(wire.producer)
        gate.unregisterProducer()
        self.assertIsNone(wire.producer)
        gate.loseConnection()
        client.pump()
        self.assertIsInstance(client.error, SSL.ZeroReturnError)
        gate.stopProducing()


class RevocationTests(SynchronousTestCase):
    """Revoked means out, now."""

    def setUp(self) -> None:
        self.front = FrontDoor()
        self.alice, self.bob = make_pair("alice"), make_pair("bob")
        self.front.authorize(alice=self.alice, bob=self.bob)

    def test_live_connections_are_cut(self) -> None:
        """A revoked client would stay for as long as it keeps its connection."""
        hers = [self.front.connect(self.alice) for _ in range(3)]
        his = self.front.connect(self.bob)
        self.front.sink.events.clear()
        self.front.revoke(self.alice)
        for client in hers:
            self.assertTrue(client.wire.ended)
            client.settle()
            self.assertEqual(client.request(), b"")
        self.assertEqual(self.front.verdicts(), [("revoked", "revoked")] * 3)
        self.assertEqual(self.front.last().client, "alice")
        self.assertEqual(his.request(), b"Hello: bob")
        self.assertEqual(len(self.front.door.live), 1)

    def test_removed(self) -> None:
        """Removing the file, without a tombstone, would revoke only the next handshake."""
        client = self.front.connect(self.alice)
        self.front.authorize(bob=self.bob)
        self.assertTrue(client.wire.ended)
        self.assertEqual(self.front.verdicts()[-1], ("revoked", "unknown-certificate"))

    def test_cut_says_nothing_more(self) -> None:
        """A connection that was cut would still be served what it had sent before."""
        client = self.front.connect(self.alice)
        served = self.front.served.served[0]
        self.front.revoke(self.alice)
        client.gate.dataReceived(b"late")
        self.assertEqual(served.heard, b"")
        self.assertIsNone(client.gate.authorize())
        self.assertEqual(len(self.front.sink.events), 2)

    def test_request_is_decided_on(self) -> None:
        """A request would be served on what was true at the handshake, should the listener ever fail."""
        client = self.front.connect(self.alice)
        # Not by publish(): nobody is told.
        self.front.registry._snapshot = Snapshot()
        self.assertEqual(client.request(), b"")
        self.assertEqual(self.front.verdicts()[-1][0], "revoked")

    def test_renamed(self) -> None:
        """A client that was given another name or another group would keep the old ones on a live connection."""
        client = self.front.connect(self.alice)
        self.assertEqual(client.request(), b"Hello: alice")
        record = Authorization("carol", self.alice.leaf, self.alice.leaf.not_after, ("ops",))
        self.front.registry.publish(Snapshot({self.alice.fingerprint: record}))
        self.assertEqual(client.request(), b"Hello: carol")
        identity = client.gate.authorize()
        assert identity is not None
        self.assertEqual(identity.groups, ("ops",))
        self.assertIs(identity, client.gate.authorize())

    def test_one_that_resists(self) -> None:
        """A connection whose producer fails would keep the client's others open, and be held as a live one for ever."""
        clients = [self.front.connect(self.alice) for _ in range(3)]

        class Broken:
            def stopProducing(self) -> None:
                raise ValueError("a producer failed")

        for client in clients[:2]:
            client.gate.registerProducer(Broken(), True)
        self.front.revoke(self.alice)
        self.assertEqual([client.wire.closed for client in clients], ["reset"] * 3)
        self.front.turns.turn()
        self.assertEqual(len(self.front.door.live), 0)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual(self.front.verdicts()[3:], [("revoked", "revoked")] * 3)

    def test_one_that_lives_on(self) -> None:
        """A connection whose cut failed once would stay, with nobody to try again."""
        clients = [self.front.connect(self.alice) for _ in range(3)]
        resisting = clients[1]
        abort = resisting.wire.abortConnection

        def broken() -> None:
            raise ValueError("not now")

        self.patch(resisting.wire, "abortConnection", broken)
        self.front.revoke(self.alice)
        self.assertEqual([client.wire.ended for client in clients], [True, False, True])
        for client in (clients[0], clients[2]):
            client.settle()
        self.patch(resisting.wire, "abortConnection", abort)
        self.front.advance(15)
        self.assertTrue(resisting.wire.ended)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(self.front.sink.events), 6)

    def test_certificate_ends(self) -> None:
        """A live connection would outlive its certificate by more than a minute."""
        short = make_pair("short", ends=timedelta(seconds=30))
        self.front.authorize(alice=self.alice, short=short)
        clients = [self.front.connect(short) for _ in range(2)]
        hers = self.front.connect(self.alice)
        self.front.advance(20)
        self.assertFalse(clients[0].wire.ended)
        self.front.advance(60)
        for client in clients:
            self.assertTrue(client.wire.ended)
        self.assertEqual(self.front.verdicts()[-2:], [("expired", "expired")] * 2)
        self.assertEqual(self.front.last().client, "short")
        self.assertEqual(hers.request(), b"Hello: alice")


class LimitTests(SynchronousTestCase):
    """Strangers cannot crowd an authorized client out."""

    def setUp(self) -> None:
        self.alice = make_pair("alice")

    def door(self, **settings: int) -> FrontDoor:
        front = FrontDoor(Settings(**settings))  # type: ignore[arg-type]
        front.authorize(alice=self.alice)
        return front

    def test_handshake_deadline(self) -> None:
        """A peer that never says anything would hold its connection for ever."""
        front = self.door()
        peer = front.raw()
        front.advance(9)
        self.assertFalse(peer.wire.ended)
        front.advance(1)
        self.assertTrue(peer.wire.ended)
        peer.settle()
        self.assertEqual(front.verdicts(), [("rejected", "timeout")])

    def test_drip(self) -> None:
        """A peer that sends a byte now and then would hold its connection for ever."""
        front = self.door()
        client = Client(front, self.alice)
        self.assertRaises(SSL.WantReadError, client.tls.do_handshake)
        hello = client.tls.bio_read(1 << 16)
        for byte in hello[:10]:
            client.send(bytes([byte]))
            front.advance(1)
        self.assertTrue(client.wire.ended)
        self.assertEqual(front.verdicts(), [("rejected", "timeout")])

    def test_deadline_ends_with_the_handshake(self) -> None:
        """A client that was let in would be cut by the deadline of its handshake."""
        front = self.door()
        client = front.connect(self.alice)
        front.advance(30)
        self.assertEqual(client.request(), b"Hello: alice")
        self.assertEqual(len(front.deadlines), 0)

    def test_full_budget_costs_the_oldest(self) -> None:
        """Ten thousand silent strangers at one address would keep an authorized client at that address out."""
        front = self.door(max_handshakes=20)
        peers = []
        for nth in range(1000):
            peers.append(front.raw())
            if nth % 100 == 50:
                client = front.connect(self.alice)
                self.assertEqual(client.request(), b"Hello: alice")
                client.close()
        self.assertEqual(sum(not peer.wire.ended for peer in peers), 20)
        self.assertFalse(peers[-1].wire.ended)
        self.assertTrue(peers[0].wire.ended)
        self.assertEqual(front.verdicts().count(("rejected", "over-limit")), 980)

    def test_flood_from_elsewhere(self) -> None:
        """A slow client would be pushed out by a flood from another address."""
        front = self.door(max_handshakes=20)
        slow = Client(front, self.alice, address="127.0.0.2")
        for _ in range(1000):
            front.raw("127.0.0.3")
        slow.pump()
        self.assertEqual(slow.request(), b"Hello: alice")

    def test_max_connections(self) -> None:
        """``--max-connections`` would be an empty promise, or strangers would use it up."""
        front = self.door(max_connections=2)
        for _ in range(10):
            front.raw()
        one, two = front.connect(self.alice), front.connect(self.alice)
        third = front.connect(self.alice)
        self.assertEqual((one.request(), two.request(), third.request()), (b"Hello: alice", b"Hello: alice", b""))
        self.assertEqual(front.verdicts()[-1], ("rejected", "over-limit"))
        one.close()
        self.assertEqual(front.connect(self.alice).request(), b"Hello: alice")

    def test_max_per_address(self) -> None:
        """``--max-per-address`` would be an empty promise, or a /64 of IPv6 would be as many addresses as one likes."""
        front = self.door(max_per_address=2)
        first = front.raw("2001:db8::1")
        front.raw("2001:db8::2")
        third = front.raw("2001:db8::ffff:3")
        self.assertTrue(third.wire.ended)
        third.settle()
        self.assertEqual(front.verdicts(), [("rejected", "over-limit")])
        self.assertFalse(front.raw("2001:db8:0:1::1").wire.ended)
        first.lose()
        self.assertFalse(front.raw("2001:db8::4").wire.ended)


class DrainTests(SynchronousTestCase):
    """A stop lets what is under way finish, and ends."""

    def setUp(self) -> None:
        self.front = FrontDoor()
        self.alice = make_pair("alice")
        self.front.authorize(alice=self.alice)

    def test_nothing_to_do(self) -> None:
        """A stop without connections would wait."""
        self.assertIsNone(self.successResultOf(self.front.door.drain(30)))

    def test_drain(self) -> None:
        """A stop would wait for strangers, or cut whoever is being served."""
        silent = self.front.raw()
        client = self.front.connect(self.alice)
        drained = self.front.door.drain(30)
        self.assertIs(self.front.door.drain(30), drained)
        self.assertTrue(silent.wire.ended)
        silent.settle()
        self.assertEqual(self.front.verdicts()[-1], ("rejected", "closed"))
        self.assertNoResult(drained)
        client.pump()
        client.lose()
        self.successResultOf(drained)

    def test_above_ends_before_the_service(self) -> None:
        """The last requests would miss their line in the access log: it is closed when the last connection is gone."""
        client = self.front.connect(self.alice)
        served = self.front.served.served[0]
        order: list[bool] = []
        drained = self.front.door.drain(30)
        drained.addCallback(lambda _: order.append(served.lost))
        client.pump()
        client.lose()
        self.assertEqual(order, [True])

    def test_above_fails_at_the_end(self) -> None:
        """A served protocol that fails when its connection ends would hold a stop up for ever."""
        client = self.front.connect(self.alice)

        def broken(reason: object = None) -> None:
            raise ValueError("broken")

        self.front.served.served[0].connectionLost = broken  # type: ignore[method-assign]
        drained = self.front.door.drain(30)
        client.pump()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.successResultOf(drained)

    def test_timeout(self) -> None:
        """One client that does not go would hold the whole stop up."""
        client = self.front.connect(self.alice)
        drained = self.front.door.drain(5)
        self.front.advance(4)
        self.assertFalse(client.wire.disconnected)
        self.front.advance(1)
        client.settle()
        self.successResultOf(drained)


def _refuse(*arguments: object) -> bool:
    return False
