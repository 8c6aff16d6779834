"""The servers behind the door: what becomes of a connection to one, and of a request where it breaks."""

from __future__ import annotations

import itertools
from typing import Any, cast

from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from tests.proxy_in_memory import OK, ProxyTestCase, Wire
from tests.site_in_memory import Answer, Gate, ask


class BrokenTests(ProxyTestCase):
    """A backend that misbehaves harms nobody, and its answer is nobody else's."""

    def fails(self, gate: Gate, status: int, reason: str) -> None:
        answer = Answer(gate.taken())
        self.assertEqual(answer.status, status)
        self.assertIn(reason, self.said[-1])
        self.assertIn("alice GET /x: http://127.0.0.1:8000: ", self.said[-1])
        self.assertTrue(self.said[-1].endswith(" [c0ffee-1]"))
        self.assertIn(f'" {status} ', self.door.lines[-1])

    def test_refused(self) -> None:
        """503, and the reason for the operator."""
        gate = self.ask()
        self.refuse()
        self.fails(gate, 503, "Connection was refused")
        # Of one server alone there is nothing to pass over.
        self.assertEqual([line for line in self.said if "passed over" in line], [])

    def test_a_full_queue(self) -> None:
        """Two lines about a connection that was closed cleanly, where nothing is wrong but that more come than the server takes."""
        gate = self.ask("/unix")
        _, factory, *_ = self.reactor.unixClients[-1]
        factory.clientConnectionFailed(cast(Any, None), Failure(ConnectError(string=cast(Any, Failure(ConnectionDone())))))
        self.assertEqual(Answer(gate.taken()).status, 503)
        self.assertEqual(
            self.said[-1],
            "alice GET /unix: http+unix:/run/app.sock: more connections wait for it than it lets wait [c0ffee-1]",
        )

    def test_no_connection_in_time(self) -> None:
        """By a clock that nobody sets."""
        gate = self.ask()
        test, factory = self, cast(Any, self.reactor.tcpClients[0][2])

        class Connector:
            def stopConnecting(self) -> None:
                test.refuse()

        factory.connector = Connector()
        self.door.wait(4)
        self.assertEqual(gate.taken(), b"")
        self.door.wait(2)
        self.fails(gate, 503, "it takes too long")

    def test_localhost(self) -> None:
        """A server that listens on one of its two addresses only, as Node.js does, would be out of reach; and no name is looked up."""
        self.configure('[[route]]\npath = "/"\nallow = ["*"]\nupstream = "http://localhost:8000"\n')
        gate = self.ask()
        self.assertEqual([client[:2] for client in self.reactor.tcpClients], [("127.0.0.1", 8000)])
        self.refuse()
        self.assertEqual([client[:2] for client in self.reactor.tcpClients[1:]], [("::1", 8000)])
        wire = self.connected()
        self.assertIn(b"Host: localhost\r\n", wire.sent())
        wire.answer(OK + b"x")
        self.assertEqual(Answer(gate.taken()).body, b"hi")
        gate = self.ask()
        self.connected().answer(OK + b"x")
        self.assertEqual((Answer(gate.taken()).body, len(self.attempts())), (b"hi", 3))
        gate = self.ask()
        self.refuse()
        self.reactor.tcpClients[-1][2].clientConnectionFailed(
            cast(Any, None), Failure(ConnectError(string="Address family not supported"))
        )
        self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (503, 5))
        self.assertIn("Connection was refused", self.said[-1])

    def test_localhost_in_time(self) -> None:
        """One time for both addresses, and none is tried when that is over."""
        self.configure('[[route]]\npath = "/"\nallow = ["*"]\nupstream = "http://localhost:8000"\n')
        test = self

        class Connector:
            def stopConnecting(self) -> None:
                test.refuse()

        for refused, attempts in ((True, 2), (False, 1)):
            before = len(self.attempts())
            gate = self.ask()
            self.door.wait(4)
            if refused:
                self.refuse()
            cast(Any, self.reactor.tcpClients[-1][2]).connector = Connector()
            self.door.wait(2)
            self.assertEqual((Answer(gate.taken()).status, len(self.attempts()) - before), (503, attempts))
            self.assertIn("it takes too long", self.said[-1])

    def test_no_answer(self) -> None:
        """504 after `response_timeout`, and the connection goes with it."""
        gate = self.ask()
        wire = self.connected()
        self.door.wait(59)
        self.assertEqual(gate.taken(), b"")
        self.door.wait(2)
        self.assertTrue(wire.aborted)
        self.fails(gate, 504, "it does not answer")

    def test_nothing_taken(self) -> None:
        """A backend that stops reading would hold the client's connection for ever."""
        gate = self.ask("/x", "POST", "Content-Length: 100")
        wire = self.connected()
        wire.producer.pauseProducing()
        self.door.wait(62)
        self.assertTrue(wire.aborted)
        self.assertEqual(Answer(gate.taken()).status, 504)

    def test_bad_answers(self) -> None:
        """502, and never another request on that connection."""
        for data in (
            b"SSH-2.0\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 101 S\r\n\r\n",
        ):
            gate = self.ask()
            wire = self.connected()
            wire.answer(data)
            self.assertTrue(wire.aborted)
            self.fails(gate, 502, ": it ")
        self.assertEqual(self.attempts(), [8000] * 3)

    def test_ends_before_the_answer(self) -> None:
        """A fresh connection is not asked twice: the backend may have done what it was asked to."""
        gate = self.ask()
        self.connected().lose()
        self.fails(gate, 502, "the connection ended without one")
        gate = self.ask()
        self.connected().lose(ConnectionLost())
        self.fails(gate, 502, "the connection was lost")

    def test_ends_in_the_middle(self) -> None:
        """Half an answer must not look like a whole one."""
        for data in (b"Content-Length: 9\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"):
            gate = self.ask()
            wire = self.connected()
            wire.answer(b"HTTP/1.1 200 OK\r\n" + data)
            wire.lose()
            self.assertTrue(gate.aborted)
            self.assertFalse(gate.taken().endswith(b"0\r\n\r\n"))
            self.assertIn("the connection ended before it did", self.said[-1])
        gate = self.ask()
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\n\r\nhi")
        wire.lose(ConnectionLost())
        self.assertTrue(gate.aborted)

    def test_stops_in_the_middle(self) -> None:
        """After `idle_timeout` without a byte."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
        self.door.wait(62)
        self.assertTrue(gate.aborted and wire.aborted)
        self.assertIn("it stopped in the middle of an answer", self.said[-1])

    def test_what_still_comes_when_it_is_cut(self) -> None:
        """A transport may tell of a cut a little later: until then the rest of an upload, and room for an answer, are nothing."""
        gate = self.ask("/x", "POST", "Content-Length: 9", gate=Gate(cuts_at_once=False))
        wire = self.connected()
        gate.protocol.dataReceived(b"abc")
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
        wire.lose()
        sent = gate.taken()
        gate.protocol.pauseProducing()
        gate.protocol.resumeProducing()
        gate.protocol.dataReceived(b"def")
        gate.lose()
        self.assertTrue(gate.aborted and sent.endswith(b"hi"))
        self.assertEqual((gate.taken(), len(self.said), len(self.door.lines)), (b"", 1, 1))

    def test_stops_after_an_early_head(self) -> None:
        """Whether it takes the body has nothing to do with whether it goes on with its answer."""
        for more in (b"", b"def"):
            gate = self.ask("/x", "POST", "Content-Length: 6")
            wire = self.connected()
            wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
            wire.producer.pauseProducing()
            wire.producer.resumeProducing()
            gate.protocol.dataReceived(b"abc" + more)
            self.door.wait(30)
            self.assertFalse(gate.aborted)
            gate.protocol.dataReceived(b"def" if not more else b"")
            self.door.wait(62)
            self.assertTrue(gate.aborted and wire.aborted)
            self.assertIn("it stopped in the middle of an answer", self.said[-1])

    def test_garbage_after_the_head(self) -> None:
        """A chunk that is none, when the head has gone out."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        wire.answer(b"zz\r\n")
        self.assertTrue(gate.aborted and wire.aborted)

    def test_an_answer_to_nobody(self) -> None:
        """What comes on a connection that waits is the beginning of somebody else's answer."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        self.assertTrue(wire.aborted)
        gate.protocol.dataReceived(ask("/y"))
        wire = self.connected()
        wire.answer(OK)
        wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        self.assertTrue(wire.aborted)
        gate.protocol.dataReceived(ask("/z"))
        self.assertEqual(len(self.attempts()), 3)
        self.assertNotIn(b"evil", gate.taken())


class PoolTests(ProxyTestCase):
    def kept(self) -> Wire:
        """Return a connection that has served and waits."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(OK)
        gate.taken()
        wire.sent()
        return wire

    def test_one_that_had_ended(self) -> None:
        """Closed by the backend when the request was on its way: asked again, once, on a new connection."""
        wire = self.kept()
        gate = self.ask()
        wire.lose()
        self.assertEqual(self.attempts(), [8000, 8000])
        fresh = self.connected()
        self.assertTrue(fresh.sent().startswith(b"GET /x "))
        fresh.lose()
        self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (502, 2))

    def test_never_twice(self) -> None:
        """A POST may have been done, and a body that has begun cannot be sent again."""
        for method, body in (("POST", b""), ("POST", b"abc"), ("PUT", b"abc")):
            wire = self.kept()
            before = len(self.attempts())
            gate = self.ask("/x", method, body=body)
            wire.lose()
            self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (502, before), method)

    def test_one_that_has_news(self) -> None:
        """What has come before the request is no answer to it, and a POST need not be lost on a connection that has ended."""
        wire = self.kept()
        wire.has_unread = True
        before = len(self.attempts())
        gate = self.ask("/x", "POST", body=b"abc")
        self.assertTrue(wire.aborted)
        self.assertEqual((wire.sent(), len(self.attempts())), (b"", before + 1))
        self.connected().answer(OK)
        self.assertEqual(Answer(gate.taken()).body, b"hi")

    def test_one_that_has_spoken(self) -> None:
        """Half a head, a hint or garbage: the backend is at work on it, and must not do it twice."""
        for data in (b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n"):
            wire = self.kept()
            before = len(self.attempts())
            gate = self.ask()
            wire.answer(data)
            if not wire.aborted:
                wire.lose()
            self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (502, before), data)

    def test_a_body_that_has_not_begun(self) -> None:
        """Nothing of it was sent, so it may go to a new connection; until there is one, no more of it is read into memory."""
        wire = self.kept()
        gate = self.ask("/x", "PUT", "Content-Length: 6")
        self.assertEqual(gate.producerState, "producing")
        wire.lose()
        self.assertEqual(gate.producerState, "paused")
        fresh = self.connected()
        self.assertEqual(gate.producerState, "producing")
        gate.protocol.dataReceived(b"abcdef")
        self.assertTrue(fresh.sent().endswith(b"Content-Length: 6\r\n\r\nabcdef"))
        fresh.answer(OK)
        self.assertEqual(Answer(gate.taken()).body, b"hi")

    def test_a_slow_upload(self) -> None:
        """Its connection is no longer one that waits for a request: the end of that wait would cut it off."""
        wire = self.kept()
        gate = self.ask("/x", "POST", "Content-Length: 6")
        gate.protocol.dataReceived(b"abc")
        self.door.wait(30)
        gate.protocol.dataReceived(b"def")
        self.assertTrue(wire.sent().endswith(b"abcdef"))
        wire.answer(OK)
        self.assertEqual(Answer(gate.taken()).body, b"hi")

    def test_what_has_not_gone_out_yet(self) -> None:
        """An early answer to a request that still waits to be sent: the next client's would go behind the rest of its body."""
        for buffer, length, body in ((b"cdef", 0, b"abcdef"), (b"", 4, b"abcdef"), (b"T /x", 0, b"")):
            before = len(self.attempts())
            gate = self.ask("/x", "PUT", body=body)
            wire = self.connected()
            wire.dataBuffer, wire._tempDataLen = buffer, length
            wire.answer(OK)
            self.assertEqual((Answer(gate.taken()).body, wire.aborted), (b"hi", True))
            self.ask("/y")
            self.assertEqual(len(self.attempts()), before + 2)
            self.connected().answer(OK + b"x")

    def test_not_kept_for_long(self) -> None:
        """A connection that the backend is about to close breaks the next request."""
        wire = self.kept()
        self.door.wait(3)
        self.assertFalse(wire.aborted)
        self.door.wait(3)
        self.assertTrue(wire.aborted)

    def test_not_too_many(self) -> None:
        """A crowd that has gone leaves no crowd of connections behind."""
        gates = [self.ask() for _ in range(70)]
        wires = [self.connected(number) for number in range(70)]
        for wire in wires:
            wire.answer(OK)
        self.assertEqual([wire.aborted for wire in wires], [False] * 64 + [True] * 6)
        self.assertEqual({Answer(gate.taken()).body for gate in gates}, {b"hi"})

    def test_a_backend_that_is_no_longer_there(self) -> None:
        """A reload lets its connections go."""
        wire = self.kept()
        self.backends.keep_only([])
        self.assertTrue(wire.aborted)

    def test_in_turn(self) -> None:
        """Each takes its share."""
        for _ in range(4):
            self.ask("/api")
            self.connected().answer(OK + b"x")
        self.assertEqual(sorted(self.attempts()), [8001, 8001, 8002, 8002])

    def test_each_route_in_its_own_turn(self) -> None:
        """A page and its data, asked for one after the other: all pages would go to one server, and all data to the other."""
        for _ in range(4):
            for target in ("/api", "/other"):
                self.ask(target)
                self.connected().answer(OK + b"x")
        self.assertEqual(sorted(self.attempts()[::2]), [8001, 8001, 8002, 8002])
        self.assertEqual(sorted(self.attempts()[1::2]), [8001, 8001, 8003, 8003])

    def test_many_at_once(self) -> None:
        """A server that was away for a moment, in which a hundred asked, rests for a second, not for thirty."""
        for _ in range(20):
            self.ask("/api")
        down = self.attempts()[0]
        numbers = [number for number, port in enumerate(self.attempts()) if port == down]
        for number in numbers:
            self.refuse(number)
        before = len(self.attempts())
        self.door.wait(2)
        for _ in range(2):
            self.ask("/api")
        self.assertIn(down, self.attempts()[before:])

    def test_the_next_one(self) -> None:
        """One that is down costs one attempt, then it rests, for longer each time; a POST may go on too, for nothing was sent."""
        gate = self.ask("/api", "POST", body=b"abc")
        first = self.attempts()[0]
        self.refuse()
        other = 8003 + 8000 - first
        self.assertEqual(self.attempts(), [first, other])
        wire = self.connected()
        self.assertTrue(wire.sent().endswith(b"abc"))
        wire.answer(OK)
        self.assertEqual(Answer(gate.taken()).status, 200)
        for _ in range(4):
            self.ask("/api")
            wire.answer(OK)
        self.assertEqual(len(self.attempts()), 2)
        self.door.wait(2)
        for _ in range(2):
            self.ask("/api")
        self.assertIn(first, self.attempts()[2:])
        back = self.connected(self.attempts().index(first, 2))
        self.assertNotIn("again", self.said[-1])
        back.answer(OK)
        self.assertIn("answers again", self.said[-1])

    def test_ends_with_what_it_was_at(self) -> None:
        """A server that is killed takes requests with it: what may be asked twice is asked of another one, once."""
        gate = self.ask("/api")
        first = self.attempts()[0]
        self.connected().lose(ConnectionLost())
        self.assertEqual(self.attempts(), [first, 8003 + 8000 - first])
        self.connected().answer(OK)
        self.assertEqual(Answer(gate.taken()).status, 200)
        self.assertEqual(self.said, [f"http://127.0.0.1:{first} is passed over: the connection was lost"])
        self.door.wait(6)
        gate = self.ask("/api")
        self.connected().lose(ConnectionLost())
        self.connected().lose(ConnectionLost())
        self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (502, 4))
        self.assertEqual(len([line for line in self.said if "GET /api" in line]), 1)
        for method, body, data in (
            ("POST", b"", b""),
            ("PUT", b"abc", b""),
            ("PUT", b"", b""),
            ("DELETE", b"", b""),
            ("GET", b"", b"HTTP"),
        ):
            before = len(self.attempts())
            gate = self.ask("/api", method, body=body)
            wire = self.connected()
            if data:
                wire.answer(data)
            wire.lose(ConnectionLost())
            self.assertEqual((Answer(gate.taken()).status, len(self.attempts())), (502, before + 1), method)

    def test_longer_each_time(self) -> None:
        """A server that stays away costs an attempt less and less often, and the log one line for all of it."""
        self.ask("/api")
        down = self.attempts()[0]
        self.refuse()
        said, tries = len(self.said), []
        for second in range(100):
            self.door.wait(1)
            before = len(self.attempts())
            self.ask("/api")
            if self.attempts()[before] == down:
                tries.append(second)
                self.refuse(before)
        pauses = [later - sooner for sooner, later in itertools.pairwise(tries)]
        self.assertEqual(sorted(pauses), pauses)
        self.assertTrue(all(pause <= 32 for pause in pauses) and pauses[-1] >= 30, pauses)
        self.assertEqual(len(self.said), said)

    def test_all_are_down(self) -> None:
        """Each is tried all the same: who knows."""
        gate = self.ask("/api")
        self.refuse()
        self.refuse()
        self.assertEqual((len(self.attempts()), Answer(gate.taken()).status), (2, 503))
        said = len(self.said)
        self.ask("/api")
        self.refuse()
        self.refuse()
        # One line for the request, and none for each server that is known to be down.
        self.assertEqual(len(self.said), said + 1)


class PassedOverTests(ProxyTestCase):
    """A server that takes connections and serves nobody: every second client would be waiting for it, for ever."""

    def first(self) -> int:
        """Return the port of the server that is asked for /api next; it answers nothing."""
        self.ask("/api")
        return self.attempts()[-1]

    def ports(self, requests: int) -> list[int]:
        """Return who is asked, of so many requests for /api, each answered where it is not the first server that is."""
        ports = []
        for _ in range(requests):
            self.ask("/api")
            ports.append(self.attempts()[-1])
            self.connected().answer(OK + b"x")
        return ports

    def test_no_answer(self) -> None:
        """After `response_timeout`: the others are asked first, and then one request finds out how it is."""
        silent = self.first()
        wire = self.connected()
        self.door.wait(60)
        self.assertTrue(wire.aborted)
        self.assertIn(f"http://127.0.0.1:{silent} is passed over: it does not answer", self.said)
        self.assertNotIn(silent, self.ports(4))
        self.door.wait(1)
        tried = [self.ask("/api") for _ in range(6)]
        self.assertEqual(self.attempts()[-6:].count(silent), 1)
        for number in range(-6, 0):
            if self.attempts()[number] != silent:
                self.connected(number).answer(OK + b"x")
        self.door.wait(2)
        self.assertEqual([Answer(gate.taken()).status for gate in tried if gate.value()], [200] * 5)

    def test_nothing_taken(self) -> None:
        """A body that it does not take keeps the client waiting as well."""
        self.ask("/api", "POST", "Content-Length: 100")
        silent = self.attempts()[-1]
        self.connected().producer.pauseProducing()
        self.door.wait(60)
        self.assertNotIn(silent, self.ports(4))

    def test_closed_at_once(self) -> None:
        """Whatever may not be sent twice was 502, every second time."""
        for end in (lambda wire: wire.lose(), lambda wire: wire.lose(ConnectionLost()), lambda wire: wire.answer(b"SSH-2.0\r\n")):
            gate = self.ask("/api", "POST")
            broken = self.attempts()[-1]
            end(self.connected())
            self.assertEqual(Answer(gate.taken()).status, 502)
            self.assertNotIn(broken, self.ports(4))
            self.door.wait(40)
            self.assertEqual(self.ports(4).count(broken), 2)

    def test_for_longer(self) -> None:
        """That it takes a connection says nothing: a server that hangs would be asked once a second."""
        silent = self.first()
        self.connected().lose()
        self.connected().answer(OK + b"x")
        tries = []
        for second in range(70):
            self.door.wait(1)
            self.ask("/api")
            if self.attempts()[-1] == silent:
                tries.append(second)
                self.connected().lose()
            self.connected().answer(OK + b"x")
        pauses = [later - sooner for sooner, later in itertools.pairwise(tries)]
        self.assertEqual(pauses[:4], [2, 4, 8, 16])

    def test_one_that_was_kept(self) -> None:
        """The end of a connection that had waited is nothing against its server."""
        self.ask("/api")
        kept = self.connected()
        kept.answer(OK)
        self.ports(1)
        gate = self.ask("/api", "POST")
        kept.lose()
        self.assertEqual((Answer(gate.taken()).status, len(self.ports(4)), len(set(self.ports(4)))), (502, 4, 2))

    def test_one_slow_page(self) -> None:
        """A server with a page that takes too long is well again at its next answer, whoever that is for."""
        self.ask("/api/slow")
        port = self.attempts()[-1]
        slow = self.connected()
        self.ports(1)
        self.door.wait(59)
        self.ask("/api")
        self.assertEqual(self.attempts()[-1], port)
        other = self.connected()
        self.door.wait(1)
        self.assertTrue(slow.aborted)
        self.assertNotIn(port, self.ports(2))
        other.answer(OK + b"x")
        self.assertIn(port, self.ports(2))

    def test_the_only_one(self) -> None:
        """There is nothing to choose, and nothing to say."""
        for _ in range(3):
            gate = self.ask()
            self.connected().lose()
            self.assertEqual(Answer(gate.taken()).status, 502)
        self.assertEqual(len(self.said), 3)

    def test_another_protocol(self) -> None:
        """A server that only ever switches protocols answers too."""
        self.configure(
            '[[route]]\npath = "/ws"\nallow = ["*"]\nupgrade = true\nupstream = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]\n'
        )
        headers = ("Connection: Upgrade", "Upgrade: websocket")
        self.ask("/ws", "GET", *headers)
        self.connected().answer(b"SSH-2.0\r\n")
        down = self.attempts()[-1]
        self.door.wait(2)
        for _ in range(2):
            self.ask("/ws", "GET", *headers)
            if self.attempts()[-1] == down:
                self.connected().answer(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        self.assertIn("answers again", self.said[-1])


class RetryTests(ProxyTestCase):
    """A request is asked for a second time at most once, whatever it meets: three times is what brings down who is left."""

    def both_kept(self) -> tuple[Wire, Wire]:
        """Return a connection to each server of /api that has served and waits; the first one's turn is next."""
        wires = []
        for _ in range(2):
            self.ask("/api")
            wires.append(self.connected())
            wires[-1].answer(OK)
            wires[-1].sent()
        return wires[0], wires[1]

    def fails(self, gate: Gate) -> None:
        told = [line for line in self.said if "GET /api" in line or "GET /x" in line]
        self.assertEqual((Answer(gate.taken()).status, len(told)), (502, 1))

    def test_kept_and_dead_and_dead_again(self) -> None:
        """Of two servers: the second attempt, on a new connection to the first one, is the last."""
        first, second = self.both_kept()
        gate = self.ask("/api")
        first.lose()
        fresh = self.connected()
        self.assertEqual([wire.sent().count(b"GET ") for wire in (first, fresh)], [1, 1])
        fresh.lose(ConnectionLost())
        self.fails(gate)
        self.assertEqual((second.sent(), len(self.attempts())), (b"", 3))

    def test_new_and_dead_then_kept_and_dead(self) -> None:
        """The second attempt, on a connection to the other server that was kept, is the last."""
        first, second = self.both_kept()
        first.lose()
        gate = self.ask("/api")
        fresh = self.connected()
        fresh.lose(ConnectionLost())
        self.assertEqual([wire.sent().count(b"GET ") for wire in (fresh, second)], [1, 1])
        second.lose()
        self.fails(gate)
        self.assertEqual(len(self.attempts()), 3)

    def test_two_that_were_kept(self) -> None:
        """Where one had ended, so may all have that were kept: the second attempt is on a new connection."""
        gates = [self.ask(), self.ask()]
        wires = [self.connected(0), self.connected(1)]
        for wire in wires:
            wire.answer(OK)
            wire.sent()
        self.assertEqual([Answer(gate.taken()).status for gate in gates], [200, 200])
        gate = self.ask()
        wires[1].lose()
        self.assertEqual([wire.sent().count(b"GET ") for wire in wires], [0, 1])
        fresh = self.connected(2)
        self.assertEqual(fresh.sent().count(b"GET "), 1)
        wires[0].lose()
        fresh.lose()
        self.fails(gate)
        self.assertEqual(len(self.attempts()), 3)

    def kept_and_dead_and_then_unreachable(self, method: str) -> tuple[Gate, Wire]:
        """Ask where the kept connection breaks and no new one is to be had; return who asks, and the other server's connection."""
        first, second = self.both_kept()
        gate = self.ask("/api", method)
        first.lose()
        self.refuse()
        return gate, second

    def test_another_one(self) -> None:
        """What changes nothing may be asked of the other server too."""
        gate, second = self.kept_and_dead_and_then_unreachable("GET")
        second.answer(OK)
        self.assertEqual(Answer(gate.taken()).status, 200)

    def test_not_another_one(self) -> None:
        """What the server may have done that went away would be done once more, by another one."""
        gate, second = self.kept_and_dead_and_then_unreachable("DELETE")
        self.assertEqual((second.sent(), Answer(gate.taken()).status), (b"", 503))


class PassedOnAsItIsTests(ProxyTestCase):
    """What docs/routes.md says of answers that have more to them than a head and a body."""

    def test_more_than_was_asked_for(self) -> None:
        """The answer is whole, and the client's: what is behind it reaches nobody, and the connection serves nobody any more."""
        gate = self.ask()
        wire = self.connected()
        wire.answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        data = gate.taken()
        self.assertEqual((Answer(data).status, Answer(data).body, wire.aborted, gate.aborted), (200, b"hi", True, False))
        self.assertNotIn(b"evil", data)

    def test_a_location(self) -> None:
        """docs/migrating.md says that it stays as it is, with a prefix taken off too."""
        for location in ("http://127.0.0.1:8001/new", "/new"):
            gate = self.ask("/api/old")
            wire = self.connected()
            self.assertTrue(wire.sent().startswith(b"GET /old "))
            wire.answer(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location.encode() + b"\r\n\r\n")
            self.assertEqual(Answer(gate.taken()).headers["location"], location)

    def test_trailers(self) -> None:
        """Neither way, where the head has not announced them, and where nobody has asked for them: tests/test_trailers.py has the rest."""
        gate = self.ask("/x", "POST", "Transfer-Encoding: chunked")
        gate.protocol.dataReceived(b"3\r\nabc\r\n0\r\nX-T: from-client\r\n\r\n")
        wire = self.connected()
        sent = wire.sent()
        self.assertTrue(sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), sent)
        wire.answer(
            b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: from-server\r\n\r\n"
        )
        data = gate.taken()
        self.assertTrue(data.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), data)
        for told in (sent, data):
            self.assertNotIn(b"X-T", told)
